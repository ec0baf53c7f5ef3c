//! Parses the headers of a frame up to the network layer in one step.

use super::{EtherType, EthernetHeader, Ipv4Header, Ipv6Header, Malformed};
use std::net::IpAddr;

/// Ethernet and network headers of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Ethernet header of the frame.
    pub ethernet: EthernetHeader,
    /// Network header that follows.
    pub network: Network,
}

/// The network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// ARP, whose contents have not been parsed.
    Arp,
    /// An IPv4 packet.
    Ipv4(Ipv4Header),
    /// An IPv6 packet.
    Ipv6(Ipv6Header),
    /// Any other EtherType.
    Other(u16),
}

impl Headers {
    /// Parses the head of a frame that is `frame_len` bytes long.
    ///
    /// # Errors
    /// Any [`Malformed`].
    #[inline]
    pub fn parse(head: &[u8], frame_len: usize) -> Result<Self, Malformed> {
        let ethernet = EthernetHeader::parse(head)?;
        let packet = &head[EthernetHeader::LEN..];
        let available = frame_len.saturating_sub(EthernetHeader::LEN);
        let network = match ethernet.ethertype {
            EtherType::Arp => Network::Arp,
            EtherType::Ipv4 => Network::Ipv4(Ipv4Header::parse(packet, available)?),
            EtherType::Ipv6 => Network::Ipv6(Ipv6Header::parse(packet, available)?),
            EtherType::Other(other) => Network::Other(other),
        };
        Ok(Self { ethernet, network })
    }
}

impl Network {
    /// Source and destination addresses, if this is IP.
    #[inline]
    pub const fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        match self {
            Self::Ipv4(h) => Some((IpAddr::V4(h.src), IpAddr::V4(h.dst))),
            Self::Ipv6(h) => Some((IpAddr::V6(h.src), IpAddr::V6(h.dst))),
            Self::Arp | Self::Other(_) => None,
        }
    }

    /// If this is IP: the protocol, the offset of the transport header from the start of the frame, and the number of
    /// bytes from there to the end of the packet.
    #[inline]
    pub const fn transport(&self) -> Option<(u8, usize, usize)> {
        match self {
            Self::Ipv4(h) => Some((h.protocol, EthernetHeader::LEN + h.header_len, h.payload_len)),
            Self::Ipv6(h) => Some((h.protocol, EthernetHeader::LEN + h.header_len, h.payload_len)),
            Self::Arp | Self::Other(_) => None,
        }
    }
}
