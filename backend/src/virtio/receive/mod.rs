//! The direction to the guest: finds room in the receive ring and writes frames into it.
//!
//! Chains are taken from the ring only when a mode reserves room, and wait here until a frame fills them. A reservation
//! is a view of the waiting chains, so releasing it costs nothing. With MRG_RXBUF a frame takes as many chains as it
//! needs, otherwise one.
//!
//! A frame that is shorter than its reservation leaves chains unused, while later chains may be used. [`Receive::stop`]
//! returns the unused ones to the guest empty, because the ring has advanced past them.

mod commit;
mod passage;
mod room;

pub use passage::{Open, Passage};
pub use room::MAX_RESERVED_SEGMENTS;

use super::features::Features;
use super::net_header;
use super::ring::{Chain, Ring, RingError, RingLayout, Segments};
use crate::counters::Counters;
use crate::frame::{GuestCaps, GuestSink, GuestSliceMut, Layout, NoRoom, Offload};
use std::collections::VecDeque;
use std::sync::Arc;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

/// The receive side of a queue pair, whether its ring runs or not.
pub struct Receive<P = Open> {
    ring: Option<Ring>,
    features: Features,
    caps: GuestCaps,
    header_len: usize,
    mergeable: bool,
    /// Chains taken from the ring but not yet used, in ring order.
    waiting: VecDeque<Chain>,
    /// Buffers of these chains, and of chains that were already used.
    segments: Segments,
    reservation: room::Reservation,
    /// Chains skipped by a commit that return to `waiting`.
    leftover: Vec<Chain>,
    /// Buffer for a frame that must be complete before it is written.
    scratch: Vec<u8>,
    /// True after a request for room was refused.
    starved: bool,
    /// Number of chains returned empty in this turn.
    rejected: u16,
    broken: Option<RingError>,
    passage: P,
    counters: Arc<Counters>,
}

impl<P> std::fmt::Debug for Receive<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receive")
            .field("ring", &self.ring)
            .field("starved", &self.starved)
            .finish_non_exhaustive()
    }
}

impl Receive {
    /// Creates a receive side without a ring or a passage.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self::behind(Open, counters)
    }
}

impl<P: Passage> Receive<P> {
    /// Creates a receive side without a ring, behind `passage`.
    pub fn behind(passage: P, counters: Arc<Counters>) -> Self {
        Self {
            ring: None,
            features: Features::default(),
            caps: GuestCaps::default(),
            header_len: net_header::HEADER_LEN,
            mergeable: false,
            waiting: VecDeque::new(),
            segments: Segments::default(),
            reservation: room::Reservation::default(),
            leftover: Vec::new(),
            scratch: Vec::new(),
            starved: false,
            rejected: 0,
            broken: None,
            passage,
            counters,
        }
    }

    /// The stage in front of the ring.
    pub const fn passage(&self) -> &P {
        &self.passage
    }

    /// Mutable access to the stage in front of the ring.
    pub const fn passage_mut(&mut self) -> &mut P {
        &mut self.passage
    }

    /// Starts using `ring`. A mode that was refused room still waits for it.
    pub fn start(&mut self, ring: Ring) {
        self.stop();
        self.ring = Some(ring);
        self.broken = None;
    }

    /// Releases the ring: returns unused chains and publishes the frames written so far. Returns the addresses of the
    /// ring and the position from which a successor continues.
    pub fn stop(&mut self) -> Option<RingLayout> {
        self.reservation.clear();
        self.segments.clear();
        let mut ring = self.ring.take()?;
        while let Some(chain) = self.waiting.back() {
            // Moving the index back can return only the chains that were taken most recently.
            if chain.position != ring.layout().next_avail.wrapping_sub(1) {
                break;
            }
            ring.unpop(1);
            self.waiting.pop_back();
        }
        for chain in self.waiting.drain(..) {
            ring.push_used(chain.head, 0);
        }
        ring.publish();
        Some(ring.layout())
    }

    /// The running ring, if any.
    pub const fn ring(&mut self) -> Option<&mut Ring> {
        self.ring.as_mut()
    }

    /// Applies newly acknowledged features.
    pub fn set_features(&mut self, features: Features) {
        self.features = features;
        self.caps = features.guest_caps();
        self.header_len = net_header::header_len(features);
        self.mergeable = features.has(VIRTIO_NET_F_MRG_RXBUF);
        self.reservation.clear();
        if let Some(ring) = &mut self.ring {
            ring.set_features(features);
        }
    }

    /// Publishes the frames written so far. True if the guest wants an interrupt.
    pub fn publish(&mut self) -> bool {
        self.rejected = 0;
        self.passage.settle();
        self.ring.as_mut().is_some_and(|ring| {
            ring.forget_visited();
            ring.publish();
            ring.wants_call()
        })
    }

    /// True after a request was refused with [`NoRoom`].
    pub const fn is_starved(&self) -> bool {
        self.starved
    }

    /// Clears [`is_starved`](Self::is_starved).
    pub const fn forget_starved(&mut self) {
        self.starved = false;
    }

    /// Takes the error that stopped the ring, if any.
    pub const fn take_broken(&mut self) -> Option<RingError> {
        self.broken.take()
    }
}

impl<P: Passage> GuestSink for Receive<P> {
    fn caps(&self) -> GuestCaps {
        self.caps
    }

    fn send(&mut self, offload: Offload, parts: &[&[u8]]) -> Result<(), NoRoom> {
        self.send_frame(offload, parts)
    }

    fn reserve(&mut self, layout: Layout) -> Result<usize, NoRoom> {
        self.reserve_frames(layout)
    }

    fn payload(&mut self, index: usize) -> &mut [GuestSliceMut<'_>] {
        self.reservation.payload(index)
    }

    fn payload_all(&mut self) -> &mut [GuestSliceMut<'_>] {
        self.reservation.payload_all()
    }

    fn commit(&mut self, lengths: &[usize], header: &mut dyn FnMut(usize, usize, &mut [u8]) -> Offload) {
        self.commit_frames(lengths, header);
    }
}

#[cfg(test)]
mod tests;
