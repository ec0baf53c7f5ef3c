//! The bare loop, which makes one write or read per frame and nothing else.

use super::sender::{Sender, deaf};
use super::{Load, Outcome, TAP, set_up};
use crate::engine::thread_time;
use hawser_backend::frame::{GuestCaps, GuestSlice, GuestSliceMut};
use hawser_backend::sys::tap::TapQueue;
use hawser_testkit::netns::Namespace;
use hawser_testkit::{Result, failure};
use std::hint::spin_loop;
use std::thread;
use std::time::{Duration, Instant};

const THREAD: &str = "floor";
/// Number of different frames, as in the guest's buffers.
const FRAMES: usize = 256;
/// Number of iterations between two readings of the clock.
const STRIDE: usize = 64;

/// Moves frames for `time`.
///
/// # Errors
/// The device fails.
pub fn run(load: Load, time: Duration) -> Result<Outcome> {
    let namespace = Namespace::new()?;
    let queue = namespace.inside(|| TapQueue::open(TAP, 1))??.pop();
    let queue = queue.ok_or_else(|| failure("no queue"))?;
    let host_mac = set_up(&namespace)?;
    // The kernel does all offload work itself, so a frame is one packet.
    queue.set_offloads(GuestCaps::default())?;
    let _deaf = namespace.inside(deaf)??;
    let sender = (!load.is_out()).then(|| namespace.inside(|| Sender::start(load == Load::InBatches)));
    let _sender = sender.transpose()?.transpose()?;
    let moving = thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || -> Result<Outcome> {
            let frames: Vec<_> = (0..FRAMES).map(|n| load.frames().frame(n, host_mac)).collect();
            let mut room = vec![0_u8; 65_600];
            let (start, cpu) = (Instant::now(), thread_time(THREAD)?);
            let mut packets = 0;
            while start.elapsed() < time {
                for frame in frames.iter().take(STRIDE) {
                    let moved = if load.is_out() {
                        queue.write(&[GuestSlice::from_bytes(frame)])
                    } else {
                        queue.read(&mut [GuestSliceMut::from_bytes(&mut room)])
                    };
                    match moved {
                        Ok(_) => packets += 1,
                        Err(_) => spin_loop(),
                    }
                }
            }
            Ok(Outcome {
                packets,
                time: start.elapsed(),
                cpu: thread_time(THREAD)?.saturating_sub(cpu),
            })
        })?;
    moving.join().map_err(|_| failure("the floor panicked"))?
}
