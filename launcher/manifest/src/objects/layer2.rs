//! Networks that span nodes: `layer2` of OVN-Kubernetes.
//!
//! ```text
//!  UserDefinedNetwork        ── layer2  ──┐
//!  ClusterUserDefinedNetwork ── layer2  ──┼── Settings ── check ── Layer2 ── plan
//!  NetworkAttachmentDefinition, overlay ──┘
//! ```
//!
//! [`Settings`] contains the fields with their positions, however they were written. [`check_api`] implements the rules
//! of the API server, with its messages. [`Layer2::new`] implements the rules for the addresses of the gateway and the
//! guests. OVN-Kubernetes reserves the second host of a subnet for its node, and so does hawser, so that a guest can
//! move between the two.

use super::fields::network as table;
use super::ipam::{Choice, DEFAULT_ROUTES, Ipam, Range, Ranges, hosts, is_wide, without};
use super::reader::{Item, Object};
use super::report::{Report, Spot};
use crate::nic::{Route, StaticAddress};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;
use std::net::{IpAddr, Ipv6Addr};

/// A network that spans nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer2 {
    /// Name of the network in the cluster. All objects with the same name describe the same network.
    pub network: String,
    /// True if the network replaces the pod network of its namespaces and has a gateway.
    pub primary: bool,
    /// IPv4 subnet.
    pub ipv4: Option<Ipv4Net>,
    /// IPv6 subnet.
    pub ipv6: Option<Ipv6Net>,
    /// Gateway of each family. There is none on a secondary network.
    pub gateways: Vec<IpAddr>,
    /// Addresses that no guest may have.
    pub taken: Vec<IpNet>,
    /// Addresses that a guest gets only if it requests them.
    pub reserved: Vec<IpNet>,
    /// `mtu`
    pub mtu: Option<u16>,
    /// True if the cluster keeps addresses when the VM stops. hawser always keeps them.
    pub persistent: bool,
}

/// Networks that are listed in a field.
#[derive(Clone, Debug, Default)]
pub struct Nets {
    /// Position of the field; `None` if it is not given.
    pub spot: Option<Spot>,
    /// The networks as written, with their positions.
    pub nets: Vec<(Spot, IpNet)>,
}

/// Addresses that are listed in a field.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Position of the field; `None` if it is not given.
    pub spot: Option<Spot>,
    /// Addresses as written, with their positions.
    pub addresses: Vec<(Spot, IpAddr)>,
}

/// The fields of a network with their positions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Position of the whole object.
    pub spot: Spot,
    /// True if the role of the network is Primary.
    pub primary: bool,
    /// `mtu`, with its position.
    pub mtu: Option<(Spot, u16)>,
    /// `subnets`
    pub subnets: Nets,
    /// `excludeSubnets`
    pub excluded: Nets,
    /// `reservedSubnets`
    pub reserved: Nets,
    /// `infrastructureSubnets`
    pub infrastructure: Nets,
    /// `defaultGatewayIPs`
    pub gateways: Addresses,
    /// `joinSubnets`
    pub join: Nets,
    /// `ipam`
    pub ipam: IpamSettings,
}

/// `ipam` of a user-defined network.
#[derive(Clone, Debug, Default)]
pub struct IpamSettings {
    /// Position of `mode: Disabled`.
    pub disabled: Option<Spot>,
    /// `lifecycle: Persistent`
    pub persistent: bool,
}

/// Allowed values of the MTU in bytes.
const MTUS: std::ops::RangeInclusive<i64> = 576..=65_536;
/// Minimum MTU of IPv6 (RFC 8200 section 5).
pub const MIN_IPV6_MTU: u16 = 1280;
/// Message of the API about this minimum.
pub const MTU_RULE: &str = "MTU should be greater than or equal to 1280 when IPv6 subnet is used";
/// Maximum length of a network as text.
const MAX_CIDR: usize = 43;
/// Maximum entries of `subnets`, `joinSubnets` and `defaultGatewayIPs`: one for each family.
const FAMILIES: usize = 2;
const MAX_RESERVED: usize = 25;
const MAX_INFRASTRUCTURE: usize = 4;
/// Number of addresses that are assigned in an IPv6 subnet, counted from its start.
const IPV6_POOL: u128 = 0xffff;

/// Reads `layer2` of a user-defined network. The API's own rules go to the report of `object`.
pub fn read(object: &Object<'_>, primary: bool) -> Option<Settings> {
    // All fields are read before any refusal ends the function, so that every problem is reported.
    let nets = |name, most| cidrs(object, name, most);
    let (subnets, reserved) = (nets("subnets", FAMILIES), nets("reservedSubnets", MAX_RESERVED));
    let infrastructure = nets("infrastructureSubnets", MAX_INFRASTRUCTURE);
    let (gateways, join) = (gateways(object), nets("joinSubnets", FAMILIES));
    let (mtu, ipam) = (mtu(object), read_ipam(object));
    let settings = Settings {
        spot: object.spot().clone(),
        primary,
        mtu,
        subnets: subnets?,
        excluded: Nets::default(),
        reserved: reserved?,
        infrastructure: infrastructure?,
        gateways: gateways?,
        join: join?,
        ipam: ipam?,
    };
    check_api(&settings, object).then_some(settings)
}

/// Reads `mtu` of a user-defined network.
pub fn mtu(object: &Object<'_>) -> Option<(Spot, u16)> {
    let item = object.get("mtu")?;
    let mtu: u32 = item.integer(MTUS)?;
    // The check against the route refuses the largest value, because no link supports it.
    Some((item.spot().clone(), u16::try_from(mtu).unwrap_or(u16::MAX)))
}

/// Reads a list of 1 to `most` networks. `None` if an entry is refused.
pub fn cidrs(object: &Object<'_>, name: &str, most: usize) -> Option<Nets> {
    let Some(item) = object.get(name) else {
        return Some(Nets::default());
    };
    let items = counted(&item, most)?;
    let read = |item: &Item<'_>| Some((item.spot().clone(), item.parsed(cidr)?));
    let nets: Vec<(Spot, IpNet)> = items.iter().filter_map(read).collect();
    if most == FAMILIES && is_one_family(nets.iter().map(|(_, net)| net.addr())) {
        item.error("When 2 CIDRs are set, they must be from different IP families");
        return None;
    }
    (nets.len() == items.len()).then(|| Nets {
        spot: Some(item.spot().clone()),
        nets,
    })
}

/// The items of a list, which must have 1 to `most` of them.
fn counted<'a>(item: &Item<'a>, most: usize) -> Option<Vec<Item<'a>>> {
    let items = item.items();
    if items.is_empty() {
        item.error("it must have at least 1 items: name one, or leave the field out");
        return None;
    }
    if items.len() > most {
        item.error(format!("Too many: {}: must have at most {most} items", items.len()));
        return None;
    }
    Some(items)
}

fn is_one_family(addresses: impl Iterator<Item = IpAddr>) -> bool {
    let ipv4: Vec<bool> = addresses.map(|address| address.is_ipv4()).collect();
    matches!(ipv4[..], [first, second] if first == second)
}

/// Parses a network as the API accepts it, with or without host bits.
pub fn cidr(text: &str) -> Result<IpNet, String> {
    if text.len() > MAX_CIDR {
        return Err(format!("Too long: may not be more than {MAX_CIDR} bytes"));
    }
    text.parse()
        .map_err(|_| "CIDR is invalid: give a network such as 192.168.254.0/24".to_owned())
}

fn gateways(object: &Object<'_>) -> Option<Addresses> {
    let Some(item) = object.get("defaultGatewayIPs") else {
        return Some(Addresses::default());
    };
    let items = counted(&item, FAMILIES)?;
    let read = |item: &Item<'_>| {
        let address = item.parsed(|text| text.parse().map_err(|_| "IP is invalid".to_owned()));
        Some((item.spot().clone(), address?))
    };
    let addresses: Vec<(Spot, IpAddr)> = items.iter().filter_map(read).collect();
    if is_one_family(addresses.iter().map(|(_, address)| *address)) {
        item.error("When 2 IPs are set, they must be from different IP families");
        return None;
    }
    (addresses.len() == items.len()).then(|| Addresses {
        spot: Some(item.spot().clone()),
        addresses,
    })
}

/// Reads `ipam`. `None` if it is refused.
pub fn read_ipam(object: &Object<'_>) -> Option<IpamSettings> {
    let Some(item) = object.get("ipam") else {
        return Some(IpamSettings::default());
    };
    let ipam = item.object(&table::NETWORK_IPAM)?;
    let mode = ipam.get("mode");
    let disabled = match &mode {
        Some(mode) => mode.choice(&[("Enabled", false), ("Disabled", true)])?,
        None => false,
    };
    let lifecycle = ipam.get("lifecycle");
    if let Some(lifecycle) = &lifecycle {
        lifecycle.choice(&[("Persistent", ())])?;
    }
    if mode.is_none() && lifecycle.is_none() {
        item.error("it must have at least 1 properties: give mode or lifecycle, or leave it out");
        return None;
    }
    if let Some(lifecycle) = lifecycle.as_ref().filter(|_| disabled) {
        lifecycle.error("lifecycle Persistent is only supported when ipam.mode is Enabled");
        return None;
    }
    Some(IpamSettings {
        disabled: mode.filter(|_| disabled).map(|mode| mode.spot().clone()),
        persistent: lifecycle.is_some(),
    })
}

/// True if the MTU is large enough for the address families of the subnets.
pub fn is_mtu_for_families(settings: &Settings) -> bool {
    let has_ipv6 = settings.subnets.nets.iter().any(|(_, net)| net.addr().is_ipv6());
    let mtu = settings.mtu.as_ref().map(|(_, mtu)| *mtu);
    !has_ipv6 || mtu.is_none_or(|mtu| mtu >= MIN_IPV6_MTU)
}

/// Applies the rules of the API server for `layer2` (go-controller/pkg/crd/userdefinednetwork/v1/shared.go), with its
/// messages. True if the network follows all of them.
fn check_api(settings: &Settings, object: &Object<'_>) -> bool {
    let Settings {
        primary,
        subnets,
        reserved,
        infrastructure,
        gateways,
        join,
        ipam,
        ..
    } = settings;
    let mut holds = true;
    let mut refuse = |spot: &Option<Spot>, message: &str| {
        object.error_at(spot.as_ref().unwrap_or(&settings.spot), message);
        holds = false;
    };
    match (&ipam.disabled, &subnets.spot) {
        (None, None) => refuse(&None, "Subnets is required with ipam.mode is Enabled or unset"),
        (Some(_), spot @ Some(_)) => refuse(spot, "Subnets must be unset when ipam.mode is Disabled"),
        _ => {}
    }
    if ipam.disabled.is_some() && *primary {
        refuse(
            &ipam.disabled,
            "Disabled ipam.mode is only supported for Secondary network",
        );
    }
    if join.spot.is_some() && !primary {
        refuse(&join.spot, "JoinSubnets is only supported for Primary network");
    }
    if let Some((spot, _)) = settings.mtu.as_ref().filter(|_| !is_mtu_for_families(settings)) {
        refuse(&Some(spot.clone()), MTU_RULE);
    }
    for (name, nets) in [("reservedSubnets", reserved), ("infrastructureSubnets", infrastructure)] {
        if nets.spot.is_none() {
            continue;
        }
        if subnets.spot.is_none() {
            refuse(&nets.spot, &format!("{name} must be unset when subnets is unset"));
        }
        if !primary {
            refuse(&nets.spot, &format!("{name} is only supported for Primary network"));
        }
        if nets.nets.iter().any(|(_, net)| *net != net.trunc()) {
            refuse(
                &nets.spot,
                &format!("{name} must be a masked network address (no host bits set)"),
            );
        }
    }
    if gateways.spot.is_some() && !primary {
        refuse(
            &gateways.spot,
            "defaultGatewayIPs is only supported for Primary network",
        );
    }
    check_containment(settings, &mut refuse);
    holds
}

/// Checks which networks contain others. Used for user-defined networks and NetworkAttachmentDefinitions.
pub fn check_containment(settings: &Settings, refuse: &mut impl FnMut(&Option<Spot>, &str)) {
    let Settings {
        subnets,
        excluded,
        reserved,
        infrastructure,
        gateways,
        ..
    } = settings;
    for (name, nets) in [
        ("excludeSubnets", excluded),
        ("reservedSubnets", reserved),
        ("infrastructureSubnets", infrastructure),
    ] {
        let is_inside = |(_, net): &(Spot, IpNet)| subnets.nets.iter().any(|(_, subnet)| subnet.contains(net));
        if let Some((spot, _)) = nets.nets.iter().find(|net| !is_inside(net)) {
            let message = format!("{name} must be subnetworks of the networks specified in the subnets field");
            refuse(&Some(spot.clone()), &message);
        }
    }
    let overlaps = |(_, a): &(Spot, IpNet)| reserved.nets.iter().any(|(_, b)| a.contains(b) || b.contains(a));
    if let Some((spot, _)) = infrastructure.nets.iter().find(|net| overlaps(net)) {
        refuse(
            &Some(spot.clone()),
            "infrastructureSubnets and reservedSubnets must not overlap",
        );
    }
    let outside = |nets: &Nets| {
        let is_in = |address: &IpAddr| nets.nets.iter().any(|(_, net)| net.contains(address));
        let mut gateways = gateways.addresses.iter();
        gateways
            .find(|(_, address)| !is_in(address))
            .map(|(spot, _)| spot.clone())
    };
    if let Some(spot) = outside(subnets) {
        refuse(
            &Some(spot),
            "defaultGatewayIPs must belong to one of the subnets specified in the subnets field",
        );
    }
    if gateways.spot.is_some() && gateways.addresses.len() != subnets.nets.len() {
        refuse(
            &gateways.spot,
            "defaultGatewayIPs must be specified for all IP families",
        );
    }
    if infrastructure.spot.is_some()
        && let Some(spot) = outside(infrastructure)
    {
        refuse(&Some(spot), "defaultGatewayIPs have to belong to infrastructureSubnets");
    }
}

impl Layer2 {
    /// Creates the network described by these fields. Anything that cannot be served is reported to `problems`.
    pub fn new(network: String, settings: &Settings, problems: &Report) -> Option<Self> {
        let mut this = Self {
            network,
            primary: settings.primary,
            ipv4: None,
            ipv6: None,
            gateways: Vec::new(),
            taken: nets(&settings.excluded).chain(nets(&settings.infrastructure)).collect(),
            reserved: nets(&settings.reserved).collect(),
            mtu: settings.mtu.as_ref().map(|(_, mtu)| *mtu),
            persistent: settings.ipam.persistent,
        };
        for (spot, subnet) in &settings.subnets.nets {
            if let Err(why) = is_wide(*subnet) {
                problems.error(spot, format!("\"{subnet}\": {why}"));
                return None;
            }
            match subnet.trunc() {
                IpNet::V4(net) => this.ipv4 = Some(net),
                IpNet::V6(net) => this.ipv6 = Some(net),
            }
            if settings.primary {
                this.take_infrastructure(subnet.trunc(), settings, problems)?;
            }
        }
        let spot = settings.subnets.spot.as_ref().unwrap_or(&settings.spot);
        let is_full = this.ranges().ranges.iter().any(Vec::is_empty);
        if is_full {
            problems.error(
                spot,
                "no address is left for guests: exclude and reserve fewer addresses of the subnets",
            );
        }
        (!is_full).then_some(this)
    }

    /// Removes the addresses of the gateway and the node from a subnet.
    fn take_infrastructure(&mut self, subnet: IpNet, settings: &Settings, problems: &Report) -> Option<()> {
        let ipv4 = subnet.addr().is_ipv4();
        let named = settings
            .gateways
            .addresses
            .iter()
            .find(|(_, address)| address.is_ipv4() == ipv4);
        let (first, last) = hosts(subnet);
        let is_host = |address: IpAddr| first <= address && address <= last;
        if let Some((spot, gateway)) = named.filter(|(_, gateway)| !is_host(*gateway)) {
            problems.error(
                spot,
                format!("{gateway} is not a host address of {subnet}: choose {first} to {last}"),
            );
            return None;
        }
        // These are the first addresses of infrastructureSubnets, or else of the subnet.
        let inside: Vec<IpNet> = nets(&settings.infrastructure)
            .filter(|net| net.addr().is_ipv4() == ipv4)
            .collect();
        let pool = if inside.is_empty() { vec![subnet] } else { inside };
        let free = pool
            .iter()
            .flat_map(|net| first_addresses(*net))
            .filter(|a| is_host(*a));
        let mut free = free.filter(|address| named.is_none_or(|(_, gateway)| gateway != address));
        let gateway = match named {
            Some((_, gateway)) => *gateway,
            None => free.next()?,
        };
        self.gateways.push(gateway);
        self.taken.push(gateway.into());
        self.taken.extend(free.next().map(IpNet::from));
        Some(())
    }

    /// The subnets of the network.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        let ipv4 = self.ipv4.map(IpNet::V4);
        ipv4.into_iter().chain(self.ipv6.map(IpNet::V6))
    }

    /// The gateway of this address family.
    pub fn gateway(&self, ipv4: bool) -> Option<IpAddr> {
        self.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == ipv4)
    }

    /// The address management for a guest that requests no address.
    pub fn ipam(&self) -> Ipam {
        let ranges = self.ranges();
        if ranges.ranges.is_empty() {
            Ipam::None
        } else {
            Ipam::HostLocal(ranges)
        }
    }

    fn ranges(&self) -> Ranges {
        let withheld: Vec<IpNet> = self.taken.iter().chain(&self.reserved).map(IpNet::trunc).collect();
        let set = |subnet: IpNet| {
            let (first, last) = hosts(subnet);
            let whole = Range {
                subnet,
                first,
                last: pool_end(subnet, last),
                gateway: self.gateway(subnet.addr().is_ipv4()),
            };
            without(whole, withheld.clone())
        };
        let leave = |gateway: &IpAddr| Route {
            destination: DEFAULT_ROUTES[usize::from(!gateway.is_ipv4())],
            via: Some(*gateway),
        };
        Ranges {
            ranges: self.subnets().map(set).collect(),
            addresses: Vec::new(),
            routes: self.gateways.iter().map(leave).collect(),
            choice: Choice::Next,
        }
    }

    /// An address that a guest requests, with its network.
    ///
    /// # Errors
    /// The reason why the guest cannot have the address.
    pub fn ask_for(&self, asked: IpAddr) -> Result<StaticAddress, String> {
        let Some(subnet) = self.subnets().find(|subnet| subnet.contains(&asked)) else {
            return Err(format!(
                "{asked} is in no subnet of the network: choose an address from one of them"
            ));
        };
        let (first, last) = hosts(subnet);
        if asked < first || last < asked {
            return Err(format!(
                "{asked} is not a host address of {subnet}: choose {first} to {last}"
            ));
        }
        let gateway = self.gateway(asked.is_ipv4());
        if gateway == Some(asked) {
            return Err(format!("{asked} is the gateway: choose another"));
        }
        if let Some(taken) = self.taken.iter().find(|net| net.contains(&asked)) {
            return Err(
                if taken.addr() == asked && taken.prefix_len() == taken.max_prefix_len() {
                    format!("{asked} is the node's address in OVN-Kubernetes: choose another")
                } else {
                    format!("{asked} is in {taken}, which the network reserves for itself: choose another")
                },
            );
        }
        let address = IpNet::new(asked, subnet.prefix_len()).map_err(|error| error.to_string())?;
        Ok(StaticAddress { address, gateway })
    }
}

fn nets(nets: &Nets) -> impl Iterator<Item = IpNet> {
    nets.nets.iter().map(|(_, net)| *net)
}

/// The first addresses of a network, enough for the gateway and the node.
fn first_addresses(net: IpNet) -> impl Iterator<Item = IpAddr> {
    const ENOUGH: usize = 4;
    net.trunc()
        .subnets(net.max_prefix_len())
        .into_iter()
        .flatten()
        .map(|net| net.addr())
        .take(ENOUGH)
}

/// The last address of the subnet that is assigned.
fn pool_end(subnet: IpNet, last: IpAddr) -> IpAddr {
    match subnet {
        IpNet::V4(_) => last,
        IpNet::V6(net) => {
            let end = net.network().to_bits().saturating_add(IPV6_POOL);
            last.min(IpAddr::V6(Ipv6Addr::from_bits(end)))
        }
    }
}
