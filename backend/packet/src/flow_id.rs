//! The identity of a flow.

use super::ip::protocol;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

/// Identifies a flow among all flows of a guest: the protocol and both endpoints, as the guest sees them.
///
/// For a flow of echo requests, `guest_port` contains the identifier and `remote_port` is 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowId {
    /// Address of the guest.
    pub guest: IpAddr,
    /// Address of the remote end, of the same family.
    pub remote: IpAddr,
    /// Port of the guest, or the identifier of echo requests.
    pub guest_port: u16,
    /// Port of the remote end; 0 for echo requests.
    pub remote_port: u16,
    /// Number of the IP protocol.
    pub protocol: u8,
}

const _: () = assert!(size_of::<FlowId>() <= 40, "tables hold and compare many of them");

impl FlowId {
    /// A TCP connection.
    #[inline]
    pub const fn tcp(guest: SocketAddr, remote: SocketAddr) -> Self {
        Self::new(protocol::TCP, guest, remote)
    }

    /// A UDP flow.
    #[inline]
    pub const fn udp(guest: SocketAddr, remote: SocketAddr) -> Self {
        Self::new(protocol::UDP, guest, remote)
    }

    /// Echo requests with the identifier `ident`.
    #[inline]
    pub const fn echo(guest: IpAddr, remote: IpAddr, ident: u16) -> Self {
        Self {
            guest,
            remote,
            guest_port: ident,
            remote_port: 0,
            protocol: match guest {
                IpAddr::V4(_) => protocol::ICMP,
                IpAddr::V6(_) => protocol::ICMPV6,
            },
        }
    }

    const fn new(protocol: u8, guest: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            guest: guest.ip(),
            remote: remote.ip(),
            guest_port: guest.port(),
            remote_port: remote.port(),
            protocol,
        }
    }

    const fn is_echo(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }

    /// The guest's address and port.
    #[inline]
    pub const fn guest_end(&self) -> SocketAddr {
        SocketAddr::new(self.guest, self.guest_port)
    }

    /// The remote address and port.
    #[inline]
    pub const fn remote_end(&self) -> SocketAddr {
        SocketAddr::new(self.remote, self.remote_port)
    }
}

/// Hashes all fields in one write. A derived implementation makes a dozen small writes and takes three times as long.
impl Hash for FlowId {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b] = self.guest_port.to_be_bytes();
        let [c, d] = self.remote_port.to_be_bytes();
        let rest = [a, b, c, d, self.protocol, 0, 0, 0];
        if let (IpAddr::V4(guest), IpAddr::V4(remote)) = (self.guest, self.remote) {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&guest.octets());
            bytes[4..8].copy_from_slice(&remote.octets());
            bytes[8..].copy_from_slice(&rest);
            return state.write(&bytes);
        }
        let octets = |address| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&octets(self.guest));
        bytes[16..32].copy_from_slice(&octets(self.remote));
        bytes[32..].copy_from_slice(&rest);
        state.write(&bytes);
    }
}

/// Writes a flow like `tcp 10.0.2.2:40000 > 192.0.2.1:80` or `icmp 10.0.2.2 > 192.0.2.1 id 7`.
impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.protocol {
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            protocol::ICMP => "icmp",
            protocol::ICMPV6 => "icmp6",
            other => return write!(f, "protocol {other} {} > {}", self.guest_end(), self.remote_end()),
        };
        if self.is_echo() {
            write!(f, "{name} {} > {} id {}", self.guest, self.remote, self.guest_port)
        } else {
            write!(f, "{name} {} > {}", self.guest_end(), self.remote_end())
        }
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlowId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;

    fn at(address: &str, port: u16) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), port)
    }

    #[test]
    fn each_part_distinguishes_flows_and_their_hashes() {
        let ids = [
            FlowId::tcp(at("10.0.2.2", 1), at("192.0.2.1", 2)),
            FlowId::tcp(at("10.0.2.3", 1), at("192.0.2.1", 2)),
            FlowId::tcp(at("10.0.2.2", 1), at("192.0.2.2", 2)),
            FlowId::tcp(at("10.0.2.2", 2), at("192.0.2.1", 1)),
            FlowId::udp(at("10.0.2.2", 1), at("192.0.2.1", 2)),
            FlowId::udp(at("10.0.2.2", 1), at("192.0.2.1", 0)),
            FlowId::echo(at("10.0.2.2", 0).ip(), at("192.0.2.1", 0).ip(), 1),
            FlowId::tcp(at("fd00::2", 1), at("2001:db8::1", 2)),
            FlowId::tcp(at("fd00::3", 1), at("2001:db8::1", 2)),
            FlowId::tcp(at("fd00::2", 1), at("2001:db8::2", 2)),
            FlowId::echo(at("fd00::2", 0).ip(), at("2001:db8::1", 0).ip(), 1),
            // An IPv4-mapped address is not equal to the IPv4 address.
            FlowId::tcp(at("::ffff:10.0.2.2", 1), at("::ffff:192.0.2.1", 2)),
        ];
        let hasher = RandomState::new();
        for (i, a) in ids.iter().enumerate() {
            for (j, b) in ids.iter().enumerate() {
                assert_eq!(a == b, i == j, "{a} and {b}");
                assert_eq!(hasher.hash_one(a) == hasher.hash_one(b), i == j, "{a} and {b}");
            }
        }
    }

    #[test]
    fn a_flow_is_named_by_protocol_and_ends() {
        let names = [
            (
                FlowId::tcp(at("10.0.2.2", 40000), at("192.0.2.1", 80)),
                "tcp 10.0.2.2:40000 > 192.0.2.1:80",
            ),
            (
                FlowId::udp(at("fd00::2", 5), at("2001:db8::1", 53)),
                "udp [fd00::2]:5 > [2001:db8::1]:53",
            ),
            (
                FlowId::echo(at("10.0.2.2", 0).ip(), at("192.0.2.1", 0).ip(), 7),
                "icmp 10.0.2.2 > 192.0.2.1 id 7",
            ),
        ];
        for (id, name) in names {
            assert_eq!(id.to_string(), name);
        }
    }
}
