//! Reports the network's errors about a flow's datagrams to the guest: reads the socket's error queue and sends ICMP.

use super::flow::Flow;
use crate::counters::DropReason;
use crate::nat::context::Context;
use crate::nat::icmp::{IcmpError, send_error};
use crate::nat::link::Packet;
use crate::packet::{UdpHeader, protocol};
use crate::sys::error_queue::{self, Origin};

/// Maximum entries read in one pass. The kernel limits the queue by the receive buffer.
const MAX_ENTRIES: usize = 64;

/// Maximum quoted payload bytes. An ICMPv6 error has at most 1280 bytes.
const MAX_QUOTED: usize = 1200;

/// Empties the error queue of a flow's socket, and clears its pending error. Returns an error of the host's own stack,
/// which concerns the last send and quotes nothing.
pub(super) fn report(flow: &Flow, ctx: &mut Context<'_>) -> Option<IcmpError> {
    let mut quoted = [0; MAX_QUOTED];
    let mut own = None;
    for _ in 0..MAX_ENTRIES {
        let Ok(Some(entry)) = error_queue::take(&flow.socket, &mut quoted) else {
            break;
        };
        let error = IcmpError::from_queue(&entry);
        if entry.origin == Origin::Local {
            own = error.or(own);
        } else if let Some(error) = error {
            tell_guest(flow, ctx, error, entry.offender, &quoted[..entry.len.min(MAX_QUOTED)]);
        }
    }
    // An error without an entry (the queue was full) must not remain for the next send.
    let _ = flow.socket.take_error();
    own
}

fn tell_guest(flow: &Flow, ctx: &mut Context<'_>, error: IcmpError, offender: Option<std::net::IpAddr>, body: &[u8]) {
    let mut header = [0; UdpHeader::LEN];
    UdpHeader {
        src_port: flow.key.guest_port,
        dst_port: flow.key.remote_port,
        payload_len: body.len(),
    }
    .emit(&mut header, 0);
    let quote = Packet {
        src: flow.key.guest,
        dst: flow.key.remote,
        protocol: protocol::UDP,
        traffic_class: 0,
        header: &header,
        body,
    };
    if send_error(ctx, error, offender, &quote).is_err() {
        ctx.counters.count_drop(DropReason::NoRoom);
    }
}
