//! NetworkAttachmentDefinition, Service, EndpointSlice, and the networks of OVN-Kubernetes and the
//! SR-IOV operator.

use crate::objects::reader::{Field, ObjectType, Unknown, honoured, ignored, later, passed_over};

/// `k8s.cni.cncf.io/v1`
pub static ATTACHMENT: ObjectType = ObjectType {
    name: "NetworkAttachmentDefinition",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`k8s.cni.cncf.io/v1`"),
        honoured("kind", ""),
        honoured("metadata", "name and namespace"),
        honoured("spec", ""),
    ],
};

/// `spec` of a NetworkAttachmentDefinition.
pub static ATTACHMENT_SPEC: ObjectType = ObjectType {
    name: "NetworkAttachmentDefinition spec",
    unknown: Unknown::Refused,
    fields: &[honoured(
        "config",
        "CNI configuration: JSON in text, one plugin or a list of them",
    )],
};

/// A Service.
pub static SERVICE: ObjectType = ObjectType {
    name: "Service",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`v1`"),
        honoured("kind", ""),
        honoured("metadata", "the namespace must be the VM's"),
        honoured("spec", ""),
    ],
};

/// `spec` of a Service.
pub static SERVICE_SPEC: ObjectType = ObjectType {
    name: "Service spec",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured(
            "type",
            "`NodePort` and `LoadBalancer` create forwards; the cluster implements the ports of \
             others",
        ),
        honoured(
            "selector",
            "labels of the VM's pod; a warning names a Service in the VM's namespace that selects \
             no VM of the files",
        ),
        honoured("ports", ""),
        ignored(
            "externalIPs",
            "addresses of the cluster's nodes: hawser listens on those of its own namespace",
        ),
        passed_over(
            "externalTrafficPolicy",
            "the guest sees the client's address either way",
        ),
        honoured(
            "clusterIP",
            "on a primary network that spans nodes, if an EndpointSlice names the Service: the guest reaches it through \
             its gateway; otherwise handled by the cluster",
        ),
        honoured("clusterIPs", "as clusterIP, in both families"),
        honoured(
            "ipFamilies",
            "one family: hawser listens on addresses of that family, unless `ipFamilyPolicy` \
             requires both",
        ),
        honoured("ipFamilyPolicy", "`SingleStack`, `PreferDualStack`, `RequireDualStack`"),
        honoured(
            "sessionAffinity",
            "`None`, `ClientIP`: at a clusterIP the guest keeps its endpoint; clients of a nodePort reach the one VM \
             either way",
        ),
        honoured("sessionAffinityConfig", ""),
        passed_over(
            "internalTrafficPolicy",
            "the endpoints of all nodes are used, as in OVN-Kubernetes",
        ),
        honoured(
            "loadBalancerSourceRanges",
            "checked; not enforced, with a warning: the nodePort is open to all, as in the cluster",
        ),
    ],
};

/// `spec.sessionAffinityConfig`
pub static SERVICE_AFFINITY: ObjectType = ObjectType {
    name: "Service spec.sessionAffinityConfig",
    unknown: Unknown::PassedOver,
    fields: &[honoured("clientIP", "")],
};

/// `spec.sessionAffinityConfig.clientIP`
pub static SERVICE_CLIENT_IP: ObjectType = ObjectType {
    name: "Service spec.sessionAffinityConfig.clientIP",
    unknown: Unknown::PassedOver,
    fields: &[honoured(
        "timeoutSeconds",
        "1 to 86400, 10800 by default; counted from the guest's last packet to the Service",
    )],
};

/// `spec.ports[]`
pub static SERVICE_PORT: ObjectType = ObjectType {
    name: "Service spec.ports[]",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("port", "default of targetPort"),
        honoured(
            "targetPort",
            "the guest's port, by number or by its name in the interface's `ports`",
        ),
        honoured(
            "nodePort",
            "the port on which hawser listens; without it the cluster would choose one, but hawser does not",
        ),
        honoured("protocol", "`TCP` (default) or `UDP`"),
        honoured("name", "required if there are several ports"),
        passed_over("appProtocol", ""),
    ],
};

/// An EndpointSlice.
pub static ENDPOINT_SLICE: ObjectType = ObjectType {
    name: "EndpointSlice",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`discovery.k8s.io/v1`"),
        honoured("kind", ""),
        honoured(
            "metadata",
            "the label `kubernetes.io/service-name` names the Service. If slices with `k8s.ovn.org/service-name`, which \
             OVN-Kubernetes makes for a primary network, name it too, only those count; their annotation \
             `k8s.ovn.org/endpointslice-network` must be the network's",
        ),
        honoured("addressType", "`IPv4`, `IPv6`; slices with names (`FQDN`) are ignored"),
        honoured("endpoints", ""),
        honoured("ports", "matched to the Service's ports by name"),
    ],
};

/// `endpoints[]`
pub static ENDPOINT: ObjectType = ObjectType {
    name: "EndpointSlice endpoints[]",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("addresses", "all of them are used"),
        honoured(
            "conditions",
            "`ready`; if no endpoint of a port is ready, those that serve while they terminate, as in kube-proxy",
        ),
    ],
};

/// `endpoints[].conditions`
pub static ENDPOINT_CONDITIONS: ObjectType = ObjectType {
    name: "EndpointSlice endpoints[].conditions",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("ready", "true by default"),
        honoured("serving", "as ready by default"),
        honoured("terminating", "false by default"),
    ],
};

/// `ports[]`
pub static ENDPOINT_PORT: ObjectType = ObjectType {
    name: "EndpointSlice ports[]",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("name", ""),
        honoured("port", ""),
        honoured("protocol", "`TCP` (default) or `UDP`; others are not used"),
    ],
};

/// KubeMacPool's ConfigMap.
pub static MAC_POOL: ObjectType = ObjectType {
    name: "ConfigMap of KubeMacPool",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`v1`"),
        honoured("kind", ""),
        honoured(
            "metadata",
            "named `kubemacpool-mac-range-config`, in any namespace; of other ConfigMaps only that \
             of macvtap's device plugin is read",
        ),
        honoured("data", ""),
    ],
};

/// `data` of this ConfigMap.
pub static MAC_POOL_DATA: ObjectType = ObjectType {
    name: "ConfigMap data",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "RANGE_START",
            "first MAC for interfaces without a macAddress; `--mac-range` has priority",
        ),
        honoured(
            "RANGE_END",
            "last of these MACs: above RANGE_START, and with the same first byte",
        ),
    ],
};

/// The ConfigMap of macvtap-cni's device plugin.
pub static MACVTAP_PLUGIN: ObjectType = ObjectType {
    name: "ConfigMap of macvtap's device plugin",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`v1`"),
        honoured("kind", ""),
        honoured("metadata", "named `macvtap-deviceplugin-config`, in any namespace"),
        honoured("data", ""),
    ],
};

/// `data` of this ConfigMap.
pub static MACVTAP_DATA: ObjectType = ObjectType {
    name: "macvtap's ConfigMap data",
    unknown: Unknown::Ignored,
    fields: &[honoured(
        "DP_MACVTAP_CONF",
        "a JSON string: a list of resources. If it is empty, or without the ConfigMap, each \
         resource has the name of its device",
    )],
};

/// A resource of the device plugin.
pub static MACVTAP_RESOURCE: ObjectType = ObjectType {
    name: "DP_MACVTAP_CONF[]",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "name",
            "the part after `macvtap.network.kubevirt.io/` in the annotation of a network of type \
             macvtap",
        ),
        honoured("lowerDevice", "the lower device"),
        honoured("mode", "as in macvlan"),
        passed_over("capacity", "hawser creates one for each interface"),
    ],
};

/// `k8s.cni.cncf.io/v1alpha1`
pub static IPAM_CLAIM: ObjectType = ObjectType {
    name: "IPAMClaim",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`k8s.cni.cncf.io/v1alpha1`"),
        honoured("kind", ""),
        honoured(
            "metadata",
            "named VM.NETWORK, as KubeVirt's ipam-extensions does; those of other VMs are ignored",
        ),
        honoured("spec", ""),
        honoured("status", ""),
    ],
};

/// `spec` of an IPAMClaim.
pub static IPAM_CLAIM_SPEC: ObjectType = ObjectType {
    name: "IPAMClaim spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured("network", "required; the interface is found by the claim's name"),
        honoured("interface", "as network"),
    ],
};

/// `status` of an IPAMClaim.
pub static IPAM_CLAIM_STATUS: ObjectType = ObjectType {
    name: "IPAMClaim status",
    unknown: Unknown::PassedOver,
    fields: &[honoured(
        "ips",
        "addresses with their prefixes: the interface's, if they are in ranges of its network, or \
         it has no `ipam`; handed out by hawser's DHCP server. Ignored with a warning if another \
         source assigns the addresses",
    )],
};

/// `k8s.ovn.org/v1`
pub static USER_DEFINED: ObjectType = ObjectType {
    name: "UserDefinedNetwork",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`k8s.ovn.org/v1`"),
        honoured("kind", ""),
        honoured(
            "metadata",
            "name and namespace: they name the network, as in a NetworkAttachmentDefinition",
        ),
        honoured("spec", ""),
    ],
};

/// `spec` of a UserDefinedNetwork.
pub static USER_DEFINED_SPEC: ObjectType = ObjectType {
    name: "UserDefinedNetwork spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "topology",
            "`Layer2`, `Layer3`; an interface on a Layer3 network is refused",
        ),
        honoured("layer2", ""),
        honoured("layer3", ""),
    ],
};

/// ClusterUserDefinedNetwork, the same for the cluster.
pub static CLUSTER_USER_DEFINED: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`k8s.ovn.org/v1`"),
        honoured("kind", ""),
        honoured(
            "metadata",
            "the network has this name in every namespace that it selects",
        ),
        honoured("spec", ""),
    ],
};

/// `spec` of a ClusterUserDefinedNetwork.
pub static CLUSTER_USER_DEFINED_SPEC: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "namespaceSelector",
            "by `kubernetes.io/metadata.name`, and by the labels of Namespaces in the files; if it \
             depends on unknown labels, it counts as selecting the VM's namespace",
        ),
        honoured("network", "as `spec` of a UserDefinedNetwork, and `Localnet`"),
        later(
            "uplinks",
            "guests leave through the network namespace that hawser runs in",
        ),
    ],
};

/// `spec.network` of a ClusterUserDefinedNetwork.
pub static CLUSTER_NETWORK: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork spec.network",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "topology",
            "`Layer2`, `Localnet`, `Layer3`; an interface on a Layer3 network is refused",
        ),
        honoured("layer2", ""),
        honoured("layer3", ""),
        honoured("localnet", ""),
        later(
            "transport",
            "`NoOverlay` and `EVPN` are transports between nodes other than Geneve",
        ),
        later("noOverlay", "as transport"),
        later("evpn", "as transport"),
    ],
};

const ROLE: Field = honoured("role", "a `Primary` network replaces the pod network of its namespace");

const NETWORK_MTU: Field = honoured(
    "mtu",
    "bytes, 576 to 65536, at least 1280 with an IPv6 subnet; by default what the route to other nodes carries, \
     which must also carry a given MTU",
);
const SUBNETS: Field = honoured(
    "subnets",
    "one network, or one of each family, /30 (/126) or wider; required unless `ipam.mode` is `Disabled`",
);
const JOIN_SUBNETS: Field = honoured(
    "joinSubnets",
    "checked, and accepted only for a Primary network; hawser has no network between gateway and node",
);

/// `layer2`
pub static LAYER2: ObjectType = ObjectType {
    name: "UserDefinedNetwork spec.layer2",
    unknown: Unknown::Refused,
    fields: &[
        ROLE,
        NETWORK_MTU,
        SUBNETS,
        honoured(
            "reservedSubnets",
            "1 to 25 networks in `subnets` whose addresses a guest has only if it names them; Primary networks only",
        ),
        honoured(
            "infrastructureSubnets",
            "1 to 4 networks in `subnets` whose addresses no guest has; the first one is the gateway's; Primary \
             networks only",
        ),
        honoured(
            "defaultGatewayIPs",
            "the gateway of each family, in `infrastructureSubnets` if those are given; by default the first host of \
             the subnet; Primary networks only",
        ),
        JOIN_SUBNETS,
        honoured("ipam", ""),
    ],
};

/// `ipam`
pub static NETWORK_IPAM: ObjectType = ObjectType {
    name: "UserDefinedNetwork ipam",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "mode",
            "`Enabled` (default), `Disabled`: the network has no subnets, Secondary networks only",
        ),
        honoured(
            "lifecycle",
            "`Persistent`: addresses outlive the VM's runs, which they do with hawser in any case",
        ),
    ],
};

/// `layer3`
pub static LAYER3: ObjectType = ObjectType {
    name: "UserDefinedNetwork spec.layer3",
    unknown: Unknown::Refused,
    fields: &[
        ROLE,
        honoured(
            "mtu",
            "checked, as the fields below: an interface on a Layer3 network is refused",
        ),
        honoured("subnets", ""),
        honoured("joinSubnets", ""),
    ],
};

/// `layer3.subnets[]`
pub static LAYER3_SUBNET: ObjectType = ObjectType {
    name: "UserDefinedNetwork spec.layer3.subnets[]",
    unknown: Unknown::Refused,
    fields: &[honoured("cidr", "a network"), honoured("hostSubnet", "1 to 127")],
};

/// `localnet`
pub static LOCALNET: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork spec.network.localnet",
    unknown: Unknown::Refused,
    fields: &[
        honoured("role", "`Secondary`"),
        honoured(
            "physicalNetworkName",
            "name of a Linux bridge of the node: hawser knows no bridge mappings of Open vSwitch",
        ),
        honoured(
            "subnets",
            "ranges of addresses, as in `host-local`: the store belongs to the node, so nodes need separate ranges",
        ),
        honoured("excludeSubnets", "1 to 25 networks in `subnets` that are not assigned"),
        honoured("ipam", "as of `layer2`"),
        honoured("mtu", "bytes, 576 to 65536; by default that of the bridge"),
        honoured("vlan", ""),
    ],
};

/// `localnet.vlan`
pub static LOCALNET_VLAN: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork spec.network.localnet.vlan",
    unknown: Unknown::Refused,
    fields: &[honoured("mode", "`Access`"), honoured("access", "")],
};

/// `localnet.vlan.access`
pub static LOCALNET_ACCESS: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork spec.network.localnet.vlan.access",
    unknown: Unknown::Refused,
    fields: &[honoured("id", "1 to 4094: the VLAN of the guest's untagged frames")],
};

/// `sriovnetwork.openshift.io/v1`
pub static SRIOV_NETWORK: ObjectType = ObjectType {
    name: "SriovNetwork",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`sriovnetwork.openshift.io/v1`"),
        honoured("kind", ""),
        honoured("metadata", "the name of the network that it creates"),
        honoured("spec", ""),
    ],
};

/// `spec` of a SriovNetwork.
pub static SRIOV_NETWORK_SPEC: ObjectType = ObjectType {
    name: "SriovNetwork spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "resourceName",
            "the pool, of a SriovNetworkNodePolicy that was applied to the node",
        ),
        honoured(
            "networkNamespace",
            "the namespace of the network; by default the SriovNetwork's own",
        ),
        honoured("vlan", "0 to 4094"),
        honoured("vlanQoS", "0 to 7, only with a vlan"),
        honoured("vlanProto", "`802.1q`, `802.1ad`"),
        honoured("spoofChk", "`\"on\"`, `\"off\"`, in quotes"),
        honoured("trust", "`\"on\"`, `\"off\"`, in quotes"),
        honoured("linkState", "`auto`, `enable`, `disable`"),
        honoured("minTxRate", "Mbit/s, not above maxTxRate"),
        honoured("maxTxRate", "Mbit/s"),
        honoured(
            "ipam",
            "a JSON string: the `ipam` of a CNI configuration. An object is refused, as by the API \
             server",
        ),
        honoured("capabilities", "a JSON string; the cluster handles its content"),
        honoured(
            "metaPlugins",
            "a JSON string; ignored, with a warning if an interface names the network: hawser runs \
             no plugins after the first",
        ),
        passed_over("logLevel", ""),
        passed_over("logFile", ""),
    ],
};
