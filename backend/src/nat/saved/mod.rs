//! Flows as plain, versioned values, for live upgrade and live migration.
//!
//! hawser terminates the guest's TCP, UDP and echo itself, so the guest's half of a flow is data in this process. A
//! saved value holds that half and nothing else:
//!
//! | part of a flow | where it travels |
//! |---|---|
//! | ends, sequence numbers, windows, scales, MSS, timestamps, state of both directions, bytes acknowledged to the guest and not taken by the host socket, urgent bytes, round-trip estimate, retries, timers | in the value |
//! | marks and limits that the process has set on the host socket (DSCP, TTL, fragmentation, reports) where it must know them to change them | in the value, and set on the socket again at load |
//! | secrets: key and clocks of initial sequence numbers and timestamps | in a value of its own, [`tcp::SavedSecret`](crate::nat::tcp::SavedSecret) |
//! | descriptors | beside the values, in the same order |
//! | bytes and numbers inside a host socket | in the socket (upgrade, anchor) or in a TCP_REPAIR dump beside (migration) |
//! | clocks | nowhere: each time is a duration, before or after the moment of saving |
//! | slots, generations, queues, claims, what was learned from the traffic of a socket (batch sizes, segmentation) | nowhere: the table that loads a value creates them |
//!
//! SACK state has no field, because hawser neither offers nor uses SACK. A connection that has
//! ended is not saved.
//!
//! A payload holds a list of values of one kind ([`payload`](crate::config::payload)). Values that are out of range or
//! inconsistent are refused ([`LoadError`]); loading never panics.
//!
//! Live upgrade saves the flows once the workers have stopped and passes the sockets with SCM_RIGHTS. Live migration
//! saves at GET_VRING_BASE and loads on the target before its rings run ([`migration`](crate::migration)). There the socket
//! leads to the old process (an anchor). Clocks do not advance between save and load, because the guest is stopped then.

mod error;
mod fields;

pub use self::error::LoadError;
pub(crate) use self::error::{ensure, within};
pub(crate) use self::fields::Nanos;
pub(super) use self::fields::{base64, is_default};
pub use crate::config::payload::{Payload, PayloadError, from_bytes, to_bytes};

#[cfg(test)]
pub(crate) mod golden;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
