//! A guest that moves to another process on its segment ([`Follow`]). It has no flows here.
//!
//! Broadcast and multicast frames do not follow it, because the other process has received them too.

use super::Bridge;
use crate::frame::{Collected, GuestSink};
use crate::mode::Follow;
use crate::packet::EthernetHeader;
use std::io;
use std::sync::Arc;

/// The lowest bit of the first byte of a destination that several stations have.
const GROUP: u8 = 1;

impl Bridge {
    /// Executes a step of a migration.
    ///
    /// # Errors
    /// The guest runs here.
    pub(super) fn follow(&mut self, step: Follow, sink: &mut dyn GuestSink) -> io::Result<()> {
        if matches!(step, Follow::Freeze(_)) && self.following.must_be_down().is_ok() {
            // One of several queues is detached while its pair has no driver. Then its frames would be lost.
            self.segment.set_in_use(true);
        }
        let mut following = std::mem::take(&mut self.following);
        let counters = Arc::clone(&self.counters);
        let followed = following.follow(step, &counters, sink, |frames| {
            self.receive_late(frames);
            Vec::new()
        });
        self.following = following;
        followed
    }

    fn receive_late(&mut self, late: &mut Collected) {
        self.receive(late);
        late.retain(|frame| {
            let first = frame.get(EthernetHeader::DST.start);
            first.is_some_and(|first| first & GROUP == 0)
        });
    }
}
