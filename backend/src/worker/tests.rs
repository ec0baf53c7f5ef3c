use super::*;
use crate::config::{MasqueradeConfig, ModeConfig, NameConfig, PortConfig};
use crate::counters::DropReason;
use crate::frame::{GuestBurst, GuestSink, Layout, NoRoom, Offload};
use crate::port::Port;
use crate::virtio::testing::{Buffer, DriverRing, TestMemory};
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const PLAIN: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF;
const EVENTS: u64 = PLAIN | 1 << VIRTIO_RING_F_EVENT_IDX;
const RING: u16 = 64;
/// How long a test waits for what must happen.
const SOON_MS: i32 = 5000;
/// How long a test waits for what must not happen.
const NEVER_MS: i32 = 50;

/// What the echo mode was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    LinkUp,
    LinkDown,
    Room,
    Timer,
}

/// Sends every frame back, the way bulk data goes.
struct Echo {
    told: Sender<Told>,
    waiting: Vec<Vec<u8>>,
    deadline: Option<Instant>,
}

impl Echo {
    fn flush(&mut self, sink: &mut dyn GuestSink) {
        while let Some(frame) = self.waiting.first() {
            if Self::send(frame, sink).is_err() {
                return;
            }
            self.waiting.remove(0);
        }
    }

    fn send(frame: &[u8], sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        let layout = Layout {
            header: 14,
            payload: frame.len() - 14,
            count: 1,
        };
        sink.reserve(layout)?;
        let mut rest = &frame[14..];
        for slice in sink.payload(0) {
            let n = slice.copy_from(rest);
            rest = &rest[n..];
        }
        let length = frame.len() - 14 - rest.len();
        sink.commit(&[length], &mut |_, _, head| {
            head.copy_from_slice(&frame[..14]);
            Offload::NONE
        });
        Ok(())
    }
}

impl Mode for Echo {
    fn on_burst(&mut self, now: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
        for frame in burst {
            let mut bytes = vec![0; frame.len];
            frame.copy_to(0, &mut bytes);
            if frame.head[0] == 0xdd {
                self.deadline = Some(now + Duration::from_millis(1));
            }
            self.waiting.push(bytes);
        }
        self.flush(sink);
    }

    fn on_event(&mut self, _: Instant, _: Token, _: Readiness, _: &mut dyn GuestSink) {}

    fn on_room(&mut self, _: Instant, sink: &mut dyn GuestSink) {
        self.flush(sink);
        self.told.send(Told::Room).unwrap();
    }

    fn on_timer(&mut self, _: Instant, _: &mut dyn GuestSink) {
        self.deadline = None;
        self.told.send(Told::Timer).unwrap();
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn on_link_up(&mut self, _: Instant, _: &mut dyn GuestSink) {
        self.told.send(Told::LinkUp).unwrap();
    }

    fn on_link_down(&mut self, _: Instant) {
        self.waiting.clear();
        // The test may be over.
        let _ = self.told.send(Told::LinkDown);
    }
}

fn config(pairs: u16) -> PortConfig {
    PortConfig {
        name: "test".into(),
        mac: None,
        mtu: 1500,
        queue_pairs: NonZeroU16::new(pairs).unwrap(),
        mode: ModeConfig::Masquerade(MasqueradeConfig {
            ipv4: None,
            ipv6: None,
            names: NameConfig::default(),
            forwards: Vec::new(),
            map_host_loopback: Vec::new(),
            dns_forward: Vec::new(),
        }),
    }
}

fn eventfd() -> File {
    let fd = EventFd::new(EFD_NONBLOCK).unwrap();
    // A descriptor of our own, independent of the wrapper.
    // SAFETY: the descriptor is open, and dup gives one nobody else owns.
    unsafe {
        File::from(<OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(libc::dup(
            fd.as_raw_fd(),
        )))
    }
}

/// True if `file` becomes readable in time; empties it.
fn rings(mut file: &File, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd is passed, and it lives across the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } == 1;
    ready && file.read(&mut [0; 8]).is_ok()
}

/// One ring as the guest and its VMM hold it.
struct End {
    driver: DriverRing,
    kick: File,
    call: File,
    error: File,
}

impl End {
    fn new(memory: &mut TestMemory) -> Self {
        Self {
            driver: DriverRing::new(memory, RING),
            kick: eventfd(),
            call: eventfd(),
            error: eventfd(),
        }
    }

    fn setup(&self) -> RingSetup {
        let layout = self.driver.layout;
        RingSetup {
            size: layout.size,
            descriptors: layout.descriptors,
            available: layout.available,
            used: layout.used,
            next_avail: layout.next_avail,
            kick: Some(self.kick.try_clone().unwrap()),
            call: Some(self.call.try_clone().unwrap()),
            error: Some(self.error.try_clone().unwrap()),
        }
    }

    fn kick(&self) {
        (&self.kick).write_all(&1u64.to_ne_bytes()).unwrap();
    }
}

struct Guest {
    memory: TestMemory,
    receive: End,
    transmit: End,
    told: Receiver<Told>,
    port: Port,
    /// Addresses of receive buffers by head.
    buffers: Vec<u64>,
}

impl Guest {
    fn new() -> Self {
        let (sender, told) = channel();
        let port = Port::with_modes(config(1), &mut |_| {
            Ok(Box::new(Echo {
                told: sender.clone(),
                waiting: Vec::new(),
                deadline: None,
            }))
        })
        .unwrap();
        let mut memory = TestMemory::new(0x1000_0000);
        Self {
            receive: End::new(&mut memory),
            transmit: End::new(&mut memory),
            memory,
            told,
            port,
            buffers: vec![0; RING.into()],
        }
    }

    fn started(features: u64) -> Self {
        let guest = Self::new();
        let worker = guest.worker();
        worker.set_memory(Arc::clone(&guest.memory.map));
        worker.set_features(features);
        guest.start();
        assert_eq!(guest.hears(), Told::LinkUp);
        guest
    }

    fn start(&self) {
        for (role, end) in [(RingRole::Receive, &self.receive), (RingRole::Transmit, &self.transmit)] {
            self.worker().start_ring(role, end.setup());
            self.worker().set_enabled(role, true);
        }
    }

    fn worker(&self) -> &WorkerHandle {
        &self.port.workers()[0]
    }

    fn hears(&self) -> Told {
        self.told
            .recv_timeout(Duration::from_secs(5))
            .expect("the mode is told")
    }

    fn hears_nothing(&self) -> bool {
        self.told.recv_timeout(Duration::from_millis(50)).is_err()
    }

    fn post_receive(&mut self, count: usize, len: u32) {
        for _ in 0..count {
            let address = self.memory.take(len.into(), 16);
            let buffer = Buffer {
                address,
                len,
                writable: true,
            };
            let head = self.receive.driver.post(&self.memory, &[buffer]);
            self.buffers[usize::from(head)] = address;
        }
    }

    fn post_transmit(&mut self, frame: &[u8]) {
        let bytes = [&[0; 12], frame].concat();
        let len = u32::try_from(bytes.len()).unwrap();
        let address = self.memory.take(len.into(), 16);
        self.memory.write(address, &bytes);
        let buffer = Buffer {
            address,
            len,
            writable: false,
        };
        self.transmit.driver.post(&self.memory, &[buffer]);
    }

    fn send(&mut self, frame: &[u8]) {
        self.post_transmit(frame);
        self.transmit.kick();
    }

    /// Frames that came back so far.
    fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut missing = 0u16;
        for (head, len) in self.receive.driver.take_used(&self.memory) {
            let bytes = self.memory.read(self.buffers[usize::from(head)], len as usize);
            if missing == 0 {
                missing = u16::from_le_bytes([bytes[10], bytes[11]]);
                frames.push(bytes[12..].to_vec());
            } else if let Some(frame) = frames.last_mut() {
                frame.extend(bytes);
            }
            missing -= 1;
        }
        assert_eq!(missing, 0, "a frame is shown whole or not at all");
        frames
    }

    /// Waits for `count` frames.
    fn wait_frames(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let driver = &self.receive.driver;
            driver.set_used_event(&self.memory, driver.used_idx(&self.memory));
            let more = self.frames();
            let idle = more.is_empty();
            frames.extend(more);
            if frames.len() >= count {
                return frames;
            }
            if !idle {
                continue;
            }
            assert!(
                rings(&self.receive.call, SOON_MS),
                "{} of {count} frames came",
                frames.len()
            );
        }
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.port.counters().dropped(reason)
    }
}

fn frame(id: u8, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i * 3 + usize::from(id)).to_le_bytes()[0]).collect();
    frame[0] = id;
    frame[6] = 2;
    frame[12] = 8;
    frame[13] = 0;
    frame
}

#[test]
fn frames_go_in_and_come_back_whole_and_in_order() {
    for features in [PLAIN, EVENTS] {
        let mut guest = Guest::started(features);
        let mut id = 0;
        for round in 0..40 {
            guest.post_receive(20, 1536);
            let sent: Vec<_> = (0..4)
                .map(|i| {
                    id += 1;
                    frame(id % 0x80, 60 + round * 130 % 6000 + i)
                })
                .collect();
            for frame in &sent {
                guest.post_transmit(frame);
            }
            guest.transmit.kick();
            let back = guest.wait_frames(4);
            assert!(back == sent, "round {round}");
            guest.renew_receive_ring();
        }
        assert_eq!(guest.port.counters().count(Count::RxFrames), 160);
        assert_eq!(guest.port.counters().count(Count::TxFrames), 160);
    }
}

impl Guest {
    /// A fresh receive ring, with all its buffers free.
    fn renew_receive_ring(&mut self) {
        self.worker().stop_ring(RingRole::Receive);
        assert_eq!(self.hears(), Told::LinkDown);
        self.receive = End::new(&mut self.memory);
        self.worker().start_ring(RingRole::Receive, self.receive.setup());
        assert_eq!(self.hears(), Told::LinkUp);
    }
}

#[test]
fn a_burst_makes_one_interrupt() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(40, 1536);
    for i in 0..40 {
        guest.post_transmit(&frame(i, 60));
    }
    while rings(&guest.receive.call, 0) {}
    let before = guest.port.counters().count(Count::Calls);
    guest.transmit.kick();
    assert_eq!(guest.wait_frames(40).len(), 40);
    // The transmit ring has its own interrupt.
    assert!(rings(&guest.transmit.call, SOON_MS));
    assert_eq!(guest.port.counters().count(Count::Calls), before + 2);
}

#[test]
fn a_starved_mode_is_called_when_the_guest_posts_and_only_then() {
    for features in [PLAIN, EVENTS] {
        let mut guest = Guest::started(features);
        guest.post_receive(1, 1536);
        guest.receive.kick();
        assert!(guest.hears_nothing(), "nobody waits for room");
        for id in 1..=3 {
            guest.send(&frame(id, 100));
        }
        assert_eq!(guest.wait_frames(1), [frame(1, 100)]);
        assert!(guest.hears_nothing(), "there is no room to tell of");
        guest.post_receive(2, 1536);
        guest.receive.kick();
        assert_eq!(guest.hears(), Told::Room);
        assert_eq!(guest.wait_frames(2), [frame(2, 100), frame(3, 100)]);
    }
}

#[test]
fn kicks_are_asked_for_only_while_they_are_needed() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(1, 1536);
    guest.send(&frame(1, 60));
    guest.wait_frames(1);
    assert_eq!(
        guest.receive.driver.used_flags(&guest.memory),
        1,
        "nobody waits for room"
    );
    guest.send(&frame(2, 60));
    // Kicks come on when the second frame found no room; the worker then sleeps.
    while guest.receive.driver.used_flags(&guest.memory) == 1 {
        std::thread::yield_now();
    }
    guest.post_receive(1, 1536);
    guest.receive.kick();
    assert_eq!(guest.hears(), Told::Room);
    guest.wait_frames(1);
    assert_eq!(guest.receive.driver.used_flags(&guest.memory), 1);
}

#[test]
fn buffers_posted_before_the_start_are_served_without_a_kick() {
    let mut guest = Guest::new();
    guest.post_receive(4, 1536);
    guest.post_transmit(&frame(9, 60));
    guest.worker().set_memory(Arc::clone(&guest.memory.map));
    guest.worker().set_features(PLAIN);
    guest.start();
    assert_eq!(guest.wait_frames(1), [frame(9, 60)]);
}

#[test]
fn the_order_of_set_up_does_not_matter() {
    let mut guest = Guest::new();
    guest.post_receive(4, 1536);
    guest.post_transmit(&frame(9, 60));
    let worker = guest.worker();
    for (role, end) in [
        (RingRole::Receive, &guest.receive),
        (RingRole::Transmit, &guest.transmit),
    ] {
        worker.set_enabled(role, true);
        worker.start_ring(role, end.setup());
    }
    worker.set_features(PLAIN);
    worker.set_memory(Arc::clone(&guest.memory.map));
    assert_eq!(guest.wait_frames(1), [frame(9, 60)]);
}

#[test]
fn a_disabled_ring_takes_and_gives_nothing() {
    let mut guest = Guest::started(PLAIN);
    guest.worker().set_enabled(RingRole::Transmit, false);
    assert_eq!(guest.hears(), Told::LinkDown);
    guest.post_receive(4, 1536);
    guest.send(&frame(1, 60));
    assert!(!rings(&guest.receive.call, NEVER_MS) || guest.frames().is_empty());
    assert_eq!(guest.transmit.driver.used_idx(&guest.memory), 0);
    guest.worker().set_enabled(RingRole::Transmit, true);
    assert_eq!(guest.hears(), Told::LinkUp);
    assert_eq!(guest.wait_frames(1), [frame(1, 60)]);
}

#[test]
fn a_stopped_ring_says_where_to_go_on_and_another_start_goes_on_there() {
    let mut guest = Guest::started(EVENTS);
    guest.post_receive(10, 1536);
    for id in 0..3 {
        guest.send(&frame(id, 60));
    }
    guest.wait_frames(3);
    assert_eq!(guest.worker().stop_ring(RingRole::Receive), Some(3));
    assert_eq!(guest.worker().stop_ring(RingRole::Transmit), Some(3));
    assert_eq!(
        guest.worker().stop_ring(RingRole::Transmit),
        None,
        "it is not there any more"
    );
    assert_eq!(guest.hears(), Told::LinkDown);
    for end in [&mut guest.receive, &mut guest.transmit] {
        end.driver.layout.next_avail = 3;
    }
    guest.start();
    assert_eq!(guest.hears(), Told::LinkUp);
    guest.send(&frame(4, 60));
    assert_eq!(guest.wait_frames(1), [frame(4, 60)]);
}

#[test]
fn new_memory_is_used_and_the_old_one_let_go() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.send(&frame(1, 60));
    guest.wait_frames(1);
    let old = std::mem::replace(
        &mut guest.memory.map,
        Arc::new(GuestMap::new(Arc::clone(&guest.memory.memory), None)),
    );
    guest.worker().set_memory(Arc::clone(&guest.memory.map));
    assert_eq!(Arc::strong_count(&old), 1, "only the test still has it");
    guest.send(&frame(2, 60));
    assert_eq!(guest.wait_frames(1), [frame(2, 60)]);
    assert!(
        guest.hears_nothing(),
        "the guest's driver noticed nothing, nor does the mode"
    );
}

#[test]
fn memory_taken_away_stops_the_rings_and_nothing_else() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest
        .worker()
        .set_memory(TestMemory::with_regions(&[(0x1_0000_0000, 0x1000)]).map);
    assert_eq!(guest.hears(), Told::LinkDown);
    assert!(rings(&guest.transmit.error, SOON_MS) && rings(&guest.receive.error, SOON_MS));
    guest.send(&frame(1, 60));
    assert_eq!(guest.dropped(DropReason::BrokenRing), 2);
    guest.worker().clear_memory();
    let mut again = Guest {
        receive: End::new(&mut guest.memory),
        transmit: End::new(&mut guest.memory),
        ..guest
    };
    again.worker().set_memory(Arc::clone(&again.memory.map));
    again.worker().set_features(PLAIN);
    again.start();
    assert_eq!(again.hears(), Told::LinkUp);
    again.post_receive(4, 1536);
    again.send(&frame(2, 60));
    assert_eq!(again.wait_frames(1), [frame(2, 60)]);
}

#[test]
fn a_front_end_that_is_gone_leaves_the_port_to_the_next() {
    let guest = Guest::started(PLAIN);
    guest.worker().clear_memory();
    assert_eq!(guest.hears(), Told::LinkDown);
    assert_eq!(Arc::strong_count(&guest.memory.map), 1);
    assert_eq!(guest.worker().stop_ring(RingRole::Receive), None);
}

#[test]
fn a_malformed_transmit_ring_stops_alone_and_is_reported() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.send(&frame(1, 60));
    guest.wait_frames(1);
    guest.transmit.driver.set_avail_idx(&guest.memory, 0x8000);
    guest.transmit.kick();
    assert!(rings(&guest.transmit.error, SOON_MS));
    assert_eq!(guest.hears(), Told::LinkDown);
    assert_eq!(guest.dropped(DropReason::BrokenRing), 1);
    guest.transmit.kick();
    assert!(
        !rings(&guest.transmit.error, NEVER_MS),
        "a stopped ring is not looked at"
    );
    assert_eq!(guest.worker().stop_ring(RingRole::Transmit), Some(1));
    assert_eq!(guest.worker().stop_ring(RingRole::Receive), Some(1));
}

#[test]
fn a_malformed_receive_ring_stops_alone_and_is_reported() {
    let mut guest = Guest::started(PLAIN);
    guest.receive.driver.post_head(&guest.memory, RING);
    guest.send(&frame(1, 60));
    assert!(rings(&guest.receive.error, SOON_MS));
    assert_eq!(guest.hears(), Told::LinkDown);
    assert_eq!(guest.dropped(DropReason::BrokenRing), 1);
}

#[test]
fn rings_that_lie_outside_memory_or_have_no_size_are_reported() {
    for (size, descriptors) in [(0, 0x1000), (3, 0x1000), (RING, 0x1000_0000), (RING, !15)] {
        let guest = Guest::started(PLAIN);
        let setup = RingSetup {
            size,
            descriptors,
            ..guest.transmit.setup()
        };
        guest.worker().start_ring(RingRole::Transmit, setup);
        assert!(rings(&guest.transmit.error, SOON_MS));
        assert_eq!(guest.hears(), Told::LinkDown);
    }
}

#[test]
fn a_ring_may_come_back_in_another_size() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    for size in [8, 1024, 2] {
        guest.worker().stop_ring(RingRole::Transmit);
        assert_eq!(guest.hears(), Told::LinkDown);
        guest.transmit.driver = DriverRing::new(&mut guest.memory, size);
        guest.worker().start_ring(RingRole::Transmit, guest.transmit.setup());
        assert_eq!(guest.hears(), Told::LinkUp);
        guest.send(&frame(3, 60));
        assert_eq!(guest.wait_frames(1), [frame(3, 60)]);
    }
}

#[test]
fn kicks_without_buffers_do_nothing() {
    let guest = Guest::started(EVENTS);
    for _ in 0..1000 {
        guest.transmit.kick();
        guest.receive.kick();
    }
    assert!(!rings(&guest.transmit.error, NEVER_MS));
    assert_eq!(guest.dropped(DropReason::BrokenRing), 0);
    assert!(guest.hears_nothing());
}

#[test]
fn a_timer_of_the_mode_fires_while_the_guest_is_idle() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.send(&frame(0xdd, 60));
    assert_eq!(guest.hears(), Told::Timer);
}

#[test]
fn a_ring_nobody_kicks_is_looked_at_anyway() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.worker().stop_ring(RingRole::Transmit);
    let setup = RingSetup {
        kick: None,
        ..guest.transmit.setup()
    };
    guest.worker().start_ring(RingRole::Transmit, setup);
    guest.post_transmit(&frame(5, 60));
    assert_eq!(guest.wait_frames(1), [frame(5, 60)]);
}

#[test]
fn a_new_call_descriptor_rings_once_for_what_the_old_one_may_have_told() {
    let guest = Guest::started(PLAIN);
    let call = eventfd();
    guest
        .worker()
        .set_call(RingRole::Receive, Some(call.try_clone().unwrap()));
    assert!(rings(&call, SOON_MS));
}

#[test]
fn the_report_names_what_happened() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.send(&frame(1, 60));
    guest.wait_frames(1);
    let mut spoofed = frame(2, 60);
    spoofed[6] = 3;
    guest.send(&spoofed);
    while guest.dropped(DropReason::SpoofedMac) == 0 {
        std::thread::yield_now();
    }
    let report = guest.port.report();
    for line in [
        "port test:",
        "  tx_frames 1",
        "  rx_bytes 60",
        "  dropped spoofed_mac 1",
    ] {
        assert!(report.lines().any(|l| l == line), "{line:?} is in {report}");
    }
}
