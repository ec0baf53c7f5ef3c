//! A guest that moves to another process on its segment ([`Follow`]). It has no flows here.
//!
//! What the segment still sends to this process waits in the queue of the device, because the guest has no room. Once
//! the guest has left, those frames follow it, except for broadcast and multicast, which the other process has received
//! too.

use super::Bridge;
use crate::counters::DropReason;
use crate::frame::{Awaited, Collected, GuestSink};
use crate::mode::Follow;
use crate::packet::EthernetHeader;
use std::io;

/// The lowest bit of the first byte of a destination that several stations have.
const GROUP: u8 = 1;

/// Where the guest is while it moves.
#[derive(Debug, Default)]
pub(super) struct Following {
    is_up: bool,
    /// True once the guest has left.
    has_left: bool,
    /// Frames that reached the process from which the guest came.
    late: Awaited,
}

impl Following {
    pub(super) const fn on_link_up(&mut self) {
        (self.is_up, self.has_left) = (true, false);
    }

    pub(super) const fn on_link_down(&mut self) {
        self.is_up = false;
    }
}

impl Bridge {
    /// Executes a step of a migration.
    ///
    /// # Errors
    /// The guest runs here.
    pub(super) fn follow(&mut self, step: Follow, sink: &mut dyn GuestSink) -> io::Result<()> {
        let must_be_down = !matches!(step, Follow::Deliver(_) | Follow::Forget | Follow::Come(..));
        if must_be_down && self.following.is_up {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        match step {
            Follow::Freeze(reply) => {
                // One of several queues is detached while its pair has no driver. Then its frames would be lost.
                self.segment.set_in_use(true);
                // A caller that has given up needs no answer.
                let _ = reply.send(Vec::new());
            }
            Follow::Part(reply) => {
                self.following.has_left = true;
                let _ = reply.send(Vec::new());
            }
            Follow::Expect => self.following.late.clear(),
            Follow::Come(flows, reply) => {
                let refused = flows.iter().map(|_| Err("this NIC is in bridge mode".to_owned()));
                let _ = reply.send(refused.collect());
            }
            Follow::Forget => {}
            Follow::Late(reply) => {
                if !self.following.has_left {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                let mut frames = Collected::default();
                self.receive(&mut frames);
                let mut frames = frames.into_frames();
                frames.retain(|frame| {
                    frame
                        .get(EthernetHeader::DST.start)
                        .is_some_and(|first| first & GROUP == 0)
                });
                let _ = reply.send(frames);
            }
            Follow::Deliver(frames) => {
                let lost = self.following.late.add(frames);
                self.counters.count_drops(DropReason::LateFull, lost);
                self.deliver_late(sink);
            }
        }
        Ok(())
    }

    /// Delivers frames from the process that the guest has left, as far as there is room.
    pub(super) fn deliver_late(&mut self, sink: &mut dyn GuestSink) {
        // What has no room now is tried again when there is some.
        let _ = self.following.late.deliver(sink);
    }
}
