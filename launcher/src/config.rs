//! What the options mean together: defaults from the system, checks of one option
//! against another, and the typed configuration the back end takes.

use crate::cli::{Mode, PortArgs};
use crate::forward;
use crate::host::Host;
use crate::policy::PolicyError;
use crate::values::Family;
use hawser_backend::config::{
    BridgeConfig, EveryPort, Forward, Ipv4Link, Ipv6Link, MasqueradeConfig, ModeConfig, NameConfig, Otherwise,
    PortConfig,
};
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// MTU where the system has no default route.
const FALLBACK_MTU: u16 = 1500;
/// Least MTU of IPv6 (RFC 8200 section 5).
const MIN_IPV6_MTU: u16 = 1280;
const DEFAULT_IPV4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24);
const DEFAULT_IPV6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 0), 120);

/// Options that contradict each other or the system.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Both families are switched off.
    #[error("--ipv4=off and --ipv6=off leave the guest without a network: leave one of them out")]
    NoFamily,
    /// The namespace has no address, and no family was asked for.
    #[error(
        "this network namespace has no address that reaches beyond its link, neither IPv4 nor IPv6: give it one, \
         or ask for the guest's network with --ipv4={DEFAULT_IPV4} or --ipv6={DEFAULT_IPV6}"
    )]
    NoAddress,
    /// The MTU is less than IPv6 works with.
    #[error("--mtu={0} is less than the {MIN_IPV6_MTU} bytes of IPv6: raise it, or give --ipv6=off")]
    MtuBelowIpv6(u16),
    /// Two forwards want the same port.
    #[error("--port={first} and --port={second} listen on the same port: leave one out")]
    Overlap {
        /// The earlier one.
        first: String,
        /// The later one.
        second: String,
    },
    /// Ports are kept where none are taken.
    #[error("--keep-port goes with --port=all: leave it out, or ask for every port")]
    KeptOfNone,
    /// A forward listens on a family the guest has not got.
    #[error("--port={0} listens on an address of a family the guest does not have: see --ipv4 and --ipv6")]
    ForwardFamily(String),
    /// An address is not of the guest's network.
    #[error("--map-host-loopback={addr} is not in the guest's network{network}: choose an address there")]
    OutsideNetwork {
        /// What was asked for.
        addr: IpAddr,
        /// " 10.0.2.0/24", or nothing if the family is off.
        network: String,
    },
    /// An option of another mode.
    #[error("{option} means nothing with --mode={mode}: leave it out, or choose the other mode")]
    OtherMode {
        /// The option, with its dashes.
        option: &'static str,
        /// The mode that was asked for.
        mode: &'static str,
    },
    /// Bridge mode without a segment.
    #[error(
        "--mode=bridge needs a segment: give one of --bridge, --tap, --tap-fd, --macvtap, --ipvtap and --pod-interface"
    )]
    NoSegment,
    /// What the bridge CNI plugin refuses too: the bridge would give the guest its own frames twice.
    #[error("--hairpin-mode and --promisc-mode exclude each other, as in the bridge CNI plugin: leave one of them out")]
    HairpinPromiscuous,
    /// A check against a MAC that nobody has said.
    #[error("--mac-spoof-check holds the guest to the MAC of --mac, which is missing: give it, or leave the check out")]
    CheckWithoutMac,
    /// An option of another way to the segment.
    #[error("{0} goes with {1} only: leave it out")]
    OnlyWith(&'static str, &'static str),
    /// Not a descriptor for each queue pair.
    #[error("--tap-fd was given {descriptors} times and --queue-pairs={pairs}: give one descriptor for each pair")]
    TapDescriptors {
        /// Descriptors.
        descriptors: usize,
        /// Queue pairs.
        pairs: u16,
    },
    /// Rules of what crosses the port contradict each other.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// An address of the guest's network that has another meaning.
    #[error("--map-host-loopback={0} is the guest's own or the network's end: choose another address there")]
    TakenAddress(IpAddr),
}

impl ConfigError {
    /// False for what is wrong with the system rather than with the options.
    pub const fn is_usage(&self) -> bool {
        !matches!(self, Self::NoAddress)
    }
}

/// A checked configuration, and what the operator should hear about it.
#[derive(Debug)]
pub struct Plan {
    /// What the port is made from.
    pub port: PortConfig,
    /// One line each, for the log.
    pub notices: Vec<String>,
}

/// Fills in defaults and checks the options against each other.
///
/// # Errors
/// The first contradiction found.
pub fn resolve(args: &PortArgs, name: String, host: &Host) -> Result<Plan, ConfigError> {
    if args.policy.mac_spoof_check && args.mac.is_none() {
        return Err(ConfigError::CheckWithoutMac);
    }
    match args.mode {
        Mode::Masquerade => masquerade(args, name, host),
        Mode::Bridge => bridge(args, name),
    }
}

/// Refuses the first option that was given and belongs to another mode.
fn refuse(mode: &'static str, options: &[(bool, &'static str)]) -> Result<(), ConfigError> {
    match options.iter().find(|(given, _)| *given) {
        Some(&(_, option)) => Err(ConfigError::OtherMode { option, mode }),
        None => Ok(()),
    }
}

/// Bridge mode; what follows from the segment is filled in later, by [`crate::attachment`].
fn bridge(args: &PortArgs, name: String) -> Result<Plan, ConfigError> {
    // Only there is hawser the one who tells the guest names.
    let takes_over = args.segment.pod_interface.is_some();
    refuse(
        "bridge",
        &[
            (args.ipv4.is_some(), "--ipv4"),
            (args.ipv6.is_some(), "--ipv6"),
            (!takes_over && args.hostname.is_some(), "--hostname"),
            (!takes_over && !args.dns.is_empty(), "--dns"),
            (!takes_over && !args.search.is_empty(), "--search"),
            (!args.ports.is_empty(), "--port"),
            (!args.kept.kept_ports.is_empty(), "--keep-port"),
            (!args.map_host_loopback.is_empty(), "--map-host-loopback"),
        ],
    )?;
    let policy = args.policy.on_segment()?;
    let (descriptors, pairs) = (args.segment.tap_fd.len(), args.queue_pairs.get());
    if args.segment.way().is_none() {
        return Err(ConfigError::NoSegment);
    }
    if let Some((option, other)) = args.segment.alone() {
        return Err(ConfigError::OnlyWith(option, other));
    }
    if args.segment.hairpin_mode && args.segment.promisc_mode {
        return Err(ConfigError::HairpinPromiscuous);
    }
    if descriptors != 0 && descriptors != usize::from(pairs) {
        return Err(ConfigError::TapDescriptors { descriptors, pairs });
    }
    Ok(Plan {
        port: PortConfig {
            name,
            mac: args.mac,
            mtu: args.mtu.unwrap_or(FALLBACK_MTU),
            queue_pairs: args.queue_pairs,
            pace: args.pace.config(),
            policy,
            mode: ModeConfig::Bridge(BridgeConfig::default()),
        },
        notices: Vec::new(),
    })
}

fn masquerade(args: &PortArgs, name: String, host: &Host) -> Result<Plan, ConfigError> {
    if let Some(option) = args.segment.way() {
        return Err(ConfigError::OtherMode {
            option,
            mode: "masquerade",
        });
    }
    refuse("masquerade", &args.policy.of_a_segment())?;
    let ipv4 = family(args.ipv4, DEFAULT_IPV4, host.addresses.iter().any(IpAddr::is_ipv4)).map(ipv4_link);
    let ipv6 = family(args.ipv6, DEFAULT_IPV6, host.addresses.iter().any(IpAddr::is_ipv6)).map(ipv6_link);
    if ipv4.is_none() && ipv6.is_none() {
        let asked = args.ipv4 == Some(Family::Off) && args.ipv6 == Some(Family::Off);
        return Err(if asked {
            ConfigError::NoFamily
        } else {
            ConfigError::NoAddress
        });
    }
    let links = Links { ipv4, ipv6 };
    let mtu = mtu(args.mtu, &links, host)?;
    let (forwards, every_port) = forward::split(&args.ports, &args.kept.kept_ports);
    if every_port.is_none() && !args.kept.kept_ports.is_empty() {
        return Err(ConfigError::KeptOfNone);
    }
    check_forwards(&forwards, &links)?;
    for addr in &args.map_host_loopback {
        links.check_loopback_alias(*addr)?;
    }
    let (dns, dns_forward) = links.name_servers(args, host);
    let notices = notices(&links, &dns, host);
    let masquerade = MasqueradeConfig {
        ipv4,
        ipv6,
        names: NameConfig {
            hostname: args.hostname.clone().or_else(|| host.hostname.clone()),
            dns,
            search: given_or(&args.search, &host.resolv.search),
            domain: None,
            dhcp_options: Vec::new(),
        },
        forwards,
        every_port: every_port.map(|ports| EveryPort {
            ports,
            otherwise: Otherwise::Fail,
        }),
        map_host_loopback: args.map_host_loopback.clone(),
        dns_forward,
    };
    Ok(Plan {
        port: PortConfig {
            name,
            mac: args.mac,
            mtu,
            queue_pairs: args.queue_pairs,
            pace: args.pace.config(),
            policy: args.policy.off_segment(),
            mode: ModeConfig::Masquerade(masquerade),
        },
        notices,
    })
}

/// Names for a guest on its segment: loopback servers are out of its reach.
pub fn segment_names(args: &PortArgs, host: &Host) -> NameConfig {
    let mut dns = given_or(&args.dns, &host.resolv.name_servers);
    dns.retain(|server| !server.is_loopback());
    NameConfig {
        hostname: args.hostname.clone().or_else(|| host.hostname.clone()),
        dns,
        search: given_or(&args.search, &host.resolv.search),
        domain: None,
        dhcp_options: Vec::new(),
    }
}

/// The guest's MTU. One taken from the system is raised to what IPv6 needs, one that was
/// asked for is refused.
fn mtu(asked: Option<u16>, links: &Links, host: &Host) -> Result<u16, ConfigError> {
    let least = if links.ipv6.is_some() { MIN_IPV6_MTU } else { 0 };
    match asked {
        Some(mtu) if mtu < least => Err(ConfigError::MtuBelowIpv6(mtu)),
        Some(mtu) => Ok(mtu),
        None => Ok(host.mtu.unwrap_or(FALLBACK_MTU).max(least)),
    }
}

fn given_or<T: Clone>(given: &[T], default: &[T]) -> Vec<T> {
    if given.is_empty() { default } else { given }.to_vec()
}

fn family<N>(asked: Option<Family<N>>, default: N, namespace_has_it: bool) -> Option<N> {
    match asked {
        Some(Family::On(net)) => Some(net),
        Some(Family::Off) => None,
        None => namespace_has_it.then_some(default),
    }
}

/// Gateway and guest are the first two hosts of a network, whose width the option's
/// parser has seen to.
fn ipv4_link(network: Ipv4Net) -> Ipv4Link {
    let first = network.network().to_bits();
    Ipv4Link {
        network,
        gateway: Ipv4Addr::from_bits(first + 1),
        guest: Ipv4Addr::from_bits(first + 2),
    }
}

fn ipv6_link(network: Ipv6Net) -> Ipv6Link {
    let first = network.network().to_bits();
    Ipv6Link {
        network,
        gateway: Ipv6Addr::from_bits(first + 1),
        guest: Ipv6Addr::from_bits(first + 2),
    }
}

/// The families the guest has.
struct Links {
    ipv4: Option<Ipv4Link>,
    ipv6: Option<Ipv6Link>,
}

impl Links {
    const fn has_family_of(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(_) => self.ipv4.is_some(),
            IpAddr::V6(_) => self.ipv6.is_some(),
        }
    }

    fn check_loopback_alias(&self, addr: IpAddr) -> Result<(), ConfigError> {
        let (inside, taken, network) = match (addr, self.ipv4, self.ipv6) {
            (IpAddr::V4(v4), Some(link), _) => {
                let net = link.network;
                let taken = [link.guest, net.network(), net.broadcast()].contains(&v4);
                (net.contains(&v4), taken, format!(" {net}"))
            }
            (IpAddr::V6(v6), _, Some(link)) => {
                let taken = [link.guest, link.network.network()].contains(&v6);
                (link.network.contains(&v6), taken, format!(" {}", link.network))
            }
            _ => (false, false, String::new()),
        };
        match (inside, taken) {
            (false, _) => Err(ConfigError::OutsideNetwork { addr, network }),
            (true, true) => Err(ConfigError::TakenAddress(addr)),
            (true, false) => Ok(()),
        }
    }

    /// The gateway that stands for a loopback server: of its own family if the guest has it.
    fn gateway_for(&self, server: IpAddr) -> Option<IpAddr> {
        let v4 = self.ipv4.map(|link| IpAddr::from(link.gateway));
        let v6 = self.ipv6.map(|link| IpAddr::from(link.gateway));
        if server.is_ipv4() { v4.or(v6) } else { v6.or(v4) }
    }

    /// Servers the guest is told, and those its queries to the gateway go to.
    fn name_servers(&self, args: &PortArgs, host: &Host) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let (mut told, mut forward) = (Vec::new(), Vec::new());
        for server in given_or(&args.dns, &host.resolv.name_servers) {
            let tell = if server.is_loopback() {
                forward.push(server);
                self.gateway_for(server)
            } else {
                Some(server).filter(|s| self.has_family_of(*s))
            };
            told.extend(tell.filter(|t| !told.contains(t)));
        }
        (told, forward)
    }
}

fn check_forwards(forwards: &[Forward], links: &Links) -> Result<(), ConfigError> {
    if let Some((first, second)) = forward::overlap(forwards) {
        return Err(ConfigError::Overlap {
            first: first.to_string(),
            second: second.to_string(),
        });
    }
    match forwards
        .iter()
        .find(|f| f.bind.is_some_and(|addr| !links.has_family_of(addr)))
    {
        Some(stray) => Err(ConfigError::ForwardFamily(stray.to_string())),
        None => Ok(()),
    }
}

fn notices(links: &Links, dns: &[IpAddr], host: &Host) -> Vec<String> {
    let mut notices = Vec::new();
    for addr in &host.addresses {
        let covering = match addr {
            IpAddr::V4(v4) => links
                .ipv4
                .filter(|l| l.network.contains(v4))
                .map(|l| ("--ipv4", l.network.to_string())),
            IpAddr::V6(v6) => links
                .ipv6
                .filter(|l| l.network.contains(v6))
                .map(|l| ("--ipv6", l.network.to_string())),
        };
        if let Some((option, network)) = covering {
            notices.push(format!(
                "the guest's network {network} covers {addr} of this system, whose neighbours the guest cannot \
                 reach: choose another with {option}"
            ));
        }
    }
    if dns.is_empty() {
        notices.push("the guest is told no name server: /etc/resolv.conf has none it can use, give --dns".into());
    }
    notices
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
