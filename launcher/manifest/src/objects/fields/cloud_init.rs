//! Volumes with cloud-init data, and their network configuration in both versions that cloud-init reads
//! (cloudinit/net/network_state.py).

use super::super::reader::{ObjectType, Unknown, honoured, passed_over};

/// `spec.volumes[]`
pub static VOLUME: ObjectType = ObjectType {
    name: "spec.volumes[]",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("cloudInitNoCloud", "its network data are compared with the plan"),
        honoured("cloudInitConfigDrive", "as cloudInitNoCloud"),
        passed_over("name", ""),
    ],
};

/// `cloudInitNoCloud`, `cloudInitConfigDrive`
pub static CLOUD_INIT: ObjectType = ObjectType {
    name: "cloudInitNoCloud, cloudInitConfigDrive",
    unknown: Unknown::Refused,
    fields: &[
        honoured("networkData", "version 1 or 2, also under a key `network`"),
        honoured("networkDataBase64", "the same in base64"),
        honoured(
            "networkDataSecretRef",
            "a warning says that the content of the Secret is not known",
        ),
        passed_over("userData", "handled by the guest"),
        passed_over("userDataBase64", "as userData"),
        passed_over("secretRef", "as userData"),
    ],
};

/// The whole network data.
pub static NETWORK_DATA: ObjectType = ObjectType {
    name: "networkData",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("network", "the same inside, as in cloud-init's own configuration"),
        honoured("version", "1 or 2"),
        honoured("config", "version 1: `disabled`, or the list of devices"),
        honoured("ethernets", "version 2: devices by their names"),
        honoured(
            "bonds",
            "created in the guest from devices that need no address of their own",
        ),
        honoured("bridges", "as bonds"),
        honoured("vlans", "as bonds"),
    ],
};

/// `bonds.*`, `bridges.*`, `vlans.*`
pub static MADE: ObjectType = ObjectType {
    name: "networkData bonds.*, bridges.*, vlans.*",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("interfaces", "devices that need no address of their own"),
        honoured("link", "as interfaces"),
    ],
};

/// `ethernets.*`
pub static ETHERNET: ObjectType = ObjectType {
    name: "networkData ethernets.*",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("match", "identifies the NIC; without it, the key is the device's name"),
        honoured("macaddress", "a MAC that the guest gives the NIC"),
        honoured("mtu", "not above the MTU of the network"),
        honoured("dhcp4", ""),
        honoured("dhcp6", ""),
        honoured("accept-ra", ""),
        honoured("addresses", ""),
        honoured("gateway4", ""),
        honoured("gateway6", ""),
        honoured("routes", "the default ones"),
    ],
};

/// `ethernets.*.match`
pub static MATCH: ObjectType = ObjectType {
    name: "networkData ethernets.*.match",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("macaddress", "that of a NIC"),
        honoured("name", "`eth0`, a pattern"),
    ],
};

/// `ethernets.*.routes[]`
pub static ROUTE: ObjectType = ObjectType {
    name: "networkData ethernets.*.routes[]",
    unknown: Unknown::PassedOver,
    fields: &[honoured("to", "`default`, `0.0.0.0/0`, `::/0`"), honoured("via", "")],
};

/// `config[]`
pub static CONFIG: ObjectType = ObjectType {
    name: "networkData config[]",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("type", "`physical`; others are created from devices in the guest"),
        honoured("name", "the device's name"),
        honoured("mac_address", "which NIC"),
        honoured("mtu", "not above the MTU of the network"),
        honoured("accept-ra", ""),
        honoured("subnets", ""),
        honoured("bond_interfaces", "devices that need no address of their own"),
        honoured("bridge_interfaces", "as bond_interfaces"),
        honoured("vlan_link", "as bond_interfaces"),
    ],
};

/// `config[].subnets[]`
pub static SUBNET: ObjectType = ObjectType {
    name: "networkData config[].subnets[]",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured(
            "type",
            "`dhcp`, `dhcp4`, `dhcp6`, `static`, `static6` and similar types",
        ),
        honoured(
            "address",
            "with `/24` or `/255.255.255.0`; otherwise /24, and /64 for IPv6",
        ),
        honoured("prefix", "of the address, if that has none"),
        honoured("netmask", "the same as prefix, which has priority"),
        honoured("gateway", ""),
        honoured("routes", "the default ones"),
    ],
};

/// `config[].subnets[].routes[]`
pub static SUBNET_ROUTE: ObjectType = ObjectType {
    name: "networkData config[].subnets[].routes[]",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("network", "as address"),
        honoured("destination", "as network"),
        honoured("prefix", "of the network, if that has none"),
        honoured("netmask", "the same as prefix, which has priority"),
        honoured("gateway", ""),
    ],
};
