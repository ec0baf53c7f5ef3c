//! A custom mode that sends every frame from the guest back to it.
//!
//!     cargo run -p hawser-backend --example echo -- /tmp/nic.sock
//!
//! Point a VMM at the socket (QEMU: `-chardev socket,id=c,path=/tmp/nic.sock -netdev vhost-user,id=n,chardev=c -device
//! virtio-net-pci,netdev=n`, with shared memory). A mode is called by one worker from one thread, so it needs no lock;
//! see [`Mode`] for the order of the calls. This mode registers no descriptors or timers, so most of its methods are
//! empty.

use hawser_backend::config::{MasqueradeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::frame::{GuestBurst, GuestSink, NoRoom, Offload};
use hawser_backend::mode::Mode;
use hawser_backend::poller::{Readiness, Token};
use hawser_backend::port::Port;
use hawser_backend::time::Instant;
use hawser_backend::vhost_user::{Endpoint, Lifetime, Server};
use std::collections::VecDeque;
use std::error::Error;
use std::num::NonZeroU16;
use std::sync::Arc;

/// Maximum frames kept for a guest that posts no receive buffers.
const WAITING_MAX: usize = 4096;

/// A mode that returns every frame unchanged and in order.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    /// Copies of frames for which the guest had no receive buffer.
    waiting: VecDeque<Vec<u8>>,
}

impl Echo {
    fn flush(&mut self, sink: &mut dyn GuestSink) {
        while let Some(frame) = self.waiting.front() {
            match sink.send(Offload::NONE, &[frame]) {
                Ok(()) => drop(self.waiting.pop_front()),
                // The worker calls on_room once there are buffers again.
                Err(NoRoom) => break,
            }
        }
    }
}

impl Mode for Echo {
    fn on_burst(&mut self, _: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
        for frame in burst {
            let mut bytes = vec![0; frame.len];
            frame.copy_to(0, &mut bytes);
            self.waiting.push_back(bytes);
        }
        self.flush(sink);
        // A guest that only sends must not make this queue grow without limit.
        self.waiting.truncate(WAITING_MAX);
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
        // The previous driver may have sent frames without ever setting up a receive ring.
        self.waiting.clear();
    }

    fn on_link_down(&mut self, _: Instant) {
        self.waiting.clear();
    }
}

/// Makes a port whose workers echo frames.
pub(crate) fn port(queue_pairs: NonZeroU16) -> Result<Port, Box<dyn Error>> {
    let config = PortConfig {
        name: "echo".into(),
        mac: None,
        mtu: 1500,
        queue_pairs,
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        // This configuration is not used, because the closure below creates the modes.
        mode: ModeConfig::Masquerade(MasqueradeConfig::default()),
    };
    Ok(Port::with_modes(config, &mut |_| Ok(Box::new(Echo::default())))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: echo SOCKET")?;
    let port = Arc::new(port(NonZeroU16::MIN)?);
    Server::bind(Endpoint::Listen(path.into()), port, Lifetime::Persistent)?.run()?;
    Ok(())
}
