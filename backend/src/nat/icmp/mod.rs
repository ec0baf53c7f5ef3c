//! ICMP and ICMPv6: errors to the guest about its packets, and the guest's echo requests, which are forwarded through
//! host sockets.

mod echo;
mod echo_socket;
mod echo_table;
mod error;
mod error_rate;
mod refusal;
mod saved;
mod too_big;

pub use echo::{EchoFlows, IcmpMessage};
pub use echo_socket::{EchoAvailability, EchoSupport};
pub use error::{IcmpError, Reported, refuse, send_error};
pub use error_rate::ErrorRate;
pub use refusal::refused_datagram;
pub use saved::SavedEchoSocket;
pub use too_big::{TooBigReporter, is_too_big_reported};

#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod saved_tests;
