//! The reasons why a NIC cannot be a port of a network that spans nodes.

use super::peers::PeersError;
use super::services::ServicesError;
use super::subnets::Subnet;
use hawser_backend::packet::geneve::mtu::MtuError;
use hawser_host::system::DefaultRoute;
use std::net::IpAddr;

/// A contradiction between the options of a layer2 NIC, or between the options and the host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Layer2Error {
    /// The network has no identifier.
    #[error("its network spans nodes, and has no identifier in the tunnel: give --vni=N, the same on every node")]
    NoVni,
    /// The guest has neither a MAC nor an address that determines one.
    #[error(
        "other guests of a layer2 network need this guest's MAC, and this network has no subnet to derive it \
            from: give --mac or macAddress"
    )]
    NoMac,
    /// A network has a gateway but no subnet.
    #[error("a network with a gateway needs a subnet: give --ipv4, --ipv6 or both, or --gateway=off")]
    NoSubnet,
    /// The guest's address is not in the network's subnets.
    #[error("--guest-address={0} is not a host address of the network: choose one in --ipv4 or --ipv6")]
    GuestOutside(IpAddr),
    /// The guest's address is the gateway's.
    #[error("--guest-address={0} is the network's gateway: choose another address")]
    GuestIsGateway(IpAddr),
    /// The gateway's address is not in the network's subnets.
    #[error("--gateway={0} is not a host address of the network: choose one in --ipv4 or --ipv6")]
    GatewayOutside(IpAddr),
    /// A subnet of the network contains an address of the underlay.
    #[error(
        "{subnet} covers {address}, which is an end of the tunnel or an address of this system: choose a \
         subnet that does not"
    )]
    UnderlayInside {
        /// The subnet, with its option.
        subnet: Subnet,
        /// The underlay address.
        address: IpAddr,
    },
    /// A peer cannot be used.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// A Service cannot be used.
    #[error(transparent)]
    Services(#[from] ServicesError),
    /// The tunnel does not carry the MTU.
    #[error("{0}")]
    TunnelMtu(MtuError),
    /// The MTU is below the minimum of IPv6.
    #[error("the MTU {0} of the network is less than the {least} bytes of IPv6: raise it (--mtu, or mtu in the manifest) or that of the underlay, or give the network no IPv6 subnet", least = crate::config::MIN_IPV6_MTU)]
    MtuBelowIpv6(u16),
    /// The address of this end of the tunnel cannot be found.
    #[error(transparent)]
    Vtep(#[from] VtepError),
}

/// The default routes do not determine the address of this end of the tunnel.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VtepError {
    /// The default routes of the families are on different links.
    #[error(
        "multiple gateway interfaces detected: the default route of IPv4 is on {} and that of IPv6 on {}: give the \
         address that peers send to with --vtep=ADDR, such as {} or {}",
        ipv4.link, ipv6.link, ipv4.source, ipv6.source
    )]
    TwoLinks {
        /// The route of IPv4.
        ipv4: Box<DefaultRoute>,
        /// The route of IPv6.
        ipv6: Box<DefaultRoute>,
    },
    /// One family has no default route, and the network needs it.
    #[error(
        "there is no default route of {family}, which the network needs, and that of {other} is on {}: add the route, \
         leave the family out, or give the address that peers send to with --vtep=ADDR",
        route.link
    )]
    NoRoute {
        /// The family without a default route.
        family: &'static str,
        /// The other family.
        other: &'static str,
        /// Its route.
        route: Box<DefaultRoute>,
    },
    /// No family has a default route.
    #[error(
        "there is no default route for IPv4 or IPv6: add one, or give the address that peers send to with \
         --vtep=ADDR"
    )]
    NoRoutes,
}

impl Layer2Error {
    /// False if the problem is in the system and not in the options.
    pub(crate) const fn is_usage(&self) -> bool {
        !matches!(self, Self::Vtep(_))
    }
}
