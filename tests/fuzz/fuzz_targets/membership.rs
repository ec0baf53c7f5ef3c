//! Parses any frame as a message about multicast groups, with a corrected checksum. There is no panic, and the iterator
//! of changes ends and returns groups only.
#![no_main]

use hawser_backend::frame::HEAD_MAX;
use hawser_backend::packet::membership::{Membership, is_membership};
use hawser_backend::packet::{Head, IcmpHeader, checksum, icmp, protocol};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let head = Head::parse(&bytes[..bytes.len().min(HEAD_MAX)], bytes.len());
    if !is_membership(bytes, &head) {
        return;
    }
    let mut frame = bytes.to_vec();
    let at = head.whole_transport().expect("a message has a transport header");
    let (src, dst) = head.addresses(bytes).expect("it has addresses");
    let message = &mut frame[at.offset..at.offset + at.len];
    if message.len() >= IcmpHeader::LEN {
        if at.protocol == protocol::IGMP {
            message[2..4].fill(0);
            let sum = checksum::of(message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        } else {
            icmp::fill_checksum(src, dst, message);
        }
    }
    if let Ok(Membership::Report(changes)) = Membership::parse(&frame, &head) {
        let mut count = 0;
        for change in changes {
            assert!(change.group.is_multicast());
            count += 1;
        }
        assert!(count * 8 <= frame.len());
    }
});
