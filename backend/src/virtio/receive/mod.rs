//! Towards the guest: room in the receive ring, and frames written into it.
//!
//! Chains are taken from the ring only when a mode asks for room, and wait here until
//! a frame goes into them. A reservation is a view on the waiting chains, so giving
//! it back costs nothing. With MRG_RXBUF a frame spreads over as many chains as it
//! needs, otherwise it has one.
//!
//! A frame shorter than its reservation leaves chains behind while later ones are
//! used; [`Receive::stop`] returns those to the guest empty, as their place in the
//! available ring has been passed.

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
    /// Chains taken from the ring that no frame has gone into, in ring order.
    waiting: VecDeque<Chain>,
    /// Their buffers, and those of chains already used.
    segments: Segments,
    reservation: room::Reservation,
    /// Chains passed over by a commit, on their way back to `waiting`.
    leftover: Vec<Chain>,
    /// A frame that has to be seen as a whole before it is sent.
    scratch: Vec<u8>,
    /// True after a request for room was refused.
    starved: bool,
    /// Chains given back empty in this turn.
    rejected: u16,
    broken: Option<RingError>,
    passage: P,
    counters: Arc<Counters>,
}

impl Receive {
    /// A receive side without a ring, and with nothing before it.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self::behind(Open, counters)
    }
}

impl<P: Passage> Receive<P> {
    /// A receive side without a ring, to which frames come through `passage`.
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

    /// What frames come through.
    pub const fn passage(&self) -> &P {
        &self.passage
    }

    /// What frames come through, for changes.
    pub const fn passage_mut(&mut self) -> &mut P {
        &mut self.passage
    }

    /// Starts to use `ring`. A mode that was refused room before still waits for it.
    pub fn start(&mut self, ring: Ring) {
        self.stop();
        self.ring = Some(ring);
        self.broken = None;
    }

    /// Lets the ring go: chains no frame went into are given back, what was written is
    /// shown to the guest. Returns where another takes the ring up.
    pub fn stop(&mut self) -> Option<RingLayout> {
        self.reservation.clear();
        self.segments.clear();
        let mut ring = self.ring.take()?;
        while let Some(chain) = self.waiting.back() {
            // Only the tail of what was taken can be handed back by moving the index.
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

    /// The ring, if one runs.
    pub const fn ring(&mut self) -> Option<&mut Ring> {
        self.ring.as_mut()
    }

    /// Follows newly acknowledged features.
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

    /// Shows the guest what was written; true if it wants to be told.
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

    /// Forgets that a request was refused with [`NoRoom`].
    pub const fn forget_starved(&mut self) {
        self.starved = false;
    }

    /// The error that stopped the ring, if there was one.
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
