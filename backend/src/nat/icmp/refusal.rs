//! Finds the flow that an ICMP error from the guest is about.
//!
//! A host answers a datagram to a closed port with "port unreachable" (RFC 1122 4.1.3.1), and a firewall answers with
//! "administratively prohibited". Both quote the datagram.

use super::IcmpMessage;
use crate::frame::GuestFrame;
use crate::packet::icmp::{v4, v6};
use crate::packet::{FlowId, IcmpHeader, be16, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes that are examined: the longest IPv4 header and two ports.
const LOOKED_AT: usize = 60 + 4;

/// The flow whose datagram an ICMP message from the guest refuses. `None` if the message is not a refusal, or not about
/// a datagram.
pub fn refused_datagram(frame: &GuestFrame<'_>, message: &IcmpMessage) -> Option<FlowId> {
    let header = message.header;
    if ![v4::UNREACHABLE, v6::UNREACHABLE].contains(&header.kind) {
        return None;
    }
    let mut bytes = [0; LOOKED_AT];
    let n = frame.copy_to(message.offset + IcmpHeader::LEN, &mut bytes);
    let quoted = &bytes[..n.min(message.len - IcmpHeader::LEN)];
    let (src, dst, ports): (IpAddr, IpAddr, _) = match message.src {
        IpAddr::V4(_) => {
            let is_refusal = header.kind == v4::UNREACHABLE && header.code != v4::unreachable::FRAGMENTATION_NEEDED;
            let is_udp = quoted.first()? >> 4 == 4 && *quoted.get(9)? == protocol::UDP;
            let at = usize::from(quoted[0] & 0xf) * 4;
            let address = |at: usize| Some(Ipv4Addr::from(*quoted.get(at..)?.first_chunk::<4>()?).into());
            (is_refusal && is_udp).then_some((address(12)?, address(16)?, at))?
        }
        IpAddr::V6(_) => {
            let is_udp = quoted.first()? >> 4 == 6 && *quoted.get(6)? == protocol::UDP;
            let address = |at: usize| Some(Ipv6Addr::from(*quoted.get(at..)?.first_chunk::<16>()?).into());
            (header.kind == v6::UNREACHABLE && is_udp).then_some((address(8)?, address(24)?, 40))?
        }
    };
    let ports = quoted.get(ports..)?.first_chunk::<4>()?;
    Some(FlowId::udp(
        SocketAddr::new(dst, be16(ports, 2)),
        SocketAddr::new(src, be16(ports, 0)),
    ))
}
