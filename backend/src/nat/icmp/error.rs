//! ICMP (RFC 792, RFC 1122 3.2.2) and ICMPv6 (RFC 4443) errors towards the guest.
//!
//! The network's errors arrive on the error queue of a host socket, with the host's addresses. The
//! guest gets them with its own addresses: the quoted packet is the one that the guest sent,
//! rebuilt from the flow. Type and code are kept if both are of the same family.

use crate::frame::{GuestFrame, GuestSink, NoRoom, Offload};
use crate::nat::context::Context;
use crate::nat::link::{Link, Packet, PacketSpec};
use crate::packet::icmp::{self, v4, v6};
use crate::packet::{EthernetHeader, IcmpHeader, Ipv6Header, protocol};
use crate::sys::error_queue::{Origin, QueuedError};
use std::net::IpAddr;

/// Maximum length in bytes of an ICMP error, including its IP header (RFC 1812 4.3.2.3, RFC 4443 2.4 c).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;

/// Length of the longest quoted network header.
const QUOTED_HEADER: usize = Ipv6Header::LEN;

/// Offset of the next-header field in an IPv6 header. ICMPv6 reports an unknown protocol as a problem at this offset.
const NEXT_HEADER_OFFSET: u8 = 6;

/// Code of an ICMPv6 parameter problem: unrecognized next header.
const UNKNOWN_NEXT_HEADER: u8 = 1;

/// An error that exists in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No route to the destination's network.
    NetworkUnreachable,
    /// The destination does not answer on its link.
    HostUnreachable,
    /// The destination does not support the protocol.
    ProtocolUnreachable,
    /// No program listens on the port.
    PortUnreachable,
    /// A filter or rule prohibits the packet.
    Prohibited,
    /// The packet is larger than the path's MTU and must not be fragmented.
    TooBig {
        /// MTU of the path, in bytes.
        mtu: u16,
    },
    /// The source is a link-local address, and the destination is not on the link (RFC 4443
    /// 3.1).
    BeyondScope,
    /// An error with the type and code that the network reported.
    Reported(Reported),
}

/// An ICMP or ICMPv6 error of the network: unreachable, time exceeded, or a parameter problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    is_v6: bool,
    kind: u8,
    code: u8,
    /// Position of a parameter problem.
    pointer: u32,
}

impl Reported {
    /// The closest error that exists in both families.
    const fn in_general(self) -> IcmpError {
        match (self.is_v6, self.kind) {
            (false, v4::UNREACHABLE) => IcmpError::from_v4_code(self.code),
            (true, v6::UNREACHABLE) => IcmpError::from_v6_code(self.code),
            (true, v6::PARAMETER_PROBLEM) if self.code == UNKNOWN_NEXT_HEADER => IcmpError::ProtocolUnreachable,
            (false, v4::TIME_EXCEEDED) => IcmpError::Reported(Self {
                is_v6: true,
                kind: v6::TIME_EXCEEDED,
                ..self
            }),
            (true, v6::TIME_EXCEEDED) => IcmpError::Reported(Self {
                is_v6: false,
                kind: v4::TIME_EXCEEDED,
                ..self
            }),
            _ => IcmpError::HostUnreachable,
        }
    }

    /// The ICMP header in the error's own family.
    fn header(self) -> IcmpHeader {
        let rest = match (self.is_v6, self.kind) {
            (true, v6::PARAMETER_PROBLEM) => self.pointer.to_be_bytes(),
            // One byte of the four (RFC 792).
            (false, v4::PARAMETER_PROBLEM) => [self.pointer.to_be_bytes()[3], 0, 0, 0],
            _ => [0; 4],
        };
        IcmpHeader {
            kind: self.kind,
            code: self.code,
            rest,
        }
    }
}

impl IcmpError {
    /// The error to report to the guest for an entry of a socket's error queue, if any.
    pub fn from_queue(entry: &QueuedError) -> Option<Self> {
        let too_big = Self::TooBig {
            mtu: u16::try_from(entry.info).unwrap_or(u16::MAX),
        };
        let reported = |is_v6, kind, code| {
            Self::Reported(Reported {
                is_v6,
                kind,
                code,
                pointer: entry.info,
            })
        };
        match entry.origin {
            Origin::Icmp(v4::UNREACHABLE, v4::unreachable::FRAGMENTATION_NEEDED)
            | Origin::Icmpv6(v6::PACKET_TOO_BIG, _) => Some(too_big),
            Origin::Icmp(kind @ (v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM), code) => {
                Some(reported(false, kind, code))
            }
            Origin::Icmpv6(kind @ (v6::UNREACHABLE | v6::TIME_EXCEEDED | v6::PARAMETER_PROBLEM), code) => {
                Some(reported(true, kind, code))
            }
            Origin::Local if entry.errno == libc::EMSGSIZE => Some(too_big),
            Origin::Local => Self::from_errno(entry.errno),
            Origin::Icmp(..) | Origin::Icmpv6(..) => None,
        }
    }

    const fn from_v4_code(code: u8) -> Self {
        use v4::unreachable as c;
        // RFC 792, RFC 1122 3.2.2.1: codes 6 and 11 concern the network, codes 9 and 10 prohibitions.
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
        // RFC 4443 3.1: codes 5 and 6 report policies.
        match code {
            c::NO_ROUTE => Self::NetworkUnreachable,
            c::PORT => Self::PortUnreachable,
            c::PROHIBITED | 5 | 6 => Self::Prohibited,
            _ => Self::HostUnreachable,
        }
    }

    /// The error for the guest after a failed connect(2) or send(2); `None` if it does not concern the destination.
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
            // IPv4 has no code for this.
            Self::BeyondScope => (v4::UNREACHABLE, c::HOST),
            Self::Reported(what) if what.is_v6 => return what.in_general().v4_header(),
            Self::Reported(what) => return what.header(),
        };
        let mut rest = [0; 4];
        if let Self::TooBig { mtu } = self {
            rest[2..].copy_from_slice(&mtu.to_be_bytes());
        }
        IcmpHeader { kind, code, rest }
    }

    fn v6_header(self) -> IcmpHeader {
        use v6::unreachable as c;
        let (kind, code) = match self {
            Self::NetworkUnreachable => (v6::UNREACHABLE, c::NO_ROUTE),
            Self::HostUnreachable => (v6::UNREACHABLE, c::ADDRESS),
            Self::ProtocolUnreachable => (v6::PARAMETER_PROBLEM, UNKNOWN_NEXT_HEADER),
            Self::PortUnreachable => (v6::UNREACHABLE, c::PORT),
            Self::Prohibited => (v6::UNREACHABLE, c::PROHIBITED),
            Self::TooBig { .. } => (v6::PACKET_TOO_BIG, 0),
            Self::BeyondScope => (v6::UNREACHABLE, c::BEYOND_SCOPE),
            Self::Reported(what) if what.is_v6 => return what.header(),
            Self::Reported(what) => return what.in_general().v6_header(),
        };
        let rest = match self {
            Self::TooBig { mtu } => u32::from(mtu).to_be_bytes(),
            Self::ProtocolUnreachable => [0, 0, 0, NEXT_HEADER_OFFSET],
            _ => [0; 4],
        };
        IcmpHeader { kind, code, rest }
    }
}

/// Sends the guest `error` about the packet in `quote`. `reporter` is the sender of the ICMP message that the host
/// received, or `None` if the host's own stack reported the error. The guest sees the reporter's real address if that
/// is possible, and the gateway's otherwise.
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
    let quoted = [&network[..n], quote.header, quote.body];
    send(ctx.link, ctx.sink, error, [from, quote.src], &quoted)
}

/// Refuses a frame of the guest with an error from the gateway that quotes the frame's head.
///
/// # Errors
/// [`NoRoom`]: nothing was sent.
pub fn refuse(ctx: &mut Context<'_>, error: IcmpError, frame: &GuestFrame<'_>) -> Result<(), NoRoom> {
    refuse_on(ctx.link, ctx.sink, error, frame)
}

/// Does the same as [`refuse`], from the gateway of `link`.
pub(super) fn refuse_on(
    link: &Link,
    sink: &mut dyn GuestSink,
    error: IcmpError,
    frame: &GuestFrame<'_>,
) -> Result<(), NoRoom> {
    let packet = frame.head.get(frame.parsed.packet()..).unwrap_or_default();
    let guest = frame.parsed.addresses(frame.head).map(|(guest, _)| guest);
    match guest.and_then(|guest| Some([gateway_towards(link, guest)?, guest])) {
        Some(addresses) => send(link, sink, error, addresses, &[packet]),
        None => Ok(()),
    }
}

/// The gateway's address in the scope of `guest`: a router answers a link-local address from its own link-local address
/// (RFC 6724 5, rule 2).
fn gateway_towards(link: &Link, guest: IpAddr) -> Option<IpAddr> {
    match guest {
        IpAddr::V6(a) if a.is_unicast_link_local() => link.gateway_ipv6.map(|_| link.gateway_mac.link_local().into()),
        _ => link.gateway_address(guest),
    }
}

fn send(
    link: &Link,
    sink: &mut dyn GuestSink,
    error: IcmpError,
    [src, dst]: [IpAddr; 2],
    quoted: &[&[u8]],
) -> Result<(), NoRoom> {
    let mut frame = [0; EthernetHeader::LEN + MAX_V6];
    let start = Link::header_len(src);
    let (protocol, header, max) = match src {
        IpAddr::V4(_) => (protocol::ICMP, error.v4_header(), MAX_V4),
        IpAddr::V6(_) => (protocol::ICMPV6, error.v6_header(), MAX_V6),
    };
    header.emit(&mut frame[start..], 0);
    let max = max.min(link.mtu.into()) + EthernetHeader::LEN;
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
    link.emit(&spec, &mut frame);
    sink.send(Offload::NONE, &[&frame[..end]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(origin: Origin, info: u32) -> QueuedError {
        QueuedError {
            errno: libc::EHOSTUNREACH,
            origin,
            info,
            offender: None,
            destination: None,
            len: 0,
        }
    }

    #[test]
    fn type_and_code_reach_a_guest_of_the_same_family_as_they_are() {
        let header = |origin, info| {
            let error = IcmpError::from_queue(&entry(origin, info)).unwrap();
            match origin {
                Origin::Icmp(..) => error.v4_header(),
                _ => error.v6_header(),
            }
        };
        for code in (0..=15).filter(|code| *code != v4::unreachable::FRAGMENTATION_NEEDED) {
            let header = header(Origin::Icmp(v4::UNREACHABLE, code), 0);
            assert_eq!((header.kind, header.code, header.rest), (v4::UNREACHABLE, code, [0; 4]));
        }
        for code in 0..=7 {
            let header = header(Origin::Icmpv6(v6::UNREACHABLE, code), 0);
            assert_eq!((header.kind, header.code, header.rest), (v6::UNREACHABLE, code, [0; 4]));
        }
        for code in [0, 1] {
            let header = header(Origin::Icmpv6(v6::TIME_EXCEEDED, code), 0);
            assert_eq!((header.kind, header.code), (v6::TIME_EXCEEDED, code));
        }
        let problem = header(Origin::Icmp(v4::PARAMETER_PROBLEM, 0), 20);
        assert_eq!((problem.kind, problem.rest), (v4::PARAMETER_PROBLEM, [20, 0, 0, 0]));
        let problem = header(Origin::Icmpv6(v6::PARAMETER_PROBLEM, 1), 6);
        assert_eq!(
            (problem.kind, problem.code, problem.rest),
            (v6::PARAMETER_PROBLEM, 1, [0, 0, 0, 6])
        );
        let big = header(Origin::Icmpv6(v6::PACKET_TOO_BIG, 0), 1300);
        assert_eq!((big.kind, big.rest), (v6::PACKET_TOO_BIG, 1300_u32.to_be_bytes()));
    }

    #[test]
    fn a_guest_of_the_other_family_gets_the_nearest_error() {
        let as_v6 = |kind, code| {
            let header = IcmpError::from_queue(&entry(Origin::Icmp(kind, code), 0))
                .unwrap()
                .v6_header();
            (header.kind, header.code)
        };
        for (code, want) in [(0, 0), (1, 3), (3, 4), (9, 1), (10, 1), (13, 1)] {
            assert_eq!(as_v6(v4::UNREACHABLE, code), (v6::UNREACHABLE, want));
        }
        assert_eq!(as_v6(v4::TIME_EXCEEDED, 0), (v6::TIME_EXCEEDED, 0));
        let as_v4 = |kind, code| {
            let header = IcmpError::from_queue(&entry(Origin::Icmpv6(kind, code), 0))
                .unwrap()
                .v4_header();
            (header.kind, header.code)
        };
        for (code, want) in [(0, 0), (1, 13), (3, 1), (4, 3), (5, 13)] {
            assert_eq!(as_v4(v6::UNREACHABLE, code), (v4::UNREACHABLE, want));
        }
        assert_eq!(
            as_v4(v6::PARAMETER_PROBLEM, 1),
            (v4::UNREACHABLE, v4::unreachable::PROTOCOL)
        );
        assert_eq!(as_v4(v6::TIME_EXCEEDED, 0), (v4::TIME_EXCEEDED, 0));
    }
}
