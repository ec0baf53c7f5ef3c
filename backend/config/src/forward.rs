//! Inbound port forwards.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// Transport protocol of a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// A set of address families, such as those enabled for a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Families {
    /// IPv4 is enabled.
    pub ipv4: bool,
    /// IPv6 is enabled.
    pub ipv6: bool,
}

impl Families {
    /// True if the address belongs to an enabled family.
    pub const fn has(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }

    /// True if at least one family is enabled.
    pub const fn any(self) -> bool {
        self.ipv4 || self.ipv6
    }

    /// Number of enabled families.
    pub const fn count(self) -> u64 {
        self.ipv4 as u64 + self.ipv6 as u64
    }
}

/// A range of host ports that is forwarded to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Transport protocol.
    pub transport: Transport,
    /// Address to listen on. `None`: all addresses of the enabled families.
    pub bind: Option<IpAddr>,
    /// First port on the host that is forwarded.
    pub host_port: u16,
    /// Guest port to which the first host port is forwarded.
    pub guest_port: u16,
    /// Number of consecutive ports.
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

/// Writes the option's syntax, such as `udp:[::1]:5000-5009:53-62`. Guest ports are omitted if they equal the host
/// ports.
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
