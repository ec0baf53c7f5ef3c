//! What surrounds a measurement with a guest: the same for every back end.
//!
//! A guest of one processor is held to one. User-Mode Linux runs its kernel and its programs
//! as two processes that take turns; left alone they wander between the processors, and each
//! turn then wakes a processor that sleeps. System calls without ptrace (`seccomp=on`) cost
//! the guest about what they cost a virtual machine. And all sockets of the namespaces send by
//! one congestion control: behind a TAP device the guest's own speaks with the peer, behind
//! NAT in user space the host's does, and they are to be compared at the same.

use clap::Args;
use hawser_testkit::Result;
use hawser_testkit::guest::Plan;
use hawser_testkit::netns::Namespace;
use serde_json::{Value, json};
use std::thread;

/// What all guests and all servers of a measurement have in common.
#[derive(Args, Clone, Debug)]
pub struct Surroundings {
    /// Parameter for the guests' kernel; seccomp=on makes system calls in User-Mode Linux
    /// quicker
    #[arg(long, value_name = "PARAMETER", default_values_t = ["seccomp=on".to_owned()])]
    guest_kernel: Vec<String>,
    /// Whether each guest is held to one processor
    #[arg(long, value_name = "WHERE", default_value = "held")]
    guest_processor: Placement,
    /// Congestion control of the sockets outside of the guest; host: whatever it has
    #[arg(long, value_name = "NAME", default_value = "reno")]
    congestion_control: String,
}

/// Where a guest runs.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    /// On one processor.
    Held,
    /// Wherever the scheduler puts it.
    Free,
}

impl Surroundings {
    /// Prepares guest number `number`.
    pub fn apply_to_guest(&self, plan: &mut Plan, number: usize) {
        plan.kernel_arguments.extend_from_slice(&self.guest_kernel);
        let processors = thread::available_parallelism().map_or(1, usize::from);
        plan.processor = (self.guest_processor == Placement::Held).then_some(number % processors);
    }

    /// Prepares a namespace, before sockets are made in it.
    ///
    /// # Errors
    /// The kernel does not have the congestion control for namespaces.
    pub fn apply_to_namespace(&self, namespace: &Namespace) -> Result<()> {
        if self.congestion_control == "host" {
            return Ok(());
        }
        namespace.sysctl("net/ipv4/tcp_congestion_control", &self.congestion_control)
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        json!({
            "guest_kernel": self.guest_kernel,
            "guest_held_to_one_processor": self.guest_processor == Placement::Held,
            "congestion_control": self.congestion_control,
        })
    }
}
