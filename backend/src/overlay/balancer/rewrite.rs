//! Replaces the addresses and ports of a packet, with its checksums updated (RFC 1624).

use super::super::outbound::transport_checksum;
use crate::packet::checksum::Sum;
use crate::packet::{EtherType, Head, be16, protocol};
use std::net::{IpAddr, SocketAddr};

/// Offsets of the fields in an IP header.
const IPV4_CHECKSUM: usize = 10;
const IPV4_ADDRESSES: usize = 12;
const IPV6_ADDRESSES: usize = 8;

/// The new ends of a packet, both of the packet's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
}

/// The ends of a whole TCP or UDP packet in a frame without tags, and its protocol.
pub(super) fn ends(bytes: &[u8], head: &Head) -> Option<(Ends, u8)> {
    let at = head.whole_transport().filter(|_| head.tags() == 0)?;
    if !matches!(at.protocol, protocol::TCP | protocol::UDP) {
        return None;
    }
    let ports: &[u8; 4] = bytes.get(at.offset..)?.first_chunk()?;
    let (src, dst) = head.addresses(bytes)?;
    let ends = Ends {
        src: SocketAddr::new(src, be16(ports, 0)),
        dst: SocketAddr::new(dst, be16(ports, 2)),
    };
    Some((ends, at.protocol))
}

/// Sets the ends of the packet in `bytes`, whose parsed head is `head`. `is_partial` is true if the transport checksum
/// is only the sum over the pseudo-header. Returns false, with `bytes` unchanged, if the headers are not within
/// `bytes`.
pub(super) fn rewrite(bytes: &mut [u8], head: &Head, ends: Ends, is_partial: bool) -> bool {
    let Some(at) = head.whole_transport() else { return false };
    let Some(checksum) = transport_checksum(at.protocol).map(|field| at.offset + field) else {
        return false;
    };
    let ip = head.packet();
    let (addresses, len) = match head.ethertype() {
        EtherType::Ipv4 => (ip + IPV4_ADDRESSES, 8),
        _ => (ip + IPV6_ADDRESSES, 32),
    };
    let mut new = [0; 32];
    match (ends.src.ip(), ends.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) if len == 8 => {
            new[..4].copy_from_slice(&src.octets());
            new[4..8].copy_from_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) if len == 32 => {
            new[..16].copy_from_slice(&src.octets());
            new[16..].copy_from_slice(&dst.octets());
        }
        _ => return false,
    }
    if checksum + 2 > bytes.len() {
        return false;
    }
    let change = replace(&mut bytes[addresses..addresses + len], &new[..len], Sum::default());
    if len == 8 {
        let field = ip + IPV4_CHECKSUM;
        let sum = change.word(!be16(bytes, field)).finish();
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let mut ports = [0; 4];
    ports[..2].copy_from_slice(&ends.src.port().to_be_bytes());
    ports[2..].copy_from_slice(&ends.dst.port().to_be_bytes());
    let with_ports = replace(&mut bytes[at.offset..at.offset + 4], &ports, change);
    let old = be16(bytes, checksum);
    let sum = if is_partial {
        !change.word(old).finish()
    } else if old == 0 && at.protocol == protocol::UDP {
        // The sender has omitted the checksum.
        0
    } else {
        with_ports.word(!old).finish_nonzero()
    };
    bytes[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Replaces `old`, whose length is even, and adds the change to a sum.
fn replace(old: &mut [u8], new: &[u8], sum: Sum) -> Sum {
    let words = old.chunks_exact(2).zip(new.chunks_exact(2));
    let sum = words.fold(sum, |sum, (old, new)| sum.word(!be16(old, 0)).word(be16(new, 0)));
    old.copy_from_slice(new);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gso::testing::{Tcp, Udp};
    use crate::packet::{EthernetHeader, Ipv4Header};
    use proptest::prelude::*;

    fn address(v6: bool, word: u32) -> IpAddr {
        if v6 {
            let [a, b, c, d] = word.to_be_bytes().map(u16::from);
            IpAddr::from([0x2001, 0xdb8, a, b << 8, c, d << 8 | a, 0, b])
        } else {
            IpAddr::from(word.to_be_bytes())
        }
    }

    /// True if both checksums of a whole frame are correct.
    fn is_sound(frame: &[u8]) -> bool {
        let head = Head::parse(frame, frame.len());
        let at = head.whole_transport().unwrap();
        let (src, dst) = head.addresses(frame).unwrap();
        let sum = Sum::default()
            .bytes(&frame[at.offset..at.offset + at.len])
            .pseudo_header(src, dst, at.protocol, at.len);
        let ip = EthernetHeader::LEN;
        let is_ipv4_sound = !src.is_ipv4() || Sum::default().bytes(&frame[ip..ip + Ipv4Header::LEN]).finish() == 0;
        is_ipv4_sound && sum.finish() == 0
    }

    proptest! {
        #[test]
        fn a_packet_with_new_ends_has_right_checksums(
            words in any::<[u32; 2]>(),
            ports in any::<[u16; 2]>(),
            payload in 1_usize..200,
            v6: bool,
            tcp: bool,
        ) {
            let mut frame = if tcp {
                Tcp { v6, payload, ..Tcp::default() }.whole()
            } else {
                Udp { v6, partial: false, ..Udp::new(&vec![7; payload]) }.bytes()
            };
            prop_assert!(is_sound(&frame));
            let new = Ends {
                src: SocketAddr::new(address(v6, words[0]), ports[0]),
                dst: SocketAddr::new(address(v6, words[1]), ports[1]),
            };
            let head = Head::parse(&frame, frame.len());
            prop_assert!(rewrite(&mut frame, &head, new, false));
            prop_assert_eq!(ends(&frame, &head).map(|(ends, _)| ends), Some(new));
            prop_assert!(is_sound(&frame));
        }

        #[test]
        fn a_partial_checksum_is_completed_to_the_right_one(words in any::<[u32; 2]>(), ports in any::<[u16; 2]>()) {
            let mut frame = Tcp { payload: 33, ..Tcp::default() }.frame();
            let new = Ends {
                src: SocketAddr::new(address(false, words[0]), ports[0]),
                dst: SocketAddr::new(address(false, words[1]), ports[1]),
            };
            let head = Head::parse(&frame, frame.len());
            prop_assert!(rewrite(&mut frame, &head, new, true));
            let at = head.whole_transport().unwrap().offset;
            let sum = Sum::default().bytes(&frame[at..]).finish_nonzero();
            frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
            prop_assert!(is_sound(&frame));
        }

        #[test]
        fn bytes_of_any_kind_do_no_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), len in 0_usize..400) {
            let head = Head::parse(&bytes, len);
            let end: SocketAddr = "192.0.2.1:1".parse().unwrap();
            let _ = ends(&bytes, &head);
            let _ = rewrite(&mut bytes, &head, Ends { src: end, dst: end }, false);
        }
    }
}
