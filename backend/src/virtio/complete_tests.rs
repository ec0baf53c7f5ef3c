use super::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame of `protocol` whose L4 part is `l4`, with a checksum field of zero.
fn frame(v6: bool, proto: u8, l4: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    if v6 {
        frame.extend([0x86, 0xdd]);
        let mut ip = [0; 40];
        ip[0] = 0x60;
        ip[4..6].copy_from_slice(&u16::try_from(l4.len()).unwrap().to_be_bytes());
        ip[6] = proto;
        ip[8..24].copy_from_slice(&SRC6.octets());
        ip[24..40].copy_from_slice(&DST6.octets());
        frame.extend(ip);
    } else {
        frame.extend([0x08, 0x00]);
        let mut ip = [0; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&u16::try_from(20 + l4.len()).unwrap().to_be_bytes());
        ip[9] = proto;
        ip[12..16].copy_from_slice(&SRC4.octets());
        ip[16..20].copy_from_slice(&DST4.octets());
        frame.extend(ip);
    }
    frame.extend(l4);
    frame
}

const SRC4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DST4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const SRC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const DST6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 2);

fn addresses(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        (SRC6.into(), DST6.into())
    } else {
        (SRC4.into(), DST4.into())
    }
}

/// True if the checksum of the frame's L4 part is correct.
fn holds(frame: &[u8], v6: bool, proto: u8) -> bool {
    let l4 = &frame[if v6 { 54 } else { 34 }..];
    let (src, dst) = addresses(v6);
    let sum = if proto == protocol::ICMP {
        Sum::default()
    } else {
        Sum::default().pseudo_header(src, dst, proto, l4.len())
    };
    sum.bytes(l4).finish() == 0
}

proptest! {
    #[test]
    fn a_frame_in_parts_gets_the_checksum_of_the_whole(
        v6 in any::<bool>(),
        proto in prop_oneof![Just(protocol::TCP), Just(protocol::UDP)],
        body in prop::collection::vec(any::<u8>(), 20..5000),
        cut in 0..4000usize,
        split in 20..200usize,
        partial in any::<bool>(),
    ) {
        let mut l4 = body;
        let offset = if proto == protocol::TCP { 16 } else { 6 };
        let start = if v6 { 54 } else { 34 };
        let (src, dst) = addresses(v6);
        let offload = if partial {
            let pseudo = Sum::default().pseudo_header(src, dst, proto, l4.len()).fold();
            l4[offset..offset + 2].copy_from_slice(&pseudo.to_be_bytes());
            let (start, offset) = (u16::try_from(start).unwrap(), u16::try_from(offset).unwrap());
            Offload { checksum: Checksum::Partial { start, offset }, ..Offload::default() }
        } else {
            Offload::VALID
        };
        let whole = frame(v6, proto, &l4);
        // The head ends somewhere after the checksum. The rest is in two pieces.
        let split = (start + split).min(whole.len());
        let (head, payload) = whole.split_at(split);
        let mut head = head.to_vec();
        let (a, b) = payload.split_at(cut.min(payload.len()));
        let slices = [GuestSlice::from_bytes(a), GuestSlice::from_bytes(b)];
        let left = complete(offload, &mut head, &slices, payload.len());
        prop_assert_eq!(left, Offload::NONE);
        head.extend(payload);
        prop_assert!(holds(&head, v6, proto));
        prop_assert_ne!(&head[start + offset..start + offset + 2], &[0, 0][..]);
    }
}

#[test]
fn echo_messages_of_both_versions_are_completed() {
    for (v6, proto) in [(false, protocol::ICMP), (true, protocol::ICMPV6)] {
        let mut bytes = frame(v6, proto, &[8, 0, 0xaa, 0xaa, 1, 2, 3, 4, 5]);
        assert_eq!(complete(Offload::VALID, &mut bytes, &[], 0), Offload::NONE);
        assert!(holds(&bytes, v6, proto));
    }
}

#[test]
fn what_has_no_checksum_stays_as_it_is() {
    let mut fragment = frame(false, protocol::UDP, &[9; 32]);
    fragment[14 + 6] = 0x20;
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    let short = vec![1; 10];
    for bytes in [fragment, arp, short, frame(false, 47, &[1; 20])] {
        let mut after = bytes.clone();
        assert_eq!(complete(Offload::VALID, &mut after, &[], 0), Offload::NONE);
        assert_eq!(after, bytes);
    }
}
