//! Walks a descriptor chain: checks every index, length and address, and translates every buffer to
//! host memory.

use super::{DESCRIPTOR_SIZE, Ring, RingError};
use crate::frame::{GuestSlice, GuestSliceMut};
use std::ops::Range;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

/// Maximum buffers of one chain. It is the limit of one readv(2) or sendmsg(2) (IOV_MAX), and of QEMU
/// (VIRTQUEUE_MAX_SIZE). Drivers use about twenty.
///
/// Virtio 1.3, 2.7.5.3.1, limits a chain to the queue size. Linux makes longer tables for small rings
/// (`virtqueue_add_split` counts a table as one descriptor), so this code tolerates them.
pub const MAX_SEGMENTS: usize = 1024;
/// Maximum entries of an indirect table. A 16-bit `next` cannot reach more entries in a chain that visits no entry
/// twice. vhost in the kernel and rust-vmm have the same limit.
const MAX_TABLE: u32 = 65_535;
/// Maximum descriptors that one chain may visit: those of the ring, the last of which may lead to an indirect table,
/// plus those of the table.
pub const MAX_VISITS: usize = 2 * MAX_SEGMENTS;

/// A chain taken from the ring. Its buffers are `first..first + readable + writable` of the [`Segments`] into which it
/// was popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Index of the chain's first descriptor, which identifies the chain in the used ring.
    pub head: u16,
    /// Index of the chain's entry in the available ring.
    pub position: u16,
    /// Index of the chain's first buffer.
    pub first: usize,
    /// Number of readable buffers. They come first.
    pub readable: usize,
    /// Number of writable buffers.
    pub writable: usize,
    /// Total length of all buffers in bytes.
    pub len: usize,
}

impl Chain {
    /// Indices of the chain's buffers.
    pub const fn segments(&self) -> Range<usize> {
        self.first..self.first + self.readable + self.writable
    }
}

/// Buffers of chains in host memory, in the form that system calls take. The list is reused from burst to burst. The
/// code that fills it from a ring empties it before the ring is released.
#[derive(Default)]
pub struct Segments(Vec<libc::iovec>);

debug_fields!(Segments {});

// SAFETY: the entries are addresses in a shared mapping, which belongs to no thread.
unsafe impl Send for Segments {}

impl Segments {
    /// An empty list with room for `n` buffers.
    pub fn with_capacity(n: usize) -> Self {
        Self(Vec::with_capacity(n))
    }

    /// Number of buffers.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are no buffers.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes all buffers.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Removes all buffers except the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Adds part of a buffer that is already in a list of the same ring.
    pub(in crate::virtio) fn push_part(&mut self, buffer: libc::iovec, offset: usize, len: usize) {
        let base = buffer.iov_base.cast::<u8>().wrapping_add(offset);
        debug_assert!(offset + len <= buffer.iov_len, "a part lies in its whole");
        self.0.push(libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        });
    }

    /// Removes all buffers except those of `chains`, which must be in order.
    pub(in crate::virtio) fn keep<'c>(&mut self, chains: impl Iterator<Item = &'c mut Chain>) {
        let mut end = 0;
        for chain in chains {
            let range = chain.segments();
            chain.first = end;
            end += range.len();
            self.0.copy_within(range, chain.first);
        }
        self.0.truncate(end);
    }

    /// The entries in this range, in raw form.
    pub(in crate::virtio) fn raw(&self, range: Range<usize>) -> &[libc::iovec] {
        &self.0[range]
    }

    /// The buffers, chain by chain. Chains must be requested in order.
    pub(in crate::virtio) const fn parts(&mut self) -> Parts<'_> {
        Parts {
            rest: self.0.as_mut_slice(),
            at: 0,
        }
    }

    /// The buffers in this range, to read from.
    pub(in crate::virtio) fn slices(&self, range: Range<usize>) -> &[GuestSlice<'_>] {
        readable(&self.0[range])
    }

    /// The buffers in this range, to write to.
    pub(in crate::virtio) fn slices_mut(&mut self, range: Range<usize>) -> &mut [GuestSliceMut<'_>] {
        let part = &mut self.0[range];
        // SAFETY: the same as in `slices`. In addition, guest memory is mapped writable and no Rust reference to it
        // exists.
        unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast(), part.len()) }
    }
}

/// Converts buffers to slices to read from. They must be those of a [`Segments`] that stays borrowed.
fn readable<'s>(part: &'s [libc::iovec]) -> &'s [GuestSlice<'s>] {
    // SAFETY: GuestSlice is repr(transparent) over iovec. A ring translated every entry within
    // its memory map, and the list is emptied before the map is released, so the memory is
    // mapped while the list is borrowed.
    unsafe { std::slice::from_raw_parts(part.as_ptr().cast(), part.len()) }
}

/// The buffers of chains that have not been requested yet.
#[derive(Debug)]
pub(crate) struct Parts<'s> {
    rest: &'s mut [libc::iovec],
    /// Index of the first of these buffers in the list.
    at: usize,
}

impl<'s> Parts<'s> {
    /// The buffers of the next chain.
    #[inline]
    pub(in crate::virtio) fn take(&mut self, chain: &Chain) -> Part<'s> {
        let Range { start, end } = chain.segments();
        let (_, from) = std::mem::take(&mut self.rest).split_at_mut(start - self.at);
        let (part, rest) = from.split_at_mut(end - start);
        *self = Self { rest, at: end };
        Part(part)
    }
}

/// The buffers of one chain.
#[derive(Debug)]
pub struct Part<'s>(&'s mut [libc::iovec]);

impl<'s> Part<'s> {
    /// All buffers of the chain.
    #[inline]
    pub(in crate::virtio) fn slices(&self) -> &[GuestSlice<'_>] {
        readable(self.0)
    }

    /// The buffers after the first `n` bytes.
    #[inline]
    pub(in crate::virtio) fn skip(self, mut n: usize) -> &'s [GuestSlice<'s>] {
        let mut rest = self.0;
        while let Some(buffer) = rest.first_mut() {
            if buffer.iov_len > n {
                buffer.iov_base = buffer.iov_base.cast::<u8>().wrapping_add(n).cast();
                buffer.iov_len -= n;
                break;
            }
            n -= buffer.iov_len;
            rest = &mut rest[1..];
        }
        readable(rest)
    }
}

/// A descriptor that was read once.
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// # Safety
    /// 16 bytes must be mapped at `ptr`.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "taking a word apart")]
    unsafe fn read(ptr: *const u8) -> Self {
        let [address, rest] = if ptr.addr().is_multiple_of(8) {
            // SAFETY: the bytes are mapped, as the caller guarantees, and aligned, as was just checked.
            unsafe {
                [
                    ptr.cast::<u64>().read_volatile(),
                    ptr.cast::<u64>().add(1).read_volatile(),
                ]
            }
        } else {
            // SAFETY: the bytes are mapped, as the caller guarantees.
            unsafe { read_unaligned(ptr) }
        };
        let rest = u64::from_le(rest);
        Self {
            address: u64::from_le(address),
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    #[inline]
    fn has(&self, flag: u32) -> bool {
        u32::from(self.flags) & flag != 0
    }
}

/// Reads the two words of an unaligned descriptor. Only an indirect table may be unaligned, and no driver makes such a
/// table.
///
/// # Safety
/// 16 bytes must be mapped at `ptr`.
#[cold]
unsafe fn read_unaligned(ptr: *const u8) -> [u64; 2] {
    let mut words = [[0u8; 8]; 2];
    for (i, byte) in words.as_flattened_mut().iter_mut().enumerate() {
        // SAFETY: i is below 16, and 16 bytes are mapped as the caller guarantees.
        *byte = unsafe { ptr.add(i).read_volatile() };
    }
    words.map(u64::from_ne_bytes)
}

/// The table that is walked: the ring's own, or an indirect one.
struct Table {
    base: *const u8,
    len: u32,
    indirect: bool,
}

impl Table {
    /// Maximum length of a chain in this table. A chain visits no descriptor twice, so it is not longer than its table.
    /// The number of its buffers, including empty ones, is limited too.
    fn longest_chain(&self) -> usize {
        (self.len as usize).min(MAX_SEGMENTS)
    }
}

impl Ring {
    /// Walks the chain that starts at descriptor `head`.
    pub(super) fn walk(&mut self, head: u16, segments: &mut Segments) -> Result<Chain, RingError> {
        let mut chain = Chain {
            head,
            position: self.next_avail,
            first: segments.len(),
            readable: 0,
            writable: 0,
            len: 0,
        };
        let mut visited = 0;
        let result = self.walk_into(&mut chain, &mut visited, segments);
        self.visited += visited;
        if result.is_err() {
            segments.truncate(chain.first);
        }
        result.map(|()| chain)
    }

    // This is inlined, so that the counters stay in registers.
    #[inline(always)]
    fn walk_into(&mut self, chain: &mut Chain, visited: &mut usize, segments: &mut Segments) -> Result<(), RingError> {
        let mut table = Table {
            base: self.descriptors,
            len: u32::from(self.layout.size),
            indirect: false,
        };
        let mut index = chain.head;
        let mut most = table.longest_chain();
        loop {
            if u32::from(index) >= table.len {
                return Err(RingError::DescriptorIndex(index));
            }
            // Empty buffers count too. They take no room in the list, but they take time.
            if *visited == most {
                return Err(RingError::ChainTooLong);
            }
            *visited += 1;
            // SAFETY: the index lies in the table, which was translated as a whole.
            let descriptor = unsafe { Descriptor::read(table.base.add(usize::from(index) * 16)) };
            if descriptor.has(VRING_DESC_F_INDIRECT) {
                table = self.indirect_table(&table, &descriptor)?;
                (index, most) = (0, *visited + table.longest_chain());
                continue;
            }
            let added = self.translate(&descriptor, chain.first + MAX_SEGMENTS, segments)?;
            chain.len += descriptor.len as usize;
            if descriptor.has(VRING_DESC_F_WRITE) {
                chain.writable += added;
            } else if chain.writable == 0 {
                chain.readable += added;
            } else {
                return Err(RingError::WrongOrder);
            }
            if !descriptor.has(VRING_DESC_F_NEXT) {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    fn indirect_table(&mut self, table: &Table, descriptor: &Descriptor) -> Result<Table, RingError> {
        let len = u64::from(descriptor.len);
        let malformed = len == 0 || !len.is_multiple_of(DESCRIPTOR_SIZE) || descriptor.has(VRING_DESC_F_NEXT);
        if malformed || table.indirect || !self.indirect {
            return Err(RingError::Indirect);
        }
        if len > u64::from(MAX_TABLE) * DESCRIPTOR_SIZE {
            return Err(RingError::TableTooLong(descriptor.len / 16));
        }
        let outside = RingError::OutsideMemory(descriptor.address);
        let (base, room) = self.map.find(&mut self.cache, descriptor.address).ok_or(outside)?;
        if len > room {
            return Err(outside);
        }
        Ok(Table {
            base,
            len: descriptor.len / 16,
            indirect: true,
        })
    }

    /// Adds the buffer of a descriptor to a list of at most `most` entries. Returns the number of entries added. An
    /// empty buffer adds none.
    #[inline]
    fn translate(&mut self, descriptor: &Descriptor, most: usize, segments: &mut Segments) -> Result<usize, RingError> {
        if let Some((host, room)) = self.map.find(&mut self.cache, descriptor.address)
            && u64::from(descriptor.len).wrapping_sub(1) < room
            && segments.len() < most
        {
            segments.0.push(libc::iovec {
                iov_base: host.cast(),
                iov_len: descriptor.len as usize,
            });
            return Ok(1);
        }
        self.translate_parts(descriptor, most, segments)
    }

    /// Handles the rare buffer that crosses into the next region, is empty or is refused.
    #[cold]
    fn translate_parts(
        &mut self,
        descriptor: &Descriptor,
        most: usize,
        segments: &mut Segments,
    ) -> Result<usize, RingError> {
        let before = segments.len();
        let (mut address, mut left) = (descriptor.address, u64::from(descriptor.len));
        while left > 0 {
            let outside = RingError::OutsideMemory(address);
            let (host, room) = self.map.find(&mut self.cache, address).ok_or(outside)?;
            if segments.len() >= most {
                return Err(RingError::ChainTooLong);
            }
            let part = left.min(room);
            segments.0.push(libc::iovec {
                iov_base: host.cast(),
                // The value has at most 32 bits, like `left`.
                iov_len: usize::try_from(part).map_err(|_| outside)?,
            });
            left -= part;
            address = address.checked_add(part).ok_or(outside)?;
        }
        Ok(segments.len() - before)
    }
}
