//! How addresses map between the guest's private network and the host's sockets.
//!
//! Outbound: most destinations stay unchanged. The gateway's port 53 maps to a name server that the guest cannot reach
//! itself (on the pod's loopback, for example), mapped addresses map to the pod's loopback, and forbidden destinations
//! (loopback, the private network itself) are refused. Inbound: a client on the pod's loopback appears to the guest as
//! the gateway.
//!
//! If the guest shares the pod's network and address, all other addresses of that network lead to the hosts that have
//! them, and a client at the pod's own address appears as the gateway too, because that address is the guest's.

use crate::config::{Ipv4Link, Ipv6Link, Neighbourhood};
use crate::counters::DropReason;
use crate::packet::{FlowId, protocol};
use crate::time::Instant;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

const DNS_PORT: u16 = 53;

/// The address map of one port. Only the name servers change at run time.
#[derive(Clone, Debug, Default)]
pub struct AddressMap {
    /// The guest's IPv4 network, if IPv4 is enabled.
    pub ipv4: Option<Ipv4Link>,
    /// The guest's IPv6 network, if IPv6 is enabled.
    pub ipv6: Option<Ipv6Link>,
    /// Addresses that map to the host's loopback.
    pub host_loopback: Vec<IpAddr>,
    /// Name servers that receive queries to the gateway's port 53.
    pub dns_forward: Vec<IpAddr>,
    /// Where TCP connections to the gateway's port 53 lead instead of a name server.
    pub dns_stream: Option<SocketAddr>,
    /// Virtual addresses that lead elsewhere.
    pub balance: Option<Arc<dyn Balance>>,
    /// What the other addresses of the guest's network are.
    pub neighbourhood: Neighbourhood,
}

/// Maps virtual addresses of Services to endpoints.
pub trait Balance: fmt::Debug + Send + Sync {
    /// The destination of a new flow; `None` if its address is not virtual.
    fn destination(&self, now: Instant, flow: &FlowId) -> Option<Destination>;
}

/// Destination of a packet from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An address that is reached through a host socket.
    World(SocketAddr),
    /// The gateway itself, where no port is open.
    Gateway,
    /// The packet is dropped for this reason.
    Refused(DropReason),
}

impl AddressMap {
    /// True if `dst` is the gateway's port 53.
    pub fn is_dns(&self, dst: SocketAddr) -> bool {
        dst.port() == DNS_PORT && self.gateway(dst.ip()) == Some(dst.ip())
    }

    /// Maps the destination of a new flow of the guest.
    pub fn outbound_of(&self, now: Instant, flow: &FlowId) -> Destination {
        if let Some(at) = self
            .dns_stream
            .filter(|_| flow.protocol == protocol::TCP && self.is_dns(flow.remote_end()))
        {
            return Destination::World(at);
        }
        let balanced = self.balance.as_ref().and_then(|balance| balance.destination(now, flow));
        match balanced {
            // An endpoint must not lead where the guest may not go itself.
            Some(Destination::World(to)) => match self.refusal(to.ip()) {
                Some(reason) => Destination::Refused(reason),
                None => Destination::World(to),
            },
            Some(other) => other,
            None => self.outbound(flow.remote_end()),
        }
    }

    /// Maps the guest's destination `dst`. For protocols without ports, the port is 0.
    pub fn outbound(&self, dst: SocketAddr) -> Destination {
        let address = dst.ip();
        let is_gateway = self.gateway(address) == Some(address);
        if self.is_dns(dst) {
            let same_family = |a: &&IpAddr| a.is_ipv4() == address.is_ipv4();
            let any = self.dns_forward.first();
            if let Some(server) = self.dns_forward.iter().find(same_family).or(any) {
                return Destination::World(SocketAddr::new(*server, DNS_PORT));
            }
        }
        if self.host_loopback.contains(&address) {
            return Destination::World(SocketAddr::new(loopback(address), dst.port()));
        }
        if is_gateway && self.neighbourhood == Neighbourhood::Private {
            return Destination::Gateway;
        }
        match self.refusal(address) {
            Some(reason) => Destination::Refused(reason),
            None => Destination::World(dst),
        }
    }

    /// The source address that the guest sees for the peer of a host socket: the peer's real address, or the gateway's
    /// for peers on the pod's loopback and peers with the guest's own address. `None` if the family is disabled.
    pub fn inbound(&self, peer: IpAddr) -> Option<IpAddr> {
        let peer = peer.to_canonical();
        let gateway = self.gateway(peer)?;
        Some(if peer.is_loopback() || peer.is_unspecified() || self.is_guest(peer) {
            gateway
        } else {
            peer
        })
    }

    fn gateway(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.ipv4.map(|l| IpAddr::V4(l.gateway)),
            IpAddr::V6(_) => self.ipv6.map(|l| IpAddr::V6(l.gateway)),
        }
    }

    /// True for the address that the guest was given.
    fn is_guest(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.ipv4.is_some_and(|link| link.guest == a),
            IpAddr::V6(a) => self.ipv6.is_some_and(|link| link.guest == a),
        }
    }

    fn refusal(&self, address: IpAddr) -> Option<DropReason> {
        let refusal = match address {
            IpAddr::V4(a) => refusal_v4(a, self.ipv4),
            IpAddr::V6(a) => refusal_v6(a, self.ipv6),
        };
        match (refusal, self.neighbourhood) {
            (Some(DropReason::NoSuchNeighbour), Neighbourhood::Shared) if !self.is_guest(address) => None,
            (refusal, _) => refusal,
        }
    }
}

fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

fn refusal_v4(a: Ipv4Addr, link: Option<Ipv4Link>) -> Option<DropReason> {
    if a.is_multicast() || a.is_broadcast() || link.is_some_and(|l| is_broadcast(l, a)) {
        return Some(DropReason::Multicast);
    }
    // connect(0.0.0.0) reaches the loopback on Linux.
    if a.is_loopback() || a.octets()[0] == 0 {
        return Some(DropReason::ForbiddenDestination);
    }
    link.filter(|l| l.network.contains(&a))
        .map(|_| DropReason::NoSuchNeighbour)
}

/// True for the broadcast address of the guest's network. A network of one or two addresses has none (RFC 3021).
fn is_broadcast(link: Ipv4Link, a: Ipv4Addr) -> bool {
    const LONGEST: u8 = 30;
    link.network.prefix_len() <= LONGEST && a == link.network.broadcast()
}

fn refusal_v6(a: Ipv6Addr, link: Option<Ipv6Link>) -> Option<DropReason> {
    if a.is_multicast() {
        return Some(DropReason::Multicast);
    }
    // A mapped or compatible address would turn into IPv4 inside the host's socket layer.
    let is_ipv4_inside = a.to_ipv4().is_some();
    if a.is_loopback() || a.is_unspecified() || a.is_unicast_link_local() || is_ipv4_inside {
        return Some(DropReason::ForbiddenDestination);
    }
    link.filter(|l| l.network.contains(&a))
        .map(|_| DropReason::NoSuchNeighbour)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> AddressMap {
        AddressMap {
            ipv4: Some(Ipv4Link {
                network: "192.0.2.0/24".parse().unwrap(),
                gateway: Ipv4Addr::new(192, 0, 2, 1),
                guest: Ipv4Addr::new(192, 0, 2, 2),
            }),
            ipv6: Some(Ipv6Link {
                network: "2001:db8::/64".parse().unwrap(),
                gateway: "fe80::1".parse().unwrap(),
                guest: "2001:db8::2".parse().unwrap(),
            }),
            neighbourhood: Neighbourhood::Shared,
            ..AddressMap::default()
        }
    }

    fn to(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 80)
    }

    #[test]
    fn in_a_shared_network_every_address_but_the_guests_is_another_hosts() {
        let map = shared();
        for there in ["192.0.2.1", "192.0.2.77", "198.51.100.1", "2001:db8::1", "2001:db8::77"] {
            assert_eq!(map.outbound(to(there)), Destination::World(to(there)), "{there}");
        }
        let refused = [
            ("192.0.2.2", DropReason::NoSuchNeighbour),
            ("2001:db8::2", DropReason::NoSuchNeighbour),
            ("192.0.2.255", DropReason::Multicast),
            ("127.0.0.1", DropReason::ForbiddenDestination),
            ("fe80::1", DropReason::ForbiddenDestination),
        ];
        for (there, reason) in refused {
            assert_eq!(map.outbound(to(there)), Destination::Refused(reason), "{there}");
        }
        let mut own = shared();
        own.neighbourhood = Neighbourhood::Private;
        assert_eq!(own.outbound(to("192.0.2.1")), Destination::Gateway);
        assert_eq!(
            own.outbound(to("192.0.2.77")),
            Destination::Refused(DropReason::NoSuchNeighbour)
        );
    }

    #[test]
    fn the_pod_itself_appears_as_the_gateway_also_at_the_address_that_it_shares() {
        let map = shared();
        let seen = |peer: &str| map.inbound(peer.parse().unwrap()).unwrap().to_string();
        assert_eq!([seen("127.0.0.1"), seen("192.0.2.2")], ["192.0.2.1", "192.0.2.1"]);
        assert_eq!([seen("::1"), seen("2001:db8::2")], ["fe80::1", "fe80::1"]);
        assert_eq!(
            [seen("192.0.2.77"), seen("2001:db8::77")],
            ["192.0.2.77", "2001:db8::77"]
        );
    }

    #[test]
    fn a_network_of_two_hosts_has_no_broadcast_address() {
        let mut map = shared();
        let pair = Ipv4Link {
            network: "192.0.2.2/31".parse().unwrap(),
            gateway: Ipv4Addr::new(192, 0, 2, 3),
            guest: Ipv4Addr::new(192, 0, 2, 2),
        };
        map.ipv4 = Some(pair);
        assert_eq!(map.outbound(to("192.0.2.3")), Destination::World(to("192.0.2.3")));
    }
}
