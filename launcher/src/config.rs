//! Configures a NIC for this host: defaults from the host, checks of the NIC against the host, and the configuration of
//! the NIC's port.

use crate::attachment::Survey;
use crate::host::Host;
use crate::names::NameSource;
use hawser_config::{
    BridgeConfig, Forward, MacCheck, MasqueradeConfig, ModeConfig, NameConfig, NicRole, PortConfig, Resolvers,
};
use hawser_manifest::forward;
use hawser_manifest::links::{DEFAULT_IPV4, DEFAULT_IPV6, Links};
use hawser_manifest::nic::{BridgeSpec, MasqueradeSpec, ModeSpec, NicSpec, Teaming};
use ipnet::IpNet;
use std::net::IpAddr;

mod layer2;
mod lease;
mod network;

pub(crate) use layer2::{Layer2Error, PeerSource, PeersError, ServiceSource};
pub(crate) use network::SharedError;

/// MTU that is used if the system has no default route.
const FALLBACK_MTU: u16 = 1500;
/// Minimum MTU of IPv6 (RFC 8200 section 5).
const MIN_IPV6_MTU: u16 = 1280;

/// The reason why a NIC is inconsistent or does not fit the host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The addresses of an interface cannot be shared.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// Both families are disabled.
    #[error("--ipv4=off and --ipv6=off leave the guest without a network: leave one of them out")]
    NoFamily,
    /// The namespace has no address, and no family was requested.
    #[error(
        "this network namespace has no address that reaches beyond its link, neither IPv4 nor IPv6: give it \
            one, or set the guest's network with --ipv4={DEFAULT_IPV4} or --ipv6={DEFAULT_IPV6}"
    )]
    NoAddress,
    /// The MTU is below the minimum of IPv6.
    #[error("--mtu={0} is less than the {MIN_IPV6_MTU} bytes of IPv6: raise it, or give --ipv6=off")]
    MtuBelowIpv6(u16),
    /// Two forwards use the same port.
    #[error("--port={first} and --port={second} listen on the same port: leave one out")]
    Overlap {
        /// Value of the earlier option.
        first: String,
        /// Value of the later option.
        second: String,
    },
    /// A forward listens on a family that the guest does not have.
    #[error(
        "--port={0} listens on an address of a family that the guest does not have: choose another address, or set --ipv4 or --ipv6"
    )]
    ForwardFamily(String),
    /// An address is not in the guest's network.
    #[error("--map-host-loopback={addr} is not in the guest's network{network}: choose an address there")]
    OutsideNetwork {
        /// Requested address.
        addr: IpAddr,
        /// Text such as " 10.0.2.0/24", or empty if the family is off.
        network: String,
    },
    /// The MAC check is on, but there is no MAC.
    #[error(
        "frames from MACs other than the guest's must be dropped, but its MAC is not known: give --mac or macAddress"
    )]
    CheckWithoutMac,
    /// The NIC is a standby, but its MAC is unknown.
    #[error("a standby has the MAC of its primary, which is not known: give --mac or macAddress")]
    StandbyWithoutMac,
    /// The NIC cannot be a port of a network that spans nodes.
    #[error(transparent)]
    Layer2(#[from] Layer2Error),
    /// An address is to be leased, but the MAC of its client is unknown.
    #[error("its address can be given only to a known MAC: give macAddress")]
    AddressWithoutMac,
    /// An address of the guest's network has another use already.
    #[error(
        "--map-host-loopback={0} is the guest's own, or the first or last address of the network: choose \
        another address there"
    )]
    TakenAddress(IpAddr),
}

impl ConfigError {
    /// False if the problem is in the system and not in the options.
    pub(crate) const fn is_usage(&self) -> bool {
        match self {
            Self::NoAddress | Self::Shared(_) => false,
            Self::Layer2(error) => error.is_usage(),
            _ => true,
        }
    }
}

/// A requested NIC after it was resolved on this host.
#[derive(Debug)]
pub(crate) struct Found {
    /// Spec of the NIC, as requested.
    pub spec: NicSpec,
    /// Configuration of the port.
    pub port: PortConfig,
    /// Source of the guest's names.
    pub names: NameSource,
    /// Source of the network's peers, in layer2 mode.
    pub peers: Option<PeerSource>,
    /// Source of the Services that the guest reaches, in layer2 mode with a gateway.
    pub services: Option<ServiceSource>,
    /// Notices for the log, one line each.
    pub notices: Vec<String>,
    /// Survey of the segment, in bridge mode.
    pub segment: Option<Survey>,
}

/// Fills in the values that a NIC leaves to the host, and checks the NIC against the host. This reads nothing from the
/// system. The facts are in `host` and, in bridge mode, in the survey of the segment.
///
/// # Errors
/// The first contradiction that is found.
pub(crate) fn resolve(spec: NicSpec, host: &Host, segment: Option<Survey>) -> Result<Found, ConfigError> {
    match &spec.mode {
        ModeSpec::Masquerade(mode) => {
            let (port, names, notices) = masquerade(&spec, mode, host)?;
            Ok(Found {
                spec,
                port,
                names,
                peers: None,
                services: None,
                notices,
                segment: None,
            })
        }
        ModeSpec::Layer2(mode) => {
            let layer2 = layer2::resolve(&spec, mode, host)?;
            let config = ModeConfig::Layer2(layer2.config);
            Ok(Found {
                port: PortConfig {
                    mac: Some(layer2.mac),
                    policy: layer2.policy,
                    ..port(&spec, layer2.mtu, config)
                },
                names: layer2.names,
                peers: Some(layer2.peers),
                services: layer2.services,
                notices: layer2.notices,
                segment: None,
                spec,
            })
        }
        ModeSpec::Bridge(mode) => {
            let (port, names, notices) = bridge(&spec, mode, host, segment.as_ref())?;
            Ok(Found {
                spec,
                port,
                names,
                peers: None,
                services: None,
                notices,
                segment,
            })
        }
    }
}

/// The configuration of a port, the source of its names, and notices for the log.
type Resolved = (PortConfig, NameSource, Vec<String>);

fn port(spec: &NicSpec, mtu: u16, mode: ModeConfig) -> PortConfig {
    PortConfig {
        name: spec.name.clone(),
        mac: spec.mac,
        mtu,
        queue_pairs: spec.queue_pairs,
        pace: spec.pace,
        policy: spec.policy.clone(),
        mode,
    }
}

fn masquerade(spec: &NicSpec, mode: &MasqueradeSpec, host: &Host) -> Result<Resolved, ConfigError> {
    let links = network::links(&mode.network, host)?;
    let mtu = mtu(spec.mtu, &links, host)?;
    check_forwards(&mode.forwards, &links)?;
    for addr in &mode.map_host_loopback {
        check_loopback_alias(&links, *addr)?;
    }
    let names = NameSource::through_gateway(&spec.names, links);
    let Resolvers { dns, search, forward } = names.resolve(&host.resolv);
    let notices = notices(&links, &names, host);
    let masquerade = MasqueradeConfig {
        ipv4: links.ipv4,
        ipv6: links.ipv6,
        names: NameConfig {
            hostname: spec.names.hostname.clone().or_else(|| host.hostname.clone()),
            dns,
            search,
            domain: spec.names.domain.clone(),
            dhcp_options: spec.names.dhcp_options.clone(),
        },
        forwards: mode.forwards.clone(),
        every_port: mode.every_port.clone(),
        map_host_loopback: mode.map_host_loopback.clone(),
        dns_forward: forward,
        neighbourhood: links.neighbourhood,
    };
    Ok((port(spec, mtu, ModeConfig::Masquerade(masquerade)), names, notices))
}

fn bridge(spec: &NicSpec, mode: &BridgeSpec, host: &Host, segment: Option<&Survey>) -> Result<Resolved, ConfigError> {
    if spec.policy.mac_check == MacCheck::Enforced && spec.mac.is_none() {
        return Err(ConfigError::CheckWithoutMac);
    }
    let mut notices = Vec::new();
    let mut config = BridgeConfig::default();
    if spec.device.teaming == Teaming::Persistent {
        if spec.mac.is_none() {
            return Err(ConfigError::StandbyWithoutMac);
        }
        config.role = NicRole::Standby;
    }
    let mtu = spec.mtu.or_else(|| segment?.mtu()).unwrap_or(FALLBACK_MTU);
    let mac = spec.mac.or_else(|| segment?.mac());
    if let Some(segment) = segment {
        config.forwarding = segment.forwarding();
        if let Some(down) = segment.down() {
            notices.push(format!(
                "{down} is down, so the guest has no carrier until it is up (ip link set {down} up)"
            ));
        }
    }
    let source = NameSource::on_segment(&spec.names);
    let mut names = NameConfig {
        hostname: spec.names.hostname.clone(),
        domain: spec.names.domain.clone(),
        dhcp_options: spec.names.dhcp_options.clone(),
        ..NameConfig::default()
    };
    names.follow(&source.resolve(&host.resolv));
    if let Some(takeover) = segment.and_then(Survey::takeover) {
        if names.dns.is_empty() {
            notices.push(
                "the guest gets no name server: /etc/resolv.conf has none that it can reach; give \
                --dns"
                    .into(),
            );
        }
        names.hostname = names.hostname.or_else(|| host.hostname.clone());
        config.lease = takeover.lease(names);
    } else {
        (config.lease, config.lease6) = lease::fixed(mode, mac, &names)?;
    }
    let port = PortConfig {
        mac,
        ..port(spec, mtu, ModeConfig::Bridge(config))
    };
    Ok((port, source, notices))
}

/// The guest's MTU. If it is too small for IPv6, an MTU taken from the system is raised, and a requested MTU is
/// refused.
fn mtu(asked: Option<u16>, links: &Links, host: &Host) -> Result<u16, ConfigError> {
    let least = if links.ipv6.is_some() { MIN_IPV6_MTU } else { 0 };
    match asked {
        Some(mtu) if mtu < least => Err(ConfigError::MtuBelowIpv6(mtu)),
        Some(mtu) => Ok(mtu),
        None => Ok(host.mtu.unwrap_or(FALLBACK_MTU).max(least)),
    }
}

/// Checks that an address can map to the host's loopback.
fn check_loopback_alias(links: &Links, addr: IpAddr) -> Result<(), ConfigError> {
    let (taken, network) = match (addr, links.ipv4, links.ipv6) {
        (IpAddr::V4(v4), Some(link), _) => {
            let net = link.network;
            let taken = [link.guest, net.network(), net.broadcast()].contains(&v4);
            (taken, Some(IpNet::V4(net)))
        }
        (IpAddr::V6(v6), _, Some(link)) => {
            let net = link.network;
            let taken = [link.guest, net.network()].contains(&v6);
            (taken, Some(IpNet::V6(net)))
        }
        _ => (false, None),
    };
    let is_inside = network.is_some_and(|network| network.contains(&addr));
    match (is_inside, taken) {
        (false, _) => Err(ConfigError::OutsideNetwork {
            addr,
            network: network.map(|network| format!(" {network}")).unwrap_or_default(),
        }),
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
                "the guest's network {network} covers {addr} of this system, so the guest cannot reach the \
                    neighbours there: choose another with {option}"
            ));
        }
    }
    notices.extend(names.notices(&host.resolv));
    notices
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
