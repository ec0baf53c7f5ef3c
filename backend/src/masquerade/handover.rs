//! The mode on one worker as a payload: the NAT engine, and the program that assigns the traffic of every port.

use super::Masquerade;
use crate::config::handover::Handover as _;
use crate::config::payload::{Payload, Sealed, from_bytes, to_bytes};
use crate::frame::GuestSink;
use crate::mode::{HandoffError, SavedMode};
use crate::nat::handover::EngineRecord;
use crate::sys::lookup::{LookupRecord, SocketLookup};
use crate::time::Instant;
use serde::{Deserialize, Serialize};

/// The mode between two processes. The engine's descriptors precede that of the program.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct MasqueradeRecord {
    engine: Sealed<EngineRecord>,
    every_port: Option<Sealed<LookupRecord>>,
}

impl Payload for MasqueradeRecord {
    const KIND: &'static str = "masquerade";
    const VERSION: u32 = 2;
}

/// The payloads of the mode, except for those of the engine.
pub(super) fn formats() -> Vec<(&'static str, u32)> {
    vec![
        (MasqueradeRecord::KIND, MasqueradeRecord::VERSION),
        (LookupRecord::KIND, LookupRecord::VERSION),
    ]
}

pub(super) fn save(mode: &mut Masquerade, now: Instant) -> Result<SavedMode, HandoffError> {
    let (engine, mut descriptors) = mode.engine.save(now)?;
    let lookup = mode.every_port.as_ref().map(SocketLookup::share).transpose()?;
    let (every_port, of_lookup) = lookup.into_handover();
    descriptors.extend(of_lookup);
    let record = MasqueradeRecord {
        engine: Sealed(engine),
        every_port,
    };
    Ok(SavedMode {
        payload: to_bytes(&record),
        descriptors,
    })
}

pub(super) fn load(
    mode: &mut Masquerade,
    now: Instant,
    saved: SavedMode,
    sink: &mut dyn GuestSink,
) -> Result<(), HandoffError> {
    let record: MasqueradeRecord = from_bytes(&saved.payload)?;
    let mut descriptors = saved.descriptors.into_iter();
    let Sealed(engine) = record.engine;
    let loaded = mode.engine.load(now, engine, &mut descriptors, sink);
    loaded.map_err(|error| HandoffError::State(error.into()))?;
    mode.every_port = Option::take_over(record.every_port, &mut descriptors)?;
    Ok(())
}
