//! The direction from the guest: turns chains of the transmit ring into frames.
//!
//! A burst takes up to [`BURST`] chains, but at most half of the ring and fewer if frames are
//! large. It has four passes: take the chains, copy each head out of guest memory once and check
//! it, let the mode act on the remaining frames, return the chains. The buffers of all passes are
//! reused. The guest fills one half of the ring while the other is processed.

use super::features::Features;
use super::net_header::{self, HEADER_LEN, LEGACY_HEADER_LEN};
use super::ring::{Chain, MAX_SEGMENTS, Part, Ring, RingError, Segments};
use crate::counters::{Count, Counters, DropReason};
use crate::frame::{Budget, GuestBurst, GuestFrame, HEAD_MAX, Offload, copy_from_guest};
use crate::packet::{EthernetHeader, Head};

/// Maximum chains in one burst. A larger burst gives more datagrams of one flow that can be merged.
pub const BURST: usize = 256;
/// A burst ends with the chain that reaches this many bytes, so that the guest gets large buffers back while others are
/// processed.
const BYTE_BUDGET: usize = 4 * 1024 * 1024;
/// A burst ends early when it has this many buffers.
const SEGMENT_BUDGET: usize = 2048;
/// A burst ends early when it has visited this many descriptors, including empty ones.
const VISIT_BUDGET: usize = SEGMENT_BUDGET;
/// Length of the longest frame: an IP packet of 65535 bytes, its Ethernet header and a VLAN tag.
const MAX_FRAME: usize = 65535 + EthernetHeader::LEN + 4;
/// Number of bytes copied of every chain: its virtio header and the frame's head.
const COPY: usize = HEADER_LEN + HEAD_MAX;

/// The transmit side of a queue pair while its ring runs.
pub struct Transmit {
    ring: Ring,
    features: Features,
    header_len: usize,
    segments: Segments,
    chains: Vec<Chain>,
    copies: Vec<[u8; COPY]>,
    /// Frames of the current burst. Empty between bursts.
    frames: Vec<GuestFrame<'static>>,
}

debug_fields!(Transmit { ring });

/// A valid chain's frame, according to its virtio header and descriptors.
struct Checked {
    /// Number of bytes of the frame's head that were copied, after the virtio header.
    head: usize,
    len: usize,
    offload: Offload,
}

/// A chain that does not contain a valid frame.
struct Malformed {
    reason: DropReason,
    /// Number of bytes of the head that were copied.
    head: usize,
}

impl Transmit {
    /// Creates the transmit side for frames from `ring`.
    pub fn new(ring: Ring, features: Features) -> Self {
        Self {
            ring,
            features,
            header_len: net_header::header_len(features),
            segments: Segments::with_capacity(SEGMENT_BUDGET + MAX_SEGMENTS),
            chains: Vec::with_capacity(BURST),
            copies: vec![[0; COPY]; BURST],
            frames: Vec::with_capacity(BURST),
        }
    }

    /// The ring from which frames are taken.
    pub const fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Maximum chains in a burst.
    pub fn most(&self) -> usize {
        usize::from(self.ring.size() / 2).clamp(1, BURST)
    }

    /// Applies newly acknowledged features.
    pub const fn set_features(&mut self, features: Features) {
        self.features = features;
        self.header_len = net_header::header_len(features);
        self.ring.set_features(features);
    }

    /// Takes up to a burst of chains, within `budget`; drops and counts those that are malformed or not admitted,
    /// passes the rest to `act`, and returns all chains to the guest. Returns the number of chains. `admit` receives
    /// the first bytes of each frame, its length and its offload, and returns the parsed head. `malformed` receives the
    /// available part of the head of each malformed frame, and the reason.
    ///
    /// # Errors
    /// A [`RingError`], after earlier chains have been handled: the ring must stop.
    #[inline]
    pub fn burst(
        &mut self,
        counters: &Counters,
        budget: Budget,
        admit: impl FnMut(&[u8], usize, Offload) -> Result<Head, DropReason>,
        malformed: impl FnMut(&[u8], DropReason),
        act: impl FnOnce(&GuestBurst<'_>),
    ) -> Result<usize, RingError> {
        let result = self.take_chains(budget);
        self.show(counters, admit, malformed, act);
        for chain in &self.chains {
            // The device does not write to a transmit buffer.
            self.ring.push_used(chain.head, 0);
        }
        self.ring.publish();
        let taken = self.chains.len();
        self.chains.clear();
        self.segments.clear();
        result.map(|()| taken)
    }

    fn take_chains(&mut self, mut budget: Budget) -> Result<(), RingError> {
        let most = self.most();
        let mut bytes = 0;
        self.ring.forget_visited();
        // Empty buffers are not in the list, but each of their descriptors takes as much time as any other.
        while self.chains.len() < most
            && self.ring.visited() < VISIT_BUDGET
            && self.segments.len() < SEGMENT_BUDGET
            && bytes < BYTE_BUDGET
            && !budget.is_spent()
        {
            match self.ring.pop(&mut self.segments)? {
                Some(chain) => {
                    bytes += chain.len;
                    budget = budget.after(chain.len as u64, 1);
                    self.chains.push(chain);
                }
                None => break,
            }
        }
        Ok(())
    }

    /// Copies and checks the head of each chain, and passes the frames that are admitted to `act`.
    #[inline]
    fn show(
        &mut self,
        counters: &Counters,
        mut admit: impl FnMut(&[u8], usize, Offload) -> Result<Head, DropReason>,
        mut malformed: impl FnMut(&[u8], DropReason),
        act: impl FnOnce(&GuestBurst<'_>),
    ) {
        let mut frames = recycle(std::mem::take(&mut self.frames));
        let mut total = 0;
        let mut parts = self.segments.parts();
        for (chain, copy) in self.chains.iter().zip(&mut self.copies) {
            let part = parts.take(chain);
            let checked = check(chain, &part, self.features, copy);
            let bytes = &copy[self.header_len..];
            let verdict = match checked {
                Ok(Checked { head, len, offload }) => admit(&bytes[..head], len, offload).map(|parsed| {
                    total += len as u64;
                    frames.push(GuestFrame {
                        head: &bytes[..head],
                        parsed,
                        slices: part.skip(self.header_len),
                        len,
                        offload,
                    });
                }),
                Err(Malformed { reason, head }) => {
                    malformed(&bytes[..head], reason);
                    Err(reason)
                }
            };
            if let Err(reason) = verdict {
                counters.count_drop(reason);
            }
        }
        if !frames.is_empty() {
            counters.add(Count::TxFrames, frames.len() as u64);
            counters.add(Count::TxBytes, total);
            act(&frames);
        }
        self.frames = recycle(frames);
    }
}

/// Copies the head of a chain's frame, including its virtio header, to `copy`, and checks both.
#[inline]
fn check(chain: &Chain, part: &Part<'_>, features: Features, copy: &mut [u8; COPY]) -> Result<Checked, Malformed> {
    let header_len = net_header::header_len(features);
    if chain.writable != 0 || chain.len <= header_len {
        return Err(malformed(chain, part, header_len, copy, DropReason::BadChain));
    }
    let len = chain.len - header_len;
    if len > MAX_FRAME {
        return Err(malformed(chain, part, header_len, copy, DropReason::FrameTooLong));
    }
    let head = len.min(HEAD_MAX);
    copy_from_guest(part.slices(), 0, &mut copy[..header_len + head]);
    let (header, bytes) = copy.split_at(header_len);
    let malformed = |reason| Malformed { reason, head };
    let header: &[u8; LEGACY_HEADER_LEN] = header.first_chunk().ok_or(malformed(DropReason::BadChain))?;
    let offload = net_header::decode(header, &bytes[..head], features).map_err(malformed)?;
    Ok(Checked { head, len, offload })
}

/// Copies the readable part of the head of a malformed frame.
#[cold]
fn malformed(
    chain: &Chain,
    part: &Part<'_>,
    header_len: usize,
    copy: &mut [u8; COPY],
    reason: DropReason,
) -> Malformed {
    let copied = copy_from_guest(&part.slices()[..chain.readable], 0, &mut copy[..header_len + HEAD_MAX]);
    Malformed {
        reason,
        head: copied.saturating_sub(header_len),
    }
}

/// Converts a list into an empty list with the same allocation and another lifetime. The standard library collects in
/// place, because the layouts are equal.
fn recycle<'b>(mut frames: Vec<GuestFrame<'_>>) -> Vec<GuestFrame<'b>> {
    frames.clear();
    frames.into_iter().map_while(|_| None).collect()
}

#[cfg(test)]
#[path = "transmit_tests.rs"]
mod tests;
