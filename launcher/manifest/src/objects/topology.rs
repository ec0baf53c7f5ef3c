//! The topologies of user-defined networks. `Layer2` spans nodes, `Localnet` is a segment of the node, and `Layer3` is
//! checked but not served.

use super::cni::{self, Fields, LAYER3, Medium};
use super::fields::network as table;
use super::layer2::{self, IpamSettings, Layer2, Nets, Settings, check_containment, cidr, cidrs, mtu, read_ipam};
use super::reader::{Item, Object, ObjectType};
use super::report::{Report, Spot};
use ipnet::IpNet;

/// A topology, with its name and the field that contains its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// A switch that spans all nodes.
    Layer2,
    /// A subnet for each node, with routers between them.
    Layer3,
    /// A network that the nodes are already connected to.
    Localnet,
}

impl Topology {
    const fn name(self) -> &'static str {
        match self {
            Self::Layer2 => "Layer2",
            Self::Layer3 => "Layer3",
            Self::Localnet => "Localnet",
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Layer2 => "layer2",
            Self::Layer3 => "layer3",
            Self::Localnet => "localnet",
        }
    }

    const fn table(self) -> &'static ObjectType {
        match self {
            Self::Layer2 => &table::LAYER2,
            Self::Layer3 => &table::LAYER3,
            Self::Localnet => &table::LOCALNET,
        }
    }

    /// The API's rule for the field.
    fn rule(self) -> String {
        let (name, field) = (self.name(), self.field());
        format!("spec.{field} is required when topology is {name} and forbidden otherwise")
    }
}

/// A user-defined network that was read.
#[derive(Debug)]
pub struct Network {
    /// True if the network replaces the pod network of its namespaces.
    pub primary: bool,
    /// What the network consists of. `None` if a problem was found.
    pub medium: Option<Medium>,
    /// Positions of fields, for messages about the host.
    pub fields: Fields,
}

/// Reads the topology of a network with this name in the cluster. The API's own rules go to the report of `spec`, other
/// problems to `problems`.
pub fn read(spec: &Object<'_>, allowed: &[Topology], network: String, problems: &Report) -> Option<Network> {
    let names: Vec<(&str, Topology)> = allowed.iter().map(|topology| (topology.name(), *topology)).collect();
    let topology = spec.need("topology", "give Layer2 or Layer3")?.choice(&names)?;
    for other in allowed.iter().filter(|other| **other != topology) {
        if let Some(item) = spec.get(other.field()) {
            item.error(other.rule());
        }
    }
    let Some(item) = spec.get(topology.field()) else {
        spec.error(topology.rule());
        return None;
    };
    let object = item.object(topology.table())?;
    let roles = [("Secondary", false), ("Primary", true)];
    let primary = match topology {
        Topology::Localnet => object.need("role", "give Secondary")?.choice(&roles[..1])?,
        _ => object.need("role", "give Primary or Secondary")?.choice(&roles)?,
    };
    let settings = match topology {
        Topology::Layer2 => layer2::read(&object, primary),
        Topology::Localnet => read_localnet(&object),
        Topology::Layer3 => None,
    };
    let medium = match topology {
        Topology::Layer2 => settings
            .as_ref()
            .and_then(|settings| Layer2::new(network, settings, problems))
            .map(|layer2| Medium::Layer2(Box::new(layer2))),
        Topology::Layer3 => {
            check_layer3(&object, primary);
            Some(Medium::Unserved(LAYER3))
        }
        Topology::Localnet => localnet(&object, network, settings.as_ref(), problems),
    };
    Some(Network {
        primary,
        medium,
        fields: fields(&object, settings.as_ref()),
    })
}

/// Positions of fields that may contradict the host.
pub fn fields(object: &Object<'_>, settings: Option<&Settings>) -> Fields {
    let here = object.spot();
    let subnets = settings.and_then(|settings| settings.subnets.spot.clone());
    let mtu = settings.and_then(|settings| Some(settings.mtu.as_ref()?.0.clone()));
    Fields {
        link: here.clone(),
        mtu: mtu.unwrap_or_else(|| here.clone()),
        ipam: subnets.unwrap_or_else(|| here.clone()),
        mac: None,
        is_resource: false,
    }
}

/// Reads the fields of `localnet`, by the rules of the API (cudn.go beside that of `layer2`).
fn read_localnet(object: &Object<'_>) -> Option<Settings> {
    const FAMILIES: usize = 2;
    const MAX_EXCLUDED: usize = 25;
    let (mtu, ipam) = (mtu(object), read_ipam(object));
    let subnets = cidrs(object, "subnets", FAMILIES);
    let excluded = cidrs(object, "excludeSubnets", MAX_EXCLUDED);
    let settings = Settings {
        spot: object.spot().clone(),
        primary: false,
        mtu,
        subnets: subnets?,
        excluded: excluded?,
        reserved: Nets::default(),
        infrastructure: Nets::default(),
        gateways: layer2::Addresses::default(),
        join: Nets::default(),
        ipam: ipam?,
    };
    let IpamSettings { disabled, .. } = &settings.ipam;
    if disabled.is_some() != settings.subnets.spot.is_none() {
        let spot = settings.subnets.spot.as_ref().unwrap_or(&settings.spot);
        object.error_at(
            spot,
            "Subnets is required with ipam.mode is Enabled or unset, and forbidden otherwise",
        );
        return None;
    }
    if let (Some(spot), None) = (&settings.excluded.spot, &settings.subnets.spot) {
        object.error_at(spot, "excludeSubnets must be unset when subnets is unset");
        return None;
    }
    if !layer2::is_mtu_for_families(&settings) {
        let spot = settings.mtu.as_ref().map_or(&settings.spot, |(spot, _)| spot);
        object.error_at(spot, layer2::MTU_RULE);
        return None;
    }
    Some(settings)
}

/// A network that the nodes are already connected to. It consists of the Linux bridge with the physical network's name,
/// and the VLAN.
fn localnet(object: &Object<'_>, network: String, settings: Option<&Settings>, problems: &Report) -> Option<Medium> {
    const MAX_NAME: usize = 253;
    let physical = object.need("physicalNetworkName", "name the physical network")?;
    physical.parsed(|text| match text {
        _ if text.contains([',', ':']) => Err("physicalNetworkName cannot contain `,` or `:` characters".to_owned()),
        _ if !(1..=MAX_NAME).contains(&text.len()) => Err(format!("give 1 to {MAX_NAME} bytes")),
        _ => Ok(()),
    })?;
    let vlan = match object.object("vlan", &table::LOCALNET_VLAN) {
        Some(vlan) => Some(access_vlan(&vlan)?),
        None => None,
    };
    let bridge = physical.told_to(problems).parsed(bridge_of)?;
    let settings = settings?;
    let mut holds = true;
    check_containment(settings, &mut |spot, message| {
        problems.error(spot.as_ref().unwrap_or(&settings.spot), message);
        holds = false;
    });
    let addresses = Layer2::new(network, settings, problems).filter(|_| holds)?;
    Some(Medium::localnet(bridge, vlan, &addresses))
}

/// The bridge of a physical network. hawser does not use the mappings of Open vSwitch.
pub fn bridge_of(physical: &str) -> Result<String, String> {
    cni::device_name(physical)
        .map_err(|_| "hawser looks for a Linux bridge of this name, but no device can have it: give another".to_owned())
}

fn access_vlan(vlan: &Object<'_>) -> Option<u16> {
    vlan.need("mode", "give Access")?.choice(&[("Access", ())])?;
    let Some(access) = vlan.object("access", &table::LOCALNET_ACCESS) else {
        vlan.error("vlan access config is required when vlan mode is 'Access', and forbidden otherwise");
        return None;
    };
    access.need("id", "give the VLAN")?.integer(1..=4094)
}

/// Applies the API's rules for `layer3`.
fn check_layer3(object: &Object<'_>, primary: bool) {
    const MAX_SUBNETS: usize = 400;
    const MAX_SECONDARY: usize = 2;
    let mtu = mtu(object);
    if let Some(Nets { spot: Some(spot), .. }) = cidrs(object, "joinSubnets", 2).filter(|_| !primary) {
        object.error_at(&spot, "JoinSubnets is only supported for Primary network");
    }
    let Some(item) = object.need("subnets", "give the networks, such as cidr: 10.128.0.0/16") else {
        return;
    };
    let items = item.items();
    if !(1..=MAX_SUBNETS).contains(&items.len()) {
        item.error(format!("{} items: give 1 to {MAX_SUBNETS}", items.len()));
    }
    let subnets: Vec<NodeSubnets> = items.iter().filter_map(node_subnets).collect();
    if !primary && subnets.len() > MAX_SECONDARY {
        item.error("Secondary networks may define at most 2 subnets");
    }
    let of_one_family = |a: &NodeSubnets, b: &NodeSubnets| a.net.addr().is_ipv4() == b.net.addr().is_ipv4();
    if let ([a, b], false) = (&subnets[..], primary)
        && of_one_family(a, b)
    {
        item.error("When 2 CIDRs are set for Secondary networks, they must be from different IP families");
    }
    let has_ipv6 = subnets.iter().any(|subnet| subnet.net.addr().is_ipv6());
    if let Some((spot, _)) = mtu.filter(|(_, mtu)| has_ipv6 && *mtu < layer2::MIN_IPV6_MTU) {
        object.error_at(&spot, layer2::MTU_RULE);
    }
    for (n, subnet) in subnets.iter().enumerate() {
        let earlier = &subnets[..n];
        if earlier.iter().any(|other| other.net == subnet.net) {
            object.error_at(&subnet.spot, "Subnets with same CIDR are not allowed");
        } else if earlier
            .iter()
            .any(|other| other.net.contains(&subnet.net) || subnet.net.contains(&other.net))
        {
            object.error_at(&subnet.spot, "Subnets must not overlap or contain each other");
        }
        if earlier
            .iter()
            .any(|other| of_one_family(other, subnet) && other.prefix_len != subnet.prefix_len)
        {
            object.error_at(
                &subnet.spot,
                "Subnets from the same IP family must use the same hostSubnet value",
            );
        }
    }
}

/// A network from which each node gets a subnet.
struct NodeSubnets {
    spot: Spot,
    net: IpNet,
    /// Length of a node's prefix (`hostSubnet`).
    prefix_len: Option<u8>,
}

fn node_subnets(item: &Item<'_>) -> Option<NodeSubnets> {
    let object = item.object(&table::LAYER3_SUBNET)?;
    let net = object
        .need("cidr", "give a network such as 10.128.0.0/16")?
        .parsed(cidr)?;
    let prefix = object.get("hostSubnet");
    let prefix_len: Option<u8> = prefix.as_ref().and_then(|item| item.integer(1..=127));
    if let (Some(item), Some(len)) = (&prefix, prefix_len) {
        if len <= net.prefix_len() {
            item.error("HostSubnet must be smaller than CIDR subnet");
        }
        if net.addr().is_ipv4() && len >= 32 {
            item.error("HostSubnet must < 32 for ipv4 CIDR");
        }
    }
    Some(NodeSubnets {
        spot: item.spot().clone(),
        net,
        prefix_len,
    })
}
