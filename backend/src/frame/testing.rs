//! A receive side without a guest, for tests of modes. It uses ordinary memory and has a configurable number of
//! buffers.

use super::{Checksum, GuestCaps, GuestFrame, GuestSink, GuestSlice, GuestSliceMut, HEAD_MAX, Layout, NoRoom, Offload};
use crate::packet::Head;

/// A frame delivered to the fake guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The whole frame, beginning with the Ethernet header.
    pub bytes: Vec<u8>,
    /// Offloads left to the guest.
    pub offload: Offload,
}

/// A [`GuestSink`] that uses ordinary memory.
pub struct TestSink {
    /// Frames delivered to the guest, in order.
    pub frames: Vec<Delivered>,
    /// Offloads that the guest accepts.
    pub caps: GuestCaps,
    /// Number of frames for which the guest still has buffers.
    pub room: usize,
    /// Length of the largest frame that fits into the guest's buffers.
    pub largest: usize,
    layout: Layout,
    storage: Vec<u8>,
    slices: Vec<libc::iovec>,
    granted: usize,
}

debug_fields!(TestSink { room, granted });

// SAFETY: the iovecs point into `storage`, which moves with the sink's heap block.
unsafe impl Send for TestSink {}

impl Default for TestSink {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            caps: GuestCaps::ALL,
            room: usize::MAX,
            largest: usize::MAX,
            layout: Layout {
                header: 0,
                payload: 0,
                count: 0,
            },
            storage: Vec::new(),
            slices: Vec::new(),
            granted: 0,
        }
    }
}

impl TestSink {
    /// Takes the frames delivered so far.
    pub fn take(&mut self) -> Vec<Delivered> {
        std::mem::take(&mut self.frames)
    }

    fn stride(&self) -> usize {
        self.layout.header + self.layout.payload
    }

    fn view(&mut self, from: usize, to: usize) -> &mut [GuestSliceMut<'_>] {
        let part = &mut self.slices[from..to];
        // SAFETY: GuestSliceMut is repr(transparent) over iovec; the addresses lie in
        // `storage`, borrowed through self.
        unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast(), part.len()) }
    }
}

impl GuestSink for TestSink {
    fn caps(&self) -> GuestCaps {
        self.caps
    }

    fn send(&mut self, offload: Offload, parts: &[&[u8]]) -> Result<(), NoRoom> {
        if parts.iter().map(|part| part.len()).sum::<usize>() > self.largest {
            return Err(NoRoom);
        }
        self.room = self.room.checked_sub(1).ok_or(NoRoom)?;
        self.frames.push(Delivered {
            bytes: parts.concat(),
            offload,
        });
        Ok(())
    }

    fn reserve(&mut self, layout: Layout) -> Result<usize, NoRoom> {
        let count = layout.count.min(self.room);
        if count == 0 {
            return Err(NoRoom);
        }
        self.layout = layout;
        self.granted = count;
        let stride = self.stride();
        self.storage.resize(self.storage.len().max(stride * count), 0);
        let base = self.storage.as_mut_ptr();
        self.slices = (0..count)
            .map(|i| libc::iovec {
                iov_base: base.wrapping_add(i * stride + layout.header).cast(),
                iov_len: layout.payload,
            })
            .collect();
        Ok(count)
    }

    fn payload(&mut self, index: usize) -> &mut [GuestSliceMut<'_>] {
        self.view(index, index + 1)
    }

    fn payload_all(&mut self) -> &mut [GuestSliceMut<'_>] {
        self.view(0, self.slices.len())
    }

    fn commit(&mut self, lengths: &[usize], header: &mut dyn FnMut(usize, usize, &mut [u8]) -> Offload) {
        assert!(lengths.len() <= self.granted, "more frames than reserved");
        for (i, &length) in lengths.iter().enumerate() {
            let at = i * self.stride();
            let frame = &mut self.storage[at..at + self.layout.header + length];
            let offload = header(i, length, &mut frame[..self.layout.header]);
            self.frames.push(Delivered {
                bytes: frame.to_vec(),
                offload,
            });
            self.room -= 1;
        }
        self.granted = 0;
        self.slices.clear();
    }
}

/// An owned frame from a fake guest. `view` returns the borrowed form that a mode takes.
#[derive(Clone, Debug)]
pub struct OwnedFrame {
    bytes: Vec<u8>,
    offload: Offload,
}

impl OwnedFrame {
    /// A frame that needs no offloads.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            offload: Offload {
                checksum: Checksum::Complete,
                ..Offload::default()
            },
        }
    }

    /// Returns the same frame with this offload.
    #[must_use]
    pub fn with_offload(mut self, offload: Offload) -> Self {
        self.offload = offload;
        self
    }

    /// The frame's memory, as if it were guest memory.
    pub fn slices(&self) -> [GuestSlice<'_>; 1] {
        [GuestSlice::from_bytes(&self.bytes)]
    }

    /// The frame in the form that the worker passes on; `slices` are those of this frame.
    pub fn view<'a>(&'a self, slices: &'a [GuestSlice<'a>]) -> GuestFrame<'a> {
        let head = &self.bytes[..self.bytes.len().min(HEAD_MAX)];
        GuestFrame {
            head,
            parsed: Head::parse(head, self.bytes.len()),
            slices,
            len: self.bytes.len(),
            offload: self.offload,
        }
    }

    /// Calls `f` with the frame as the worker would pass it on.
    pub fn with<R>(&self, f: impl FnOnce(&GuestFrame<'_>) -> R) -> R {
        f(&self.view(&self.slices()))
    }

    /// Calls `f` with the frame as the worker would pass it on if the guest overwrote the copied bytes right after the
    /// copy.
    pub fn with_head_overwritten<R>(&self, f: impl FnOnce(&GuestFrame<'_>) -> R) -> R {
        let mut memory = self.bytes.clone();
        let head = memory.len().min(HEAD_MAX);
        memory[..head].fill(0xff);
        f(&self.view(&[GuestSlice::from_bytes(&memory)]))
    }
}
