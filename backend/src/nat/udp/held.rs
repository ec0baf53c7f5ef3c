//! Copies datagrams to the guest, and holds those for which the guest had no room.
//!
//! A datagram that was taken from a socket cannot be put back. So a datagram, or a run of datagrams, is held if there
//! is no room, and sent first once there is. Meanwhile nothing is taken from any socket. The kernel limits what waits
//! there, and only the datagrams of one call are held here.

use super::receive::{Towards, send_copy};
use crate::counters::DropReason;
use crate::frame::{HEAD_MAX, Layout, NoRoom, Offload};
use crate::nat::context::Context;
use crate::nat::fragmenter::Fragmenter;
use crate::nat::saved::{LoadError, base64, ensure, within};
use crate::packet::FlowId;
use crate::sys::datagram::MAX_PAYLOAD;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Maximum bytes held, enough for two calls that return 64 KiB runs.
const MAX_BYTES: usize = 4 << 20;

/// Maximum attempts to send a datagram of which only a part had room. A guest whose ring is too small for all fragments
/// of one datagram must not delay everything after it.
const MAX_TRIES: u32 = 8;

/// A datagram, or a run, for a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived<'a> {
    /// Flow to which it belongs.
    pub key: FlowId,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Size of each datagram, for a run.
    pub segment: Option<u16>,
    /// Payload of the datagram or run.
    pub body: &'a [u8],
}

/// A datagram, or a run, that waits for room.
#[derive(Debug)]
pub(super) struct Held {
    key: FlowId,
    traffic_class: u8,
    segment: Option<u16>,
    body: Vec<u8>,
    /// Number of bytes of a run that the guest has already received.
    gone: usize,
    tries: u32,
}

/// [`Held`] as a plain value, without its flow.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedHeld {
    traffic_class: u8,
    segment: Option<u16>,
    #[serde(with = "base64")]
    body: Vec<u8>,
    tries: u32,
}

impl Held {
    fn save(&self) -> SavedHeld {
        let Self {
            key: _,
            traffic_class,
            segment,
            body,
            gone,
            tries,
        } = self;
        SavedHeld {
            traffic_class: *traffic_class,
            segment: *segment,
            body: body[*gone..].to_vec(),
            tries: *tries,
        }
    }

    fn load(key: FlowId, saved: &SavedHeld) -> Result<Self, LoadError> {
        within("bytes held", saved.body.len(), 0..=MAX_PAYLOAD)?;
        ensure(
            saved.segment != Some(0),
            "a run of datagrams has a segment size of zero",
        )?;
        Ok(Self {
            key,
            traffic_class: saved.traffic_class,
            segment: saved.segment,
            body: saved.body.clone(),
            gone: 0,
            tries: saved.tries.min(MAX_TRIES),
        })
    }

    fn rest(&self) -> Arrived<'_> {
        Arrived {
            key: self.key,
            traffic_class: self.traffic_class,
            segment: self.segment,
            body: &self.body[self.gone..],
        }
    }
}

/// Copies datagrams to the guest, in order.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    fragmenter: Fragmenter,
    held: VecDeque<Held>,
    bytes: usize,
}

impl Delivery {
    /// True if a datagram waits for room.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes out the datagrams held for a flow that moves to another worker.
    pub(super) fn take(&mut self, key: &FlowId) -> Vec<Held> {
        let mut taken = Vec::new();
        for held in std::mem::take(&mut self.held) {
            if held.key == *key {
                self.bytes -= held.body.len();
                taken.push(held);
            } else {
                self.held.push_back(held);
            }
        }
        taken
    }

    /// Adds the datagrams that another worker held for a flow.
    pub(super) fn put(&mut self, held: Vec<Held>) {
        self.bytes += held.iter().map(|held| held.body.len()).sum::<usize>();
        self.held.extend(held);
    }

    /// Converts the datagrams held for a flow to plain values.
    pub(super) fn save(&self, key: &FlowId) -> Vec<SavedHeld> {
        let of_flow = self.held.iter().filter(|held| held.key == *key);
        of_flow.map(Held::save).collect()
    }

    /// Holds the datagrams that another process held for a flow.
    pub(super) fn load(&mut self, key: FlowId, saved: &[SavedHeld]) -> Result<(), LoadError> {
        let held: Result<Vec<_>, _> = saved.iter().map(|saved| Held::load(key, saved)).collect();
        let held = held?;
        let bytes: usize = held.iter().map(|held| held.body.len()).sum();
        within("bytes held of all flows", self.bytes + bytes, 0..=MAX_BYTES)?;
        self.put(held);
        Ok(())
    }

    /// Sends a datagram or a run, or holds it if there is no room.
    pub(super) fn send(&mut self, ctx: &mut Context<'_>, arrived: &Arrived<'_>) {
        let gone = if self.is_holding() {
            0
        } else {
            match attempt(&mut self.fragmenter, ctx, arrived) {
                Ok(()) => return,
                Err(gone) => gone,
            }
        };
        let rest = Arrived {
            body: &arrived.body[gone..],
            ..*arrived
        };
        if self.bytes + rest.body.len() > MAX_BYTES {
            return ctx.counters.count_drops(DropReason::NoRoom, rest.datagrams());
        }
        self.bytes += rest.body.len();
        self.held.push_back(Held {
            key: rest.key,
            traffic_class: rest.traffic_class,
            segment: rest.segment,
            body: rest.body.to_vec(),
            gone: 0,
            tries: 0,
        });
    }

    /// Sends held datagrams, as far as there is room.
    ///
    /// # Errors
    /// [`NoRoom`]: some datagrams are still held.
    pub(super) fn flush(&mut self, ctx: &mut Context<'_>) -> Result<(), NoRoom> {
        while let Some(held) = self.held.front_mut() {
            has_room(ctx)?;
            if let Err(gone) = attempt(&mut self.fragmenter, ctx, &held.rest()) {
                held.gone += gone;
                held.tries = if gone == 0 { held.tries + 1 } else { 0 };
                if held.tries < MAX_TRIES {
                    return Err(NoRoom);
                }
                ctx.counters.count_drops(DropReason::NoRoom, held.rest().datagrams());
            }
            let done = self.held.pop_front();
            self.bytes -= done.map_or(0, |held| held.body.len());
        }
        Ok(())
    }
}

impl Arrived<'_> {
    /// Number of datagrams in the held item.
    fn datagrams(&self) -> u64 {
        let n = self
            .segment
            .map_or(1, |size| self.body.len().div_ceil(usize::from(size).max(1)));
        u64::try_from(n).unwrap_or(u64::MAX)
    }
}

/// Checks that the guest has room for a frame.
fn has_room(ctx: &mut Context<'_>) -> Result<(), NoRoom> {
    let probe = Layout {
        header: HEAD_MAX,
        payload: 0,
        count: 1,
    };
    ctx.sink.reserve(probe)?;
    ctx.sink.commit(&[], &mut |_, _, _| Offload::NONE);
    Ok(())
}

/// Sends a datagram or a run. A run is sent as one frame if the guest accepts that and has room for it, and otherwise
/// one datagram at a time, since its ring may never hold the whole run. On error, returns the number of bytes sent
/// before.
fn attempt(fragmenter: &mut Fragmenter, ctx: &mut Context<'_>, arrived: &Arrived<'_>) -> Result<(), usize> {
    let Arrived { key, segment, body, .. } = *arrived;
    let towards = Towards::new(key, ctx).with_class(arrived.traffic_class);
    let Some(size) = segment.map(|size| usize::from(size).max(1)) else {
        return send_copy(fragmenter, ctx, &towards, body, None).map_err(|NoRoom| 0);
    };
    if towards.takes_runs() && send_copy(fragmenter, ctx, &towards, body, segment).is_ok() {
        return Ok(());
    }
    for (i, part) in body.chunks(size).enumerate() {
        send_copy(fragmenter, ctx, &towards, part, None).map_err(|NoRoom| i * size)?;
    }
    Ok(())
}
