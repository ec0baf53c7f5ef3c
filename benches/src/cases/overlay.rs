//! The two directions of the overlay, measured separately. System calls are part of a case's time, but not of its
//! instructions.

use super::{Round, count, measured};
use crate::tunnel::Pair;
use hawser_testkit::Result;
use std::time::Duration;

/// Bursts from the guest to the tunnel.
///
/// # Errors
/// The tunnel does not work here.
pub(super) fn send(mut pair: Pair) -> Result<Round> {
    let frames = count(pair.frames());
    probe(&mut pair)?;
    Ok(Box::new(move || {
        let time = pair.send(measured);
        pair.receive(apart).expect("frames arrive");
        (time, frames)
    }))
}

/// Bursts from the tunnel to the guest.
///
/// # Errors
/// The tunnel does not work here.
pub(super) fn receive(mut pair: Pair) -> Result<Round> {
    let frames = count(pair.frames());
    probe(&mut pair)?;
    Ok(Box::new(move || {
        pair.send(apart);
        (pair.receive(measured).expect("frames arrive"), frames)
    }))
}

/// Moves a burst that is not counted, because the first frame to a peer starts the probe of its path.
fn probe(pair: &mut Pair) -> Result<()> {
    pair.send(apart);
    pair.receive(apart).map(drop)
}

fn apart(work: &mut dyn FnMut()) -> Duration {
    work();
    Duration::ZERO
}
