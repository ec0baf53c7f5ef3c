//! Writes frames to the guest: the virtio header, the frame and the used elements.

use super::room::ReservedFrame;
use super::{Passage, Receive};
use crate::counters::{Count, DropReason};
use crate::frame::{Checksum, GuestSliceMut, HEAD_MAX, NoRoom, Offload};
use crate::packet::EthernetHeader;
use crate::virtio::complete::complete;
use crate::virtio::net_header::{HEADER_LEN, encode};
use std::ops::Range;

impl<P: Passage> Receive<P> {
    pub(super) fn commit_frames(
        &mut self,
        lengths: &[usize],
        header: &mut dyn FnMut(usize, usize, &mut [u8]) -> Offload,
    ) {
        debug_assert!(
            lengths.len() <= self.reservation.frames.len(),
            "more frames than reserved"
        );
        let frames = std::mem::take(&mut self.reservation.frames);
        let mut passed = 0;
        for (index, (frame, &length)) in frames.iter().zip(lengths).enumerate() {
            debug_assert!(length <= frame.room, "longer than reserved");
            let length = length.min(frame.room);
            let used = self.commit_frame(frame, length, &mut |head| header(index, length, head));
            self.leftover.extend(self.waiting.range(used..frame.chains.end));
            passed = frame.chains.end;
        }
        self.waiting.drain(..passed);
        while let Some(chain) = self.leftover.pop() {
            self.waiting.push_front(chain);
        }
        // This keeps the list's allocation for the next reservation.
        self.reservation.frames = frames;
        self.reservation.clear();
    }

    /// Writes one frame. Returns the index of its first chain that was not needed.
    fn commit_frame(
        &mut self,
        frame: &ReservedFrame,
        length: usize,
        header: &mut dyn FnMut(&mut [u8]) -> Offload,
    ) -> usize {
        let mut buffer = [0; HEADER_LEN + HEAD_MAX];
        let at = self.header_len;
        let head = &mut buffer[at..at + self.reservation.header];
        let mut offload = header(head);
        let dropped = self.passage.check(head).err();
        if self.passage.is_watched() {
            self.passage
                .show(head, self.reservation.payload_read(frame), length, dropped);
        }
        if let Some(reason) = dropped {
            self.counters.count_drop(reason);
            return frame.chains.start;
        }
        if !self.caps.checksum && offload.checksum != Checksum::Complete {
            offload = complete(offload, head, self.reservation.payload_read(frame), length);
        }
        let head_len = head.len();
        let total = at + head_len + length;
        let chains = self.chains_for(frame.chains.clone(), total);
        let buffers = if self.mergeable { chains.len() } else { 1 };
        let net_header = encode(offload, head, u16::try_from(buffers).unwrap_or(u16::MAX), self.caps);
        buffer[..at].copy_from_slice(&net_header[..at]);
        self.write(chains.clone(), 0, &buffer[..at + head_len]);
        self.finish(chains.clone(), total, offload);
        chains.end
    }

    pub(super) fn send_frame(&mut self, offload: Offload, parts: &[&[u8]]) -> Result<(), NoRoom> {
        self.reservation.clear();
        if !self.passage.admits() {
            self.starved = true;
            return Err(NoRoom);
        }
        if let Some(Err(reason)) = parts.first().map(|head| self.passage.check(head)) {
            self.passage.show_parts(parts, Some(reason));
            self.counters.count_drop(reason);
            return Ok(());
        }
        let frame_len: usize = parts.iter().map(|p| p.len()).sum();
        let total = self.header_len + frame_len;
        let least = self.header_len + EthernetHeader::LEN;
        let found = self.find_room(0, total, least);
        let Some(found) = found.filter(|f| f.bytes >= total || f.at_limit || !self.mergeable) else {
            self.starved = true;
            return Err(NoRoom);
        };
        if found.bytes < total {
            // The next buffers will not be larger, so the frame would wait forever.
            self.counters.count_drop(DropReason::BufferTooSmall);
            return Ok(());
        }
        if self.passage.is_watched() {
            self.passage.show_parts(parts, None);
        }
        let buffers = if self.mergeable { found.chains.len() } else { 1 };
        let buffers = u16::try_from(buffers).unwrap_or(u16::MAX);
        let chains = found.chains;
        if !self.caps.checksum && offload.checksum != Checksum::Complete {
            let mut frame = std::mem::take(&mut self.scratch);
            frame.clear();
            parts.iter().for_each(|part| frame.extend_from_slice(part));
            let offload = complete(offload, &mut frame, &[], 0);
            self.write_whole(chains.clone(), &encode(offload, &frame, buffers, self.caps), &[&frame]);
            self.scratch = frame;
        } else {
            let head = parts.first().copied().unwrap_or_default();
            self.write_whole(chains.clone(), &encode(offload, head, buffers, self.caps), parts);
        }
        self.finish(chains.clone(), total, offload);
        self.waiting.drain(chains);
        Ok(())
    }

    fn write_whole(&mut self, chains: Range<usize>, net_header: &[u8; HEADER_LEN], parts: &[&[u8]]) {
        let mut at = self.header_len;
        self.write(chains.clone(), 0, &net_header[..at]);
        for part in parts {
            self.write(chains.clone(), at, part);
            at += part.len();
        }
    }

    /// The chains among `chains` that a frame of `total` bytes fills. There is at least one.
    fn chains_for(&self, chains: Range<usize>, total: usize) -> Range<usize> {
        let (mut end, mut bytes) = (chains.start, 0);
        while end < chains.end && (bytes < total || end == chains.start) {
            bytes += self.waiting[end].len;
            end += 1;
        }
        chains.start..end
    }

    /// Copies `bytes` to `offset`, counted over all bytes of `chains`.
    fn write(&mut self, chains: Range<usize>, mut offset: usize, mut bytes: &[u8]) {
        for chain in self.waiting.range(chains) {
            for slice in self.segments.slices_mut(chain.segments()) {
                if bytes.is_empty() {
                    return;
                }
                if offset >= slice.len() {
                    offset -= slice.len();
                    continue;
                }
                let done = copy_at(slice, offset, bytes);
                (offset, bytes) = (0, &bytes[done..]);
            }
        }
        debug_assert!(bytes.is_empty(), "the chains have room for the bytes");
    }

    /// Writes the used elements of a frame of `total` bytes, marks the written bytes in the dirty
    /// log, and counts the frame.
    fn finish(&mut self, chains: Range<usize>, total: usize, offload: Offload) {
        let Some(ring) = &mut self.ring else { return };
        let mut left = total;
        for chain in self.waiting.range(chains) {
            let len = left.min(chain.len);
            left -= len;
            if ring.is_logging() {
                let mut written = len;
                for buffer in self.segments.raw(chain.segments()) {
                    let part = written.min(buffer.iov_len);
                    ring.mark_written(buffer.iov_base.cast::<u8>().cast_const(), part);
                    written -= part;
                }
            }
            ring.push_used(chain.head, u32::try_from(len).unwrap_or(u32::MAX));
        }
        self.passage.pass(total - self.header_len, offload.segmentation);
        self.counters.add(Count::RxFrames, 1);
        self.counters.add(Count::RxBytes, (total - self.header_len) as u64);
    }
}

fn copy_at(slice: &mut GuestSliceMut<'_>, offset: usize, bytes: &[u8]) -> usize {
    let room = slice.len() - offset;
    // SAFETY: the part lies in the slice, which is borrowed exclusively for the duration of the write.
    let mut part = unsafe { GuestSliceMut::new(slice.as_ptr().add(offset), room) };
    part.copy_from(bytes)
}
