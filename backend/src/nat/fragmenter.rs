//! Copies datagrams to the guest: in one piece if they fit its MTU, otherwise in IP fragments (RFC
//! 791 3.2, RFC 8200 4.5).

use crate::frame::{HEAD_MAX, NoRoom, Offload};
use crate::nat::context::Context;
use crate::nat::link::{Link, Packet, PacketSpec};
use crate::packet::{EthernetHeader, FragmentInfo, Ipv6Header};
use std::net::IpAddr;

/// Unit of fragment offsets, in bytes.
const UNIT: usize = 8;

impl Packet<'_> {
    /// True if the packet fits the MTU of `link` in one piece.
    pub const fn fits(&self, link: &Link) -> bool {
        Link::header_len(self.src) + self.len() <= EthernetHeader::LEN + link.mtu as usize
    }
}

/// Sends datagrams, and numbers the fragmented ones.
#[derive(Debug, Default)]
pub(super) struct Fragmenter {
    last_ident: u32,
}

impl Fragmenter {
    /// Sends `packet`, which has a header of eight bytes (UDP or ICMP) and, if it is larger than the MTU, must have a
    /// complete checksum. `offload` applies to a packet that is sent in one piece, including a packet above the MTU
    /// that consists of several datagrams. Any other packet above the MTU is fragmented.
    ///
    /// # Errors
    /// [`NoRoom`]: the guest received nothing, or not all fragments.
    pub(super) fn send(&mut self, ctx: &mut Context<'_>, packet: &Packet<'_>, offload: Offload) -> Result<(), NoRoom> {
        let is_many = offload.segmentation != crate::frame::Segmentation::None;
        if packet.fits(ctx.link) || is_many {
            return send_piece(ctx, packet, None, offload, packet.header, packet.body);
        }
        self.last_ident = self.last_ident.wrapping_add(1);
        let overhead = Link::header_len(packet.src) - EthernetHeader::LEN
            + match packet.src {
                IpAddr::V4(_) => 0,
                IpAddr::V6(_) => Ipv6Header::FRAGMENT_LEN,
            };
        let piece = usize::from(ctx.link.mtu).saturating_sub(overhead) / UNIT * UNIT;
        let (mut header, mut body, mut offset) = (packet.header, packet.body, 0);
        while piece > 0 && offset < packet.len() {
            let (from_header, rest) = header.split_at(piece.min(header.len()));
            header = rest;
            let (from_body, rest) = body.split_at((piece - from_header.len()).min(body.len()));
            body = rest;
            let info = FragmentInfo {
                ident: self.last_ident,
                offset: u16::try_from(offset).unwrap_or(u16::MAX),
                more: !body.is_empty(),
            };
            send_piece(ctx, packet, Some(info), Offload::NONE, from_header, from_body)?;
            offset += from_header.len() + from_body.len();
        }
        Ok(())
    }
}

fn send_piece(
    ctx: &mut Context<'_>,
    packet: &Packet<'_>,
    fragment: Option<FragmentInfo>,
    offload: Offload,
    header: &[u8],
    body: &[u8],
) -> Result<(), NoRoom> {
    let mut headers = [0; HEAD_MAX];
    let spec = PacketSpec {
        payload_len: header.len() + body.len(),
        fragment,
        ..packet.spec()
    };
    // All headers must be in the first part, where a sink may read them.
    let n = ctx.link.emit(&spec, &mut headers);
    headers[n..n + header.len()].copy_from_slice(header);
    ctx.sink.send(offload, &[&headers[..n + header.len()], body])
}
