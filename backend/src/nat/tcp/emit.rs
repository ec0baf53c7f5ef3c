//! Builds and sends segments to the guest.

use super::seq::Seq;
use super::urgent;
use crate::frame::{Checksum, NoRoom, Offload, Segmentation};
use crate::nat::context::Context;
use crate::nat::link::Link;
use crate::nat::link::PacketSpec;
use crate::packet::checksum::Sum;
use crate::packet::{TcpFlags, TcpHeader, protocol};
use std::net::IpAddr;

/// Offset of the checksum field in a TCP header.
const CHECKSUM_OFFSET: u16 = 16;
/// Room for Ethernet, IPv6 and a TCP header with hawser's options.
const CONTROL_MAX: usize = 14 + 40 + 40;

/// Sends a segment without data from `src` to the guest's endpoint `dst`.
///
/// # Errors
/// [`NoRoom`]: the segment was not sent.
pub(super) fn control(ctx: &mut Context<'_>, src: IpAddr, dst: IpAddr, header: &TcpHeader) -> Result<(), NoRoom> {
    let mut buf = [0; CONTROL_MAX];
    let length = header.emitted_len();
    let spec = PacketSpec {
        src,
        dst,
        protocol: protocol::TCP,
        traffic_class: 0,
        payload_len: length,
        fragment: None,
    };
    let at = ctx.link.emit(&spec, &mut buf);
    let segment = &mut buf[at..at + length];
    header.emit(segment, 0);
    let sum = Sum::default()
        .bytes(segment)
        .pseudo_header(src, dst, protocol::TCP, length);
    header.emit(segment, sum.finish());
    let offload = if ctx.sink.caps().checksum {
        Offload::VALID
    } else {
        Offload::NONE
    };
    ctx.sink.send(offload, &[&buf[..at + length]])
}

/// Header fields that all data segments of one delivery share.
pub(super) struct DataHeader<'a> {
    /// Link of the guest.
    pub link: &'a Link,
    /// Address of the remote end, as the guest sees it.
    pub src: IpAddr,
    /// Address of the guest's end.
    pub dst: IpAddr,
    /// Payload bytes per segment on the guest's link.
    pub mss: u16,
    /// Sequence number of the urgent byte, if there is one.
    pub urgent: Option<Seq>,
    /// TCP header without SEQ, PSH and URG.
    pub tcp: TcpHeader,
}

impl DataHeader<'_> {
    /// Writes the header of a frame with `length` bytes that begin at `seq`. `push` is set if no more bytes are
    /// waiting. The checksum is left to the guest.
    pub(super) fn emit(&self, seq: Seq, length: usize, push: bool, buf: &mut [u8]) -> Offload {
        let segment_len = self.tcp.emitted_len() + length;
        let spec = PacketSpec {
            src: self.src,
            dst: self.dst,
            protocol: protocol::TCP,
            traffic_class: 0,
            payload_len: segment_len,
            fragment: None,
        };
        let at = self.link.emit(&spec, buf);
        let mut header = TcpHeader {
            seq: seq.0,
            flags: if push {
                TcpFlags::ACK | TcpFlags::PSH
            } else {
                TcpFlags::ACK
            },
            ..self.tcp
        };
        if let Some(byte) = self.urgent {
            let pointer = urgent::pointer(byte, seq);
            header.urgent = pointer.unwrap_or_default();
            header.flags = header.flags | pointer.map_or(TcpFlags(0), |_| TcpFlags::URG);
        }
        let partial = Sum::default().pseudo_header(spec.src, spec.dst, protocol::TCP, segment_len);
        header.emit(&mut buf[at..], partial.fold());
        Offload {
            checksum: Checksum::Partial {
                start: u16::try_from(at).unwrap_or(u16::MAX),
                offset: CHECKSUM_OFFSET,
            },
            segmentation: self.segmentation(length),
        }
    }

    fn segmentation(&self, length: usize) -> Segmentation {
        let mss = self.mss;
        match self.src {
            _ if length <= usize::from(mss) => Segmentation::None,
            IpAddr::V4(_) => Segmentation::Tcp4 { mss, ecn: false },
            IpAddr::V6(_) => Segmentation::Tcp6 { mss, ecn: false },
        }
    }
}
