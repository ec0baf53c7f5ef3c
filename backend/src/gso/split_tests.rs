use super::*;
use crate::gso::testing::Udp;

fn offload(start: u16, size: u16) -> Offload {
    Offload {
        checksum: Checksum::Partial { start, offset: 6 },
        segmentation: Segmentation::Udp { size },
    }
}

/// A frame as the kernel delivers it: IP and UDP lengths of the whole, with a tag of 4 bytes if
/// requested.
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
    let mut split = Split::new(&frame, offload(38, 2)).unwrap();
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
    assert!(Split::new(&frame, offload(34, 2)).is_some());
    assert!(Split::new(&frame, offload(34, 0)).is_none(), "no size");
    assert!(Split::new(&frame, offload(20, 2)).is_none(), "inside the IP header");
    assert!(
        Split::new(&frame, offload(40, 2)).is_none(),
        "nothing behind the headers"
    );
    assert!(Split::new(&frame, offload(u16::MAX, 2)).is_none());
    assert!(Split::new(&frame[..10], offload(34, 2)).is_none());
    assert!(Split::new(&frame, Offload::NONE).is_none());
}
