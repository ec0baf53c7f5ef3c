//! Runs the engine without a VM, compared with a floor.
//!
//! A synthetic guest ([`guest`]) drives hawser's rings with TCP frames of 64 KB: one flow to or from an ordinary socket
//! on the loopback. The [`floor`] makes only the unavoidable calls on a socket of the same kind: one sendmsg, or one
//! peek and one discard, per unit of the same size. The difference between the two is virtio, TCP and everything else.

pub mod crowd;
pub mod floor;
pub mod guest;
pub mod peer;
pub mod placement;
mod segment;

use hawser_testkit::{Result, failure};
use placement::Reserved;
use rustix::thread::Pid;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Payload of a unit in bytes: 44 segments of 1460 bytes, the size of Linux's TSO frames.
pub const UNIT: usize = 44 * 1460;
/// Size of the pieces of a unit in bytes: a page.
pub const PIECE: usize = 4096;
/// Number of units in use at a time, so that both sides have the same cache footprint.
pub const UNITS: usize = 32;
/// Loopback address of the socket at the far end.
pub const FAR: &str = "192.0.2.1";

/// Longest time for any event.
const PATIENCE: Duration = Duration::from_secs(2);

/// Direction of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The guest sends.
    Out,
    /// The guest receives.
    In,
}

/// Parameters of a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Direction of the flow.
    pub way: Way,
    /// Duration of the run.
    pub time: Duration,
    /// Processor of the measured thread. `None` leaves the choice to the scheduler. That is for measurements of rates:
    /// with two processors, the other processor would be the limit.
    pub reserved: Option<Reserved>,
}

impl Run {
    /// A run in which the scheduler places all threads.
    pub const fn anywhere(way: Way, time: Duration) -> Self {
        Self {
            way,
            time,
            reserved: None,
        }
    }
}

/// Result of a run.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Payload in bytes.
    pub bytes: u64,
    /// Duration of the run.
    pub time: Duration,
    /// Processor time of the measured thread.
    pub cpu: Duration,
}

impl Outcome {
    /// Throughput in Gbit/s.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.time.as_secs_f64()
    }

    /// Cost in processor seconds per 10⁹ bytes.
    pub fn cost(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.bytes as f64
    }
}

/// Processor time so far of the thread with this name in this process.
pub fn thread_time(name: &str) -> Result<Duration> {
    thread_time_in("self", name)
}

/// Processor time so far of such a thread in another process, given by its id.
pub fn thread_time_in(process: &str, name: &str) -> Result<Duration> {
    let (_, path) = thread_in(process, name)?;
    let times = fs::read_to_string(path.join("schedstat"))?;
    let nanos = times.split(' ').next().and_then(|word| word.parse().ok());
    nanos
        .map(Duration::from_nanos)
        .ok_or_else(|| failure("no processor time in /proc"))
}

/// A thread of a process (an id, or self), found by its name, and its directory in /proc.
fn thread_in(process: &str, name: &str) -> Result<(Pid, PathBuf)> {
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        let path = task.path();
        if fs::read_to_string(path.join("comm"))?.trim_end() == name {
            let number = task.file_name().to_string_lossy().parse()?;
            let thread = Pid::from_raw(number).ok_or_else(|| failure("a thread without a number"))?;
            return Ok((thread, path));
        }
    }
    Err(failure(format!("there is no thread '{name}'")))
}
