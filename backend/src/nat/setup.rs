//! The inputs to a mode with a NAT engine.

use super::steering::Directory;
use crate::config::PortConfig;
use crate::counters::Counters;
use crate::mode::Origin;
use crate::poller::Poller;
use crate::responder::HeldLeases;
use std::sync::Arc;

/// The parts from which a mode with a NAT engine is made, one set per queue pair. `M` is the mode's configuration.
#[derive(Debug)]
pub struct NatSetup<'a, M> {
    /// Configuration of the port.
    pub port: &'a PortConfig,
    /// Configuration of its mode.
    pub mode: &'a M,
    /// Poller that watches the sockets.
    pub poller: Poller,
    /// Counters for drops and flows.
    pub counters: Arc<Counters>,
    /// Number of the worker. Worker 0 of a port listens for inbound connections and sends router advertisements.
    pub worker: usize,
    /// Directory shared by the workers of the port, if there are several.
    pub directory: Option<Arc<Directory>>,
    /// Whether the mode continues one of another process.
    pub origin: Origin,
    /// Record of granted and released leases, shared by the workers of the port.
    pub held: Arc<HeldLeases>,
    /// Maximum connections of one protocol that this worker may hold.
    pub flow_limit: usize,
}

#[cfg(any(test, feature = "testing"))]
impl<'a, M> NatSetup<'a, M> {
    /// Inputs for the only worker of a port, with new counters.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn alone(port: &'a PortConfig, mode: &'a M, flow_limit: usize) -> std::io::Result<Self> {
        Ok(Self {
            port,
            mode,
            poller: Poller::new()?,
            counters: Arc::default(),
            worker: 0,
            directory: None,
            origin: Origin::New,
            held: Arc::default(),
            flow_limit,
        })
    }
}
