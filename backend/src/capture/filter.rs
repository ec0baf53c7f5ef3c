//! The filter of a capture: comma-separated words, all of which must match a packet.

use super::Direction;
use crate::counters::DropReason;
use crate::packet::{EtherType, Head, MacAddr, TransportAt, be16, protocol};
use std::net::IpAddr;
use std::str::FromStr;

/// A filter. All words must match.
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

/// The word is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a filter: give in, out, dropped, arp, ip, ip6, tcp, udp, icmp, host=ADDR, port=N or mac=MAC, \
        separated by commas"
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
    /// True if the capture shows a packet that begins with `bytes`. `head` parses them if that is needed.
    pub fn takes(
        &self,
        direction: Direction,
        bytes: &[u8],
        head: impl FnOnce() -> Head,
        dropped: Option<DropReason>,
    ) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let head = head();
        self.0.iter().all(|word| match *word {
            Word::Direction(wanted) => wanted == direction,
            Word::Dropped => dropped.is_some(),
            word => head.fault().is_none() && word.holds(&head, bytes),
        })
    }
}

impl Word {
    fn holds(self, head: &Head, bytes: &[u8]) -> bool {
        // A tagged frame matches none of the protocol words.
        let ethertype = EtherType::from(head.outer());
        let transport = head.transport().filter(|_| head.tags() == 0);
        let protocol = transport.map(|at| at.protocol);
        match self {
            Self::Direction(_) | Self::Dropped => true,
            Self::Arp => ethertype == EtherType::Arp,
            Self::Ipv4 => ethertype == EtherType::Ipv4,
            Self::Ipv6 => ethertype == EtherType::Ipv6,
            Self::Protocol(wanted) => protocol == Some(wanted),
            Self::Icmp => matches!(protocol, Some(protocol::ICMP | protocol::ICMPV6)),
            Self::Host(host) => {
                let addresses = transport.and_then(|_| head.addresses(bytes));
                addresses.is_some_and(|(src, dst)| src == host || dst == host)
            }
            Self::Port(port) => match transport {
                Some(TransportAt {
                    protocol: protocol::TCP | protocol::UDP,
                    offset,
                    ..
                }) => bytes
                    .get(offset..offset + 4)
                    .is_some_and(|ports| be16(ports, 0) == port || be16(ports, 2) == port),
                _ => false,
            },
            Self::Mac(mac) => [head.source_mac(bytes), head.destination_mac(bytes)].contains(&Some(mac)),
        }
    }
}
