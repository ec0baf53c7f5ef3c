//! What identifies a flow: its two ends as the guest sees them, and across protocols the
//! protocol number too.

use super::index::hash_ends;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

/// The ends of a TCP connection or UDP flow, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_ends([self.guest, self.remote], state);
    }
}

/// A flow of any protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SteeringKey {
    /// IP protocol number.
    pub protocol: u8,
    /// The flow's ends.
    pub ends: FlowKey,
}
