//! The foundation of the whole-program tests: guests, network namespaces, peers, and a front end in this process.
//!
//! A test begins with a [`lab::Lab`]. The lab has a share of the machine, or the machine to itself if the test measures
//! something, and a pod-like network namespace connected to a world. [`hawser::Hawser`] runs in the pod, a real
//! [`guest::Guest`] is connected to its socket, and [`peers`] run in the world. All of this ends with the test, however
//! the test ends. If something is missing (root, a package), a test fails with a message. Only the tests of the SR-IOV
//! lab are reported as ignored, if [`guest::Machine::lacks_sriov`] returns a reason why the lab cannot exist.

pub mod agent;
pub mod artifacts;
pub mod certificates;
pub mod cluster;
pub mod etcd;
pub mod frontend;
pub mod guest;
pub mod hawser;
pub mod imports;
pub mod interop;
pub mod lab;
pub mod losses;
pub mod migrating;
pub mod netns;
pub mod nodes;
pub mod ovs;
pub mod peers;
pub mod pings;
pub mod process;
pub mod relay;
pub mod segment;
pub mod sniffer;
pub mod systemd;
pub mod takeover;

use std::thread;
use std::time::{Duration, Instant};

/// Longest time that [`until`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// An error to be shown in the test's output.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
/// Result of the functions here, and of tests.
pub type Result<T> = std::result::Result<T, Failure>;

/// A failure with a message.
pub fn failure(message: impl Into<String>) -> Failure {
    message.into().into()
}

/// Waits until a condition is true. `what` describes the condition.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > deadline {
            return Err(failure(format!("it does not happen that {what}")));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
