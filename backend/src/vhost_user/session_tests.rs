use super::*;
use crate::mode::Departure;
use crate::vhost_user::testing::{Event, Events, Recorder, session};

const NEED_REPLY: u32 = 1 << 3;
const REPLY: u32 = 1 << 2;

/// A request as read from the socket.
fn request(code: impl Into<u32>, flags: u32, body: &[u8]) -> Message {
    let mut assembler = crate::vhost_user::message::Assembler::default();
    let size = u32::try_from(body.len()).unwrap();
    let header = [code.into(), 1 | flags, size].map(u32::to_ne_bytes).concat();
    let mut message = None;
    for part in [&header[..], body] {
        if !part.is_empty() {
            assembler.space().copy_from_slice(part);
            message = assembler.advance(part.len(), Vec::new()).unwrap();
        }
    }
    message.unwrap()
}

fn u64_request(kind: Req, value: u64) -> Message {
    request(kind, 0, &value.to_ne_bytes())
}

fn with_file(mut message: Message, file: &File) -> Message {
    message.files.push(file.try_clone().unwrap().into());
    message
}

fn enable(ring: u32, value: u32, flags: u32) -> Message {
    let body = [ring.to_ne_bytes(), value.to_ne_bytes()].concat();
    request(Req::SET_VRING_ENABLE, flags, &body)
}

/// A session that has negotiated every protocol feature.
fn agreed(queue_pairs: usize, rings: usize) -> (Session<Recorder>, Events) {
    let (mut session, log) = session(queue_pairs, rings);
    let all = Protocol::all().bits();
    assert!(
        answer(&mut session, u64_request(Req::SET_PROTOCOL_FEATURES, all)).is_none(),
        "no acknowledgement was asked for"
    );
    (session, log)
}

fn answer(session: &mut Session<Recorder>, request: Message) -> Option<Message> {
    session.on_request(request).unwrap()
}

fn value(session: &mut Session<Recorder>, request: Message) -> Option<u64> {
    let reply = answer(session, request)?;
    assert_eq!(reply.header().flags, 1 | REPLY, "a reply of version 1");
    Some(reply.body_u64().unwrap())
}

fn refused(session: &mut Session<Recorder>, request: Message) -> Refused {
    session.on_request(request).unwrap_err().why
}

fn a_file(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

#[test]
fn qemu_enables_rings_before_set_features() {
    let (mut session, log) = agreed(1, 3);
    for (ring, on) in [(0, 1), (1, 0), (1, 1)] {
        assert!(answer(&mut session, enable(ring, on, 0)).is_none());
    }
    let features = F_PROTOCOL_FEATURES | 1;
    assert!(answer(&mut session, u64_request(Req::SET_FEATURES, features)).is_none());
    let want = [
        Event::Enabled(0, true),
        Event::Enabled(1, false),
        Event::Enabled(1, true),
        Event::Features(features),
    ];
    assert_eq!(log.take(), want, "ring 2 stays as it is");
    answer(&mut session, enable(2, 1, 0));
    assert_eq!(log.take(), [Event::Enabled(2, true)]);
}

#[test]
fn qemu_waits_for_the_acknowledgement_of_an_early_enable() {
    let (mut early, _) = agreed(1, 2);
    assert_eq!(value(&mut early, enable(1, 1, NEED_REPLY)), Some(0));

    let (mut session, _) = session(1, 2);
    let unheard = value(&mut session, enable(1, 1, NEED_REPLY));
    assert_eq!(unheard, None, "REPLY_ACK was not negotiated");
}

#[test]
fn qemu_enables_rings_again_between_reset_device_and_set_features() {
    let (mut session, log) = agreed(1, 2);
    let features = || u64_request(Req::SET_FEATURES, F_PROTOCOL_FEATURES);
    answer(&mut session, features());
    log.take();
    answer(&mut session, request(Req::RESET_DEVICE, 0, &[]));
    let reset = [Event::Enabled(0, false), Event::Enabled(1, false), Event::Reset];
    assert_eq!(log.take(), reset);
    answer(&mut session, enable(0, 1, 0));
    answer(&mut session, features());
    let again = [Event::Enabled(0, true), Event::Features(F_PROTOCOL_FEATURES)];
    assert_eq!(log.take(), again);
}

#[test]
fn a_front_end_without_protocol_features_has_its_rings_always_enabled() {
    let (mut session, log) = session(1, 2);
    answer(&mut session, enable(0, 0, 0));
    answer(&mut session, u64_request(Req::SET_FEATURES, 0));
    let all = [
        Event::Enabled(0, false),
        Event::Enabled(0, true),
        Event::Enabled(1, true),
        Event::Features(0),
    ];
    assert_eq!(log.take(), all);
    assert!(answer(&mut session, enable(0, 0, 0)).is_none());
    assert_eq!(log.take(), [], "it has no say in that");
}

#[test]
fn a_back_channel_is_kept_and_one_without_a_descriptor_is_refused() {
    let (mut session, log) = agreed(1, 2);
    let set = || request(Req::SET_BACKEND_REQ_FD, NEED_REPLY, &[]);
    let channel = File::open("/dev/null").unwrap();
    assert_eq!(value(&mut session, with_file(set(), &channel)), Some(0));
    assert_eq!(log.take(), [Event::BackChannel]);
    assert_eq!(value(&mut session, set()), Some(1));
    assert_eq!(log.take(), []);
}

#[test]
fn qemu_sends_rarp_five_times_and_each_is_acted_on() {
    let (mut session, log) = agreed(1, 2);
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    let body = [&mac[..], &[0, 0]].concat();
    for _ in 0..5 {
        assert!(answer(&mut session, request(Req::SEND_RARP, 0, &body)).is_none());
    }
    assert_eq!(log.take(), vec![Event::Announced(MacAddr(mac)); 5]);
}

#[test]
fn qemu_learns_whether_its_host_mtu_is_taken() {
    let (mut session, log) = agreed(1, 2);
    for (mtu, failed) in [(9000_u64, 0), (600, 1)] {
        let set = request(Req::NET_SET_MTU, NEED_REPLY, &mtu.to_ne_bytes());
        assert_eq!(value(&mut session, set), Some(failed));
        assert_eq!(log.take(), [Event::Mtu(mtu)]);
    }
}

#[test]
fn qemu_reads_the_queue_number_as_pairs() {
    let (mut session, _) = agreed(4, 9);
    assert_eq!(value(&mut session, request(Req::GET_QUEUE_NUM, 0, &[])), Some(4));
}

#[test]
fn cloud_hypervisor_reads_the_queue_number_as_rings() {
    let (mut session, _) = agreed(4, 9);
    answer(&mut session, request(Req::SET_OWNER, 0, &[]));
    assert_eq!(value(&mut session, request(Req::GET_QUEUE_NUM, 0, &[])), Some(9));
}

#[test]
fn a_ring_that_does_not_exist_is_refused_with_the_option_to_change() {
    let (mut session, _) = agreed(1, 3);
    let why = refused(&mut session, enable(4, 1, 0));
    assert_eq!(why, Refused::NoSuchRing { ring: 4, rings: 3 });
    assert!(why.to_string().contains("--queue-pairs"));
    assert_eq!(refused(&mut session, enable(0, 7, 0)), Refused::BadEnable(7));
}

#[test]
fn bodies_of_a_wrong_length_and_stray_descriptors_are_refused() {
    let (mut session, _) = agreed(1, 2);
    let without_body = [
        Req::GET_FEATURES,
        Req::GET_PROTOCOL_FEATURES,
        Req::SET_OWNER,
        Req::RESET_OWNER,
        Req::RESET_DEVICE,
        Req::GET_QUEUE_NUM,
        Req::GET_MAX_MEM_SLOTS,
    ];
    let with_body = [
        Req::SET_FEATURES,
        Req::SET_PROTOCOL_FEATURES,
        Req::SET_MEM_TABLE,
        Req::SET_LOG_BASE,
        Req::SET_VRING_NUM,
        Req::SET_VRING_ADDR,
        Req::SET_VRING_BASE,
        Req::GET_VRING_BASE,
        Req::SET_VRING_KICK,
        Req::SET_VRING_CALL,
        Req::SET_VRING_ERR,
        Req::SET_VRING_ENABLE,
        Req::SEND_RARP,
        Req::NET_SET_MTU,
        Req::GET_CONFIG,
        Req::SET_CONFIG,
        Req::ADD_MEM_REG,
        Req::REM_MEM_REG,
    ];
    for kind in without_body.into_iter().chain(with_body) {
        let why = refused(&mut session, request(kind, 0, &[1; 7]));
        assert!(
            matches!(why, Refused::Malformed(Malformed::BodyLength { got: 7, .. })),
            "{kind:?}: {why:?}"
        );
    }
    let null = File::open("/dev/null").unwrap();
    let rarp = with_file(u64_request(Req::SEND_RARP, 0), &null);
    let why = refused(&mut session, rarp);
    assert_eq!(why, Refused::Malformed(Malformed::UnexpectedFiles(19)));
}

fn region_body(guest: u64, len: u64, front_end: u64, offset: u64) -> Vec<u8> {
    [0, guest, len, front_end, offset].map(u64::to_ne_bytes).concat()
}

#[test]
fn memory_beyond_the_end_of_the_address_space_is_refused() {
    let (mut session, log) = agreed(1, 2);
    let file = a_file(4096);
    let region = |guest: u64, front_end: u64| {
        let body = region_body(guest, 4096, front_end, 0);
        with_file(request(Req::ADD_MEM_REG, 0, &body), &file)
    };
    answer(&mut session, region(1 << 32, 4096));
    assert_eq!(log.take(), [Event::Memory(1)]);
    for (guest, front_end, at) in [(u64::MAX, 0, u64::MAX), (0, u64::MAX - 1, u64::MAX - 1)] {
        let why = refused(&mut session, region(guest, front_end));
        assert_eq!(why, Refused::BadRegion { at, len: 4096 });
    }
    assert_eq!(log.take(), [], "nothing of it reached the device");
}

#[test]
fn memory_beyond_the_end_of_its_file_is_refused() {
    let (mut session, log) = agreed(1, 2);
    let file = a_file(8192);
    let table = |regions: &[(u64, u64)]| {
        let mut body = (regions.len() as u64).to_ne_bytes().to_vec();
        let mut guest = 0x10_0000;
        for &(len, offset) in regions {
            body.extend_from_slice(&region_body(guest, len, 0x20_0000, offset)[8..]);
            guest += 0x10_0000;
        }
        let mut message = request(Req::SET_MEM_TABLE, 0, &body);
        for _ in regions {
            message = with_file(message, &file);
        }
        message
    };
    let added = |(len, offset)| {
        let body = region_body(0x40_0000, len, 0x20_0000, offset);
        with_file(request(Req::ADD_MEM_REG, 0, &body), &file)
    };
    for (good, regions) in [
        (table(&[(8192, 0)]), 1),
        (table(&[(4096, 0), (4096, 4096)]), 2),
        (added((4096, 4096)), 3),
    ] {
        answer(&mut session, good);
        assert_eq!(log.take(), [Event::Memory(regions)]);
    }
    let bad = [
        (table(&[(8193, 0)]), 8193, 0),
        (table(&[(4096, 0), (8192, 4096)]), 8192, 4096),
        (table(&[(u64::MAX, 4096)]), u64::MAX, 4096),
        (added((8192, 1)), 8192, 1),
    ];
    for (bad, len, offset) in bad {
        let file = 8192;
        assert_eq!(refused(&mut session, bad), Refused::ShortMemory { len, offset, file });
    }
    let zeros = File::options().read(true).write(true).open("/dev/zero").unwrap();
    let body = region_body(0x40_0000, 4096, 0x20_0000, 1 << 50);
    let bad = with_file(request(Req::ADD_MEM_REG, 0, &body), &zeros);
    let (len, offset, file) = (4096, 1 << 50, 0);
    assert_eq!(refused(&mut session, bad), Refused::ShortMemory { len, offset, file });
    assert_eq!(log.take(), [], "nothing of it reached the device");
}

#[test]
fn qemu_would_end_the_vm_so_a_dirty_log_longer_than_its_file_is_accepted() {
    let (mut session, _) = agreed(1, 2);
    let file = a_file(8192);
    let log = |size: u64, offset: u64| {
        let body = [size, offset].map(u64::to_ne_bytes).concat();
        with_file(request(Req::SET_LOG_BASE, 0, &body), &file)
    };
    for (size, offset) in [(8192, 0), (4096, 4096), (8193, 0), (8192, 1), (u64::MAX, 4096)] {
        let reply = answer(&mut session, log(size, offset)).unwrap();
        assert_eq!(reply.body(), [size, offset].map(u64::to_ne_bytes).concat());
    }
    // Rings outside of the memory are accepted too, once the log is on.
    let addresses = [0_u64, 0x1000, 0x2000, 0x3000, 0].map(u64::to_ne_bytes).concat();
    let set = || request(Req::SET_VRING_ADDR, NEED_REPLY, &addresses);
    assert_eq!(refused(&mut session, set()), Refused::Unmapped(0x1000));
    let on = F_PROTOCOL_FEATURES | F_LOG_ALL;
    answer(&mut session, u64_request(Req::SET_FEATURES, on));
    assert_eq!(value(&mut session, set()), Some(0));
}

#[test]
fn requests_that_were_not_offered_or_not_agreed_on_are_refused() {
    let (mut session, _) = session(1, 2);
    let why = refused(&mut session, request(Req::GET_INFLIGHT_FD, NEED_REPLY, &[]));
    assert_eq!(why, Refused::Unknown(31));
    assert_eq!(refused(&mut session, request(99_u32, 0, &[])), Refused::Unknown(99));
    let why = refused(&mut session, request(Req::RESET_DEVICE, 0, &[]));
    let feature = Protocol::RESET_DEVICE;
    assert_eq!(why, Refused::NotAgreed { code: 34, feature });
    let why = refused(&mut session, u64_request(Req::SET_FEATURES, 1 << 63));
    assert_eq!(why, Refused::Features(1 << 63));
    answer(&mut session, request(Req::SET_OWNER, 0, &[]));
    assert_eq!(refused(&mut session, request(Req::SET_OWNER, 0, &[])), Refused::Owned);
}

#[test]
fn a_request_that_is_refused_is_answered_where_the_front_end_waits_for_it() {
    let (mut session, _) = agreed(1, 2);
    for (flags, answered) in [(0, false), (NEED_REPLY, true)] {
        let rejected = session.on_request(enable(9, 1, flags)).unwrap_err();
        let value = rejected.answer.map(|reply| reply.body_u64().unwrap());
        assert_eq!(value, answered.then_some(1));
    }
}

#[test]
fn the_configuration_is_read_at_an_offset_and_what_is_not_there_is_empty() {
    let (mut session, _) = agreed(1, 2);
    let get = |offset: u32, size: u32, room: usize| {
        let mut body = [offset, size, 0].map(u32::to_ne_bytes).concat();
        body.resize(12 + room, 0);
        request(Req::GET_CONFIG, 0, &body)
    };
    let reply = answer(&mut session, get(2, 3, 3)).unwrap();
    assert_eq!(reply.body()[12..], *b"nfi");
    let reply = answer(&mut session, get(2, 30, 30)).unwrap();
    assert_eq!(reply.body(), [2, 0, 0].map(u32::to_ne_bytes).concat());
    let why = refused(&mut session, get(2, 3, 4));
    assert_eq!(why, Refused::Malformed(Malformed::Body(24)));
}

#[test]
fn a_front_end_that_goes_leaves_its_rings_reset() {
    let (session, log) = agreed(1, 2);
    drop(session);
    let want = [
        Event::Detached(Departure::Disconnected),
        Event::Enabled(0, false),
        Event::Enabled(1, false),
        Event::Features(0),
    ];
    assert_eq!(log.take(), want);
}

#[test]
fn a_guest_that_stopped_while_it_was_logged_has_migrated() {
    let (mut session, log) = agreed(1, 2);
    let features = F_PROTOCOL_FEATURES | F_LOG_ALL;
    answer(&mut session, u64_request(Req::SET_FEATURES, features));
    log.take();
    drop(session);
    assert_eq!(log.take()[0], Event::Detached(Departure::Migrated));
}
