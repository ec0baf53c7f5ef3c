//! What this process finds on its system: addresses, MTU, names, limits. Asked once, at
//! the start; everything else takes a [`Host`] and can be tested without one. The modules
//! below change it: links, addresses and routes, in a namespace, and back again.

pub mod addresses;
pub mod bridge_vlan;
pub mod claim;
pub mod guest_address;
pub mod journal;
pub mod link;
pub mod namespace;
pub mod netlink;
pub mod tap_node;

use crate::resolv::{self, ResolvConf};
use crate::values;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

/// The facts of a system that options default to.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Addresses of this network namespace that are good beyond their link.
    pub addresses: Vec<IpAddr>,
    /// MTU of the default route.
    pub mtu: Option<u16>,
    /// First label of the system's name.
    pub hostname: Option<String>,
    /// Name servers and search domains.
    pub resolv: ResolvConf,
}

impl Host {
    /// Asks the system.
    pub fn probe() -> Self {
        Self {
            addresses: global_addresses(),
            mtu: default_route_mtu(),
            hostname: first_label(&rustix::system::uname().nodename().to_string_lossy()),
            resolv: ResolvConf::read(Path::new(resolv::PATH)).unwrap_or_default(),
        }
    }
}

fn first_label(name: &str) -> Option<String> {
    let label = name.split('.').next()?;
    values::hostname(label).ok().filter(|label| label != "localhost")
}

/// Addresses with which a socket can speak beyond its own link, as KubeVirt asks of a
/// family before it gives it to a guest.
fn global_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces
        .iter()
        .map(if_addrs::Interface::ip)
        .filter(is_global)
        .collect()
}

fn is_global(addr: &IpAddr) -> bool {
    let link_local = match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || addr.is_loopback() || addr.is_unspecified() || addr.is_multicast())
}

/// MTU of the default route. A connected datagram socket knows it and sends nothing to
/// find out; the addresses are documentation's (RFC 5737, RFC 3849), so that no route
/// but the default one leads there.
fn default_route_mtu() -> Option<u16> {
    const BEYOND_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const BEYOND_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    const DISCARD: u16 = 9;
    let ask = |any: IpAddr, beyond: IpAddr| -> io::Result<u32> {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(SocketAddr::new(beyond, DISCARD))?;
        let mtu = match beyond {
            IpAddr::V4(_) => rustix::net::sockopt::ip_mtu(&socket),
            IpAddr::V6(_) => rustix::net::sockopt::ipv6_mtu(&socket),
        };
        Ok(mtu?)
    };
    let mtu = ask(Ipv4Addr::UNSPECIFIED.into(), BEYOND_V4)
        .or_else(|_| ask(Ipv6Addr::UNSPECIFIED.into(), BEYOND_V6))
        .ok()?;
    Some(u16::try_from(mtu).unwrap_or(u16::MAX).max(values::MIN_MTU))
}

/// Whether echo requests can be sent for a guest: by a ping socket, or by a raw one.
pub fn echo_permitted(ipv4: bool) -> bool {
    echo_opens(ipv4, SocketType::DGRAM) || echo_opens(ipv4, SocketType::RAW)
}

/// Whether they can be sent by a raw socket only.
pub fn echo_is_raw(ipv4: bool) -> bool {
    !echo_opens(ipv4, SocketType::DGRAM) && echo_opens(ipv4, SocketType::RAW)
}

fn echo_opens(ipv4: bool, kind: SocketType) -> bool {
    let (family, protocol) = if ipv4 {
        (AddressFamily::INET, rustix::net::ipproto::ICMP)
    } else {
        (AddressFamily::INET6, rustix::net::ipproto::ICMPV6)
    };
    rustix::net::socket(family, kind, Some(protocol)).is_ok()
}

/// Raises the limit of open descriptors to what this process may have, and returns it.
///
/// # Errors
/// What setrlimit(2) says.
pub fn raise_descriptor_limit() -> Result<u64, Errno> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_cut_at_its_first_dot_and_must_mean_something() {
        assert_eq!(first_label("node-1.example.com").as_deref(), Some("node-1"));
        for name in ["", "localhost", "localhost.localdomain", "(none)", "under_score"] {
            assert_eq!(first_label(name), None, "{name}");
        }
    }

    #[test]
    fn only_addresses_good_beyond_the_link_switch_a_family_on() {
        let global = |text: &str| is_global(&text.parse().unwrap());
        for addr in ["10.1.2.3", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(global(addr), "{addr}");
        }
        for addr in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "::1", "fe80::1", "ff02::1"] {
            assert!(!global(addr), "{addr}");
        }
    }
}
