//! A hawser back end in this process, with the mode of `backend/examples/echo.rs`.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "test code, though in no function marked as a test")]

#[path = "../../../backend/examples/echo.rs"]
mod echo;

use echo::Echo;
use hawser_backend::config::{MasqueradeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::packet::MacAddr;
use hawser_backend::port::Port;
use hawser_backend::vhost_user::{Endpoint, HandedOver, Lifetime, ServeError, Server, StagedServer, StopHandle};
use hawser_testkit::frontend::{Vmm, VmmConfig};
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A time that is long enough for every expected event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// A time that is long enough to conclude that nothing happens.
pub(crate) const SILENCE: Duration = Duration::from_millis(100);

pub(crate) const GUEST_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x11, 0x22, 0x33]);

/// A port that is served.
pub(crate) struct Backend {
    pub port: Arc<Port>,
    pub path: PathBuf,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    dir: tempfile::TempDir,
}

impl Backend {
    pub(crate) fn start(queue_pairs: u16) -> Self {
        Self::start_for(queue_pairs, Lifetime::Persistent)
    }

    pub(crate) fn start_for(queue_pairs: u16, lifetime: Lifetime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nic.sock");
        let port = port(queue_pairs);
        let server = Server::bind(Endpoint::Listen(path.clone()), Arc::clone(&port), lifetime).unwrap();
        Self::serve(server, port, dir, path)
    }

    /// Another port that continues with the server of this one, as in another process.
    pub(crate) fn handed_over(self) -> Self {
        let queue_pairs = self.port.config().queue_pairs.get();
        self.handed_to(port(queue_pairs))
    }

    /// The same port with the server that was handed over, as after an upgrade that failed.
    pub(crate) fn handed_back(self) -> Self {
        let port = Arc::clone(&self.port);
        self.handed_to(port)
    }

    fn handed_to(mut self, port: Arc<Port>) -> Self {
        let handed = self.stop.hand_over().unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
        let record = serde_json::to_string(&handed.record).unwrap();
        let handed = HandedOver {
            record: serde_json::from_str(&record).unwrap(),
            descriptors: handed.descriptors,
        };
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        let server = StagedServer::take_over(handed, Arc::clone(&port), Lifetime::Persistent).unwrap();
        Self::serve(server.own(), port, dir, self.path.clone())
    }

    /// Handle that stops the server.
    pub(crate) fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    fn serve(server: Server, port: Arc<Port>, dir: tempfile::TempDir, path: PathBuf) -> Self {
        let stop = server.stop_handle();
        Self {
            port,
            path,
            stop,
            thread: Some(std::thread::spawn(move || server.run())),
            dir,
        }
    }

    pub(crate) fn stream(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    pub(crate) fn connect(&self, config: VmmConfig) -> Vmm {
        let mut vmm = Vmm::connect(self.stream(), config).unwrap();
        vmm.post_all().unwrap();
        vmm
    }

    /// Waits for the server to end by itself.
    pub(crate) fn wait(mut self) -> Result<(), ServeError> {
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

fn port(queue_pairs: u16) -> Arc<Port> {
    let make = Port::with_modes(config(queue_pairs), &mut |_| Ok(Box::new(Echo::default())));
    Arc::new(make.unwrap())
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

/// A frame of the guest of `len` bytes, with content from `seed`.
pub(crate) fn frame(seed: u32, len: usize) -> Vec<u8> {
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

/// Sends frames and expects each back, complete and in order.
pub(crate) fn assert_echo(vmm: &mut Vmm, pair: usize, lengths: &[usize]) {
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
pub(crate) fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
