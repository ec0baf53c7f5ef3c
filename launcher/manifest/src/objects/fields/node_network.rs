//! Fields of NodeNetworkConfigurationPolicy.

use crate::objects::reader::{ObjectType, Unknown, honoured, passed_over, refused};

/// `nmstate.io/v1`
pub static NODE_NETWORK: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`nmstate.io/v1`"),
        honoured("kind", ""),
        honoured("metadata", ""),
        honoured(
            "spec",
            "applied by `hawser node apply`, or by `hawser-agent` from the store",
        ),
    ],
};

/// `spec` of a NodeNetworkConfigurationPolicy.
pub static NODE_NETWORK_SPEC: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec",
    unknown: Unknown::Refused,
    fields: &[
        honoured("desiredState", ""),
        honoured(
            "nodeSelector",
            "labels of the nodes on which `hawser-agent` applies the policy; `hawser node apply` applies those of its files \
             to its own node",
        ),
        passed_over("maxUnavailable", "concerns several nodes"),
        refused("capture", "give the names of links"),
    ],
};

/// `desiredState`
pub static DESIRED_STATE: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec.desiredState",
    unknown: Unknown::Refused,
    fields: &[
        honoured("interfaces", "links that are not named stay as they are"),
        refused("routes", "set up routes with the tools of the host"),
        refused("route-rules", "set up rules with the tools of the host"),
        refused("dns-resolver", "set up the resolver with the tools of the host"),
        refused("hostname", "set the name with the tools of the host"),
        refused(
            "ovn",
            "name the bridge in the network's own object: `bridge` or `physicalNetworkName`",
        ),
        refused("ovs-db", "hawser needs no Open vSwitch"),
    ],
};

/// An item of `interfaces`.
pub static DESIRED_LINK: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec.desiredState.interfaces[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("name", "at most 15 characters"),
        passed_over("description", "is for people"),
        honoured("type", "`linux-bridge`, `vlan` or `ethernet`"),
        honoured(
            "state",
            "`up`, by default, `down`, or `absent`, which removes a bridge or a VLAN interface",
        ),
        honoured("mtu", "bytes, from 68"),
        honoured("mac-address", ""),
        honoured("ipv4", "a link that is created has no IPv4 without it"),
        honoured("ipv6", "a link that is created has no IPv6 without it"),
        honoured("bridge", "for `linux-bridge`"),
        honoured("vlan", "for `vlan`"),
        refused("copy-mac-from", "give the address as mac-address"),
        refused("link-aggregation", "type bond is not served"),
        refused("ethernet", "virtual functions: apply a SriovNetworkNodePolicy"),
        refused("ethtool", "set it up with ethtool(8)"),
    ],
};

/// `bridge`
pub static DESIRED_BRIDGE: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec.desiredState.interfaces[].bridge",
    unknown: Unknown::Refused,
    fields: &[
        honoured("options", ""),
        honoured(
            "port",
            "all ports but the TAP devices of VMs; without it, the ports stay",
        ),
    ],
};

/// `bridge.options`
pub static BRIDGE_OPTIONS: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec.desiredState.interfaces[].bridge.options",
    unknown: Unknown::Refused,
    fields: &[honoured("stp", "")],
};

/// `bridge.options.stp`
pub static SPANNING_TREE: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec.desiredState.interfaces[].bridge.options.stp",
    unknown: Unknown::Refused,
    fields: &[honoured(
        "enabled",
        "a bridge that is created has no spanning tree without it",
    )],
};

/// `vlan`
pub static DESIRED_VLAN: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec.desiredState.interfaces[].vlan",
    unknown: Unknown::Refused,
    fields: &[
        honoured("base-iface", "the link whose frames have the tag; it is switched on"),
        honoured("id", "from 1 to 4094"),
        refused("protocol", "tags are those of 802.1Q"),
    ],
};

/// An item of `bridge.port`.
pub static DESIRED_PORT: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec.desiredState.interfaces[].bridge.port[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("name", "a link of this network namespace"),
        refused("vlan", "give VLANs per guest, in the NetworkAttachmentDefinition"),
        refused(
            "stp-hairpin-mode",
            "give hairpinMode in the NetworkAttachmentDefinition",
        ),
    ],
};

/// `ipv4` and `ipv6`
pub static DESIRED_STACK: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec.desiredState.interfaces[].ipv4, ipv6",
    unknown: Unknown::Refused,
    fields: &[
        honoured("enabled", "`false` removes the addresses"),
        honoured("dhcp", "`false`: hawser runs no DHCP client on the host"),
        honoured("autoconf", "`false`"),
        honoured(
            "address",
            "all addresses of the link, but those that are valid on the link only",
        ),
    ],
};

/// An item of `address`.
pub static DESIRED_ADDRESS: ObjectType = ObjectType {
    name: "NodeNetworkConfigurationPolicy spec.desiredState.interfaces[].ipv4, ipv6: address[]",
    unknown: Unknown::Refused,
    fields: &[honoured("ip", ""), honoured("prefix-length", "")],
};
