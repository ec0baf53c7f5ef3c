//! Properties of the system that this process uses: addresses, MTU, ping sockets, descriptors.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

/// Addresses of this network namespace from which a socket can reach beyond its own link. KubeVirt enables a family for
/// a guest only if there is such an address.
pub fn global_addresses() -> Vec<IpAddr> {
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

/// The default route of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Source address of packets that take the route.
    pub source: IpAddr,
    /// Name of the link that has the source address.
    pub link: String,
    /// MTU of the route, in bytes.
    pub mtu: u32,
}

/// The default routes of IPv4 and of IPv6, where they exist.
///
/// The source and the MTU are read from a connected datagram socket, without sending anything. The addresses to which
/// it is connected are reserved for documentation (RFC 5737, RFC 3849), so that only the default route leads there.
pub fn default_routes() -> [Option<DefaultRoute>; 2] {
    const BEYOND_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const BEYOND_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    [BEYOND_V4, BEYOND_V6].map(|beyond| default_route(beyond, &interfaces).ok())
}

fn default_route(beyond: IpAddr, interfaces: &[if_addrs::Interface]) -> io::Result<DefaultRoute> {
    const DISCARD: u16 = 9;
    let any: IpAddr = match beyond {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(beyond, DISCARD))?;
    let source = socket.local_addr()?.ip();
    let link = interfaces.iter().find(|interface| interface.ip() == source);
    Ok(DefaultRoute {
        source,
        link: link.map(|link| link.name.clone()).unwrap_or_default(),
        mtu: match beyond {
            IpAddr::V4(_) => rustix::net::sockopt::ip_mtu(&socket),
            IpAddr::V6(_) => rustix::net::sockopt::ipv6_mtu(&socket),
        }?,
    })
}

/// The system's host name, with its domain if it has one.
pub fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// True if this process can send echo requests for a guest, through a ping socket or a raw socket.
pub fn echo_permitted(ipv4: bool) -> bool {
    echo_opens(ipv4, SocketType::DGRAM) || echo_opens(ipv4, SocketType::RAW)
}

/// True if echo requests need a raw socket.
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

/// Raises the soft limit of open descriptors to the hard limit, and returns it.
///
/// # Errors
/// The error of setrlimit(2).
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

/// Makes room in the table of this process for `more` descriptors, and for as many again as are open.
///
/// The kernel enlarges the table of a process with several threads only after a grace period of RCU, so the thread that
/// opens the descriptor for which there is no room waits for some 10 ms. The table never shrinks.
///
/// # Errors
/// The error of fcntl(2): the limit on open files is lower.
pub fn make_descriptor_room(more: u32) -> Result<(), Errno> {
    let lowest = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    let open = lowest.as_raw_fd();
    let more = i32::try_from(more).unwrap_or(i32::MAX);
    rustix::io::fcntl_dupfd_cloexec(&lowest, open.saturating_add(open.max(more))).map(drop)
}

/// Bytes of memory that a program of this process may lock; `None` without a limit.
pub fn lockable_memory() -> Option<u64> {
    let sets = rustix::thread::capabilities(None);
    match sets.is_ok_and(|sets| sets.permitted.contains(rustix::thread::CapabilitySet::IPC_LOCK)) {
        // With this capability, vfio does not look at the limit.
        true => None,
        false => getrlimit(Resource::Memlock).current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
