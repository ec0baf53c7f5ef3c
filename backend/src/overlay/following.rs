//! A guest that moves to another process of its network ([`Follow`]). The flows of the gateway follow it.
//!
//! Peers send to this process until they know where the guest is. Those frames follow it, too, also multicast: a peer
//! sends it to the endpoints that it knows.

use super::Overlay;
use crate::frame::GuestSink;
use crate::mode::Follow;
use crate::time::Instant;
use std::io;
use std::sync::Arc;

impl Overlay {
    /// Executes a step of a migration.
    ///
    /// # Errors
    /// The guest runs here.
    pub(super) fn follow(&mut self, now: Instant, step: Follow, sink: &mut dyn GuestSink) -> io::Result<()> {
        let is_of_flows = !matches!(step, Follow::Late(_) | Follow::Deliver(_));
        if let Some(engine) = self.local.engine().filter(|_| is_of_flows) {
            let parts = matches!(step, Follow::Part(_));
            engine.follow(now, step, sink)?;
            if parts {
                self.following.part();
            }
            return Ok(());
        }
        let mut following = std::mem::take(&mut self.following);
        let counters = Arc::clone(&self.counters);
        let followed = following.follow(step, &counters, sink, |frames| {
            // No event reports what was left in the socket when the guest stopped.
            self.inbound.expect_datagrams();
            self.receive(now, frames);
            let engine = self.local.engine();
            engine
                .map(|engine| engine.receive_late(now, frames))
                .unwrap_or_default()
        });
        self.following = following;
        followed
    }
}
