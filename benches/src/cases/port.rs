//! Times bursts through a whole port and back, with the worker on its own thread.
//!
//! In addition to the parts in [`super`], tools that count instructions see the worker's part,
//! `Worker::drain_transmit`: frames are taken, admitted and passed to the mode, which echoes each to the guest. Capture
//! is compiled in but off, as in normal operation.

use super::{MAC, Round, count};
use crate::served::Served;
use hawser_backend::config::{MasqueradeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::frame::{GuestBurst, GuestSink, Offload};
use hawser_backend::mode::Mode;
use hawser_backend::poller::{Readiness, Token};
use hawser_backend::port::Port;
use hawser_backend::time::Instant;
use hawser_testkit::frontend::Header;
use hawser_testkit::{Result, failure};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// A frame that fits completely into the head that is copied out of guest memory.
const LEN: usize = 60;
const PATIENCE: Duration = Duration::from_secs(20);

/// A mode that echoes every frame.
struct Echo;

impl Mode for Echo {
    fn on_burst(&mut self, _: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
        for frame in burst {
            // Without room the case fails, because it counts the echoed frames.
            let _ = sink.send(Offload::NONE, &[frame.head]);
        }
    }

    fn on_event(&mut self, _: Instant, _: Token, _: Readiness, _: &mut dyn GuestSink) {}

    fn on_room(&mut self, _: Instant, _: &mut dyn GuestSink) {}

    fn on_timer(&mut self, _: Instant, _: &mut dyn GuestSink) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn on_link_up(&mut self, _: Instant, _: &mut dyn GuestSink) {}

    fn on_link_down(&mut self, _: Instant) {}
}

/// A port that echoes, and its guest.
fn start() -> Result<Served> {
    let config = PortConfig {
        name: "case".into(),
        mac: Some(MAC),
        mtu: 1500,
        queue_pairs: NonZeroU16::MIN,
        // With polling, the worker would check the ring as often as time permits.
        pace: PaceConfig::PLAIN,
        policy: PolicyConfig::default(),
        mode: ModeConfig::Masquerade(MasqueradeConfig::default()),
    };
    let port = Arc::new(Port::with_modes(config, &mut |_| Ok(Box::new(Echo)))?);
    Served::start(port)
}

/// Sends `burst` frames with one kick, and waits until all have come back.
fn echo(served: &mut Served, frame: &[u8], burst: usize) -> Result<()> {
    let nic = &mut served.vmm.nics[0];
    for _ in 0..burst {
        if !nic.queue(Header::default(), frame) {
            return Err(failure("no room in the ring"));
        }
    }
    nic.transmit.publish_and_kick()?;
    for _ in 0..burst {
        nic.recv(PATIENCE)?
            .ok_or_else(|| failure("a frame did not come back"))?;
    }
    Ok(())
}

/// Bursts of this many frames.
///
/// # Errors
/// The port cannot be served.
pub(super) fn burst(frames: usize) -> Result<Round> {
    let mut served = start()?;
    let mut frame = super::ethernet([0x88, 0xb5]);
    frame.resize(LEN, 0x5a);
    Ok(Box::new(move || {
        let start = std::time::Instant::now();
        echo(&mut served, &frame, frames).expect("frames come back");
        (start.elapsed(), count(frames))
    }))
}
