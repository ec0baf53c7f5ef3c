//! ICMP (RFC 792, RFC 1122 3.2.2) and ICMPv6 (RFC 4443) errors towards the guest.
//!
//! The network's errors come to us on the error queue of a host socket, in terms of
//! the host's addresses. They are told to the guest in terms of its own: quoted is
//! the packet the guest sent, made again from what the flow knows of it.

use super::super::{Context, Link, Packet, PacketSpec};
use crate::frame::{GuestFrame, NoRoom, Offload};
use crate::packet::icmp::{self, v4, v6};
use crate::packet::{EthernetHeader, IcmpHeader, Ipv6Header, protocol};
use crate::sys::error_queue::{Origin, QueuedError};
use std::net::IpAddr;

/// Largest ICMP error in bytes of IP packet (RFC 1812 4.3.2.3, RFC 4443 2.4 c).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;

/// Bytes of the longest network header that is quoted.
const QUOTED_HEADER: usize = Ipv6Header::LEN;

/// Offset of the next-header field in an IPv6 header, where ICMPv6 points to say that
/// a protocol is unknown.
const NEXT_HEADER_OFFSET: u8 = 6;

/// An error as both families know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No route to the destination's network.
    NetworkUnreachable,
    /// The destination does not answer on its link.
    HostUnreachable,
    /// The destination does not speak the protocol.
    ProtocolUnreachable,
    /// Nobody listens on the port.
    PortUnreachable,
    /// A filter or rule forbids it.
    Prohibited,
    /// Larger than the path's MTU, and not to be fragmented.
    TooBig {
        /// The MTU in bytes of IP packet.
        mtu: u16,
    },
    /// TTL or hop limit came to zero on the way.
    TimeExceeded,
}

impl IcmpError {
    /// What an entry of a socket's error queue means for the guest; `None` if nothing.
    pub fn from_queue(entry: &QueuedError) -> Option<Self> {
        let too_big = Self::TooBig {
            mtu: u16::try_from(entry.info).unwrap_or(u16::MAX),
        };
        match entry.origin {
            Origin::Icmp(v4::UNREACHABLE, v4::unreachable::FRAGMENTATION_NEEDED)
            | Origin::Icmpv6(v6::PACKET_TOO_BIG, _) => Some(too_big),
            Origin::Icmp(v4::UNREACHABLE, code) => Some(Self::from_v4_code(code)),
            Origin::Icmpv6(v6::UNREACHABLE, code) => Some(Self::from_v6_code(code)),
            // Code 1 is about reassembly at the far end, which a sender cannot help.
            Origin::Icmp(v4::TIME_EXCEEDED, 0) | Origin::Icmpv6(v6::TIME_EXCEEDED, 0) => Some(Self::TimeExceeded),
            Origin::Local if entry.errno == libc::EMSGSIZE => Some(too_big),
            Origin::Local => Self::from_errno(entry.errno),
            Origin::Icmp(..) | Origin::Icmpv6(..) => None,
        }
    }

    const fn from_v4_code(code: u8) -> Self {
        use v4::unreachable as c;
        // RFC 792, RFC 1122 3.2.2.1: 6 and 11 speak of the network, 9 and 10 of rules.
        match code {
            c::NETWORK | 6 | 11 => Self::NetworkUnreachable,
            c::PROTOCOL => Self::ProtocolUnreachable,
            c::PORT => Self::PortUnreachable,
            c::PROHIBITED | 9 | 10 => Self::Prohibited,
            _ => Self::HostUnreachable,
        }
    }

    const fn from_v6_code(code: u8) -> Self {
        use v6::unreachable as c;
        // RFC 4443 3.1: 5 and 6 are policies.
        match code {
            c::NO_ROUTE => Self::NetworkUnreachable,
            c::PORT => Self::PortUnreachable,
            c::PROHIBITED | 5 | 6 => Self::Prohibited,
            _ => Self::HostUnreachable,
        }
    }

    /// What a failed connect(2) or send(2) means for the guest; `None` if it is no
    /// news about the destination.
    pub const fn from_errno(errno: i32) -> Option<Self> {
        match errno {
            libc::ENETUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL => {
                Some(Self::NetworkUnreachable)
            }
            libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::ETIMEDOUT => Some(Self::HostUnreachable),
            libc::ENOPROTOOPT => Some(Self::ProtocolUnreachable),
            libc::ECONNREFUSED => Some(Self::PortUnreachable),
            libc::EACCES | libc::EPERM => Some(Self::Prohibited),
            _ => None,
        }
    }

    fn v4_header(self) -> IcmpHeader {
        use v4::unreachable as c;
        let (kind, code) = match self {
            Self::NetworkUnreachable => (v4::UNREACHABLE, c::NETWORK),
            Self::HostUnreachable => (v4::UNREACHABLE, c::HOST),
            Self::ProtocolUnreachable => (v4::UNREACHABLE, c::PROTOCOL),
            Self::PortUnreachable => (v4::UNREACHABLE, c::PORT),
            Self::Prohibited => (v4::UNREACHABLE, c::PROHIBITED),
            Self::TooBig { .. } => (v4::UNREACHABLE, c::FRAGMENTATION_NEEDED),
            Self::TimeExceeded => (v4::TIME_EXCEEDED, 0),
        };
        let mut rest = [0; 4];
        if let Self::TooBig { mtu } = self {
            rest[2..].copy_from_slice(&mtu.to_be_bytes());
        }
        IcmpHeader { kind, code, rest }
    }

    fn v6_header(self) -> IcmpHeader {
        use v6::unreachable as c;
        /// Code of a parameter problem: unrecognized next header.
        const UNKNOWN_NEXT_HEADER: u8 = 1;
        let (kind, code) = match self {
            Self::NetworkUnreachable => (v6::UNREACHABLE, c::NO_ROUTE),
            Self::HostUnreachable => (v6::UNREACHABLE, c::ADDRESS),
            Self::ProtocolUnreachable => (v6::PARAMETER_PROBLEM, UNKNOWN_NEXT_HEADER),
            Self::PortUnreachable => (v6::UNREACHABLE, c::PORT),
            Self::Prohibited => (v6::UNREACHABLE, c::PROHIBITED),
            Self::TooBig { .. } => (v6::PACKET_TOO_BIG, 0),
            Self::TimeExceeded => (v6::TIME_EXCEEDED, 0),
        };
        let rest = match self {
            Self::TooBig { mtu } => u32::from(mtu).to_be_bytes(),
            Self::ProtocolUnreachable => [0, 0, 0, NEXT_HEADER_OFFSET],
            _ => [0; 4],
        };
        IcmpHeader { kind, code, rest }
    }
}

/// Tells the guest that the packet in `quote` met `error`, reported by `reporter`:
/// whoever sent the host an ICMP message, `None` if that was our own stack. The guest
/// sees the reporter's real address where it can, else its gateway.
///
/// # Errors
/// [`NoRoom`]: nothing was sent.
pub fn send_error(
    ctx: &mut Context<'_>,
    error: IcmpError,
    reporter: Option<IpAddr>,
    quote: &Packet<'_>,
) -> Result<(), NoRoom> {
    let mut network = [0; QUOTED_HEADER];
    let n = quote.spec().emit(&mut network);
    let reporter = reporter
        .filter(|r| r.is_ipv4() == quote.src.is_ipv4())
        .and_then(|r| ctx.nat.inbound(r));
    let Some(from) = reporter.or_else(|| ctx.link.gateway_address(quote.src)) else {
        return Ok(());
    };
    send(
        ctx,
        error,
        [from, quote.src],
        &[&network[..n], quote.header, quote.body],
    )
}

/// Refuses a frame of the guest: an error from the gateway that quotes the frame's head.
///
/// # Errors
/// [`NoRoom`]: nothing was sent.
pub fn refuse(ctx: &mut Context<'_>, error: IcmpError, frame: &GuestFrame<'_>) -> Result<(), NoRoom> {
    let packet = frame.head.get(EthernetHeader::LEN..).unwrap_or_default();
    let addresses = match packet.first().map(|b| b >> 4) {
        Some(4) => ctx.link.ipv4.map(|l| [l.gateway.into(), l.guest.into()]),
        Some(6) => ctx.link.ipv6.map(|l| [l.gateway.into(), l.guest.into()]),
        _ => None,
    };
    match addresses {
        Some(addresses) => send(ctx, error, addresses, &[packet]),
        None => Ok(()),
    }
}

fn send(ctx: &mut Context<'_>, error: IcmpError, [src, dst]: [IpAddr; 2], quoted: &[&[u8]]) -> Result<(), NoRoom> {
    let mut frame = [0; EthernetHeader::LEN + MAX_V6];
    let start = Link::header_len(src);
    let (protocol, header, max) = match src {
        IpAddr::V4(_) => (protocol::ICMP, error.v4_header(), MAX_V4),
        IpAddr::V6(_) => (protocol::ICMPV6, error.v6_header(), MAX_V6),
    };
    header.emit(&mut frame[start..], 0);
    let max = max.min(ctx.link.mtu.into()) + EthernetHeader::LEN;
    let mut end = start + IcmpHeader::LEN;
    for part in quoted {
        let n = part.len().min(max - end);
        frame[end..end + n].copy_from_slice(&part[..n]);
        end += n;
    }
    icmp::fill_checksum(src, dst, &mut frame[start..end]);
    let spec = PacketSpec {
        src,
        dst,
        protocol,
        traffic_class: 0,
        payload_len: end - start,
        fragment: None,
    };
    ctx.link.emit(&spec, &mut frame);
    ctx.sink.send(Offload::NONE, &[&frame[..end]])
}
