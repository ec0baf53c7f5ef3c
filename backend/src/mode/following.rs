//! A guest that moves to another process ([`Follow`]), for a mode that has no flows of it.
//!
//! What the network still sends to this process waits where the mode receives it, because the guest has no room. Once the
//! guest has left, those frames follow it.

use super::{Follow, Late, LateFlow};
use crate::counters::{Counters, DropReason};
use crate::frame::{Awaited, Collected, GuestSink};
use std::io;

/// Where the guest is while it moves.
#[derive(Debug, Default)]
pub struct Following {
    is_up: bool,
    /// True once the guest has left.
    has_left: bool,
    /// Frames that reached the process from which the guest came.
    late: Awaited,
}

impl Following {
    /// Records that the guest's driver runs, and delivers what has waited for it.
    pub fn on_link_up(&mut self, sink: &mut dyn GuestSink) {
        (self.is_up, self.has_left) = (true, false);
        self.deliver_late(sink);
    }

    /// Records that the guest's driver has stopped.
    pub const fn on_link_down(&mut self) {
        self.is_up = false;
    }

    /// Checks that the guest does not run here.
    ///
    /// # Errors
    /// It does.
    pub fn must_be_down(&self) -> io::Result<()> {
        if self.is_up {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Ok(())
    }

    /// Records that the guest has left.
    pub const fn part(&mut self) {
        self.has_left = true;
    }

    /// Executes a step of a migration. `receive` takes what has arrived for the guest, and returns new flows.
    ///
    /// # Errors
    /// The guest runs here.
    pub fn follow(
        &mut self,
        step: Follow,
        counters: &Counters,
        sink: &mut dyn GuestSink,
        receive: impl FnOnce(&mut Collected) -> Vec<LateFlow>,
    ) -> io::Result<()> {
        // A caller that has given up needs no answer.
        match step {
            Follow::Freeze(reply) => {
                self.must_be_down()?;
                let _ = reply.send(Vec::new());
            }
            Follow::Part(reply) => {
                self.must_be_down()?;
                self.part();
                let _ = reply.send(Vec::new());
            }
            Follow::Expect => {
                self.must_be_down()?;
                self.late.clear();
            }
            Follow::Come(flows, reply) => {
                let refused = flows.iter().map(|_| Err("this NIC has no connections".to_owned()));
                let _ = reply.send(refused.collect());
            }
            Follow::Forget => {}
            Follow::Late(reply) => {
                if self.is_up || !self.has_left {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                let mut frames = Collected::default();
                let flows = receive(&mut frames);
                let frames = frames.into_frames();
                let _ = reply.send(Late { frames, flows });
            }
            Follow::Deliver(frames) => {
                let lost = self.late.add(frames);
                counters.count_drops(DropReason::LateFull, lost);
                self.deliver_late(sink);
            }
        }
        Ok(())
    }

    /// Delivers frames from the process that the guest has left, as far as there is room.
    pub fn deliver_late(&mut self, sink: &mut dyn GuestSink) {
        // What has no room now is tried again when there is some.
        let _ = self.late.deliver(sink);
    }
}
