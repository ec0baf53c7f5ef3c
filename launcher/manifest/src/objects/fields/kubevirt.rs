//! VirtualMachine and VirtualMachineInstance, `kubevirt.io/v1`.

use crate::objects::reader::{ObjectType, Unknown, honoured, ignored, later, passed_over, refused};

/// The object itself.
pub static VIRTUAL_MACHINE: ObjectType = ObjectType {
    name: "VirtualMachine, VirtualMachineInstance",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`kubevirt.io/v1`; `v1alpha3` is read too, with a warning"),
        honoured(
            "kind",
            "one of the two; of several VMs `--vm` and `--namespace` choose one",
        ),
        honoured(
            "metadata",
            "of a VirtualMachineInstance, also its labels and annotations",
        ),
        honoured("spec", ""),
        passed_over("status", "what the cluster found out"),
    ],
};

/// Of any object.
pub static METADATA: ObjectType = ObjectType {
    name: "metadata",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured(
            "name",
            "the first label of the VM's, up to 63 bytes, is the guest's host name, where `spec.hostname` is not given",
        ),
        honoured(
            "generateName",
            "in place of `name` it is refused: the API server finishes it",
        ),
        honoured(
            "namespace",
            "where names of networks are looked for; that of `--namespace` if not given, else `default`",
        ),
        honoured(
            "labels",
            "what Services and policies select the VM by, with those KubeVirt puts on the pod (`kubevirt.io`, \
             `vmi.kubevirt.io/id`, `vm.kubevirt.io/name`, `sidecar.istio.io/inject`); of a VirtualMachine, those of its \
             template",
        ),
        honoured(
            "annotations",
            "`sidecar.istio.io/inject: \"true\"` leaves the ports of Istio's proxy to it: an interface cannot list them, and every port is every \
             other; \
             `k8s.v1.cni.cncf.io/resourceName` of a macvtap network names its lower device",
        ),
    ],
};

/// `spec` of a VirtualMachine.
pub static VM_SPEC: ObjectType = ObjectType {
    name: "VirtualMachine spec",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("template", "the VirtualMachineInstance it makes"),
        passed_over("runStrategy", "hawser serves while it runs"),
        passed_over("running", "as runStrategy"),
        ignored(
            "instancetype",
            "instance types are not read, so that its CPUs are not known, for which networkInterfaceMultiqueue makes \
             queue pairs: give spec.template.spec.domain.cpu without it where that matters",
        ),
        ignored(
            "preference",
            "preferences are not read: what it prefers for interfaces (model, masquerade, networkInterfaceMultiqueue, \
             autoattachPodInterface) is not known, and must be in the manifest to count",
        ),
        passed_over("dataVolumeTemplates", "disks"),
    ],
};

/// `spec.template`
pub static TEMPLATE: ObjectType = ObjectType {
    name: "VirtualMachine spec.template",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("metadata", "labels and annotations"),
        honoured("spec", "as of a VirtualMachineInstance"),
    ],
};

/// `spec` of a VirtualMachineInstance.
pub static VMI_SPEC: ObjectType = ObjectType {
    name: "VirtualMachineInstance spec",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("domain", ""),
        honoured("networks", ""),
        honoured("hostname", "the guest's host name: one label"),
        honoured(
            "terminationGracePeriodSeconds",
            "how long the guest may take to shut down, where hawser starts the VMM; 30 if not given, 0: no time",
        ),
        ignored(
            "subdomain",
            "the search list is that of the pod's /etc/resolv.conf alone",
        ),
        passed_over(
            "dnsPolicy",
            "the pod's /etc/resolv.conf, which hawser reads, is made from it",
        ),
        passed_over("dnsConfig", "as dnsPolicy"),
        honoured(
            "volumes",
            "what cloud-init is to make of the network; disks are the VMM's",
        ),
    ],
};

/// `spec.domain`
pub static DOMAIN: ObjectType = ObjectType {
    name: "spec.domain",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("devices", ""),
        honoured("cpu", "for the number of queues"),
        honoured(
            "resources",
            "for the number of queues, where `cpu` says no sockets, cores and threads",
        ),
    ],
};

/// `spec.domain.cpu`
pub static CPU: ObjectType = ObjectType {
    name: "spec.domain.cpu",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("sockets", "1 if not given, or zero"),
        honoured("cores", "1 if not given, or zero"),
        honoured("threads", "1 if not given, or zero"),
        passed_over("maxSockets", "KubeVirt makes no queues for sockets that may come"),
    ],
};

/// `spec.domain.resources`
pub static RESOURCES: ObjectType = ObjectType {
    name: "spec.domain.resources",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("limits", "`cpu`, rounded up"),
        honoured("requests", "`cpu`, rounded up, where `limits` has none"),
    ],
};

/// `spec.domain.devices`
pub static DEVICES: ObjectType = ObjectType {
    name: "spec.domain.devices",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured(
            "interfaces",
            "one socket each; where neither they nor networks are given, KubeVirt adds the interface `default` on the pod \
             network, bound as `--default-binding` says",
        ),
        honoured(
            "networkInterfaceMultiqueue",
            "a queue pair for each virtual CPU (sockets × cores × threads), as far as vhost-user has numbers",
        ),
        honoured("autoattachPodInterface", "`false`: no interface is added"),
    ],
};

/// `spec.domain.devices.interfaces[]`
pub static INTERFACE: ObjectType = ObjectType {
    name: "spec.domain.devices.interfaces[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("name", "the socket is `DIR/<name>.sock`; a network has the same name"),
        honoured("masquerade", "`{}`; only on the pod network"),
        honoured(
            "bridge",
            "`{}`; on the pod network the guest takes over eth0 with its MAC and addresses",
        ),
        later("sriov", "the mode sriov"),
        later("binding", "the mode layer2"),
        honoured(
            "ports",
            "masquerade: the ports that reach the guest; without them and `portRanges` every port of TCP and UDP",
        ),
        honoured("portRanges", "masquerade: ranges of them; not together with `ports`"),
        honoured(
            "macAddress",
            "the guest's MAC; not a multicast one, not the gateway's 02:00:00:00:00:00",
        ),
        honoured(
            "model",
            "`virtio` (also where nothing is given); any other cannot be had over vhost-user",
        ),
        honoured(
            "state",
            "`up`; `down`: the card is there without a carrier; `absent`: no card and no socket, with bridge only. Changed while the VM runs with `hawser plug`",
        ),
        honoured("dhcpOptions", "on the pod network: more for DHCPv4 to tell"),
        honoured(
            "pciAddress",
            "checked, and part of the plan for the VMM (`--json`): `0000:00:00.0`",
        ),
        honoured("bootOrder", "1 or more, each once; among the flags for QEMU"),
        honoured("acpiIndex", "1 or more; among the flags for QEMU"),
        ignored(
            "tag",
            "the guest hears of it by cloud-init's metadata, which is not hawser's",
        ),
        refused("slirp", "KubeVirt has removed it; use masquerade"),
        refused(
            "macvtap",
            "KubeVirt has removed it; use bridge on a network of type macvtap",
        ),
        refused("passt", "KubeVirt has removed it; use masquerade"),
        refused("passtBinding", "use masquerade, which works the same way"),
    ],
};

/// `binding` of an interface.
pub static BINDING: ObjectType = ObjectType {
    name: "interfaces[].binding",
    unknown: Unknown::Refused,
    fields: &[later(
        "name",
        "`l2bridge` needs the mode layer2; of others the message says what to write in their place",
    )],
};

/// `ports[]`
pub static PORT: ObjectType = ObjectType {
    name: "interfaces[].ports[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("port", "1 to 65535"),
        honoured("protocol", "`TCP` (also where nothing is given) or `UDP`"),
        honoured("name", "what a Service's targetPort may name"),
    ],
};

/// `portRanges[]`
pub static PORT_RANGE: ObjectType = ObjectType {
    name: "interfaces[].portRanges[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("start", "1 to 65535"),
        honoured("end", "not less than `start`"),
        honoured("protocol", "`TCP` or `UDP`; it must be given"),
    ],
};

/// `dhcpOptions`
pub static DHCP_OPTIONS: ObjectType = ObjectType {
    name: "interfaces[].dhcpOptions",
    unknown: Unknown::Refused,
    fields: &[
        honoured("bootFileName", "option 67"),
        honoured("tftpServerName", "option 66"),
        honoured("ntpServers", "option 42; IPv4 addresses"),
        honoured("privateOptions", "options 224 to 254, as text"),
    ],
};

/// `dhcpOptions.privateOptions[]`
pub static PRIVATE_OPTION: ObjectType = ObjectType {
    name: "dhcpOptions.privateOptions[]",
    unknown: Unknown::Refused,
    fields: &[honoured("option", "224 to 254"), honoured("value", "up to 255 bytes")],
};

/// `spec.networks[]`
pub static NETWORK: ObjectType = ObjectType {
    name: "spec.networks[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("name", "that of its interface"),
        honoured("pod", "the network of the namespace hawser runs in"),
        honoured("multus", "a NetworkAttachmentDefinition"),
        refused("resourceClaim", "devices of the cluster's making are not known here"),
    ],
};

/// `spec.networks[].pod`
pub static POD_NETWORK: ObjectType = ObjectType {
    name: "spec.networks[].pod",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "vmNetworkCIDR",
            "the guest's IPv4 network, /30 or wider; 10.0.2.0/24 if not given",
        ),
        honoured(
            "vmIPv6NetworkCIDR",
            "the guest's IPv6 network, /126 or wider; fd10:0:2::/120 if not given",
        ),
    ],
};

/// `spec.networks[].multus`
pub static MULTUS_NETWORK: ObjectType = ObjectType {
    name: "spec.networks[].multus",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "networkName",
            "`[namespace/]name` of a network among the files; with `--namespace-isolation` only of the VM's namespace and \
             of `default`",
        ),
        honoured(
            "default",
            "`true` is refused: it makes the network the pod's own, which hawser cannot change",
        ),
    ],
};
