//! A guest and its front end for one worker, and a mode that echoes every frame.

use super::super::*;
use crate::config::PortConfig;
use crate::counters::DropReason;
use crate::frame::{GuestBurst, GuestSink, Layout, NoRoom, Offload};
use crate::mode::Departure;
use crate::port::Port;
use crate::port::testing::config as port;
use crate::virtio::testing::{Buffer, DriverRing, TestMemory};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(super) const PLAIN: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF;
pub(super) const EVENTS: u64 = PLAIN | 1 << VIRTIO_RING_F_EVENT_IDX;
pub(super) const RING: u16 = 64;
/// Longest wait for an expected event.
pub(super) const SOON_MS: i32 = 5000;
/// Time during which an unexpected event must not happen.
pub(super) const NEVER_MS: i32 = 50;

/// Calls that the echo mode has received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ModeCall {
    LinkUp,
    LinkDown,
    Reset,
    FrontEndGone,
    Room,
    Timer,
}

/// Echoes every frame through the bulk interface.
pub(super) struct Echo {
    told: Sender<ModeCall>,
    waiting: Vec<Vec<u8>>,
    deadline: Option<Instant>,
    hold: Hold,
}

/// Holds the worker in a turn. The mode sends when the turn has begun, and continues when it receives.
pub(super) type Hold = Arc<Mutex<Option<(Sender<()>, Receiver<()>)>>>;

impl Echo {
    pub(super) fn flush(&mut self, sink: &mut dyn GuestSink) {
        while let Some(frame) = self.waiting.first() {
            if Self::send(frame, sink).is_err() {
                return;
            }
            self.waiting.remove(0);
        }
    }

    pub(super) fn send(frame: &[u8], sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
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
            if let Some((busy, resume)) = self.hold.lock().unwrap().take() {
                busy.send(()).unwrap();
                resume.recv_timeout(Duration::from_secs(5)).unwrap();
            }
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
        self.told.send(ModeCall::Room).unwrap();
    }

    fn on_timer(&mut self, _: Instant, _: &mut dyn GuestSink) {
        self.deadline = None;
        self.told.send(ModeCall::Timer).unwrap();
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn on_link_up(&mut self, _: Instant, _: &mut dyn GuestSink) {
        self.told.send(ModeCall::LinkUp).unwrap();
    }

    fn on_reset(&mut self) {
        self.told.send(ModeCall::Reset).unwrap();
    }

    fn on_front_end_gone(&mut self, _: Instant, _: Departure) {
        // The test may already be over.
        let _ = self.told.send(ModeCall::FrontEndGone);
    }

    fn on_link_down(&mut self, _: Instant) {
        self.waiting.clear();
        // The test may already be over.
        let _ = self.told.send(ModeCall::LinkDown);
    }
}

pub(super) fn eventfd() -> File {
    let fd = EventFd::new(EFD_NONBLOCK).unwrap();
    // A duplicate of the descriptor is independent of the wrapper. SAFETY: the descriptor is open, and dup returns one
    // without another owner.
    unsafe {
        File::from(<OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(libc::dup(
            fd.as_raw_fd(),
        )))
    }
}

/// True if `file` becomes readable in time. Empties the file.
pub(super) fn rings(mut file: &File, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd is passed, and it lives across the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } == 1;
    ready && file.read(&mut [0; 8]).is_ok()
}

/// A ring as the guest and its VMM see it.
pub(super) struct End {
    pub driver: DriverRing,
    pub kick: File,
    pub call: File,
    pub error: File,
}

impl End {
    pub(super) fn new(memory: &mut TestMemory) -> Self {
        Self {
            driver: DriverRing::new(memory, RING),
            kick: eventfd(),
            call: eventfd(),
            error: eventfd(),
        }
    }

    pub(super) fn setup(&self) -> RingSetup {
        let layout = self.driver.layout;
        RingSetup {
            size: layout.size,
            descriptors: layout.descriptors,
            available: layout.available,
            used: layout.used,
            next_avail: layout.next_avail,
            kick: self.kick.try_clone().unwrap(),
            call: Some(self.call.try_clone().unwrap()),
            error: Some(self.error.try_clone().unwrap()),
        }
    }

    pub(super) fn kick(&self) {
        (&self.kick).write_all(&1u64.to_ne_bytes()).unwrap();
    }
}

pub(super) struct Guest {
    pub memory: TestMemory,
    pub receive: End,
    pub transmit: End,
    pub told: Receiver<ModeCall>,
    pub port: Port,
    /// Addresses of receive buffers, by the head of their chain.
    pub buffers: Vec<u64>,
    pub hold: Hold,
}

impl Guest {
    pub(super) fn new() -> Self {
        Self::of(port(1))
    }

    /// A guest of a port with this configuration.
    pub(super) fn of(config: PortConfig) -> Self {
        let (sender, told) = channel();
        let hold = Hold::default();
        let port = Port::with_modes(config, &mut |_| {
            Ok(Box::new(Echo {
                told: sender.clone(),
                waiting: Vec::new(),
                deadline: None,
                hold: Arc::clone(&hold),
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
            hold,
        }
    }

    pub(super) fn started(features: u64) -> Self {
        Self::new().up(features)
    }

    /// A guest with running rings. Its worker stays awake for `limit` during a rapid exchange.
    pub(super) fn awake_for(limit: Duration, features: u64) -> Self {
        let mut config = port(1);
        config.pace.busy_poll = limit;
        let guest = Self::of(config).up(features);
        guest.settle();
        guest
    }

    /// Starts the rings of the guest.
    pub(super) fn up(self, features: u64) -> Self {
        let guest = self;
        let worker = guest.worker();
        worker.set_memory(Arc::clone(&guest.memory.map));
        worker.set_features(features);
        guest.start();
        assert_eq!(guest.hears(), ModeCall::LinkUp);
        guest
    }

    pub(super) fn start(&self) {
        for (role, end) in [(RingRole::Receive, &self.receive), (RingRole::Transmit, &self.transmit)] {
            self.worker().start_ring(role, end.setup());
            self.worker().set_enabled(role, true);
        }
    }

    pub(super) fn worker(&self) -> &WorkerHandle {
        &self.port.workers()[0]
    }

    pub(super) fn hears(&self) -> ModeCall {
        self.told
            .recv_timeout(Duration::from_secs(5))
            .expect("the mode is informed")
    }

    pub(super) fn hears_nothing(&self) -> bool {
        self.told.recv_timeout(Duration::from_millis(50)).is_err()
    }

    pub(super) fn post_receive(&mut self, count: usize, len: u32) {
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

    pub(super) fn post_transmit(&mut self, frame: &[u8]) {
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

    pub(super) fn send(&mut self, frame: &[u8]) {
        self.post_transmit(frame);
        self.transmit.kick();
    }

    /// Sends a frame that holds the worker in its turn. The receiver reports when that turn has begun. The sender lets
    /// the worker continue.
    pub(super) fn hold_the_worker(&mut self) -> (Receiver<()>, Sender<()>) {
        let ((busy, is_busy), (let_go, resume)) = (channel(), channel());
        *self.hold.lock().unwrap() = Some((busy, resume));
        self.send(&frame(1, 60));
        (is_busy, let_go)
    }

    /// Returns when the worker's turn has ended: commands are handled between turns.
    pub(super) fn settle(&self) {
        assert_eq!(self.worker().stop_ring(RingRole::Control), None);
    }

    /// Takes the frames echoed so far.
    pub(super) fn frames(&mut self) -> Vec<Vec<u8>> {
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
        assert_eq!(missing, 0, "a frame is published whole or not at all");
        frames
    }

    /// Waits for `count` frames and returns them.
    pub(super) fn wait_frames(&mut self, count: usize) -> Vec<Vec<u8>> {
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

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.port.counters().dropped(reason)
    }
}

pub(super) fn frame(id: u8, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i * 3 + usize::from(id)).to_le_bytes()[0]).collect();
    frame[0] = id;
    frame[6] = 2;
    frame[12] = 8;
    frame[13] = 0;
    frame
}

impl Guest {
    /// Creates a new receive ring with all of its buffers free.
    pub(super) fn renew_receive_ring(&mut self) {
        self.worker().stop_ring(RingRole::Receive);
        assert_eq!(self.hears(), ModeCall::LinkDown);
        self.receive = End::new(&mut self.memory);
        self.worker().start_ring(RingRole::Receive, self.receive.setup());
        assert_eq!(self.hears(), ModeCall::LinkUp);
    }
}
