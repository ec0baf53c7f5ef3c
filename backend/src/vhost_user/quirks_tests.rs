use super::*;
use std::cell::{Cell, RefCell};

const NEED_REPLY: u32 = 1 << 3;
const REPLY: u32 = 1 << 2;

#[derive(Default)]
struct Recorder {
    announced: RefCell<Vec<MacAddr>>,
    mtu: Cell<Option<u64>>,
    back_channels: Cell<usize>,
}

impl Actions for Recorder {
    fn announce(&self, mac: MacAddr) {
        self.announced.borrow_mut().push(mac);
    }

    fn set_mtu(&self, mtu: u64) -> bool {
        self.mtu.set(Some(mtu));
        mtu >= 1500
    }

    fn set_back_channel(&self, _: OwnedFd) {
        self.back_channels.set(self.back_channels.get() + 1);
    }
}

/// A request as it comes off the socket.
fn request(kind: Request, flags: u32, body: &[u8]) -> Message {
    let mut assembler = crate::vhost_user::message::Assembler::default();
    let size = u32::try_from(body.len()).unwrap();
    let header = [kind.code(), 1 | flags, size].map(u32::to_ne_bytes).concat();
    let mut message = None;
    for part in [&header[..], body] {
        if !part.is_empty() {
            assembler.space().copy_from_slice(part);
            message = assembler.advance(part.len(), Vec::new()).unwrap();
        }
    }
    message.unwrap()
}

fn u64_request(kind: Request, value: u64) -> Message {
    request(kind, 0, &value.to_ne_bytes())
}

fn enable(ring: u32, value: u32, flags: u32) -> Message {
    let body = [ring.to_ne_bytes(), value.to_ne_bytes()].concat();
    request(Request::SetVringEnable, flags, &body)
}

fn with_reply_ack(queue_pairs: u16, rings: usize) -> (Quirks, Recorder) {
    let (mut quirks, recorder) = (Quirks::new(queue_pairs, rings), Recorder::default());
    let set = u64_request(Request::SetProtocolFeatures, PROTOCOL_F_REPLY_ACK);
    let verdict = quirks.on_request(set, &recorder).unwrap();
    assert_eq!(verdict.to_daemon.len(), 1, "the daemon learns of it too");
    (quirks, recorder)
}

fn codes(verdict: &Verdict) -> Vec<u32> {
    verdict.to_daemon.iter().map(|m| m.header().code).collect()
}

fn reply_value(verdict: &Verdict) -> Option<u64> {
    let reply = verdict.to_front.as_ref()?;
    assert_eq!(reply.header().flags, 1 | REPLY, "a reply of version 1");
    Some(reply.body_u64().unwrap())
}

#[test]
fn qemu_enables_rings_before_set_features_and_the_daemon_hears_of_it_after() {
    let (mut quirks, recorder) = with_reply_ack(1, 3);
    for (ring, value) in [(0, 1), (1, 0), (1, 1)] {
        let verdict = quirks.on_request(enable(ring, value, 0), &recorder).unwrap();
        assert!(verdict.to_daemon.is_empty() && verdict.to_front.is_none());
    }
    let features = u64_request(Request::SetFeatures, F_PROTOCOL_FEATURES | 1);
    let verdict = quirks.on_request(features, &recorder).unwrap();
    assert_eq!(codes(&verdict), [2, 18, 18]);
    assert_eq!(verdict.to_daemon[1].bytes(), Message::vring_enable(0, true).bytes());
    assert_eq!(verdict.to_daemon[2].bytes(), Message::vring_enable(1, true).bytes());

    let verdict = quirks.on_request(enable(2, 1, 0), &recorder).unwrap();
    assert_eq!(codes(&verdict), [18], "later ones pass");
    let features = u64_request(Request::SetFeatures, F_PROTOCOL_FEATURES);
    let verdict = quirks.on_request(features, &recorder).unwrap();
    assert_eq!(codes(&verdict), [2], "nothing is told twice");
}

#[test]
fn qemu_waits_for_the_acknowledgement_of_an_early_enable() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    let verdict = quirks.on_request(enable(1, 1, NEED_REPLY), &recorder).unwrap();
    assert_eq!(reply_value(&verdict), Some(0));

    let mut quirks = Quirks::new(1, 2);
    let verdict = quirks.on_request(enable(1, 1, NEED_REPLY), &recorder).unwrap();
    assert_eq!(reply_value(&verdict), None, "REPLY_ACK was not agreed on");
}

#[test]
fn qemu_enables_rings_again_between_reset_device_and_set_features() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    let features = || u64_request(Request::SetFeatures, F_PROTOCOL_FEATURES);
    quirks.on_request(features(), &recorder).unwrap();
    let reset = request(Request::ResetDevice, 0, &[]);
    assert_eq!(codes(&quirks.on_request(reset, &recorder).unwrap()), [34]);
    let verdict = quirks.on_request(enable(0, 1, 0), &recorder).unwrap();
    assert!(verdict.to_daemon.is_empty(), "the daemon would hang up now");
    assert_eq!(codes(&quirks.on_request(features(), &recorder).unwrap()), [2, 18]);
}

#[test]
fn a_front_end_without_protocol_features_has_its_rings_enabled_by_the_daemon() {
    let (mut quirks, recorder) = (Quirks::new(1, 2), Recorder::default());
    quirks.on_request(enable(0, 0, 0), &recorder).unwrap();
    let verdict = quirks
        .on_request(u64_request(Request::SetFeatures, 0), &recorder)
        .unwrap();
    assert_eq!(codes(&verdict), [2]);
    let verdict = quirks.on_request(enable(0, 1, 0), &recorder).unwrap();
    assert!(verdict.to_daemon.is_empty());
}

#[test]
fn a_back_channel_is_kept_here_and_one_without_a_descriptor_is_refused() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    let mut message = request(Request::SetBackendReqFd, NEED_REPLY, &[]);
    message.files.push(std::fs::File::open("/dev/null").unwrap().into());
    for (message, success) in [(message, 0), (request(Request::SetBackendReqFd, NEED_REPLY, &[]), 1)] {
        let verdict = quirks.on_request(message, &recorder).unwrap();
        assert!(verdict.to_daemon.is_empty());
        assert_eq!(reply_value(&verdict), Some(success));
        assert_eq!(recorder.back_channels.get(), 1);
    }
}

#[test]
fn qemu_sends_rarp_five_times_and_each_is_acted_on() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    let body = [&mac[..], &[0, 0]].concat();
    for _ in 0..5 {
        let verdict = quirks
            .on_request(request(Request::SendRarp, 0, &body), &recorder)
            .unwrap();
        assert!(verdict.to_daemon.is_empty() && verdict.to_front.is_none());
    }
    assert_eq!(*recorder.announced.borrow(), [MacAddr(mac); 5]);
}

#[test]
fn qemu_is_told_whether_its_host_mtu_is_taken() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    for (mtu, answer) in [(9000_u64, 0), (600, 1)] {
        let set = request(Request::NetSetMtu, NEED_REPLY, &mtu.to_ne_bytes());
        let verdict = quirks.on_request(set, &recorder).unwrap();
        assert_eq!(reply_value(&verdict), Some(answer));
        assert!(verdict.to_daemon.is_empty());
        assert_eq!(recorder.mtu.get(), Some(mtu));
    }
}

#[test]
fn qemu_reads_the_queue_number_as_pairs() {
    let (mut quirks, recorder) = with_reply_ack(4, 9);
    let verdict = quirks
        .on_request(request(Request::GetQueueNum, 0, &[]), &recorder)
        .unwrap();
    assert_eq!(reply_value(&verdict), Some(4));
}

#[test]
fn cloud_hypervisor_reads_the_queue_number_as_rings() {
    let (mut quirks, recorder) = with_reply_ack(4, 9);
    quirks
        .on_request(request(Request::SetOwner, 0, &[]), &recorder)
        .unwrap();
    let verdict = quirks
        .on_request(request(Request::GetQueueNum, 0, &[]), &recorder)
        .unwrap();
    assert_eq!(reply_value(&verdict), Some(9));
}

#[test]
fn a_ring_that_does_not_exist_is_refused_with_the_option_to_change() {
    let (mut quirks, recorder) = with_reply_ack(1, 3);
    let refused = quirks.on_request(enable(4, 1, 0), &recorder).unwrap_err();
    assert_eq!(refused, Refused::NoSuchRing { ring: 4, rings: 3 });
    assert!(refused.to_string().contains("--queue-pairs"));
    let refused = quirks.on_request(enable(0, 7, 0), &recorder).unwrap_err();
    assert_eq!(refused, Refused::BadEnable(7));
}

#[test]
fn bodies_of_a_wrong_length_and_stray_descriptors_are_refused() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    let kinds = [
        Request::SetFeatures,
        Request::SetProtocolFeatures,
        Request::SetVringEnable,
        Request::SendRarp,
        Request::NetSetMtu,
        Request::GetQueueNum,
    ];
    for kind in kinds {
        let refused = quirks.on_request(request(kind, 0, &[1; 7]), &recorder).unwrap_err();
        assert!(
            matches!(refused, Refused::Malformed(Malformed::BodyLength { got: 7, .. })),
            "{kind:?}"
        );
    }
    let mut rarp = u64_request(Request::SendRarp, 0);
    rarp.files.push(std::fs::File::open("/dev/null").unwrap().into());
    let refused = quirks.on_request(rarp, &recorder).unwrap_err();
    assert_eq!(refused, Refused::Malformed(Malformed::UnexpectedFiles(19)));
}

#[test]
fn memory_beyond_the_end_of_the_address_space_never_reaches_the_daemon() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    let region = |guest: u64, len: u64, front_end: u64| {
        let body = [0, guest, len, front_end, 0].map(u64::to_ne_bytes).concat();
        request(Request::AddMemReg, 0, &body)
    };
    let verdict = quirks.on_request(region(1 << 32, 4096, 4096), &recorder).unwrap();
    assert_eq!(codes(&verdict), [37]);
    for (guest, front_end, at) in [(u64::MAX, 0, u64::MAX), (0, u64::MAX - 1, u64::MAX - 1)] {
        let refused = quirks
            .on_request(region(guest, 4096, front_end), &recorder)
            .unwrap_err();
        assert_eq!(refused, Refused::BadRegion { at, len: 4096 });
    }
}

#[test]
fn memory_beyond_the_end_of_its_file_never_reaches_the_daemon() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    let file = tempfile::tempfile().unwrap();
    file.set_len(8192).unwrap();
    let message = |kind, head: &[u64], regions: &[(u64, u64)]| {
        let regions = regions
            .iter()
            .flat_map(|&(len, offset)| [0x10_0000, len, 0x20_0000, offset]);
        let body: Vec<u8> = head.iter().copied().chain(regions).flat_map(u64::to_ne_bytes).collect();
        let mut message = request(kind, 0, &body);
        let files = (body.len() - 8) / 32;
        message
            .files
            .extend((0..files).map(|_| OwnedFd::from(file.try_clone().unwrap())));
        message
    };
    let table = |regions: &[(u64, u64)]| message(Request::SetMemTable, &[regions.len() as u64], regions);
    let added = |region| message(Request::AddMemReg, &[0], &[region]);
    for good in [
        table(&[(8192, 0)]),
        table(&[(4096, 0), (4096, 4096)]),
        added((4096, 4096)),
    ] {
        assert_eq!(quirks.on_request(good, &recorder).unwrap().to_daemon.len(), 1);
    }
    let bad = [
        (table(&[(8193, 0)]), 8193, 0),
        (table(&[(4096, 0), (8192, 4096)]), 8192, 4096),
        (table(&[(u64::MAX, 4096)]), u64::MAX, 4096),
        (added((8192, 1)), 8192, 1),
    ];
    for (bad, len, offset) in bad {
        let refused = quirks.on_request(bad, &recorder).unwrap_err();
        let file = 8192;
        assert_eq!(refused, Refused::ShortMemory { len, offset, file });
    }
}

#[test]
fn a_dirty_log_longer_than_its_file_never_reaches_the_daemon() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    let file = tempfile::tempfile().unwrap();
    file.set_len(8192).unwrap();
    let log = |size: u64, offset: u64| {
        let body = [size, offset].map(u64::to_ne_bytes).concat();
        let mut log = request(Request::SetLogBase, 0, &body);
        log.files.push(file.try_clone().unwrap().into());
        log
    };
    for (size, offset) in [(8192, 0), (4096, 4096)] {
        let verdict = quirks.on_request(log(size, offset), &recorder).unwrap();
        assert_eq!(codes(&verdict), [6]);
        assert_eq!(verdict.to_daemon[0].files.len(), 1);
    }
    for (size, offset) in [(8193, 0), (8192, 1), (u64::MAX, 4096)] {
        let refused = quirks.on_request(log(size, offset), &recorder).unwrap_err();
        assert_eq!(
            refused,
            Refused::ShortLog {
                size,
                offset,
                file: 8192
            }
        );
    }
}

#[test]
fn every_other_request_passes_untouched() {
    let (mut quirks, recorder) = with_reply_ack(1, 2);
    for code in (0..64).filter(|&c| matches!(Request::from_code(c), Request::Other(_))) {
        let body = [7; 40];
        let sent = request(Request::Other(code), NEED_REPLY, &body);
        let bytes = sent.bytes().to_vec();
        let verdict = quirks.on_request(sent, &recorder).unwrap();
        assert_eq!(verdict.to_daemon.len(), 1);
        assert_eq!(verdict.to_daemon[0].bytes(), bytes);
        assert!(verdict.to_front.is_none());
    }
}
