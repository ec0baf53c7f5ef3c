//! Packet headers as plain values, parsed from a copied head and emitted into a buffer.
//!
//! No-panic contract: `parse` never panics, whatever the bytes, and names the reason of a refusal ([`Malformed`]). A
//! parsed header is self-consistent: lengths lie within the frame, and headers lie within the bytes that were passed
//! in. `emit` writes a whole header into a buffer. The caller must pass a large enough buffer.
//!
//! The crate does no I/O, reads no clock and allocates nothing. Functions on the packet path are `#[inline]`, so that
//! callers in other crates do not pay for a call.

#![forbid(unsafe_code)]

mod arp;
pub mod checksum;
mod ecn;
mod ethernet;
mod flow_id;
pub mod geneve;
mod head;
mod headers;
pub mod icmp;
mod ip;
mod mac_range;
pub mod membership;
#[cfg(test)]
mod properties;
mod tcp;
mod udp;
pub mod vlan;

pub use arp::ArpPacket;
pub use ecn::Ecn;
pub use ethernet::{BadMac, EtherType, EthernetHeader, MacAddr};
pub use flow_id::FlowId;
pub use head::{Fragment, Head, TransportAt};
pub use headers::{Headers, Network};
pub use icmp::IcmpHeader;
pub use ip::{FragmentInfo, Ipv4Header, Ipv6Header, protocol};
pub use mac_range::{MacRange, MacRangeError};
pub use tcp::{TcpFlags, TcpHeader, TcpOptions, Timestamps};
pub use udp::UdpHeader;

/// The reason why a header was refused. Each variant names a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The frame ends before the header does.
    #[error("the frame ends inside a header")]
    Truncated,
    /// A version field does not match the EtherType.
    #[error("wrong IP version")]
    Version,
    /// A length field contradicts the frame.
    #[error("a length field contradicts the frame")]
    Length,
    /// The headers reach beyond the bytes that are copied for inspection.
    #[error("the headers are longer than the copied head of the frame")]
    HeadersTooLong,
}

/// Reads a big-endian 16-bit field. Panics only if the caller did not check the length.
#[inline]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a big-endian 32-bit field. Panics only if the caller did not check the length.
#[inline]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
