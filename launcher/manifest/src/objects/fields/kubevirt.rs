//! VirtualMachine and VirtualMachineInstance, `kubevirt.io/v1`.

use crate::objects::reader::{ObjectType, Unknown, honoured, ignored, later, passed_over, refused};

/// The object as a whole.
pub static VIRTUAL_MACHINE: ObjectType = ObjectType {
    name: "VirtualMachine, VirtualMachineInstance",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`kubevirt.io/v1`; `v1alpha3` is accepted with a warning"),
        honoured(
            "kind",
            "one of the two; `--vm` and `--namespace` select one of several VMs",
        ),
        honoured(
            "metadata",
            "for a VirtualMachineInstance, also its labels and annotations",
        ),
        honoured("spec", ""),
        passed_over("status", "set by the cluster"),
    ],
};

/// Metadata of any object.
pub static METADATA: ObjectType = ObjectType {
    name: "metadata",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured(
            "name",
            "without `spec.hostname`, the first label of the VM's name, up to 63 bytes, is the \
             guest's host name",
        ),
        honoured(
            "generateName",
            "refused in place of `name`: the API server completes it",
        ),
        honoured(
            "namespace",
            "the namespace in which names of networks are looked up; by default that of \
             `--namespace`, else `default`",
        ),
        honoured(
            "labels",
            "select the VM for Services and policies, together with those that KubeVirt adds to \
             the pod (`kubevirt.io`, `vmi.kubevirt.io/id`, `vm.kubevirt.io/name`, \
             `sidecar.istio.io/inject`); for a VirtualMachine, those of its template",
        ),
        honoured(
            "annotations",
            "`sidecar.istio.io/inject: \"true\"` reserves the ports of Istio's proxy: an interface \
             cannot list them, and every port means every other one; \
             `k8s.v1.cni.cncf.io/resourceName` of a macvtap network names its lower device",
        ),
    ],
};

/// `spec` of a VirtualMachine.
pub static VM_SPEC: ObjectType = ObjectType {
    name: "VirtualMachine spec",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("template", "the VirtualMachineInstance that it creates"),
        passed_over(
            "runStrategy",
            "hawser serves the VM while it runs; hawser-agent does not start a VM with Halted",
        ),
        passed_over("running", "as runStrategy"),
        ignored(
            "instancetype",
            "instance types are not read, so the number of CPUs is unknown, from which \
             networkInterfaceMultiqueue makes queue pairs: give spec.template.spec.domain.cpu \
             instead if that matters",
        ),
        ignored(
            "preference",
            "preferences are not read: their settings for interfaces (model, masquerade, \
             networkInterfaceMultiqueue, autoattachPodInterface) are unknown, and must be in the \
             manifest to take effect",
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
            "nodeSelector",
            "labels of the node on which hawser-agent starts the VM; hawser itself does not use it",
        ),
        honoured(
            "terminationGracePeriodSeconds",
            "seconds in which the guest must shut down if hawser started the VMM; 30 by default, 0 for none",
        ),
        ignored(
            "subdomain",
            "the search list is that of the pod's /etc/resolv.conf only",
        ),
        passed_over(
            "dnsPolicy",
            "included in the pod's /etc/resolv.conf, which hawser reads",
        ),
        passed_over("dnsConfig", "as dnsPolicy"),
        honoured("volumes", "cloud-init's network configuration; disks belong to the VMM"),
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
            "for the number of queues if `cpu` has no sockets, cores and threads",
        ),
    ],
};

/// `spec.domain.cpu`
pub static CPU: ObjectType = ObjectType {
    name: "spec.domain.cpu",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("sockets", "1 by default, or if zero"),
        honoured("cores", "1 by default, or if zero"),
        honoured("threads", "1 by default, or if zero"),
        passed_over("maxSockets", "KubeVirt creates no queues for sockets that may be added"),
    ],
};

/// `spec.domain.resources`
pub static RESOURCES: ObjectType = ObjectType {
    name: "spec.domain.resources",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("limits", "`cpu`, rounded up"),
        honoured("requests", "`cpu`, rounded up, if `limits` has none"),
    ],
};

/// `spec.domain.devices`
pub static DEVICES: ObjectType = ObjectType {
    name: "spec.domain.devices",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured(
            "interfaces",
            "one socket each; if neither they nor networks are given, KubeVirt adds the interface \
             `default` on the pod network, with the binding of `--default-binding`",
        ),
        honoured(
            "networkInterfaceMultiqueue",
            "a queue pair for each virtual CPU (sockets × cores × threads), up to the limit of \
             vhost-user",
        ),
        honoured("autoattachPodInterface", "`false`: no interface is added"),
    ],
};

/// `spec.domain.devices.interfaces[]`
pub static INTERFACE: ObjectType = ObjectType {
    name: "spec.domain.devices.interfaces[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("name", "its socket is `DIR/<name>.sock`; a network has the same name"),
        honoured("masquerade", "`{}`; only on the pod network"),
        honoured(
            "passtBinding",
            "`{}`; only on the pod network: as masquerade, but the guest has the addresses of the pod",
        ),
        honoured(
            "bridge",
            "`{}`; on the pod network the guest takes over eth0 with its MAC and addresses",
        ),
        honoured("sriov", "a VF, passed through vfio-pci"),
        honoured(
            "failover",
            "of hawser: `true` gives an `sriov` interface a standby named `<name>-standby`, on which the VM migrates",
        ),
        honoured(
            "teaming",
            "of hawser, with libvirt's words: `{type: transient, persistent: NAME}` is `failover: true` with another \
             name for the standby",
        ),
        honoured(
            "fallback",
            "of hawser: `macvtap` gives an `sriov` interface a macvtap on the PF if its pool has no VF left",
        ),
        later("binding", "the mode layer2"),
        honoured(
            "ports",
            "masquerade: the forwarded ports; without them and `portRanges` every TCP and UDP port. `l2bridge` and \
             `managedtap`: names for the `targetPort` of Services; every port is reachable on the network",
        ),
        honoured(
            "portRanges",
            "masquerade: ranges of forwarded ports; cannot be combined with `ports`",
        ),
        honoured(
            "macAddress",
            "the guest's MAC; not multicast, and not the gateway's 02:00:00:00:00:00",
        ),
        honoured("model", "`virtio` (default); vhost-user supports no other model"),
        honoured(
            "state",
            "`up`; `down`: the NIC exists without a carrier; `absent`: no NIC and no socket, with \
             bridge only. `hawser plug` changes it while the VM runs",
        ),
        honoured("dhcpOptions", "on the pod network: additional DHCPv4 options"),
        honoured(
            "pciAddress",
            "the guest's PCI address; part of the flags for QEMU, as `0000:00:SLOT.FUNCTION` or `0000:BUS:00.0` from \
             bus 20 on; refused for cloud-hypervisor, which chooses addresses itself",
        ),
        honoured("bootOrder", "1 or more, unique; part of the flags for QEMU"),
        honoured("acpiIndex", "1 or more; part of the flags for QEMU"),
        ignored(
            "tag",
            "it reaches the guest in cloud-init's metadata, which hawser does not produce",
        ),
        refused("slirp", "KubeVirt has removed it; use masquerade"),
        refused(
            "macvtap",
            "KubeVirt has removed it; use bridge on a network of type macvtap",
        ),
        refused("passt", "KubeVirt has removed it; use passtBinding"),
    ],
};

/// `binding` of an interface.
pub static BINDING: ObjectType = ObjectType {
    name: "interfaces[].binding",
    unknown: Unknown::Refused,
    fields: &[honoured(
        "name",
        "`l2bridge` and `managedtap`, which mean the same here: on `pod` the primary user-defined network of the \
         namespace, on another network as `bridge`; for others the message says what to write instead",
    )],
};

/// `teaming`
pub static TEAMING: ObjectType = ObjectType {
    name: "interfaces[].teaming",
    unknown: Unknown::Refused,
    fields: &[
        honoured("type", "`transient`; hawser adds the `persistent` interface itself"),
        honoured("persistent", "name of the standby"),
    ],
};

/// `ports[]`
pub static PORT: ObjectType = ObjectType {
    name: "interfaces[].ports[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("port", "1 to 65535"),
        honoured("protocol", "`TCP` (default) or `UDP`"),
        honoured("name", "name for the targetPort of a Service"),
    ],
};

/// `portRanges[]`
pub static PORT_RANGE: ObjectType = ObjectType {
    name: "interfaces[].portRanges[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("start", "1 to 65535"),
        honoured("end", "at least `start`"),
        honoured("protocol", "`TCP` or `UDP`; required"),
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
        honoured("pod", "the network of the namespace in which hawser runs"),
        honoured("multus", "a NetworkAttachmentDefinition"),
        refused("resourceClaim", "devices that the cluster creates are not known here"),
    ],
};

/// `spec.networks[].pod`
pub static POD_NETWORK: ObjectType = ObjectType {
    name: "spec.networks[].pod",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "vmNetworkCIDR",
            "the guest's IPv4 network, /30 or wider; 10.0.2.0/24 by default",
        ),
        honoured(
            "vmIPv6NetworkCIDR",
            "the guest's IPv6 network, /126 or wider; fd10:0:2::/120 by default",
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
            "`[namespace/]name` of a network in the files; with `--namespace-isolation` only in \
             the VM's namespace and in `default`",
        ),
        honoured(
            "default",
            "`true` is refused: it makes this the pod's own network, which hawser cannot change",
        ),
    ],
};
