//! What a port is told when it is made: typed, checked by whoever made it
//! (the launcher), never parsed here.

mod policy;
mod ports;

pub use policy::{AddressCheck, MacCheck, PolicyConfig, Rate, RateLimit, Rates, VlanConfig, VlanSet};
pub use ports::{EveryPort, Otherwise, PortSet};

use crate::packet::MacAddr;
use crate::sys::tap::TapQueue;
use ipnet::{Ipv4Net, Ipv6Net};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// Everything one port of a VM needs to know.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Name for logs and thread names.
    pub name: String,
    /// The guest's MAC. `None`: given by the front end, learned from the first frame.
    pub mac: Option<MacAddr>,
    /// MTU of the guest's NIC, in bytes of IP packet (68 to 65535).
    pub mtu: u16,
    /// Receive/transmit queue pairs offered, at least one.
    pub queue_pairs: NonZeroU16,
    /// How the workers go from turn to turn.
    pub pace: PaceConfig,
    /// Which frames cross the port.
    pub policy: PolicyConfig,
    /// What stands between the VM and the world.
    pub mode: ModeConfig,
}

/// The mode of a port.
#[derive(Clone, Debug)]
pub enum ModeConfig {
    /// NAT on ordinary host sockets.
    Masquerade(MasqueradeConfig),
    /// The L2 segment itself.
    Bridge(BridgeConfig),
}

impl ModeConfig {
    /// Lets go of the queues of a device: whoever keeps the configuration is not to keep them.
    pub fn forget_queues(&mut self) {
        if let Self::Bridge(bridge) = self {
            bridge.queues.clear();
        }
    }

    /// The resolvers that the mode's services begin with; `None` if it has no such service.
    pub fn resolvers(&self) -> Option<Resolvers> {
        let (names, forward) = match self {
            Self::Masquerade(mode) => (&mode.names, &mode.dns_forward[..]),
            Self::Bridge(mode) => {
                let lease4 = mode.lease.as_ref().map(|lease| &lease.names);
                let lease6 = || mode.lease6.as_ref().map(|lease| &lease.names);
                (lease4.or_else(lease6)?, &[][..])
            }
        };
        Some(Resolvers {
            dns: names.dns.clone(),
            search: names.search.clone(),
            forward: forward.to_vec(),
        })
    }
}

impl NameConfig {
    /// Replaces what follows the system.
    pub fn follow(&mut self, resolvers: &Resolvers) {
        self.dns.clone_from(&resolvers.dns);
        self.search.clone_from(&resolvers.search);
    }
}

/// Configuration of bridge mode. Whoever makes it has opened the way to the segment.
#[derive(Clone, Debug, Default)]
pub struct BridgeConfig {
    /// Queues of the device, one per queue pair of the guest.
    pub queues: Vec<Arc<TapQueue>>,
    /// What the guest is told when it asks for an address; `None`: the segment is asked.
    pub lease: Option<LeaseConfig>,
    /// The same of IPv6.
    pub lease6: Option<Lease6Config>,
    /// How frames find their receiver there.
    pub forwarding: Forwarding,
}

/// How frames find their receiver on a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// By their MACs, and neighbours answer for themselves.
    #[default]
    Switched,
    /// By the addresses of their packets: the host's kernel takes packets of IP for one
    /// receiver and nothing else. To the guest all its neighbours are at [`GATEWAY_MAC`].
    Routed {
        /// The device's MAC, the only one it takes packets for.
        device: MacAddr,
    },
}

/// An address that is the guest's for good, and what goes with it: what DHCP says to a guest
/// whose segment has no server for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// Who is given it.
    pub client: MacAddr,
    /// The address, and the width of its network.
    pub address: Ipv4Net,
    /// Under which address the server speaks.
    pub server: Ipv4Addr,
    /// Where packets to other networks go.
    pub router: Option<Ipv4Addr>,
    /// Routes in the order in which they can be made, the default one last; by way of
    /// 0.0.0.0: to neighbours (RFC 3442).
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Names and servers.
    pub names: NameConfig,
}

/// An IPv6 address that is the guest's for good: what DHCPv6 says to a guest whose segment has
/// no server for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease6Config {
    /// Who is given it.
    pub client: MacAddr,
    /// The address, and the width of its network, all of which is on the link.
    pub address: Ipv6Net,
    /// Names and servers.
    pub names: NameConfig,
}

/// How the workers of a port go from turn to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceConfig {
    /// How long a worker stays awake for the answer in a quick conversation; zero: never.
    pub busy_poll: Duration,
    /// How long a worker rests at most between turns that move much; zero: never.
    pub rest: Duration,
}

impl PaceConfig {
    /// Sleeps after each turn until something comes.
    pub const PLAIN: Self = Self {
        busy_poll: Duration::ZERO,
        rest: Duration::ZERO,
    };
}

impl Default for PaceConfig {
    /// Awake for longer than the answers of a peer close by take, sleep and waking included
    /// (KVM's halt_poll_ns has the same default), and rests no longer than network cards put
    /// interrupts off.
    fn default() -> Self {
        Self {
            busy_poll: Duration::from_micros(200),
            rest: Duration::from_micros(150),
        }
    }
}

/// MAC of the gateway every masqueraded guest sees (as in KubeVirt, so that a guest's
/// neighbour entry stays right wherever the VM moves).
pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0]);

/// Configuration of masquerade.
#[derive(Clone, Debug, Default)]
pub struct MasqueradeConfig {
    /// IPv4 of the guest's private network; `None` switches IPv4 off.
    pub ipv4: Option<Ipv4Link>,
    /// IPv6 of the guest's private network; `None` switches IPv6 off.
    pub ipv6: Option<Ipv6Link>,
    /// Names handed out by DHCP and RA.
    pub names: NameConfig,
    /// Inbound ports.
    pub forwards: Vec<Forward>,
    /// All others too.
    pub every_port: Option<EveryPort>,
    /// An address of the gateway's network that reaches the loopback of our network
    /// namespace; `None`: the guest cannot reach it.
    pub map_host_loopback: Vec<IpAddr>,
    /// Where packets to the gateway's port 53 go: name servers that the guest cannot reach by
    /// their own addresses.
    pub dns_forward: Vec<IpAddr>,
}

/// Name servers and search domains of a guest, as far as they follow the system and may change
/// while a port lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// [`NameConfig::dns`]
    pub dns: Vec<IpAddr>,
    /// [`NameConfig::search`]
    pub search: Vec<String>,
    /// [`MasqueradeConfig::dns_forward`]; empty in other modes.
    pub forward: Vec<IpAddr>,
}

/// IPv4 addresses of the guest's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Link {
    /// The network.
    pub network: Ipv4Net,
    /// The gateway: network + 1.
    pub gateway: Ipv4Addr,
    /// The guest: network + 2.
    pub guest: Ipv4Addr,
}

/// IPv6 addresses of the guest's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Link {
    /// The network.
    pub network: Ipv6Net,
    /// The gateway: network + 1.
    pub gateway: Ipv6Addr,
    /// The guest: network + 2.
    pub guest: Ipv6Addr,
}

impl Ipv6Link {
    /// Bits of a prefix in which a guest can make up its address: an interface identifier has
    /// the other 64 (RFC 4291 2.5.1, RFC 2464 4).
    const AUTOCONFIGURATION: u8 = 64;

    /// True if the guest may make up addresses of its own (RFC 4862), besides the one DHCPv6
    /// gives it.
    pub const fn autoconfigures(&self) -> bool {
        self.network.prefix_len() == Self::AUTOCONFIGURATION
    }

    /// True if the guest may have `address`: all there are where it makes them up, but for the
    /// gateway's, the anycast address of routers among them.
    pub fn may_be_guest(&self, address: Ipv6Addr) -> bool {
        let is_gateway = [self.gateway, self.network.network()].contains(&address);
        address == self.guest || self.autoconfigures() && self.network.contains(&address) && !is_gateway
    }
}

/// Names and servers handed out to the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameConfig {
    /// Host name (option 12), not qualified.
    pub hostname: Option<String>,
    /// Name servers the guest is told, either family.
    pub dns: Vec<IpAddr>,
    /// The guest's own domain; `None`: the longest of those it searches.
    pub domain: Option<String>,
    /// Search domains, most specific first; none: the guest's own.
    pub search: Vec<String>,
    /// More options of DHCPv4, told whatever the guest asks for: code, and up to 255 bytes.
    pub dhcp_options: Vec<(u8, Vec<u8>)>,
}

/// Transport protocol of a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// A range of ports of the host that reaches the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Transport protocol.
    pub transport: Transport,
    /// Address to listen on; `None`: all addresses of the enabled families.
    pub bind: Option<IpAddr>,
    /// First port on the host.
    pub host_port: u16,
    /// First port in the guest.
    pub guest_port: u16,
    /// Number of ports.
    pub count: NonZeroU16,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// As the option is written: `udp:[::1]:5000-5009:53-62`, the guest's ports left out
/// where they are the host's.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.transport)?;
        match self.bind {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        self.write_range(f, self.host_port)?;
        if self.guest_port != self.host_port {
            f.write_str(":")?;
            self.write_range(f, self.guest_port)?;
        }
        Ok(())
    }
}

impl Forward {
    fn write_range(&self, f: &mut fmt::Formatter<'_>, first: u16) -> fmt::Result {
        match self.count.get() {
            1 => write!(f, "{first}"),
            count => write!(f, "{first}-{}", u32::from(first) + u32::from(count) - 1),
        }
    }
}
