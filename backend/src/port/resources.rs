//! The descriptors that a port is made with, beside its configuration.

use crate::sys::tap::TapQueue;
use std::sync::Arc;

/// The descriptors that a port is made with. A configuration is plain data that can be saved and
/// compared; what it opens travels here.
#[derive(Debug, Default)]
pub struct PortResources {
    /// Queues of the device to the segment, one per queue pair, in bridge mode.
    pub queues: Vec<Arc<TapQueue>>,
}
