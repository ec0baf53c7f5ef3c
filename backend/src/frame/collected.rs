//! Frames for a guest that runs elsewhere: where they are collected, and where they wait for its room.

use super::{Checksum, GuestCaps, GuestSink, GuestSliceMut, Layout, NoRoom, Offload, ScatterList};
use crate::packet::checksum::Sum;
use std::collections::VecDeque;

/// Most frames collected at a time, and most that wait.
const FRAMES: usize = 1024;
/// Most payload bytes of one reservation.
const RESERVED: usize = 1 << 20;

/// A [`GuestSink`] that keeps the frames. They need no offloads, so that they can be delivered to any guest.
#[derive(Default)]
pub struct Collected {
    frames: Vec<Vec<u8>>,
    layout: Option<Layout>,
    storage: Vec<u8>,
    scatter: ScatterList,
}

debug_fields!(Collected {});

impl Collected {
    /// The frames, in order.
    pub fn into_frames(self) -> Vec<Vec<u8>> {
        self.frames
    }

    /// Keeps only the frames for which `is_kept` is true.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&[u8]) -> bool) {
        self.frames.retain(|frame| is_kept(frame));
    }

    fn keep(&mut self, mut frame: Vec<u8>, offload: Offload) {
        if let Checksum::Partial { start, offset } = offload.checksum {
            complete(&mut frame, start.into(), offset.into());
        }
        self.frames.push(frame);
    }
}

/// Writes the checksum of what follows `start`, where the sum of the pseudo header is.
fn complete(frame: &mut [u8], start: usize, offset: usize) {
    let Some(transport) = frame.get_mut(start..) else {
        return;
    };
    // Zero would mean "none" (RFC 768).
    let sum = Sum::default().bytes(transport).finish_nonzero();
    if let Some(field) = transport.get_mut(offset..offset + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

impl GuestSink for Collected {
    fn caps(&self) -> GuestCaps {
        GuestCaps::default()
    }

    fn send(&mut self, offload: Offload, parts: &[&[u8]]) -> Result<(), NoRoom> {
        if self.frames.len() >= FRAMES {
            return Err(NoRoom);
        }
        self.keep(parts.concat(), offload);
        Ok(())
    }

    fn reserve(&mut self, layout: Layout) -> Result<usize, NoRoom> {
        let most = (RESERVED / layout.payload.max(1)).max(1);
        let count = layout.count.min(FRAMES - self.frames.len()).min(most);
        if count == 0 {
            return Err(NoRoom);
        }
        self.storage.resize(count * layout.payload, 0);
        self.layout = Some(Layout { count, ..layout });
        Ok(count)
    }

    fn payload(&mut self, index: usize) -> &mut [GuestSliceMut<'_>] {
        let payload = self.layout.map_or(0, |layout| layout.payload);
        let mut scatter = self.scatter.start();
        if let Some(room) = self.storage.get_mut(index * payload..(index + 1) * payload) {
            scatter.push(room);
        }
        scatter.into_slices()
    }

    fn payload_all(&mut self) -> &mut [GuestSliceMut<'_>] {
        let payload = self.layout.map_or(0, |layout| layout.payload);
        let mut scatter = self.scatter.start();
        for room in self.storage.chunks_mut(payload.max(1)) {
            scatter.push(room);
        }
        scatter.into_slices()
    }

    fn commit(&mut self, lengths: &[usize], header: &mut dyn FnMut(usize, usize, &mut [u8]) -> Offload) {
        let Some(layout) = self.layout.take() else { return };
        let storage = std::mem::take(&mut self.storage);
        for (i, &length) in lengths.iter().enumerate().take(layout.count) {
            let payload = &storage[i * layout.payload..][..length.min(layout.payload)];
            let mut frame = vec![0; layout.header];
            let offload = header(i, length, &mut frame);
            frame.extend_from_slice(payload);
            self.keep(frame, offload);
        }
        self.storage = storage;
        self.storage.clear();
    }
}

/// Frames from another process that wait for room in the guest.
#[derive(Debug, Default)]
pub struct Awaited(VecDeque<Vec<u8>>);

impl Awaited {
    /// Adds frames. Returns the number of those for which there is no place.
    pub fn add(&mut self, frames: Vec<Vec<u8>>) -> u64 {
        let places = FRAMES - self.0.len().min(FRAMES);
        let lost = frames.len().saturating_sub(places);
        self.0.extend(frames.into_iter().take(places));
        lost as u64
    }

    /// True if no frame waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops all frames.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Delivers frames while there is room.
    ///
    /// # Errors
    /// [`NoRoom`]: some wait for room.
    pub fn deliver(&mut self, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        while let Some(frame) = self.0.front() {
            sink.send(Offload::NONE, &[frame])?;
            self.0.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::testing::TestSink;

    #[test]
    fn frames_are_collected_whole_however_they_are_sent() {
        let mut sink = Collected::default();
        sink.send(Offload::NONE, &[b"one", b"two"]).unwrap();
        let layout = Layout {
            header: 2,
            payload: 4,
            count: 3,
        };
        assert_eq!(sink.reserve(layout), Ok(3));
        sink.payload(1)[0].copy_from(b"abcd");
        sink.commit(&[0, 3], &mut |_, _, header| {
            header.copy_from_slice(b"hd");
            Offload::NONE
        });
        assert_eq!(sink.into_frames(), [&b"onetwo"[..], b"hd", b"hdabc"]);
    }

    #[test]
    fn frames_beyond_the_places_are_counted_and_the_others_wait_for_room() {
        let mut awaited = Awaited::default();
        assert_eq!(awaited.add(vec![vec![7; 60]; FRAMES + 3]), 3);
        let mut sink = TestSink::default();
        sink.room = 1;
        assert_eq!(awaited.deliver(&mut sink), Err(NoRoom));
        assert_eq!((sink.take().len(), awaited.is_empty()), (1, false));
        sink.room = usize::MAX;
        assert_eq!(awaited.deliver(&mut sink), Ok(()));
        assert_eq!((sink.take().len(), awaited.is_empty()), (FRAMES - 1, true));
    }
}
