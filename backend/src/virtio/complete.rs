//! Completes checksums for guests that did not negotiate GUEST_CSUM. A checksum that a mode left partial, or only
//! marked as valid, is computed before the frame is written.

use crate::frame::{Checksum, GuestSlice, Offload, copy_from_guest};
use crate::packet::checksum::Sum;
use crate::packet::{Head, protocol};

/// Number of bytes summed at a time. It is even, so that no 16-bit word is split.
const CHUNK: usize = 2048;

/// Position of a frame's checksum, and the initial sum.
struct Field {
    /// Offset in the frame at which the sum starts.
    start: usize,
    /// Offset of the checksum field in the frame.
    at: usize,
    initial: Sum,
}

/// Completes the L4 checksum of a frame that consists of `head` and the first `len` bytes of `payload`. Returns the
/// offload that remains for the guest: none, except where the checksum cannot be computed (headers outside `head`,
/// fragments, protocols without a checksum).
pub fn complete(offload: Offload, head: &mut [u8], payload: &[GuestSlice<'_>], len: usize) -> Offload {
    let field = match offload.checksum {
        Checksum::Complete => return offload,
        Checksum::Partial { start, offset } => Some(Field {
            start: start.into(),
            at: usize::from(start) + usize::from(offset),
            initial: Sum::default(),
        }),
        Checksum::Valid => find_field(head, len),
    };
    if let Some(field) = field.filter(|f| f.at + 2 <= head.len()) {
        if offload.checksum == Checksum::Valid {
            head[field.at..field.at + 2].fill(0);
        }
        let sum = sum_from(field.start, field.initial, head, payload, len).finish_nonzero();
        head[field.at..field.at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    Offload {
        checksum: Checksum::Complete,
        ..offload
    }
}

fn find_field(head: &[u8], payload_len: usize) -> Option<Field> {
    let parsed = Head::parse(head, head.len() + payload_len);
    let at = parsed
        .transport()
        .filter(|_| parsed.fault().is_none() && parsed.tags() == 0)?;
    let (proto, start, length) = (at.protocol, at.offset, at.len);
    let (offset, has_pseudo_header) = match proto {
        protocol::TCP => (16, true),
        protocol::UDP => (6, true),
        protocol::ICMP => (2, false),
        protocol::ICMPV6 => (2, true),
        _ => return None,
    };
    // Otherwise the sum would include padding after the packet.
    if parsed.is_fragment() || start + length != head.len() + payload_len {
        return None;
    }
    let (src, dst) = parsed.addresses(head)?;
    let initial = if has_pseudo_header {
        Sum::default().pseudo_header(src, dst, proto, length)
    } else {
        Sum::default()
    };
    Some(Field {
        start,
        at: start + offset,
        initial,
    })
}

/// Sums the frame's bytes from `start` to the end.
fn sum_from(start: usize, initial: Sum, head: &[u8], payload: &[GuestSlice<'_>], len: usize) -> Sum {
    let mut chunk = [0; CHUNK];
    let mut sum = initial;
    let first = head.get(start..).unwrap_or_default();
    let (mut at, total) = (0, first.len() + len);
    while at < total {
        let want = CHUNK.min(total - at);
        let from_head = first.get(at..).unwrap_or_default();
        let from_head = &from_head[..from_head.len().min(want)];
        chunk[..from_head.len()].copy_from_slice(from_head);
        let rest = &mut chunk[from_head.len()..want];
        let wanted = rest.len();
        let copied = copy_from_guest(payload, (at + from_head.len()).saturating_sub(first.len()), rest);
        debug_assert_eq!(copied, wanted, "the payload has the stated length");
        sum = sum.bytes(&chunk[..want]);
        at += want;
    }
    sum
}

#[cfg(test)]
#[path = "complete_tests.rs"]
mod tests;
