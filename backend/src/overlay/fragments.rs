//! Splits IPv4 packets into fragments that fit a path (RFC 791 3.2).
//!
//! The guest's own packet is fragmented inside the tunnel. The far guest reassembles it, and the outer packets are not
//! fragmented. A packet with "do not fragment", or whose headers contradict its frame, is not split. This module does
//! no I/O.

use crate::packet::checksum::Sum;
use crate::packet::{Ipv4Header, be16};
use std::ops::Range;

/// Unit of fragment offsets, in bytes.
const UNIT: usize = 8;
/// Length of the longest IPv4 header, in bytes.
const HEADER_MAX: usize = 60;
const LENGTH: Range<usize> = 2..4;
const FLAGS: Range<usize> = 6..8;
const CHECKSUM: Range<usize> = 10..12;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Option numbers without a length (RFC 791 3.1).
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
/// Flag in an option's number: the option is copied into every fragment.
const COPIED: u8 = 0x80;

/// Iterator over the fragments of a packet.
pub(super) struct Fragments<'b> {
    packet: &'b [u8],
    header: usize,
    /// Bytes of payload in every fragment except the last.
    piece: usize,
    /// Bytes of the packet covered by the fragments returned so far.
    at: usize,
}

/// One fragment: its header, and the position of its payload in the packet.
pub(super) struct Fragment {
    bytes: [u8; HEADER_MAX],
    len: usize,
    pub(super) payload: Range<usize>,
}

impl Fragment {
    pub(super) fn header(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<'b> Fragments<'b> {
    /// Fragments of up to `max` bytes of the IPv4 packet at the start of `bytes`. `None` if it must not or cannot be
    /// split this way.
    pub(super) fn new(bytes: &'b [u8], max: usize) -> Option<Self> {
        let header = usize::from(bytes.first()? & 0xf) * 4;
        let total = usize::from(be16(bytes.get(..Ipv4Header::LEN)?, LENGTH.start));
        let packet = bytes
            .get(..total)
            .filter(|_| (Ipv4Header::LEN..total).contains(&header))?;
        let flags = be16(packet, FLAGS.start);
        let end = usize::from(flags & OFFSET) * UNIT + total - header;
        let piece = max.checked_sub(header)? / UNIT * UNIT;
        let is_possible = flags & DONT_FRAGMENT == 0 && end <= usize::from(u16::MAX) && piece > 0;
        is_possible.then_some(Self {
            packet,
            header,
            piece,
            at: header,
        })
    }

    fn write(&self, out: &mut Fragment) {
        let (first, last) = (self.at == self.header, out.payload.end == self.packet.len());
        out.bytes[..Ipv4Header::LEN].copy_from_slice(&self.packet[..Ipv4Header::LEN]);
        let options = &self.packet[Ipv4Header::LEN..self.header];
        out.len = Ipv4Header::LEN
            + if first {
                out.bytes[Ipv4Header::LEN..self.header].copy_from_slice(options);
                options.len()
            } else {
                copied_options(options, &mut out.bytes[Ipv4Header::LEN..])
            };
        let header = &mut out.bytes[..out.len];
        let number = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        header[0] = 0x40 | u8::try_from(out.len / 4).unwrap_or(0xf);
        header[LENGTH].copy_from_slice(&number(out.len + out.payload.len()).to_be_bytes());
        let flags = be16(self.packet, FLAGS.start);
        let offset = (flags & OFFSET) + number((self.at - self.header) / UNIT);
        let more = if last { flags & MORE } else { MORE };
        header[FLAGS].copy_from_slice(&(more | offset).to_be_bytes());
        header[CHECKSUM].fill(0);
        let sum = Sum::default().bytes(header).finish();
        header[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
}

impl Iterator for Fragments<'_> {
    type Item = Fragment;

    fn next(&mut self) -> Option<Fragment> {
        if self.at == self.packet.len() {
            return None;
        }
        let end = self.packet.len().min(self.at + self.piece);
        let mut fragment = Fragment {
            bytes: [0; HEADER_MAX],
            len: 0,
            payload: self.at..end,
        };
        self.write(&mut fragment);
        self.at = end;
        Some(fragment)
    }
}

/// Copies the options that every fragment must have, pads them to a multiple of four bytes, and returns their length.
/// Copying stops at an option with an invalid length.
fn copied_options(mut options: &[u8], out: &mut [u8]) -> usize {
    let mut len = 0;
    while let [kind, rest @ ..] = options {
        let taken = match (*kind, rest.first()) {
            (END_OF_OPTIONS, _) => break,
            (NO_OPERATION, _) => 1,
            (_, Some(length)) if (2..=options.len()).contains(&usize::from(*length)) => usize::from(*length),
            _ => break,
        };
        if kind & COPIED != 0 {
            out[len..len + taken].copy_from_slice(&options[..taken]);
            len += taken;
        }
        options = &options[taken..];
    }
    // The remaining bytes are zero, which is the end-of-options marker.
    len.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A packet with these options, flags and payload, and a correct checksum.
    fn packet(options: &[u8], flags: u16, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Header::LEN + options.len();
        let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
        bytes.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(flags.to_be_bytes());
        bytes.extend([64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1]);
        bytes.extend(options);
        let sum = Sum::default().bytes(&bytes).finish();
        bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn cut(packet: &[u8], max: usize) -> Option<Vec<Vec<u8>>> {
        let fragments = Fragments::new(packet, max)?;
        Some(
            fragments
                .map(|fragment| [fragment.header(), &packet[fragment.payload.clone()]].concat())
                .collect(),
        )
    }

    #[test]
    fn later_fragments_have_the_options_that_are_copied_and_no_others() {
        // Record route is not copied, but router alert is.
        let options = [7, 7, 4, 1, 2, 3, 4, 0x94, 4, 0, 0, 0];
        let fragments = cut(&packet(&options, 0, &[5; 100]), 80).unwrap();
        assert_eq!(fragments[0][Ipv4Header::LEN..32], options);
        assert_eq!(fragments[1][Ipv4Header::LEN..24], [0x94, 4, 0, 0]);
        assert_eq!(fragments[1][0], 0x46);
        assert_eq!(fragments.len(), 3);
    }

    #[test]
    fn a_fragment_is_cut_further_and_the_last_keeps_that_more_follow() {
        let fragments = cut(&packet(&[], MORE | 100, &[5; 100]), 68).unwrap();
        let flags: Vec<u16> = fragments.iter().map(|fragment| be16(fragment, 6)).collect();
        assert_eq!(flags, [MORE | 100, MORE | 106, MORE | 112]);
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        assert!(cut(&packet(&[], DONT_FRAGMENT, &[5; 100]), 68).is_none());
        assert!(
            cut(&packet(&[], OFFSET, &[5; 100]), 68).is_none(),
            "it ends beyond 64 KiB"
        );
        assert!(cut(&packet(&[], 0, &[5; 100]), 27).is_none(), "no room for eight bytes");
        assert!(cut(&packet(&[], 0, &[5; 100])[..119], 68).is_none());
        assert!(cut(&[0x45; 19], 68).is_none() && cut(&[], 68).is_none());
    }

    proptest! {
        #[test]
        fn fragments_put_together_are_the_packet(
            payload in vec(any::<u8>(), 1..4000),
            options in vec(any::<[u8; 4]>(), 0..10),
            max in 0..1500usize,
        ) {
            let options = options.concat();
            let whole = packet(&options, 0, &payload);
            let Some(fragments) = cut(&whole, max) else {
                prop_assert!(max < Ipv4Header::LEN + options.len() + UNIT);
                return Ok(());
            };
            let mut together = vec![0; payload.len()];
            let count = fragments.len();
            for (number, fragment) in fragments.into_iter().enumerate() {
                prop_assert!(fragment.len() <= max);
                let header = usize::from(fragment[0] & 0xf) * 4;
                prop_assert_eq!(crate::packet::checksum::of(&fragment[..header]), 0);
                prop_assert_eq!(usize::from(be16(&fragment, 2)), fragment.len());
                prop_assert_eq!(be16(&fragment, 6) & MORE != 0, number + 1 < count);
                prop_assert_eq!(&fragment[4..6], &whole[4..6]);
                let at = usize::from(be16(&fragment, 6) & OFFSET) * UNIT;
                together[at..at + fragment.len() - header].copy_from_slice(&fragment[header..]);
            }
            prop_assert_eq!(together, payload);
        }

        #[test]
        fn no_packet_panics(bytes in vec(any::<u8>(), 0..200), max in 0..200usize) {
            let _ = cut(&bytes, max);
        }
    }
}
