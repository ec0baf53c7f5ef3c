use super::*;

fn frame(port: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    bytes.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 5, 192, 0, 2, 1]);
    bytes.extend([4, 0, 0, port, 0, 12, 0, 0, 1, 2, 3, 4]);
    bytes
}

fn rules(filter: &str, snap_length: usize) -> CaptureRules {
    CaptureRules {
        snap_length,
        filter: filter.parse().unwrap(),
    }
}

fn all(stream: &CaptureStream) -> Vec<Packet> {
    std::iter::from_fn(|| stream.ready()).collect()
}

#[test]
fn nothing_is_kept_while_no_capture_runs() {
    let capture = Arc::new(Capture::default());
    let mut tap = CaptureTap::new(Arc::clone(&capture));
    assert!(!tap.look());
    let stream = capture.start(rules("", SNAP_LENGTH_MAX)).unwrap();
    assert_eq!(capture.start(rules("", 1)).unwrap_err(), Busy);
    assert!(tap.look());
    tap.refused(&frame(53), DropReason::SpoofedMac);
    tap.parts_to_guest(&[&frame(53)[..20], &frame(53)[20..]], None);
    let seen = all(&stream);
    assert_eq!(
        seen.iter().map(|p| p.dropped).collect::<Vec<_>>(),
        [Some(DropReason::SpoofedMac), None]
    );
    assert!(seen.iter().all(|p| p.bytes == frame(53) && p.len == frame(53).len()));
    assert_eq!(
        [seen[0].direction, seen[1].direction],
        [Direction::FromGuest, Direction::ToGuest]
    );
    drop(stream);
    assert!(!tap.look());
    drop(capture.start(rules("", 1)).unwrap());
}

#[test]
fn an_answer_comes_after_its_question() {
    let capture = Arc::new(Capture::default());
    let (mut worker, mut ring) = (
        CaptureTap::new(Arc::clone(&capture)),
        CaptureTap::new(Arc::clone(&capture)),
    );
    let stream = capture.start(rules("", SNAP_LENGTH_MAX)).unwrap();
    worker.look();
    ring.look();
    ring.hold();
    ring.parts_to_guest(&[&frame(1)], None);
    ring.parts_to_guest(&[&frame(2)], None);
    worker.refused(&frame(3), DropReason::SpoofedMac);
    ring.release();
    ring.parts_to_guest(&[&frame(4)], None);
    let seen = all(&stream);
    assert_eq!(
        seen.iter().map(|packet| packet.bytes.clone()).collect::<Vec<_>>(),
        [3, 1, 2, 4].map(frame)
    );
    assert!(seen.is_sorted_by_key(|packet| packet.at));
}

#[test]
fn packets_are_cut_and_say_how_long_they_were() {
    let capture = Arc::new(Capture::default());
    let mut tap = CaptureTap::new(Arc::clone(&capture));
    let stream = capture.start(rules("", 20)).unwrap();
    tap.look();
    let (head, rest) = (&frame(53)[..16], &frame(53)[16..]);
    tap.to_guest(head, &[GuestSlice::from_bytes(rest)], rest.len(), None);
    let seen = all(&stream);
    assert_eq!((&seen[0].bytes[..], seen[0].len), (&frame(53)[..20], frame(53).len()));
}

#[test]
fn a_slow_reader_loses_packets_and_learns_how_many() {
    let capture = Arc::new(Capture::default());
    let mut tap = CaptureTap::new(Arc::clone(&capture));
    let stream = capture.start(rules("", 64)).unwrap();
    tap.look();
    for _ in 0..CHANNEL + 7 {
        tap.refused(&frame(53), DropReason::SpoofedMac);
    }
    let seen = all(&stream);
    assert_eq!((seen.len(), seen.iter().map(|p| p.lost).sum::<u64>()), (CHANNEL, 0));
    tap.refused(&frame(53), DropReason::SpoofedMac);
    assert_eq!(all(&stream)[0].lost, 7);
}

#[test]
fn a_filter_shows_what_all_its_words_name() {
    let takes = |filter: &str| {
        let filter: CaptureFilter = filter.parse().unwrap();
        let bytes = frame(53);
        let head = || Head::parse(&bytes, bytes.len());
        filter.takes(Direction::FromGuest, &bytes, head, Some(DropReason::SpoofedMac))
    };
    let named = [
        "",
        "out",
        "dropped",
        "ip",
        "udp",
        "host=192.0.2.1",
        "port=53",
        "port=1024",
        "mac=02:00:00:00:00:09",
    ];
    for filter in named {
        assert!(takes(filter), "{filter}");
    }
    for filter in [
        "in",
        "arp",
        "ip6",
        "tcp",
        "icmp",
        "host=192.0.2.2",
        "port=54",
        "mac=02:00:00:00:00:08",
    ] {
        assert!(!takes(filter), "{filter}");
    }
    assert!(takes("udp,port=53,out") && !takes("udp,port=53,in"));
    for bad in ["upd", "host=x", "port=70000", "mac=1", "a=b"] {
        assert!(bad.parse::<CaptureFilter>().unwrap_err().to_string().contains(bad));
    }
}

#[test]
fn blocks_stand_as_pcapng_has_them() {
    let packet = Packet {
        at: std::time::UNIX_EPOCH + Duration::from_nanos((7 << 32) + 5),
        direction: Direction::FromGuest,
        bytes: vec![0xaa; 5],
        len: 60,
        dropped: Some(DropReason::SpoofedMac),
        lost: 3,
    };
    let mut out = Vec::new();
    let mut writer = PcapngWriter::new(&mut out, "vm", 64).unwrap();
    writer.packet(&packet).unwrap();
    let word = |at: usize| u32::from_ne_bytes(*out[at..].first_chunk().unwrap());
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < out.len() {
        let len = word(at + 4) as usize;
        assert_eq!(word(at + len - 4) as usize, len, "the length stands at both ends");
        blocks.push((word(at), at));
        at += len;
    }
    assert_eq!(blocks.iter().map(|b| b.0).collect::<Vec<_>>(), [0x0a0d_0d0a, 1, 6]);
    let packet = blocks[2].1;
    assert_eq!([12, 16, 20, 24].map(|field| word(packet + field)), [7, 5, 5, 60]);
    assert!(out.windows(20).any(|w| w == b"dropped: spoofed_mac"));
}
