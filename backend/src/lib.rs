//! The packet side of hawser.
//!
//! A module imports only from lower layers. docs/architecture.md contains the table, and a test compares it with the
//! sources.
//!
//! `frame` defines the types that the worker and the modes share, and `sys` is the only place for unusual system calls.
//! `packet`, `responder` and the TCP connection own no socket and read no clock: time is an argument
//! ([`time::Instant`]).

/// Implements [`Debug`](std::fmt::Debug) with the listed fields, for types whose other fields are
/// buffers, pointers, secrets or trait objects.
macro_rules! debug_fields {
    ($type:ty { $($field:ident),* }) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    };
}

pub mod balance;
pub mod bridge;
pub mod capture;
pub mod counters;
pub mod forwarding;
pub mod frame;
mod gso;
pub mod masquerade;
pub mod migration;
pub mod mode;
pub mod nat;
pub mod overlay;
pub mod policy;
pub mod poller;
pub mod port;
pub mod responder;
pub mod sys;
pub mod time;
pub mod timers;
pub mod vhost_user;
pub mod virtio;
pub mod worker;

pub use hawser_config as config;
pub use hawser_packet as packet;
