//! Towards the guest: room in the receive ring, and frames written into it.
//!
//! Chains are taken from the ring only as somebody asks for room, and wait here until
//! a frame goes into them. A reservation is a view on the waiting chains, so giving
//! it back costs nothing. With MRG_RXBUF a frame spreads over as many chains as it
//! needs, otherwise it has one.
//!
//! A frame shorter than its reservation leaves chains behind while later ones are
//! used; [`Receive::stop`] returns those to the guest empty, as their place in the
//! available ring has been passed.

mod commit;
mod room;

pub use room::MAX_RESERVED_SEGMENTS;

use super::features::Features;
use super::net_header;
use super::ring::{Chain, Ring, RingError, RingLayout, Segments};
use crate::counters::Counters;
use crate::frame::{GuestCaps, GuestSink, GuestSliceMut, Layout, NoRoom, Offload};
use crate::port::capture::CaptureTap;
use crate::port::filter::ReceiveFilter;
use crate::port::rate::Gate;
use crate::time::Instant;
use std::collections::VecDeque;
use std::sync::Arc;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

/// The receive side of a queue pair, whether its ring runs or not.
pub struct Receive {
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
    /// True after somebody met `NoRoom`.
    starved: bool,
    /// Chains given back empty in this turn.
    rejected: u16,
    broken: Option<RingError>,
    /// How much the guest may be sent.
    gate: Gate,
    /// Which frames its driver wants.
    filter: ReceiveFilter,
    capture: CaptureTap,
    counters: Arc<Counters>,
}

impl Receive {
    /// A receive side without a ring.
    pub fn new(counters: Arc<Counters>) -> Self {
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
            gate: Gate::default(),
            filter: ReceiveFilter::default(),
            capture: CaptureTap::new(Arc::default()),
            counters,
        }
    }

    /// Drops what `filter` does not take, from now on.
    pub fn set_filter(&mut self, filter: ReceiveFilter) {
        self.filter = filter;
    }

    /// When the gate before the guest opens, if it is closed.
    pub const fn opens_at(&self) -> Option<Instant> {
        self.gate.opens_at()
    }

    /// The gate before the guest.
    pub const fn gate(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// Puts `gate` before the guest: while it is closed there is no room.
    #[must_use]
    pub fn behind(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Shows what the guest is sent to who looks at `capture`.
    #[must_use]
    pub fn seen_by(self, capture: CaptureTap) -> Self {
        Self { capture, ..self }
    }

    /// Where it is shown.
    pub const fn capture(&mut self) -> &mut CaptureTap {
        &mut self.capture
    }

    /// Starts to use `ring`. Whoever met `NoRoom` before still waits for room.
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
        self.gate.settle();
        self.ring.as_mut().is_some_and(|ring| {
            ring.forget_visited();
            ring.publish();
            ring.wants_call()
        })
    }

    /// True after somebody met [`NoRoom`].
    pub const fn is_starved(&self) -> bool {
        self.starved
    }

    /// Forgets that somebody met [`NoRoom`].
    pub const fn forget_starved(&mut self) {
        self.starved = false;
    }

    /// What is wrong with the ring, if something turned out to be.
    pub const fn take_broken(&mut self) -> Option<RingError> {
        self.broken.take()
    }
}

impl GuestSink for Receive {
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
