//! The mode on one worker as a payload: the gateway's NAT engine, and the flows to Services.
//!
//! The tunnel's socket is shared before ([`Overlay::new`] of the other process begins with it), so that datagrams wait in it
//! while neither process reads. Peers belong to the port. Multicast memberships and MACs behind endpoints are learned
//! again: the driver's start sends a query, and a MAC that is not known yet is flooded to.

use super::Overlay;
use super::balancer::SavedServiceFlow;
use crate::config::payload::{Payload, Sealed, from_bytes, to_bytes};
use crate::frame::GuestSink;
use crate::mode::{HandoffError, SavedMode, Unwritten};
use crate::nat::handover::EngineRecord;
use crate::nat::saved::LoadError;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

/// The mode between two processes. The descriptors are the engine's.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct OverlayRecord {
    /// The engine of a gateway, on a network that has one.
    engine: Option<Sealed<EngineRecord>>,
    /// Flows to endpoints of Services in the network; those of all workers are with worker 0.
    services: Sealed<Vec<SavedServiceFlow>>,
}

impl Payload for OverlayRecord {
    const KIND: &'static str = "layer2";
    const VERSION: u32 = 1;
}

/// The payloads of the mode, except for those of the engine.
pub fn formats() -> Vec<(&'static str, u32)> {
    const fn of<T: Payload>() -> (&'static str, u32) {
        (T::KIND, T::VERSION)
    }
    vec![of::<OverlayRecord>(), of::<SavedServiceFlow>()]
}

impl Overlay {
    /// The descriptors with which a mode of another process begins.
    pub(super) fn share_sockets(&self) -> Result<Vec<OwnedFd>, HandoffError> {
        Ok(vec![self.socket.try_clone()?.into()])
    }

    pub(super) fn save_flows_ahead(&mut self, now: Instant) -> Result<Option<Unwritten>, HandoffError> {
        let engine = self.local.engine();
        Ok(engine.map(|engine| engine.save_ahead(now)).transpose()?)
    }

    pub(super) fn load_flows_ahead(&mut self, saved: SavedMode) -> Result<(), HandoffError> {
        let engine = self.local.engine().ok_or_else(|| state(GATEWAY))?;
        engine.load_ahead(saved).map_err(state)
    }

    pub(super) fn save_mode(&mut self, now: Instant) -> Result<SavedMode, HandoffError> {
        let engine = self.local.engine().map(|engine| engine.save(now)).transpose()?;
        let (engine, descriptors) = engine.map_or_else(Default::default, |(engine, of)| (Some(Sealed(engine)), of));
        let record = OverlayRecord {
            engine,
            services: Sealed(self.balancer.save(now)),
        };
        Ok(SavedMode {
            payload: to_bytes(&record),
            descriptors,
        })
    }

    pub(super) fn load_mode(
        &mut self,
        now: Instant,
        saved: SavedMode,
        sink: &mut dyn GuestSink,
    ) -> Result<(), HandoffError> {
        let OverlayRecord {
            engine: record,
            services: Sealed(services),
        } = from_bytes(&saved.payload)?;
        match (self.local.engine(), record) {
            (Some(engine), Some(Sealed(record))) => {
                let descriptors = &mut saved.descriptors.into_iter();
                engine.load(now, record, descriptors, sink).map_err(state)?;
            }
            (None, None) => {}
            _ => return Err(state(GATEWAY)),
        }
        self.balancer.load(now, &services).map_err(state)?;
        // No event reports what waits in the socket.
        self.inbound.expect_datagrams();
        Ok(())
    }
}

const GATEWAY: LoadError = LoadError::Contradiction("its network has a gateway in one of the two processes only");

fn state(error: LoadError) -> HandoffError {
    HandoffError::State(error.into())
}
