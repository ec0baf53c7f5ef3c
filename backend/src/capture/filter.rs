//! Which packets a capture shows: words with commas between, all of which must hold.

use super::Direction;
use crate::counters::DropReason;
use crate::packet::{Headers, MacAddr, Network, be16, protocol};
use std::net::IpAddr;
use std::str::FromStr;

/// Words that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureFilter(Vec<Word>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Direction(Direction),
    Dropped,
    Arp,
    Ipv4,
    Ipv6,
    Protocol(u8),
    Icmp,
    Host(IpAddr),
    Port(u16),
    Mac(MacAddr),
}

/// A word that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no filter: give in, out, dropped, arp, ip, ip6, tcp, udp, icmp, host=ADDR, port=N or mac=MAC, with \
     commas between"
)]
pub struct BadFilter(String);

impl FromStr for CaptureFilter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        text.split(',')
            .filter(|word| !word.is_empty())
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn parse(text: &str) -> Result<Word, BadFilter> {
    let word = match text.split_once('=') {
        Some(("host", address)) => address.parse().ok().map(Word::Host),
        Some(("port", port)) => port.parse().ok().map(Word::Port),
        Some(("mac", mac)) => mac.parse().ok().map(Word::Mac),
        Some(_) => None,
        None => match text {
            "in" => Some(Word::Direction(Direction::ToGuest)),
            "out" => Some(Word::Direction(Direction::FromGuest)),
            "dropped" => Some(Word::Dropped),
            "arp" => Some(Word::Arp),
            "ip" => Some(Word::Ipv4),
            "ip6" => Some(Word::Ipv6),
            "tcp" => Some(Word::Protocol(protocol::TCP)),
            "udp" => Some(Word::Protocol(protocol::UDP)),
            "icmp" => Some(Word::Icmp),
            _ => None,
        },
    };
    word.ok_or_else(|| BadFilter(text.to_owned()))
}

impl CaptureFilter {
    /// True if a packet of `len` bytes that begins with `head` is to be shown.
    pub fn takes(&self, direction: Direction, head: &[u8], len: usize, dropped: Option<DropReason>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let headers = Headers::parse(head, len).ok();
        self.0.iter().all(|word| match *word {
            Word::Direction(wanted) => wanted == direction,
            Word::Dropped => dropped.is_some(),
            word => headers.as_ref().is_some_and(|headers| word.holds(headers, head)),
        })
    }
}

impl Word {
    fn holds(self, headers: &Headers, head: &[u8]) -> bool {
        let network = &headers.network;
        let protocol = network.transport().map(|(protocol, ..)| protocol);
        match self {
            Self::Direction(_) | Self::Dropped => true,
            Self::Arp => *network == Network::Arp,
            Self::Ipv4 => matches!(network, Network::Ipv4(_)),
            Self::Ipv6 => matches!(network, Network::Ipv6(_)),
            Self::Protocol(wanted) => protocol == Some(wanted),
            Self::Icmp => matches!(protocol, Some(protocol::ICMP | protocol::ICMPV6)),
            Self::Host(host) => network.addresses().is_some_and(|(src, dst)| src == host || dst == host),
            Self::Port(port) => match network.transport() {
                Some((protocol::TCP | protocol::UDP, at, _)) => head
                    .get(at..at + 4)
                    .is_some_and(|ports| be16(ports, 0) == port || be16(ports, 2) == port),
                _ => false,
            },
            Self::Mac(mac) => headers.ethernet.src == mac || headers.ethernet.dst == mac,
        }
    }
}
