//! The overlay without a VM: frames of 64 KiB cross from one process's mode to another's through the kernel's loopback,
//! on one thread. The floor makes only the system calls on the same number of bytes.
//!
//! Both use more memory than the caches hold, as the frames of a guest do. One thread has no wake-ups and no second
//! processor, so its time is the cost of both ends together.

pub mod compare;
mod exchange;
mod floor;
mod overlay;

pub use exchange::{Between, Exchange};
pub use floor::{Floor, WholeFloor};
pub use overlay::Pair;

use hawser_backend::sys::thread_time::thread_time;
use hawser_testkit::Result;
use std::time::{Duration, Instant};

/// Size of the memory from which one guest sends and into which another receives, in bytes.
const REGION: usize = 16 << 20;
/// Length of the payload of one frame in bytes.
const PAYLOAD: usize = 60_000;
/// Number of frames sent before those that have arrived are read.
const BURST: usize = 8;

/// Result of a run.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// Processor time of both ends.
    pub cpu: Duration,
}

impl Outcome {
    /// Cost in processor seconds per GB.
    pub fn cost(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes_as_f64() / 1e9)
    }

    /// Rate in Gbit/s that one processor moves.
    pub fn rate(&self) -> f64 {
        self.bytes_as_f64() * 8.0 / 1e9 / self.cpu.as_secs_f64()
    }

    fn bytes_as_f64(&self) -> f64 {
        // Runs are far below 2^52 bytes.
        f64::from(u32::try_from(self.bytes / 1000).unwrap_or(u32::MAX)) * 1000.0
    }
}

/// A measured object, which sends a burst and receives it.
pub trait Burst {
    /// Moves one burst. Returns the payload bytes that arrived.
    ///
    /// # Errors
    /// The system refuses an operation.
    fn burst(&mut self) -> Result<u64>;
}

/// Moves bursts for a while.
///
/// # Errors
/// As [`Burst::burst`].
pub fn run(what: &mut dyn Burst, time: Duration) -> Result<Outcome> {
    let (start, cpu) = (Instant::now(), thread_time());
    let mut bytes = 0;
    while start.elapsed() < time {
        bytes += what.burst()?;
    }
    Ok(Outcome {
        bytes,
        cpu: thread_time().saturating_sub(cpu),
    })
}
