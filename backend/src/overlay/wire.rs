//! Passes the outer packets of a tunnel to a capture.
//!
//! hawser sends and receives only UDP payload, and the kernel handles the headers. This module writes headers as the
//! peers see them: addresses, ports, traffic class and checksums are those on the wire. Values that the kernel does not
//! report are filled in. Ethernet addresses are zero, as on the loopback, the identification is zero, and the TTL is
//! the one that hawser sends with.

use super::sender::TTL;
use crate::capture::{Capture, CaptureTap, Direction};
use crate::counters::DropReason;
use crate::packet::checksum::Sum;
use crate::packet::{EtherType, EthernetHeader, Ipv4Header, Ipv6Header, MacAddr, UdpHeader, protocol};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Bytes of the longest headers before the UDP payload.
const HEADERS: usize = EthernetHeader::LEN + Ipv6Header::LEN + UdpHeader::LEN;

/// One worker's end of a capture of outer packets.
pub(super) struct Wire {
    tap: CaptureTap,
}

/// The headers of an outer packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outer {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// DSCP and ECN.
    pub(super) class: u8,
}

impl Wire {
    pub(super) fn new(capture: Arc<Capture>) -> Self {
        Self {
            tap: CaptureTap::new(capture),
        }
    }

    /// Updates the state of the capture. Called once per turn.
    #[inline]
    pub(super) fn look(&mut self) {
        self.tap.look();
    }

    /// True if a capture was running at the last [`look`](Self::look).
    #[inline]
    pub(super) const fn is_on(&self) -> bool {
        self.tap.is_on()
    }

    /// Captures a datagram that is sent.
    #[cold]
    pub(super) fn sent(&self, outer: Outer, payload: &[u8], dropped: Option<DropReason>) {
        self.show(Direction::FromGuest, outer, payload, dropped);
    }

    /// Captures a datagram that was received.
    #[cold]
    pub(super) fn received(&self, outer: Outer, payload: &[u8], dropped: Option<DropReason>) {
        self.show(Direction::ToGuest, outer, payload, dropped);
    }

    fn show(&self, direction: Direction, outer: Outer, payload: &[u8], dropped: Option<DropReason>) {
        let mut headers = [0; HEADERS];
        if let Some(len) = outer.emit(payload, &mut headers) {
            self.tap.parts(direction, &[&headers[..len], payload], dropped);
        }
    }
}

impl Outer {
    /// Writes the headers before `payload` and returns their length; `None` if source and destination are of different
    /// families.
    fn emit(&self, payload: &[u8], out: &mut [u8; HEADERS]) -> Option<usize> {
        let (source, destination) = (self.source.ip().to_canonical(), self.destination.ip().to_canonical());
        let len = UdpHeader::LEN + payload.len();
        let (ethernet, packet) = out.split_at_mut(EthernetHeader::LEN);
        let (ethertype, network) = match (source, destination) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = Ipv4Header {
                    src,
                    dst,
                    protocol: protocol::UDP,
                    ttl: TTL,
                    tos: self.class,
                    dont_fragment: true,
                    fragment: None,
                    header_len: Ipv4Header::LEN,
                    payload_len: len,
                };
                header.emit(packet);
                (EtherType::Ipv4, Ipv4Header::LEN)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    src,
                    dst,
                    protocol: protocol::UDP,
                    hop_limit: TTL,
                    traffic_class: self.class,
                    fragment: None,
                    header_len: Ipv6Header::LEN,
                    payload_len: len,
                };
                header.emit(packet);
                (EtherType::Ipv6, Ipv6Header::LEN)
            }
            _ => return None,
        };
        let none = MacAddr::default();
        let header = EthernetHeader {
            dst: none,
            src: none,
            ethertype,
        };
        header.emit(ethernet);
        let udp = UdpHeader {
            src_port: self.source.port(),
            dst_port: self.destination.port(),
            payload_len: payload.len(),
        };
        let (udp_out, sum) = (
            &mut packet[network..network + UdpHeader::LEN],
            Sum::default().pseudo_header(source, destination, protocol::UDP, len),
        );
        udp.emit(udp_out, 0);
        let sum = sum.bytes(udp_out).bytes(payload).finish_nonzero();
        udp.emit(udp_out, sum);
        Some(EthernetHeader::LEN + network + UdpHeader::LEN)
    }
}
