//! The descriptors that a port needs in addition to its configuration.

use crate::mode::Origin;
use crate::sys::tap::TapQueue;
use socket2::Socket;
use std::sync::Arc;

/// The descriptors that a port needs. A configuration is plain data that can be saved and compared, so its descriptors
/// are passed here.
#[derive(Debug, Default)]
pub struct PortResources {
    /// The queues of the device to the segment in bridge mode, one per queue pair.
    pub queues: Vec<Arc<TapQueue>>,
    /// The sockets of the tunnel's end in layer2 mode, one per queue pair, if the port continues one of another process.
    pub tunnels: Vec<Socket>,
    /// Whether the port continues one of another process. Its workers then rest until [`Port::begin`](super::Port::begin).
    pub origin: Origin,
}
