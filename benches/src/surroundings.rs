//! Conditions of a measurement with a guest. They are equal for every back end.
//!
//! A guest with one processor is pinned to one. User-Mode Linux runs its kernel and its programs as two processes that
//! alternate. Without pinning, they move between processors, and each switch then wakes a sleeping processor. System
//! calls without ptrace (`seccomp=on`) cost the guest about as much as in a virtual machine. All sockets of the
//! namespaces use the same congestion control. Behind a TAP device the guest's congestion control is in use, and behind
//! user-space NAT the host's, so a comparison needs both to be equal.

use clap::Args;
use hawser_testkit::Result;
use hawser_testkit::guest::Plan;
use hawser_testkit::netns::Namespace;
use serde_json::{Value, json};
use std::thread;

/// Settings of all guests and all servers of a measurement.
#[derive(Args, Clone, Debug)]
pub struct Surroundings {
    /// Parameter for the guests' kernel; seccomp=on makes system calls in User-Mode Linux faster
    #[arg(long, value_name = "PARAMETER", default_values_t = ["seccomp=on".to_owned()])]
    guest_kernel: Vec<String>,
    /// Whether each guest is pinned to one processor
    #[arg(long, value_name = "WHERE", default_value = "held")]
    guest_processor: Placement,
    /// Congestion control of the sockets outside the guest; host: the system's default
    #[arg(long, value_name = "NAME", default_value = "reno")]
    congestion_control: String,
}

/// Where a guest runs.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    /// The guest is pinned to one processor.
    Held,
    /// The scheduler places the guest.
    Free,
}

impl Surroundings {
    /// Prepares guest number `number`.
    pub fn apply_to_guest(&self, plan: &mut Plan, number: usize) {
        plan.kernel_arguments.extend_from_slice(&self.guest_kernel);
        let processors = thread::available_parallelism().map_or(1, usize::from);
        plan.processor = (self.guest_processor == Placement::Held).then_some(number % processors);
    }

    /// Prepares a namespace, before sockets are created in it.
    ///
    /// # Errors
    /// The kernel does not offer the congestion control to namespaces.
    pub fn apply_to_namespace(&self, namespace: &Namespace) -> Result<()> {
        if self.congestion_control == "host" {
            return Ok(());
        }
        namespace.sysctl("net/ipv4/tcp_congestion_control", &self.congestion_control)
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "guest_kernel": self.guest_kernel,
            "guest_held_to_one_processor": self.guest_processor == Placement::Held,
            "congestion_control": self.congestion_control,
        })
    }
}
