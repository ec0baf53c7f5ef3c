//! ARP (RFC 826) for IPv4 over Ethernet.

use super::{MacAddr, be16, be32};
use std::net::Ipv4Addr;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Operation: [`REQUEST`](Self::REQUEST), [`REPLY`](Self::REPLY) or another.
    pub operation: u16,
    /// Hardware address of the sender.
    pub sender_mac: MacAddr,
    /// Protocol address of the sender.
    pub sender: Ipv4Addr,
    /// Hardware address of the target; zero in a request.
    pub target_mac: MacAddr,
    /// Protocol address of the target, which a request asks for.
    pub target: Ipv4Addr,
}

impl ArpPacket {
    /// Length on the wire in bytes.
    pub const LEN: usize = 28;
    /// Operation that asks for the MAC of the target address.
    pub const REQUEST: u16 = 1;
    /// Operation that announces the MAC of the sender address.
    pub const REPLY: u16 = 2;

    /// Parses the packet at the start of `bytes`. `None` if it is truncated or not for IPv4 over Ethernet.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let p: &[u8; Self::LEN] = bytes.first_chunk()?;
        (p[..6] == ETHERNET_IPV4).then(|| Self {
            operation: be16(p, 6),
            sender_mac: MacAddr([p[8], p[9], p[10], p[11], p[12], p[13]]),
            sender: be32(p, 14).into(),
            target_mac: MacAddr([p[18], p[19], p[20], p[21], p[22], p[23]]),
            target: be32(p, 24).into(),
        })
    }

    /// Writes the packet to the start of `out`.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        out[..6].copy_from_slice(&ETHERNET_IPV4);
        out[6..8].copy_from_slice(&self.operation.to_be_bytes());
        out[8..14].copy_from_slice(&self.sender_mac.0);
        out[14..18].copy_from_slice(&self.sender.octets());
        out[18..24].copy_from_slice(&self.target_mac.0);
        out[24..28].copy_from_slice(&self.target.octets());
    }
}
