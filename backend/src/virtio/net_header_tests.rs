use super::*;
use crate::packet::Head;

/// Decodes a header and checks the protocol as admission does.
fn decode(header: &[u8; LEGACY_HEADER_LEN], head: &[u8], features: Features) -> Result<Offload, DropReason> {
    let offload = super::decode(header, head, features)?;
    let suits = offload.suits(&Head::parse(head, head.len()));
    suits.then_some(offload).ok_or(DropReason::BadOffload)
}

const ALL: Features = Features(u64::MAX);

fn raw(flags: u8, gso: u8, size: u16, start: u16, offset: u16) -> [u8; LEGACY_HEADER_LEN] {
    let mut header = [0; LEGACY_HEADER_LEN];
    header[0] = flags;
    header[1] = gso;
    header[4..6].copy_from_slice(&size.to_le_bytes());
    header[6..8].copy_from_slice(&start.to_le_bytes());
    header[8..10].copy_from_slice(&offset.to_le_bytes());
    header
}

fn head(ethertype: u16) -> [u8; 128] {
    let mut head = [0; 128];
    head[12..14].copy_from_slice(&ethertype.to_be_bytes());
    head
}

fn partial(start: u16, offset: u16, segmentation: Segmentation) -> Offload {
    Offload {
        checksum: Checksum::Partial { start, offset },
        segmentation,
    }
}

#[test]
fn the_header_is_short_only_for_legacy_drivers_without_merging() {
    assert_eq!(header_len(Features(0)), 10);
    assert_eq!(header_len(Features(1 << VIRTIO_NET_F_MRG_RXBUF)), 12);
    assert_eq!(header_len(Features(1 << VIRTIO_F_VERSION_1)), 12);
}

#[test]
fn a_plain_frame_leaves_nothing_to_us() {
    assert_eq!(
        decode(&raw(0, 0, 0, 0, 0), &head(0x0800), Features(0)),
        Ok(Offload::NONE)
    );
    let valid = raw(DATA_VALID, 0, 9, 9, 9);
    assert_eq!(
        decode(&valid, &head(0x0800), Features(0)),
        Ok(Offload::NONE),
        "means nothing from a driver"
    );
}

#[test]
fn what_was_negotiated_is_taken() {
    for (header, ethertype, expected) in [
        (raw(1, 0, 0, 34, 6), 0x0800, partial(34, 6, Segmentation::None)),
        (
            raw(1, 1, 1460, 34, 16),
            0x0800,
            partial(34, 16, Segmentation::Tcp4 { mss: 1460, ecn: false }),
        ),
        (
            raw(1, 0x84, 1440, 54, 16),
            0x86dd,
            partial(54, 16, Segmentation::Tcp6 { mss: 1440, ecn: true }),
        ),
        (
            raw(1, 5, 1200, 54, 6),
            0x86dd,
            partial(54, 6, Segmentation::Udp { size: 1200 }),
        ),
    ] {
        assert_eq!(decode(&header, &head(ethertype), ALL), Ok(expected));
    }
}

#[test]
fn what_was_not_negotiated_is_refused() {
    let without = |bit: u32| Features(!(1 << bit));
    for (header, ethertype, features) in [
        (raw(1, 0, 0, 34, 6), 0x0800, without(VIRTIO_NET_F_CSUM)),
        (raw(1, 1, 1460, 34, 16), 0x0800, without(VIRTIO_NET_F_HOST_TSO4)),
        (raw(1, 4, 1440, 54, 16), 0x86dd, without(VIRTIO_NET_F_HOST_TSO6)),
        (raw(1, 0x81, 1460, 34, 16), 0x0800, without(VIRTIO_NET_F_HOST_ECN)),
        (raw(1, 5, 1200, 34, 6), 0x0800, without(VIRTIO_NET_F_HOST_USO)),
    ] {
        assert_eq!(decode(&header, &head(ethertype), ALL).map(|_| ()), Ok(()));
        assert_eq!(decode(&header, &head(ethertype), features), Err(DropReason::BadOffload));
    }
}

#[test]
fn claims_that_make_no_sense_are_refused() {
    for (header, ethertype) in [
        // The request is for segmentation without a checksum, with size zero, or of an unknown kind.
        (raw(0, 1, 1460, 34, 16), 0x0800),
        (raw(1, 1, 0, 34, 16), 0x0800),
        (raw(1, 3, 1460, 34, 6), 0x0800),
        (raw(1, 0x80, 1460, 34, 16), 0x0800),
        (raw(1, 0x85, 1200, 34, 6), 0x0800),
        // The checksum field is that of another protocol or IP version.
        (raw(1, 1, 1460, 34, 6), 0x0800),
        (raw(1, 5, 1200, 34, 16), 0x0800),
        (raw(1, 1, 1460, 34, 16), 0x86dd),
        (raw(1, 4, 1460, 34, 16), 0x0800),
        // The checksum is outside the head.
        (raw(1, 0, 0, 13, 16), 0x0800),
        (raw(1, 0, 0, 120, 7), 0x0800),
        (raw(1, 0, 0, 0xffff, 0xffff), 0x0800),
    ] {
        assert_eq!(
            decode(&header, &head(ethertype), ALL),
            Err(DropReason::BadOffload),
            "{header:?}"
        );
    }
    assert!(
        decode(&raw(1, 0, 0, 120, 6), &head(0x0800), ALL).is_ok(),
        "the last place that fits"
    );
}

#[test]
fn a_frame_for_the_guest_says_what_is_left_to_it() {
    let caps = ALL.guest_caps();
    assert_eq!(
        encode(Offload::NONE, &[], 3, caps),
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]
    );
    assert_eq!(
        encode(Offload::VALID, &[], 1, caps),
        [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    );
    assert_eq!(
        encode(Offload::VALID, &[], 1, GuestCaps::default())[0],
        0,
        "the driver would not know the flag"
    );
    let mut tcp = head(0x0800);
    tcp[34 + 12] = 8 << 4;
    let offload = partial(34, 16, Segmentation::Tcp4 { mss: 1448, ecn: true });
    let [l, h] = 1448u16.to_le_bytes();
    assert_eq!(
        encode(offload, &tcp, 0x0102, caps),
        [1, 0x81, 34 + 32, 0, l, h, 34, 0, 16, 0, 2, 1],
        "hdr_len with 12 bytes of options"
    );
    let udp = partial(54, 6, Segmentation::Udp { size: 1200 });
    assert_eq!(encode(udp, &head(0x86dd), 1, caps)[1..4], [5, 62, 0]);
}

#[test]
fn what_is_encoded_is_decoded_again() {
    for (offload, ethertype) in [
        (partial(54, 16, Segmentation::Tcp6 { mss: 9, ecn: false }), 0x86dd),
        (partial(34, 6, Segmentation::Udp { size: 1 }), 0x0800),
        (partial(34, 6, Segmentation::None), 0x0800),
        (Offload::NONE, 0x0806),
    ] {
        let header = encode(offload, &head(ethertype), 1, ALL.guest_caps());
        let (short, _) = header.split_first_chunk().unwrap();
        assert_eq!(decode(short, &head(ethertype), ALL), Ok(offload));
    }
}
