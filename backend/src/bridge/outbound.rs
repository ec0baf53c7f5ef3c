//! Sends the guest's frames to the segment, with one write per frame or per run of datagrams merged by
//! [`merge`](crate::gso::merge).
//!
//! Headers are sent from the copied head, so they are the ones that were checked, whatever the guest does to its memory
//! in the meantime. A short frame is copied as a whole into one buffer, which the kernel accepts faster than a list.
//! The payload of a long frame is sent from guest memory.

use super::segment::Segment;
use crate::config::Forwarding;
use crate::counters::{Count, Counters, DropReason};
use crate::frame::{GatherList, GuestBurst, GuestCaps, GuestFrame, GuestSlice, Offload};
use crate::gso::merge::{MAX_FRAMES, MAX_HEADERS, Plan, Run};
use crate::packet::{EthernetHeader, MacAddr};
use crate::policy::vlan::{TagEdit, VlanRules};
use crate::virtio::net_header;
use std::io;
use std::sync::Arc;

/// Writes frames to the device.
pub(super) struct Outbound {
    counters: Arc<Counters>,
    vlan: VlanRules,
    /// Destination MAC of all frames, on a routed segment.
    receiver: Option<MacAddr>,
    plan: Plan,
    /// The virtio header, the frame's headers, and the payload copied so far.
    bytes: Vec<u8>,
    gather: GatherList,
}

impl Outbound {
    pub(super) fn new(counters: Arc<Counters>, vlan: VlanRules, forwarding: Forwarding) -> Self {
        Self {
            counters,
            vlan,
            receiver: match forwarding {
                Forwarding::Switched => None,
                Forwarding::Routed { device } => Some(device),
            },
            plan: Plan::default(),
            bytes: Vec::new(),
            gather: GatherList::default(),
        }
    }

    pub(super) fn send(&mut self, segment: &mut Segment, burst: &GuestBurst<'_>) {
        for part in burst.chunks(MAX_FRAMES) {
            let mut plan = std::mem::take(&mut self.plan);
            plan.make(part);
            for run in plan.runs() {
                self.send_run(segment, &plan, run, part);
            }
            self.plan = plan;
        }
    }

    fn send_run(&mut self, segment: &mut Segment, plan: &Plan, run: &Run, burst: &GuestBurst<'_>) {
        let count = run.count as u64;
        if segment.is_gone() {
            return self.counters.count_drops(DropReason::SegmentDown, count);
        }
        let first = &burst[run.first];
        let edit = match self.vlan.outgoing(&first.parsed) {
            Ok(edit) => edit,
            Err(reason) => return self.counters.count_drops(reason, count),
        };
        self.bytes.clear();
        let written = if run.count == 1 {
            self.put_headers(first.offload, edit, first.head);
            self.write(segment, std::iter::once((first, first.head.len())))
        } else {
            let mut headers = [0; MAX_HEADERS];
            let offload = run.headers(first.head, &mut headers);
            self.put_headers(offload, edit, &headers[..run.headers]);
            self.counters.add(Count::TxMerged, count);
            self.write(segment, plan.frames(run).map(|index| (&burst[index], run.headers)))
        };
        match written {
            Ok(()) => segment.on_success(),
            Err(error) => {
                segment.on_error(&error);
                self.counters.count_drops(reason(&error), count);
            }
        }
    }

    /// Begins a frame with the virtio header and `head`, to whose tag `edit` is applied.
    fn put_headers(&mut self, offload: Offload, edit: TagEdit, head: &[u8]) {
        let start = self.bytes.len() + net_header::HEADER_LEN;
        match edit.header(head) {
            None => {
                self.bytes
                    .extend_from_slice(&net_header::encode(offload, head, 0, GuestCaps::ALL));
                self.bytes.extend_from_slice(head);
            }
            Some(edited) => {
                self.bytes.extend_from_slice(&[0; net_header::HEADER_LEN]);
                self.bytes.extend_from_slice(edited.bytes());
                self.bytes.extend_from_slice(&head[edited.replaces..]);
                let header = net_header::encode(edit.offload(offload), &self.bytes[start..], 0, GuestCaps::ALL);
                self.bytes[start - net_header::HEADER_LEN..start].copy_from_slice(&header);
            }
        }
        if let Some(receiver) = self.receiver {
            self.bytes[start..][EthernetHeader::DST].copy_from_slice(&receiver.0);
        }
    }

    /// Writes the bytes that were prepared in the buffer, then each frame's bytes from its offset onwards.
    fn write<'a, 'g: 'a>(
        &mut self,
        segment: &Segment,
        frames: impl Iterator<Item = (&'a GuestFrame<'g>, usize)> + Clone,
    ) -> io::Result<()> {
        if frames.clone().all(|(frame, _)| frame.head.len() == frame.len) {
            for (frame, offset) in frames {
                self.bytes.extend_from_slice(&frame.head[offset..]);
            }
            return segment.queue().write(&[GuestSlice::from_bytes(&self.bytes)]).map(drop);
        }
        let mut gather = self.gather.start();
        gather.push(GuestSlice::from_bytes(&self.bytes));
        for (frame, offset) in frames {
            if frame.head.len() == frame.len {
                gather.push(GuestSlice::from_bytes(&frame.head[offset..]));
            } else {
                frame.gather(offset, frame.len - offset, &mut gather);
            }
        }
        segment.queue().write(gather.slices()).map(drop)
    }
}

fn reason(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EIO | libc::EBADFD | libc::ENODEV | libc::ENXIO) => DropReason::SegmentDown,
        _ => DropReason::SegmentRefused,
    }
}
