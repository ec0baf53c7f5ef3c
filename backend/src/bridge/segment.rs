//! A queue of the device that leads to the segment, and the state of the device.

use crate::frame::GuestCaps;
use crate::mode::{Origin, SegmentChange};
use crate::poller::{Interest, Owner, Poller, Readiness, Token};
use crate::sys::tap::TapQueue;
use std::io;
use std::sync::Arc;

/// Owner of the queue's poller events.
const TAP: Owner = Owner::of_mode(1);

/// State of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Frames pass, as far as hawser knows.
    Up,
    /// The device exists, but it is down.
    Down,
    /// The device is gone. Frames pass again only after a new queue is provided.
    Gone,
}

/// A queue of the device to the segment.
pub(super) struct Segment {
    queue: Arc<TapQueue>,
    poller: Poller,
    state: State,
    /// True if the device may have a frame to read.
    readable: bool,
    caps: GuestCaps,
    in_use: bool,
    /// True if arriving frames cause no event.
    muted: bool,
}

impl Segment {
    /// Watches a queue. That of another process stays attached, because it has frames for the guest.
    pub(super) fn new(queue: Arc<TapQueue>, poller: Poller, origin: Origin) -> io::Result<Self> {
        poller.add(&*queue, Token::new(TAP, 0), Interest::ReadEdge)?;
        if origin == Origin::New {
            queue.set_in_use(false)?;
        }
        Ok(Self {
            queue,
            poller,
            state: State::Up,
            readable: false,
            caps: GuestCaps::default(),
            in_use: false,
            muted: false,
        })
    }

    pub(super) fn queue(&self) -> &TapQueue {
        &self.queue
    }

    pub(super) fn is_readable(&self) -> bool {
        self.readable && !self.is_gone()
    }

    /// Assumes that frames are waiting: a write is often answered immediately, before any event arrives.
    pub(super) fn expect_frames(&mut self) {
        self.readable = true;
    }

    /// Records that nothing was left to read. The next frame will cause an event.
    pub(super) fn drained(&mut self) {
        self.readable = false;
    }

    /// Turns events off while the guest has no room.
    pub(super) fn mute(&mut self) {
        self.set_muted(true);
    }

    /// Turns events on again.
    pub(super) fn unmute(&mut self) {
        self.set_muted(false);
    }

    fn set_muted(&mut self, muted: bool) {
        if self.muted == muted || self.is_gone() {
            return;
        }
        let interest = if muted { Interest::Nothing } else { Interest::ReadEdge };
        // This fails only for a descriptor that is not watched, which has no events anyway.
        let _ = self.poller.rearm(&*self.queue, Token::new(TAP, 0), interest);
        self.muted = muted;
    }

    pub(super) fn on_event(&mut self, ready: Readiness) {
        self.readable |= ready.readable;
        if ready.error || ready.hung_up {
            self.state = State::Gone;
        }
    }

    /// Updates the state after a failed read or write.
    pub(super) fn on_error(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EIO) => self.state = State::Down,
            Some(libc::EBADFD | libc::ENODEV | libc::ENXIO) => self.state = State::Gone,
            _ => {}
        }
    }

    /// Updates the state after a frame has passed.
    pub(super) fn on_success(&mut self) {
        self.state = State::Up;
    }

    /// True if a write is certain to fail.
    pub(super) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    pub(super) fn change(&mut self, change: SegmentChange) {
        match change {
            SegmentChange::Up if self.state == State::Down => self.state = State::Up,
            SegmentChange::Down if self.state == State::Up => self.state = State::Down,
            SegmentChange::Up | SegmentChange::Down => {}
            SegmentChange::Replaced(queue) => self.replace(queue),
        }
    }

    fn replace(&mut self, queue: Arc<TapQueue>) {
        // Closing our descriptor is not enough, because epoll watches the old queue until its last descriptor is
        // closed.
        let _ = self.poller.remove(&*self.queue);
        self.queue = queue;
        let watched = self.poller.add(&*self.queue, Token::new(TAP, 0), Interest::ReadEdge);
        self.state = match watched {
            Ok(()) => State::Up,
            Err(error) => {
                log::error!("cannot watch {}: {error}", self.queue.name());
                State::Gone
            }
        };
        self.readable = true;
        self.muted = false;
        self.set_in_use(self.in_use);
        self.set_offloads(self.caps);
    }

    /// Attaches the queue, so that frames arrive on it, or detaches it while no guest driver serves the pair.
    pub(super) fn set_in_use(&mut self, in_use: bool) {
        self.in_use = in_use;
        if self.is_gone() {
            return;
        }
        if let Err(error) = self.queue.set_in_use(in_use) {
            self.on_error(&error);
        }
    }

    pub(super) fn set_offloads(&mut self, caps: GuestCaps) {
        self.caps = caps;
        if self.is_gone() {
            return;
        }
        // Checksums and the splitting of merged datagrams cost as much here as in the kernel, but need fewer reads. So
        // they are done here for a guest that lacks the offload.
        let left_to_us = GuestCaps {
            checksum: true,
            uso4: true,
            uso6: true,
            ..caps
        };
        if let Err(error) = self.queue.set_offloads(left_to_us) {
            self.on_error(&error);
        }
    }
}
