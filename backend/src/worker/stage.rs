//! Workers that rest, so that a mode can move from one process to another.
//!
//! A worker of the old process rests after it has saved its mode: both processes then have the mode's sockets, and
//! neither may use them. It continues if the other process fails. A worker of the new process rests from the start, until
//! the old process has given up the guest. It executes commands meanwhile, so that rings are set up when it begins.

use super::{Flow, Worker, now};
use crate::mode::{HandoffError, SavedMode};
use crate::time::Instant;
use std::convert::Infallible;
use std::sync::mpsc::{Receiver, SyncSender};

/// Whether a worker serves its rings and sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// It executes commands only, until [`WorkerHandle::begin`](super::WorkerHandle::begin).
    Resting,
    /// It serves the guest.
    #[default]
    Running,
}

impl Worker {
    /// Executes commands until the worker may begin. If it never does, its mode ends nothing, because another process
    /// continues with the same sockets.
    pub(super) fn rest_at_first(&mut self) -> Flow {
        while self.stage == Stage::Resting {
            let flow = self.commands.wait().map(|command| self.execute(now(), command));
            if flow != Some(Flow::Continue) {
                self.mode.leave();
                return Flow::Exit;
            }
        }
        self.update_link(now());
        Flow::Continue
    }

    /// Saves the mode, and rests until the sender of `end` is gone.
    pub(super) fn save(
        &mut self,
        now: Instant,
        reply: &SyncSender<Result<SavedMode, HandoffError>>,
        end: &Receiver<Infallible>,
    ) {
        // If the caller has given up, the other end of `end` is gone too.
        let _ = reply.send(self.mode.save(now));
        let _ = end.recv();
    }
}
