//! What the options mean together: defaults from the system, checks of one option
//! against another, and the typed configuration the back end takes.

use crate::cli::{Mode, PortArgs};
use crate::host::Host;
use crate::names::NameSource;
use crate::policy::PolicyError;
use hawser_backend::config::{
    BridgeConfig, EveryPort, Forward, MasqueradeConfig, ModeConfig, NameConfig, Otherwise, PortConfig, Resolvers,
};
use hawser_manifest::forward;
use hawser_manifest::links::{DEFAULT_IPV4, DEFAULT_IPV6, Links};
use hawser_manifest::values::Family;
use std::net::IpAddr;

/// MTU where the system has no default route.
const FALLBACK_MTU: u16 = 1500;
/// Least MTU of IPv6 (RFC 8200 section 5).
const MIN_IPV6_MTU: u16 = 1280;

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
    /// Where the names that the guest gets come from.
    pub names: NameSource,
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
        names: NameSource::on_segment(args),
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
    let ipv4 = family(args.ipv4, DEFAULT_IPV4, host.addresses.iter().any(IpAddr::is_ipv4));
    let ipv6 = family(args.ipv6, DEFAULT_IPV6, host.addresses.iter().any(IpAddr::is_ipv6));
    if ipv4.is_none() && ipv6.is_none() {
        let asked = args.ipv4 == Some(Family::Off) && args.ipv6 == Some(Family::Off);
        return Err(if asked {
            ConfigError::NoFamily
        } else {
            ConfigError::NoAddress
        });
    }
    let links = Links::new(ipv4, ipv6);
    let mtu = mtu(args.mtu, &links, host)?;
    let (forwards, every_port) = forward::split(&args.ports, &args.kept.kept_ports);
    if every_port.is_none() && !args.kept.kept_ports.is_empty() {
        return Err(ConfigError::KeptOfNone);
    }
    check_forwards(&forwards, &links)?;
    for addr in &args.map_host_loopback {
        check_loopback_alias(&links, *addr)?;
    }
    let names = NameSource::through_gateway(args, links);
    let Resolvers { dns, search, forward } = names.resolve(&host.resolv);
    let notices = notices(&links, &names, host);
    let masquerade = MasqueradeConfig {
        ipv4: links.ipv4,
        ipv6: links.ipv6,
        names: NameConfig {
            hostname: args.hostname.clone().or_else(|| host.hostname.clone()),
            dns,
            search,
            domain: None,
            dhcp_options: Vec::new(),
        },
        forwards,
        every_port: every_port.map(|ports| EveryPort {
            ports,
            otherwise: Otherwise::Fail,
        }),
        map_host_loopback: args.map_host_loopback.clone(),
        dns_forward: forward,
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
        names,
        notices,
    })
}

/// Names for a guest on its segment.
pub fn segment_names(args: &PortArgs, host: &Host) -> NameConfig {
    let mut names = NameConfig {
        hostname: args.hostname.clone().or_else(|| host.hostname.clone()),
        ..NameConfig::default()
    };
    names.follow(&NameSource::on_segment(args).resolve(&host.resolv));
    names
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

fn family<N>(asked: Option<Family<N>>, default: N, namespace_has_it: bool) -> Option<N> {
    match asked {
        Some(Family::On(net)) => Some(net),
        Some(Family::Off) => None,
        None => namespace_has_it.then_some(default),
    }
}

/// That an address stands for the gateway's loopback makes sense.
fn check_loopback_alias(links: &Links, addr: IpAddr) -> Result<(), ConfigError> {
    let (taken, network) = match (addr, links.ipv4, links.ipv6) {
        (IpAddr::V4(v4), Some(link), _) => {
            let net = link.network;
            let taken = [link.guest, net.network(), net.broadcast()].contains(&v4);
            (taken, format!(" {net}"))
        }
        (IpAddr::V6(v6), _, Some(link)) => {
            let taken = [link.guest, link.network.network()].contains(&v6);
            (taken, format!(" {}", link.network))
        }
        _ => (false, String::new()),
    };
    match (links.covers(addr), taken) {
        (false, _) => Err(ConfigError::OutsideNetwork { addr, network }),
        (true, true) => Err(ConfigError::TakenAddress(addr)),
        (true, false) => Ok(()),
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

fn notices(links: &Links, names: &NameSource, host: &Host) -> Vec<String> {
    let mut notices = Vec::new();
    for addr in &host.addresses {
        if let Some((option, network)) = links.covering(*addr) {
            notices.push(format!(
                "the guest's network {network} covers {addr} of this system, whose neighbours the guest cannot \
                 reach: choose another with {option}"
            ));
        }
    }
    notices.extend(names.notices(&host.resolv));
    notices
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
