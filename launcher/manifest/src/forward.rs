//! `--port`: the ports of the host that are forwarded to the guest.
//!
//! The syntax is `[tcp|udp:]all`, or `[tcp|udp]:[ADDR:]HOST[-HOST2][:GUEST[-GUEST2]]`. Fields are separated by colons,
//! and an IPv6 address is in brackets. Fields are distinguished by their form: a protocol has letters, an address has
//! dots or brackets, and ports have only digits and a hyphen.

use hawser_config::{Forward, PortSet, Transport};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

/// One value of `--port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The ports of one forward.
    Some(Forward),
    /// Every port of this transport, or of both: `all`, `tcp:all`, `udp:all`.
    All(Option<Transport>),
}

/// The word for every port.
const ALL: &str = "all";

/// Parses `--port`.
pub fn parse_ports(text: &str) -> Result<Ports, String> {
    match text.rsplit_once(':') {
        None if text.eq_ignore_ascii_case(ALL) => Ok(Ports::All(None)),
        Some((transport, all)) if all.eq_ignore_ascii_case(ALL) => {
            let found = [Transport::Tcp, Transport::Udp]
                .into_iter()
                .find(|known| transport.eq_ignore_ascii_case(&known.to_string()));
            match found {
                Some(transport) => Ok(Ports::All(Some(transport))),
                None => Err(format!("{transport:?} before all is neither tcp nor udp")),
            }
        }
        _ => parse(text).map(Ports::Some),
    }
}

/// Ports that are kept for the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Transport of the ports.
    pub transport: Transport,
    /// First and last port.
    pub ports: RangeInclusive<u16>,
}

impl Kept {
    /// A single TCP port.
    pub const fn tcp(port: u16) -> Self {
        Self {
            transport: Transport::Tcp,
            ports: port..=port,
        }
    }

    /// A single UDP port.
    pub const fn udp(port: u16) -> Self {
        Self {
            transport: Transport::Udp,
            ports: port..=port,
        }
    }
}

/// Writes the syntax of the option.
impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport, self.ports.start())?;
        if self.ports.start() != self.ports.end() {
            write!(f, "-{}", self.ports.end())?;
        }
        Ok(())
    }
}

/// Parses `--keep-port`: `[tcp|udp]:PORT[-PORT2]`.
pub fn parse_kept(text: &str) -> Result<Kept, String> {
    let (transport, rest) = split_transport(text)?;
    let (first, last) =
        port_range(rest).map_err(|_| "write [tcp|udp]:PORT[-PORT2], such as 9100 or udp:5353".to_owned())?;
    Ok(Kept {
        transport,
        ports: first..=last,
    })
}

/// Separates forwards from the word `all`. The set is `None` without that word.
pub fn split(ports: &[Ports], kept: &[Kept]) -> (Vec<Forward>, Option<PortSet>) {
    let mut forwards = Vec::new();
    let mut every: Option<PortSet> = None;
    for given in ports {
        match given {
            Ports::Some(forward) => forwards.push(forward.clone()),
            Ports::All(transport) => {
                let every = every.get_or_insert_default();
                for known in [Transport::Tcp, Transport::Udp] {
                    if transport.is_none_or(|asked| asked == known) {
                        every.insert(known, 1..=u16::MAX);
                    }
                }
            }
        }
    }
    for Kept { transport, ports } in kept {
        if let Some(every) = &mut every {
            every.remove(*transport, ports.clone());
        }
    }
    (forwards, every)
}

const SHAPE: &str = "write [tcp|udp]:[ADDR:]HOST[-HOST2][:GUEST[-GUEST2]], such as 2222:22 or udp:[::1]:5000-5009";

/// Parses one forward.
pub fn parse(text: &str) -> Result<Forward, String> {
    let (transport, rest) = split_transport(text)?;
    let (bind, rest) = split_address(rest)?;
    let (host, guest) = match rest.split_once(':') {
        Some((host, guest)) => (host, Some(guest)),
        None => (rest, None),
    };
    let (host_port, host_last) = port_range(host)?;
    // The count cannot be zero: the range has at least its first port, and at most 65535 ports.
    let count = NonZeroU16::new(host_last - host_port + 1).ok_or(SHAPE)?;
    let guest_port = match guest {
        Some(guest) => guest_start(guest, count)?,
        None => host_port,
    };
    Ok(Forward {
        transport,
        bind,
        host_port,
        guest_port,
        count,
    })
}

fn split_transport(text: &str) -> Result<(Transport, &str), String> {
    match text.split_once(':') {
        Some((word, rest)) if word.eq_ignore_ascii_case("tcp") => Ok((Transport::Tcp, rest)),
        Some((word, rest)) if word.eq_ignore_ascii_case("udp") => Ok((Transport::Udp, rest)),
        Some((word, _)) if !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphabetic()) => {
            Err(format!("{word:?} is neither tcp nor udp"))
        }
        // The prefix "[tcp|udp]:" may be omitted, with or without its colon.
        Some(("", rest)) => Ok((Transport::Tcp, rest)),
        _ => Ok((Transport::Tcp, text)),
    }
}

fn split_address(text: &str) -> Result<(Option<IpAddr>, &str), String> {
    let (addr, rest): (IpAddr, &str) = if let Some(inside) = text.strip_prefix('[') {
        let (addr, rest) = inside.split_once("]:").ok_or(SHAPE)?;
        let addr: Ipv6Addr = addr.parse().map_err(|_| format!("{addr:?} is not an IPv6 address"))?;
        (addr.into(), rest)
    } else {
        match text.split_once(':') {
            Some((addr, rest)) if addr.contains('.') => {
                let addr: Ipv4Addr = addr.parse().map_err(|_| {
                    format!(
                        "{addr:?} is not an IPv4 \
                    address"
                    )
                })?;
                (addr.into(), rest)
            }
            _ => return Ok((None, text)),
        }
    };
    let link_local = matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if addr.is_multicast() || link_local {
        return Err(format!("{addr} is not an address to listen on"));
    }
    Ok((Some(addr), rest))
}

fn port(text: &str) -> Result<u16, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SHAPE.into());
    }
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("port {text} is not between 1 and 65535")),
    }
}

/// First and last port.
fn port_range(text: &str) -> Result<(u16, u16), String> {
    let Some((first, last)) = text.split_once('-') else {
        let only = port(text)?;
        return Ok((only, only));
    };
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return Err(format!("the range {text} ends before it begins"));
    }
    Ok((first, last))
}

/// The first port of the guest. A range must be as long as the host's. A single port is the start of such a range.
fn guest_start(text: &str, count: NonZeroU16) -> Result<u16, String> {
    let (first, last) = port_range(text)?;
    let beyond = count.get() - 1;
    if text.contains('-') {
        if last - first != beyond {
            return Err(format!("{text} is not as long as the host's range of {count} ports"));
        }
    } else if first.checked_add(beyond).is_none() {
        return Err(format!("{count} ports from {first} on go beyond 65535"));
    }
    Ok(first)
}

/// The first two of `forwards` that would listen on the same address and port.
pub fn overlap(forwards: &[Forward]) -> Option<(&Forward, &Forward)> {
    forwards.iter().enumerate().find_map(|(n, a)| {
        let b = forwards[..n].iter().find(|b| collide(a, b))?;
        Some((b, a))
    })
}

/// True if both would listen on the same address and port.
pub fn collide(a: &Forward, b: &Forward) -> bool {
    let last = |f: &Forward| f.host_port + (f.count.get() - 1);
    a.transport == b.transport && same_address(a.bind, b.bind) && a.host_port <= last(b) && b.host_port <= last(a)
}

fn same_address(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())),
        _ => true,
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
