use super::*;
use crate::gso::testing::{Tcp, Udp};
use crate::packet::checksum::Sum;
use crate::packet::{Headers, protocol};

fn offload(start: u16, size: u16) -> Offload {
    Offload {
        checksum: Checksum::Partial { start, offset: 6 },
        segmentation: Segmentation::Udp { size },
    }
}

/// A frame as the kernel delivers it, with the IP and UDP lengths of the whole frame and, if requested, a 4-byte tag.
fn whole(tagged: bool) -> Vec<u8> {
    let mut bytes = Udp::new(&[1, 2, 3, 4, 5]).bytes();
    if tagged {
        bytes.splice(12..12, [0x81, 0, 0, 7]);
    }
    bytes
}

#[test]
fn datagrams_behind_a_tag_keep_it() {
    let frame = whole(true);
    let mut split = Split::new(&frame, frame.len(), offload(38, 2)).unwrap();
    let mut payloads = Vec::new();
    while let Some(piece) = split.next(&frame) {
        assert_eq!(&piece.headers()[12..16], [0x81, 0, 0, 7]);
        assert_eq!(usize::from(be16(piece.headers(), 20)), 28 + piece.payload.len());
        payloads.push(frame[piece.payload.clone()].to_vec());
        split.taken();
    }
    assert_eq!(payloads, [vec![1, 2], vec![3, 4], vec![5]]);
}

#[test]
fn a_frame_that_is_not_what_it_is_said_to_be_is_refused() {
    let frame = whole(false);
    assert!(Split::new(&frame, frame.len(), offload(34, 2)).is_some());
    assert!(Split::new(&frame, frame.len(), offload(34, 0)).is_none(), "no size");
    assert!(
        Split::new(&frame, frame.len(), offload(20, 2)).is_none(),
        "inside the IP header"
    );
    assert!(
        Split::new(&frame, frame.len(), offload(40, 2)).is_none(),
        "nothing behind the headers"
    );
    assert!(Split::new(&frame, frame.len(), offload(u16::MAX, 2)).is_none());
    assert!(Split::new(&frame[..10], 10, offload(34, 2)).is_none());
    assert!(Split::new(&frame, frame.len(), Offload::NONE).is_none());
}

/// A TCP frame of `payload` bytes as a guest with TSO sends it, with FIN, PSH and CWR set.
fn tcp(v6: bool, payload: usize) -> (Vec<u8>, Offload) {
    let tcp = Tcp {
        v6,
        payload,
        ident: 0xffff,
        flags: CWR | TcpFlags::FIN.0,
        ..Tcp::default()
    };
    (tcp.frame(), tcp.offload(100))
}

#[test]
fn a_tcp_frame_becomes_segments_that_carry_on_from_one_another() {
    for v6 in [false, true] {
        let (frame, offload) = tcp(v6, 250);
        let l4 = if v6 { 54 } else { 34 };
        let mut split = Split::new(&frame[..HEAD_MAX], frame.len(), offload).unwrap();
        assert_eq!(split.frame_len(), l4 + 32 + 100);
        let mut seen = Vec::new();
        while let Some(piece) = split.next(&frame[..HEAD_MAX]) {
            let headers = piece.headers();
            let mut whole = headers.to_vec();
            whole.extend(&frame[piece.payload.clone()]);
            let parsed = Headers::parse(&whole, whole.len()).unwrap();
            assert_eq!(
                parsed.network.transport(),
                Some((protocol::TCP, l4, 32 + piece.payload.len()))
            );
            if !v6 {
                assert_eq!(Sum::default().bytes(&headers[14..34]).fold(), 0xffff, "header checksum");
                let ident = 0xffff_u16.wrapping_add(u16::try_from(seen.len()).unwrap());
                assert_eq!(be16(headers, 18), ident);
            }
            let (src, dst) = parsed.network.addresses().unwrap();
            let pseudo = Sum::default().pseudo_header(src, dst, protocol::TCP, whole.len() - l4);
            assert_eq!(be16(headers, l4 + 16), pseudo.fold(), "the pseudo-header's sum");
            seen.push((be32(headers, l4 + 4), headers[l4 + 13], piece.payload.len()));
            split.taken();
        }
        assert_eq!(
            seen,
            [
                (0xffff_fff0, 0x90, 100),
                (0xffff_fff0_u32.wrapping_add(100), 0x10, 100),
                (0xffff_fff0_u32.wrapping_add(200), 0x19, 50)
            ]
        );
    }
}

#[test]
fn a_tcp_header_that_does_not_fit_is_refused() {
    let (frame, offload) = tcp(false, 250);
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = frame.clone();
        change(&mut frame);
        Split::new(&frame[..frame.len().min(HEAD_MAX)], frame.len(), offload).is_none()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|frame| frame[34 + 12] = 0x40), "shorter than a TCP header");
    assert!(refused(&|frame| frame.truncate(34 + 32)), "no payload");
    assert!(refused(&|frame| frame.truncate(34 + 10)), "cut in the header");
    let elsewhere = Offload {
        checksum: Checksum::Partial { start: 34, offset: 6 },
        ..offload
    };
    assert!(
        Split::new(&frame, frame.len(), elsewhere).is_none(),
        "the checksum of another protocol"
    );
}
