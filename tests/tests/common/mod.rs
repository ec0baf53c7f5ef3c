//! A hawser back end in process, with a mode that gives every frame back.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "test code, though in no function marked as a test")]

use hawser_backend::config::{MasqueradeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::frame::{GuestBurst, GuestSink, NoRoom};
use hawser_backend::mode::Mode;
use hawser_backend::packet::MacAddr;
use hawser_backend::poller::{Readiness, Token};
use hawser_backend::port::Port;
use hawser_backend::time::Instant;
use hawser_backend::vhost_user::{Endpoint, Lifetime, ServeError, Server, StopHandle};
use hawser_testkit::frontend::{Vmm, VmmConfig};
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Long enough for anything that happens at all.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough to believe that nothing happens.
pub const SILENCE: Duration = Duration::from_millis(100);

pub const GUEST_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x11, 0x22, 0x33]);

/// Gives every frame back as it came, in order; keeps what finds no room.
#[derive(Default)]
struct Echo {
    waiting: VecDeque<Vec<u8>>,
}

impl Echo {
    fn flush(&mut self, sink: &mut dyn GuestSink) {
        while let Some(frame) = self.waiting.front() {
            match sink.send(hawser_backend::frame::Offload::NONE, &[frame]) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(NoRoom) => break,
            }
        }
    }
}

impl Mode for Echo {
    fn on_burst(&mut self, _: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
        for frame in burst {
            let mut bytes = vec![0; frame.len];
            assert_eq!(frame.copy_to(0, &mut bytes), frame.len);
            self.waiting.push_back(bytes);
        }
        self.flush(sink);
        // A hostile guest that never posts buffers must not make the echo grow.
        self.waiting.truncate(4096);
    }

    fn on_event(&mut self, _: Instant, _: Token, _: Readiness, _: &mut dyn GuestSink) {}

    fn on_room(&mut self, _: Instant, sink: &mut dyn GuestSink) {
        self.flush(sink);
    }

    fn on_timer(&mut self, _: Instant, _: &mut dyn GuestSink) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn on_link_up(&mut self, _: Instant, _: &mut dyn GuestSink) {
        // A guest before this one may have sent without ever having a receive ring.
        self.waiting.clear();
    }

    fn on_link_down(&mut self, _: Instant) {
        self.waiting.clear();
    }
}

/// A served port.
pub struct Backend {
    pub port: Arc<Port>,
    pub path: PathBuf,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    _dir: tempfile::TempDir,
}

impl Backend {
    pub fn start(queue_pairs: u16) -> Self {
        Self::start_for(queue_pairs, Lifetime::Persistent)
    }

    pub fn start_for(queue_pairs: u16, lifetime: Lifetime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nic.sock");
        let port = Arc::new(Port::with_modes(config(queue_pairs), &mut |_| Ok(Box::new(Echo::default()))).unwrap());
        let server = Server::bind(Endpoint::Listen(path.clone()), Arc::clone(&port), lifetime).unwrap();
        let stop = server.stop_handle();
        Self {
            port,
            path,
            stop,
            thread: Some(std::thread::spawn(move || server.run())),
            _dir: dir,
        }
    }

    pub fn stream(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    pub fn connect(&self, config: VmmConfig) -> Vmm {
        let mut vmm = Vmm::connect(self.stream(), config).unwrap();
        vmm.post_all().unwrap();
        vmm
    }

    /// Waits for the server to end by itself.
    pub fn wait(mut self) -> Result<(), ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

fn config(queue_pairs: u16) -> PortConfig {
    PortConfig {
        name: "echo".into(),
        mac: Some(GUEST_MAC),
        mtu: 1500,
        queue_pairs: NonZeroU16::new(queue_pairs).unwrap(),
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        mode: ModeConfig::Masquerade(MasqueradeConfig::default()),
    }
}

/// A frame of the guest of `len` bytes whose content `seed` decides.
pub fn frame(seed: u32, len: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(len);
    frame.extend_from_slice(&[0x02, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&GUEST_MAC.0);
    frame.extend_from_slice(&[0x88, 0xb5]);
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    while frame.len() < len {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        frame.push(state.to_le_bytes()[0]);
    }
    frame
}

/// Sends frames and demands each back, whole and in order.
pub fn assert_echo(vmm: &mut Vmm, pair: usize, lengths: &[usize]) {
    let nic = &mut vmm.nics[pair];
    for (seed, &len) in (1..).zip(lengths) {
        let sent = frame(seed, len);
        nic.send(&sent).unwrap();
        let got = nic.recv(PATIENCE).unwrap();
        let got = got.unwrap_or_else(|| panic!("frame {seed} of {len} bytes did not come back"));
        assert!(got.frame == sent, "frame {seed} of {len} bytes came back changed");
    }
}

/// Resident memory of this process in bytes.
pub fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
