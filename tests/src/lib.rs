//! The foundation of the whole-program tests: guests, network namespaces, peers and a front end in
//! process.
//!
//! A test begins with a [`lab::Lab`]: it has a share of the machine, or the machine to itself
//! if it measures, and a pod-like network namespace joined to a world. In the pod runs [`hawser::Hawser`], on its socket a real
//! [`guest::Guest`], in the world [`peers`]. All of it ends with the test, whatever
//! happens to it. Where something is missing (root, a package), a test fails and says so:
//! none is skipped.

pub mod artifacts;
pub mod frontend;
pub mod guest;
pub mod hawser;
pub mod imports;
pub mod lab;
pub mod losses;
pub mod netns;
pub mod nodes;
pub mod ovs;
pub mod peers;
pub mod process;
pub mod segment;
pub mod sniffer;
pub mod systemd;

use std::thread;
use std::time::{Duration, Instant};

/// Longest [`until`] waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// An error, for the reader of the test's output.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
/// Result of the functions here, and of tests.
pub type Result<T> = std::result::Result<T, Failure>;

/// A failure with a message.
pub fn failure(message: impl Into<String>) -> Failure {
    message.into().into()
}

/// Waits until something holds; `what` describes it.
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
