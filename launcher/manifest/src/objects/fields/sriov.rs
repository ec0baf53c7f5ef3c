//! Fields of SriovNetworkNodePolicy.

use crate::objects::reader::{ObjectType, Unknown, honoured, passed_over, refused};

/// `sriovnetwork.openshift.io/v1`
pub static NODE_POLICY: ObjectType = ObjectType {
    name: "SriovNetworkNodePolicy",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`sriovnetwork.openshift.io/v1`"),
        honoured("kind", ""),
        honoured("metadata", ""),
        honoured("spec", "applied by `hawser node apply`"),
    ],
};

/// `spec` of a SriovNetworkNodePolicy.
pub static NODE_POLICY_SPEC: ObjectType = ObjectType {
    name: "SriovNetworkNodePolicy spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured("resourceName", "the pool of the VFs"),
        passed_over(
            "nodeSelector",
            "`hawser node apply` applies the policies of its files to its own node",
        ),
        honoured("priority", "0 to 99, 99 by default; the lower number has priority"),
        honoured("mtu", "bytes: the PF gets at least this MTU"),
        honoured(
            "numVfs",
            "not above what the PF supports, nor above 128 of Mellanox; changed only while no VF is used",
        ),
        honoured("nicSelector", "every given field must match"),
        honoured(
            "deviceType",
            "`netdevice`, by default, or `vfio-pci`; guests get VFs of either",
        ),
        honoured("isRdma", "`false`"),
        passed_over("needVhostNet", "concerns pods"),
        honoured("linkType", "`eth`"),
        honoured("eSwitchMode", "`legacy`"),
        refused("vdpaType", "needs eSwitchMode switchdev"),
        passed_over("excludeTopology", "concerns the device plugin"),
        honoured(
            "externallyManaged",
            "the VFs already exist, at least numVfs of them, and their number does not change",
        ),
        refused("bridge", "needs eSwitchMode switchdev"),
    ],
};

/// `nicSelector`
pub static NIC_SELECTOR: ObjectType = ObjectType {
    name: "SriovNetworkNodePolicy spec.nicSelector",
    unknown: Unknown::Refused,
    fields: &[
        honoured("vendor", "four hexadecimal digits, in quotes"),
        honoured("deviceID", "four hexadecimal digits, in quotes"),
        honoured("pfNames", "names of PFs; `eth0#2-5` means the VFs 2 to 5 of eth0"),
        honoured("rootDevices", "PCI addresses of PFs, with ranges as in pfNames"),
        refused(
            "netFilter",
            "names networks of OpenStack or AWS, which hawser does not look up",
        ),
    ],
};
