//! Reads `kind: NodeNetworkConfigurationPolicy`: bridges and VLAN interfaces of a node, ports and addresses, in the words of
//! NMState.

use super::fields::node_network as table;
use super::metadata::{Metadata, texts};
use super::reader::{Item, Object};
use super::report::Spot;
use crate::values;
use hawser_packet::MacAddr;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// A policy for the links of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeNetwork {
    /// `metadata.name`
    pub name: String,
    /// Labels of the nodes that the policy is for.
    pub selector: BTreeMap<String, String>,
    /// Links, in the order of the manifest.
    pub links: Vec<DesiredLink>,
}

/// A link as it should be. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredLink {
    /// Position in the manifest.
    pub spot: Spot,
    /// Name of the link.
    pub name: String,
    /// What the link is.
    pub kind: DesiredKind,
    /// Whether it exists and is switched on.
    pub state: LinkState,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Address of the link.
    pub mac: Option<MacAddr>,
    /// Its IPv4.
    pub ipv4: Option<Stack>,
    /// Its IPv6.
    pub ipv6: Option<Stack>,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredKind {
    /// A bridge of the kernel.
    Bridge {
        /// Whether it takes part in the spanning tree.
        stp: Option<bool>,
        /// Names of its ports.
        ports: Option<Vec<String>>,
    },
    /// The frames of a link that have the tag of a VLAN.
    Vlan(DesiredVlan),
    /// A network card, or any other link that exists.
    Ethernet,
}

/// What a VLAN interface is. A link that is to be absent needs neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredVlan {
    /// Name of the link whose frames have the tag.
    pub base: String,
    /// Number of the VLAN.
    pub id: u16,
}

/// The words for [`DesiredKind`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Bridge,
    Vlan,
    Ethernet,
}

/// Whether a link exists and is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Switched on.
    Up,
    /// Switched off.
    Down,
    /// There is none.
    Absent,
}

/// IPv4 or IPv6 of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stack {
    /// No addresses.
    Disabled,
    /// These addresses; `None`: those that it has.
    Enabled(Option<Vec<IpNet>>),
}

/// Smallest MTU of IPv4 (RFC 791).
const MIN_MTU: i64 = 68;
/// Largest MTU of a link.
const MAX_MTU: i64 = 65_535;

/// Numbers of VLANs (802.1Q).
const VLANS: RangeInclusive<i64> = 1..=4094;

/// Reads a policy. `None` if it has an error.
pub fn read(object: &Object<'_>, namespace: &str) -> Option<NodeNetwork> {
    let name = Metadata::read(object, namespace).need_name(object, "the policy");
    let spec = object.need("spec", "give desiredState")?;
    let spec = spec.object(&table::NODE_NETWORK_SPEC)?;
    let state = spec.need("desiredState", "give interfaces")?;
    let items = state.object(&table::DESIRED_STATE)?.list("interfaces");
    let links = items.iter().map(link).collect::<Option<Vec<_>>>()?;
    let selector = texts(spec.get("nodeSelector"));
    Some(NodeNetwork { name, selector, links })
}

fn link(item: &Item<'_>) -> Option<DesiredLink> {
    let object = item.object(&table::DESIRED_LINK)?;
    let name = object.need("name", "name the link");
    let name = name.and_then(|item| item.parsed(values::interface_name));
    let kind = object.need("type", "give linux-bridge, vlan or ethernet");
    let kind = kind.and_then(|item| {
        item.choice(&[
            ("linux-bridge", Type::Bridge),
            ("vlan", Type::Vlan),
            ("ethernet", Type::Ethernet),
        ])
    });
    let states = [
        ("up", LinkState::Up),
        ("down", LinkState::Down),
        ("absent", LinkState::Absent),
    ];
    let state = object
        .get("state")
        .map_or(Some(LinkState::Up), |item| item.choice(&states));
    let bridge = object.object("bridge", &table::DESIRED_BRIDGE);
    let mac = object.get("mac-address").map(|item| item.parsed(values::guest_mac));
    let stack = |name| match object.get(name) {
        Some(item) => stack(&item, name == "ipv4").map(Some),
        None => Some(None),
    };
    let (ipv4, ipv6) = (stack("ipv4"), stack("ipv6"));
    let tag = object.object("vlan", &table::DESIRED_VLAN);
    if kind != Some(Type::Bridge) && bridge.is_some() {
        object.error("bridge is for type linux-bridge: give that type, or leave out bridge");
    }
    if kind != Some(Type::Vlan) && tag.is_some() {
        object.error("vlan is for type vlan: give that type, or leave out vlan");
    }
    if kind == Some(Type::Ethernet) && state == Some(LinkState::Absent) {
        object.error("state: absent is for a linux-bridge or a vlan: a network card cannot be removed; give down");
    }
    let kind = match kind? {
        Type::Ethernet => DesiredKind::Ethernet,
        Type::Vlan if state == Some(LinkState::Absent) => DesiredKind::Vlan(DesiredVlan::default()),
        Type::Vlan => {
            object.need("vlan", "give base-iface and id")?;
            DesiredKind::Vlan(vlan(&tag?)?)
        }
        Type::Bridge => DesiredKind::Bridge {
            stp: bridge.as_ref().and_then(spanning_tree),
            ports: match bridge.filter(|bridge| bridge.get("port").is_some()) {
                Some(bridge) => Some(bridge.list("port").iter().map(port).collect::<Option<_>>()?),
                None => None,
            },
        },
    };
    Some(DesiredLink {
        spot: object.spot().clone(),
        name: name?,
        kind,
        state: state?,
        mtu: object.integer("mtu", MIN_MTU..=MAX_MTU),
        mac: mac.map_or(Some(None), |mac| mac.map(Some))?,
        ipv4: ipv4?,
        ipv6: ipv6?,
    })
}

fn spanning_tree(bridge: &Object<'_>) -> Option<bool> {
    let options = bridge.object("options", &table::BRIDGE_OPTIONS)?;
    options.object("stp", &table::SPANNING_TREE)?.boolean("enabled")
}

fn vlan(object: &Object<'_>) -> Option<DesiredVlan> {
    let base = object.need("base-iface", "name the link");
    let base = base.and_then(|item| item.parsed(values::interface_name));
    let id = object.need("id", "give the number of the VLAN");
    let id = id.and_then(|item| item.integer(VLANS));
    Some(DesiredVlan { base: base?, id: id? })
}

fn port(item: &Item<'_>) -> Option<String> {
    let object = item.object(&table::DESIRED_PORT)?;
    object.need("name", "name the link")?.parsed(values::interface_name)
}

fn stack(item: &Item<'_>, is_ipv4: bool) -> Option<Stack> {
    let object = item.object(&table::DESIRED_STACK)?;
    for name in ["dhcp", "autoconf"] {
        if let Some(item) = object.get(name).filter(|item| item.boolean() == Some(true)) {
            item.error(format!(
                "{name}: true is not served: hawser configures no addresses of the host by itself; give address"
            ));
        }
    }
    let enabled = object.need("enabled", "give true or false")?.boolean()?;
    let given = object.get("address").is_some();
    let addresses = object.list("address");
    let addresses = addresses.iter().map(|item| address(item, is_ipv4));
    let addresses = addresses.collect::<Option<Vec<_>>>()?;
    if !enabled && !addresses.is_empty() {
        object.error("addresses need enabled: true");
    }
    Some(match enabled {
        true => Stack::Enabled(given.then_some(addresses)),
        false => Stack::Disabled,
    })
}

fn address(item: &Item<'_>, is_ipv4: bool) -> Option<IpNet> {
    let object = item.object(&table::DESIRED_ADDRESS)?;
    let ip = object.need("ip", "give the address")?;
    let address = ip.parsed(|text| match text.parse::<IpAddr>() {
        Ok(address) if address.is_ipv4() == is_ipv4 => Ok(address),
        _ if is_ipv4 => Err("give an IPv4 address such as 192.0.2.1".to_owned()),
        _ => Err("give an IPv6 address such as 2001:db8::1".to_owned()),
    });
    let longest = if is_ipv4 { 32 } else { 128 };
    let prefix = object.need("prefix-length", "give the number of bits of the network")?;
    let prefix: u8 = prefix.integer(0..=longest)?;
    IpNet::new(address?, prefix).ok()
}
