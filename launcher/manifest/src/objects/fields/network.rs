//! NetworkAttachmentDefinition, Service, and the networks of OVN-Kubernetes and the
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

/// `spec` of one.
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

/// Its `spec`.
pub static SERVICE_SPEC: ObjectType = ObjectType {
    name: "Service spec",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured(
            "type",
            "`NodePort` and `LoadBalancer` make forwards; of others, the ports are the cluster's affair",
        ),
        honoured(
            "selector",
            "labels of the VM's pod; one in the VM's namespace that selects no VM of the files is named in a warning",
        ),
        honoured("ports", ""),
        ignored(
            "externalIPs",
            "addresses of the cluster's nodes: hawser listens on those of its own namespace",
        ),
        passed_over(
            "externalTrafficPolicy",
            "the client's address is seen by the guest either way",
        ),
        passed_over("clusterIP", "the cluster's affair"),
        honoured(
            "ipFamilies",
            "one family: hawser listens on addresses of that one, unless `ipFamilyPolicy` wants both",
        ),
        honoured("ipFamilyPolicy", "`SingleStack`, `PreferDualStack`, `RequireDualStack`"),
        honoured(
            "sessionAffinity",
            "`None`, `ClientIP`: every client comes to the one VM either way",
        ),
        passed_over("sessionAffinityConfig", "as sessionAffinity"),
        honoured(
            "loadBalancerSourceRanges",
            "checked; not enforced, with a warning: the nodePort is open to all, in the cluster too",
        ),
    ],
};

/// `spec.ports[]`
pub static SERVICE_PORT: ObjectType = ObjectType {
    name: "Service spec.ports[]",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("port", "what targetPort is if it is not given"),
        honoured(
            "targetPort",
            "the guest's port, by number or by the name it has in the interface's `ports`",
        ),
        honoured(
            "nodePort",
            "the port hawser listens on; without it the cluster would choose, hawser does not",
        ),
        honoured("protocol", "`TCP` (also where nothing is given) or `UDP`"),
        honoured("name", "must be given where there are several ports"),
        passed_over("appProtocol", ""),
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
            "the name is `kubemacpool-mac-range-config`, in whatever namespace; of other ConfigMaps only that of \
             macvtap's device plugin is read",
        ),
        honoured("data", ""),
    ],
};

/// Its `data`.
pub static MAC_POOL_DATA: ObjectType = ObjectType {
    name: "ConfigMap data",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "RANGE_START",
            "first MAC for interfaces without a macAddress; `--mac-range` goes before it",
        ),
        honoured(
            "RANGE_END",
            "last of them: above RANGE_START, and with the same first byte",
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
        honoured(
            "metadata",
            "the name is `macvtap-deviceplugin-config`, in whatever namespace",
        ),
        honoured("data", ""),
    ],
};

/// Its `data`.
pub static MACVTAP_DATA: ObjectType = ObjectType {
    name: "macvtap's ConfigMap data",
    unknown: Unknown::Ignored,
    fields: &[honoured(
        "DP_MACVTAP_CONF",
        "a string of JSON: a list of resources. If it is empty, or the ConfigMap is not given, each is called after its \
         device",
    )],
};

/// One of the resources.
pub static MACVTAP_RESOURCE: ObjectType = ObjectType {
    name: "DP_MACVTAP_CONF[]",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "name",
            "what follows `macvtap.network.kubevirt.io/` in the annotation of a network of type macvtap",
        ),
        honoured("lowerDevice", "the device below"),
        honoured("mode", "as that of macvlan"),
        passed_over("capacity", "hawser makes one for each interface"),
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
            "the name says whose it is: VM.NETWORK, as KubeVirt's ipam-extensions makes it; those of other VMs are left \
             alone",
        ),
        honoured("spec", ""),
        honoured("status", ""),
    ],
};

/// Its `spec`.
pub static IPAM_CLAIM_SPEC: ObjectType = ObjectType {
    name: "IPAMClaim spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured("network", "must be given; the interface is found by the claim's name"),
        honoured("interface", "as network"),
    ],
};

/// Its `status`.
pub static IPAM_CLAIM_STATUS: ObjectType = ObjectType {
    name: "IPAMClaim status",
    unknown: Unknown::PassedOver,
    fields: &[honoured(
        "ips",
        "addresses with their prefixes: the interface's, where its network has ranges they lie in, or no `ipam`; told \
         by hawser's DHCP server. Ignored with a warning where others give the addresses",
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
            "name and namespace: the network goes by them as a NetworkAttachmentDefinition does",
        ),
        honoured("spec", ""),
    ],
};

/// Its `spec`.
pub static USER_DEFINED_SPEC: ObjectType = ObjectType {
    name: "UserDefinedNetwork spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "topology",
            "`Layer2`, `Layer3`; an interface on it is refused: it needs the mode layer2",
        ),
        honoured("layer2", ""),
        honoured("layer3", ""),
    ],
};

/// The same for the cluster.
pub static CLUSTER_USER_DEFINED: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`k8s.ovn.org/v1`"),
        honoured("kind", ""),
        honoured("metadata", "the network goes by its name in every namespace it selects"),
        honoured("spec", ""),
    ],
};

/// Its `spec`.
pub static CLUSTER_USER_DEFINED_SPEC: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "namespaceSelector",
            "by `kubernetes.io/metadata.name`, and by the labels of Namespaces among the files; where it hangs on labels \
             that are not known it is taken to select the VM's",
        ),
        honoured("network", "as `spec` of a UserDefinedNetwork, and `Localnet`"),
        later("uplinks", "the way out of the cluster is the mode layer2's"),
    ],
};

/// `spec.network` of one.
pub static CLUSTER_NETWORK: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork spec.network",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "topology",
            "`Layer2`, `Layer3`, `Localnet`; an interface on it is refused: it needs the mode layer2",
        ),
        honoured("layer2", ""),
        honoured("layer3", ""),
        honoured("localnet", ""),
        later(
            "transport",
            "`NoOverlay` and `EVPN` are ways between nodes, which the mode layer2 is to have first",
        ),
        later("noOverlay", "as transport"),
        later("evpn", "as transport"),
    ],
};

const ROLE: Field = honoured(
    "role",
    "a `Primary` network takes the place of the pod network of its namespace",
);

/// `layer2`
pub static LAYER2: ObjectType = ObjectType {
    name: "UserDefinedNetwork spec.layer2",
    unknown: Unknown::Refused,
    fields: &[
        ROLE,
        passed_over("mtu", "of the mode layer2, as those below"),
        passed_over("subnets", ""),
        passed_over("reservedSubnets", ""),
        passed_over("infrastructureSubnets", ""),
        passed_over("defaultGatewayIPs", ""),
        passed_over("joinSubnets", ""),
        passed_over("ipam", ""),
    ],
};

/// `layer3`
pub static LAYER3: ObjectType = ObjectType {
    name: "UserDefinedNetwork spec.layer3",
    unknown: Unknown::Refused,
    fields: &[
        ROLE,
        passed_over("mtu", "of the mode layer2, as those below"),
        passed_over("subnets", ""),
        passed_over("joinSubnets", ""),
    ],
};

/// `localnet`
pub static LOCALNET: ObjectType = ObjectType {
    name: "ClusterUserDefinedNetwork spec.network.localnet",
    unknown: Unknown::Refused,
    fields: &[
        honoured("role", "`Secondary`"),
        passed_over("physicalNetworkName", "of the mode layer2, as those below"),
        passed_over("subnets", ""),
        passed_over("excludeSubnets", ""),
        passed_over("ipam", ""),
        passed_over("mtu", ""),
        passed_over("vlan", ""),
    ],
};

/// `sriovnetwork.openshift.io/v1`
pub static SRIOV_NETWORK: ObjectType = ObjectType {
    name: "SriovNetwork",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`sriovnetwork.openshift.io/v1`"),
        honoured("kind", ""),
        honoured("metadata", "the name of the network it makes"),
        later("spec", "checked; an interface on it needs the mode sriov"),
    ],
};

/// Its `spec`.
pub static SRIOV_NETWORK_SPEC: ObjectType = ObjectType {
    name: "SriovNetwork spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured("resourceName", ""),
        honoured(
            "networkNamespace",
            "the namespace of the network; the SriovNetwork's own if not given",
        ),
        honoured("vlan", "0 to 4094"),
        honoured("vlanQoS", "0 to 7, with a vlan only"),
        honoured("vlanProto", "`802.1q`, `802.1ad`"),
        honoured("spoofChk", "`\"on\"`, `\"off\"`, in quotes"),
        honoured("trust", "`\"on\"`, `\"off\"`, in quotes"),
        honoured("linkState", "`auto`, `enable`, `disable`"),
        honoured("minTxRate", "Mbit/s, not above maxTxRate"),
        honoured("maxTxRate", "Mbit/s"),
        honoured(
            "ipam",
            "a string of JSON: what a CNI configuration has as `ipam`. An object is refused, as the API server does",
        ),
        honoured("capabilities", "a string of JSON; what it says is the cluster's affair"),
        honoured(
            "metaPlugins",
            "a string of JSON; ignored, with a warning where an interface names the network: hawser runs no plugins \
             after the first",
        ),
        passed_over("logLevel", ""),
        passed_over("logFile", ""),
    ],
};
