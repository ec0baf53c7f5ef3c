//! Ranges of guest memory in the form that system calls take (`struct iovec`).
//!
//! The guest can write to this memory while hawser holds a slice of it, so it is never turned into a Rust `&[u8]`. The
//! bytes are either passed to the kernel by address or copied out once.

use std::marker::PhantomData;

/// Guest memory that the kernel may read from. It has the same layout as `struct iovec`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct GuestSlice<'a> {
    iov: libc::iovec,
    _memory: PhantomData<&'a [u8]>,
}

/// Guest memory that the kernel may write to. It has the same layout as `struct iovec`.
#[repr(transparent)]
pub struct GuestSliceMut<'a> {
    iov: libc::iovec,
    _memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: a slice is an address and a length. Its creator guarantees that the memory stays mapped for 'a, on any
// thread.
unsafe impl Send for GuestSlice<'_> {}
// SAFETY: as above.
unsafe impl Send for GuestSliceMut<'_> {}

impl<'a> GuestSlice<'a> {
    /// # Safety
    /// `[ptr, ptr + len)` must stay mapped and readable for `'a`. The memory may be written to concurrently.
    pub const unsafe fn new(ptr: *const u8, len: usize) -> Self {
        let iov = libc::iovec {
            iov_base: ptr.cast_mut().cast(),
            iov_len: len,
        };
        Self {
            iov,
            _memory: PhantomData,
        }
    }

    /// Wraps ordinary memory (replies that hawser builds, tests).
    pub const fn from_bytes(bytes: &'a [u8]) -> Self {
        // SAFETY: the borrow keeps the bytes in place for 'a.
        unsafe { Self::new(bytes.as_ptr(), bytes.len()) }
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.iov.iov_len
    }

    /// True if the slice is empty.
    pub const fn is_empty(&self) -> bool {
        self.iov.iov_len == 0
    }

    /// Address of the first byte.
    pub const fn as_ptr(&self) -> *const u8 {
        self.iov.iov_base.cast_const().cast()
    }

    /// The part that begins at `offset` and is at most `len` bytes long.
    #[must_use]
    pub fn range(&self, offset: usize, len: usize) -> Self {
        let offset = offset.min(self.len());
        let len = len.min(self.len() - offset);
        // SAFETY: a part of a valid slice.
        unsafe { Self::new(self.iov.iov_base.cast::<u8>().cast_const().add(offset), len) }
    }

    fn copy_to(&self, out: &mut [u8]) -> usize {
        let n = self.len().min(out.len());
        // SAFETY: n bytes are readable at iov_base and writable in `out`; guest memory and our own memory do not
        // overlap. A concurrent write by the guest can tear the bytes, which is harmless because they are checked after
        // the copy.
        unsafe { std::ptr::copy_nonoverlapping(self.iov.iov_base.cast::<u8>(), out.as_mut_ptr(), n) };
        n
    }
}

impl<'a> GuestSliceMut<'a> {
    /// # Safety
    /// `[ptr, ptr + len)` must stay mapped and writable for `'a`, and no Rust
    /// reference to it may exist.
    pub const unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        let iov = libc::iovec {
            iov_base: ptr.cast(),
            iov_len: len,
        };
        Self {
            iov,
            _memory: PhantomData,
        }
    }

    /// Wraps ordinary memory (spill buffers, tests).
    pub const fn from_bytes(bytes: &'a mut [u8]) -> Self {
        // SAFETY: the exclusive borrow keeps the bytes in place, and no other code accesses them for 'a.
        unsafe { Self::new(bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.iov.iov_len
    }

    /// True if the slice has room for no byte.
    pub const fn is_empty(&self) -> bool {
        self.iov.iov_len == 0
    }

    /// Address of the first byte.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.iov.iov_base.cast()
    }

    /// Copies `bytes` to the start of the slice, and returns how many of them fitted.
    pub fn copy_from(&mut self, bytes: &[u8]) -> usize {
        let n = self.len().min(bytes.len());
        // SAFETY: n bytes are readable in `bytes` and writable at iov_base; the two do
        // not overlap because no reference to guest memory exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.iov.iov_base.cast::<u8>(), n) };
        n
    }

    /// The same memory as a slice to read from.
    pub const fn as_slice(&self) -> GuestSlice<'_> {
        // SAFETY: writable memory is readable, and stays mapped as long as self.
        unsafe { GuestSlice::new(self.iov.iov_base.cast::<u8>().cast_const(), self.iov.iov_len) }
    }
}

impl std::fmt::Debug for GuestSlice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GuestSlice({:p}, {})", self.iov.iov_base, self.iov.iov_len)
    }
}

impl std::fmt::Debug for GuestSliceMut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GuestSliceMut({:p}, {})", self.iov.iov_base, self.iov.iov_len)
    }
}

/// Copies bytes of `slices`, starting at `offset`, into `out` and returns how many there were.
pub fn copy_from_guest(slices: &[GuestSlice<'_>], mut offset: usize, out: &mut [u8]) -> usize {
    let mut done = 0;
    for slice in slices {
        if offset >= slice.len() {
            offset -= slice.len();
            continue;
        }
        if done == out.len() {
            break;
        }
        done += slice.range(offset, usize::MAX).copy_to(&mut out[done..]);
        offset = 0;
    }
    done
}

/// Copies bytes, starting at `offset`, back out of guest memory that was just written, and returns how many there were.
pub fn copy_from_room(slices: &[GuestSliceMut<'_>], offset: usize, out: &mut [u8]) -> usize {
    // SAFETY: both types are repr(transparent) over iovec, and writable memory is readable.
    let slices: &[GuestSlice<'_>] = unsafe { std::slice::from_raw_parts(slices.as_ptr().cast(), slices.len()) };
    copy_from_guest(slices, offset, out)
}

/// Storage for an iovec array that is reused without allocating.
#[derive(Default)]
pub struct GatherList {
    iovs: Vec<libc::iovec>,
}

debug_fields!(GatherList {});

// SAFETY: nothing reads the addresses between uses, because `start` clears the list first.
unsafe impl Send for GatherList {}

impl GatherList {
    /// Starts a new, empty list of slices that live for `'g`.
    pub fn start<'g>(&mut self) -> Gather<'_, 'g> {
        self.iovs.clear();
        Gather {
            iovs: &mut self.iovs,
            bytes: 0,
            _memory: PhantomData,
        }
    }
}

/// A list of slices under construction for one `sendmsg`.
pub struct Gather<'l, 'g> {
    iovs: &'l mut Vec<libc::iovec>,
    bytes: usize,
    _memory: PhantomData<GuestSlice<'g>>,
}

debug_fields!(Gather<'_, '_> { bytes });

impl<'g> Gather<'_, 'g> {
    /// Adds one slice. Empty slices are skipped.
    pub fn push(&mut self, slice: GuestSlice<'g>) {
        if !slice.is_empty() {
            self.bytes += slice.len();
            self.iovs.push(slice.iov);
        }
    }

    /// Adds bytes `[offset, offset + len)` of `slices` and returns how many there were.
    pub fn push_range(&mut self, slices: &[GuestSlice<'g>], mut offset: usize, len: usize) -> usize {
        let mut left = len;
        for slice in slices {
            if left == 0 {
                break;
            }
            if offset >= slice.len() {
                offset -= slice.len();
                continue;
            }
            let part = slice.range(offset, left);
            left -= part.len();
            offset = 0;
            self.push(part);
        }
        len - left
    }

    /// Empties the list for the next message.
    pub fn clear(&mut self) {
        self.iovs.clear();
        self.bytes = 0;
    }

    /// Number of bytes in the list.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The slices, ready for the kernel.
    pub fn slices(&self) -> &[GuestSlice<'g>] {
        // SAFETY: GuestSlice is repr(transparent) over iovec, and every entry was made
        // from a GuestSlice<'g>.
        unsafe { std::slice::from_raw_parts(self.iovs.as_ptr().cast(), self.iovs.len()) }
    }
}

/// Storage for an iovec array to read into. It is reused without allocating.
#[derive(Default)]
pub struct ScatterList {
    iovs: Vec<libc::iovec>,
}

debug_fields!(ScatterList {});

// SAFETY: nothing reads the addresses between uses, because `start` clears the list first.
unsafe impl Send for ScatterList {}

impl ScatterList {
    /// Starts a new, empty list of room that lives for `'g`.
    pub fn start<'g>(&mut self) -> Scatter<'_, 'g> {
        self.iovs.clear();
        Scatter {
            iovs: &mut self.iovs,
            _memory: PhantomData,
        }
    }
}

/// A list of writable slices under construction for one `readv`.
pub struct Scatter<'l, 'g> {
    iovs: &'l mut Vec<libc::iovec>,
    _memory: PhantomData<GuestSliceMut<'g>>,
}

debug_fields!(Scatter<'_, '_> {});

impl<'g> Scatter<'_, 'g> {
    /// Adds memory of this process.
    pub fn push(&mut self, bytes: &'g mut [u8]) {
        self.iovs.push(GuestSliceMut::from_bytes(bytes).iov);
    }

    /// Adds guest memory.
    pub fn extend(&mut self, room: &'g mut [GuestSliceMut<'_>]) {
        self.iovs.extend(room.iter().map(|slice| slice.iov));
    }

    /// The slices, ready for the kernel.
    pub fn slices(&mut self) -> &mut [GuestSliceMut<'g>] {
        // SAFETY: GuestSliceMut is repr(transparent) over iovec, and every entry was made
        // from exclusively borrowed room that lives for 'g.
        unsafe { std::slice::from_raw_parts_mut(self.iovs.as_mut_ptr().cast(), self.iovs.len()) }
    }
}

impl<'l> Scatter<'l, 'l> {
    /// The slices, for as long as the list is borrowed.
    pub fn into_slices(self) -> &'l mut [GuestSliceMut<'l>] {
        // SAFETY: as in `slices`.
        unsafe { std::slice::from_raw_parts_mut(self.iovs.as_mut_ptr().cast(), self.iovs.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten bytes in three parts, one of them empty.
    const PARTS: [&[u8]; 4] = [&[0, 1, 2], &[], &[3, 4, 5, 6], &[7, 8, 9]];
    const LEN: usize = 10;

    /// The expected bytes in this range of the ten bytes.
    fn expected(offset: usize, len: usize) -> Vec<u8> {
        (0..10).skip(offset).take(len).collect()
    }

    fn bytes_of(slices: &[GuestSlice<'_>]) -> Vec<u8> {
        let mut bytes = vec![0; 2 * LEN];
        let n = copy_from_guest(slices, 0, &mut bytes);
        bytes.truncate(n);
        bytes
    }

    #[test]
    fn every_range_of_several_slices_is_copied_and_gathered() {
        let slices = PARTS.map(GuestSlice::from_bytes);
        let mut list = GatherList::default();
        let mut gather = list.start();
        for offset in 0..=LEN + 1 {
            for len in 0..=LEN + 1 {
                let expected = expected(offset, len);
                let mut copy = vec![0xff; len];
                let n = copy_from_guest(&slices, offset, &mut copy);
                assert_eq!(&copy[..n], expected, "{len} from {offset} on");
                assert!(copy[n..].iter().all(|byte| *byte == 0xff), "{len} from {offset} on");

                gather.clear();
                assert_eq!(gather.push_range(&slices, offset, len), expected.len());
                assert_eq!(gather.bytes(), expected.len());
                assert_eq!(bytes_of(gather.slices()), expected, "{len} from {offset} on");
                assert!(gather.slices().iter().all(|slice| !slice.is_empty()));
            }
        }
    }

    #[test]
    fn a_range_stays_inside_its_slice() {
        let bytes: Vec<u8> = (0..10).collect();
        let slice = GuestSlice::from_bytes(&bytes);
        for (offset, len) in [(0, 10), (3, 4), (9, usize::MAX), (10, 1), (usize::MAX, usize::MAX)] {
            assert_eq!(bytes_of(&[slice.range(offset, len)]), expected(offset, len));
        }
    }

    #[test]
    fn what_is_written_to_scattered_room_is_read_back() {
        let (mut own, mut first, mut second) = ([0u8; 2], [0u8; 3], [0u8; 5]);
        let mut room = [&mut first[..], &mut second[..]].map(GuestSliceMut::from_bytes);
        let mut list = ScatterList::default();
        let mut scatter = list.start();
        scatter.push(&mut own);
        scatter.extend(&mut room);
        let mut rest: &[u8] = &expected(0, LEN);
        for slice in scatter.slices() {
            let n = slice.copy_from(rest);
            assert_eq!(bytes_of(&[slice.as_slice()]), rest[..n]);
            rest = &rest[n..];
        }
        assert!(rest.is_empty());
        let mut back = [0xff; LEN];
        assert_eq!(copy_from_room(&room, 1, &mut back), 7);
        assert_eq!(back[..7], expected(3, 7));
        assert_eq!((own, first, second), ([0, 1], [2, 3, 4], [5, 6, 7, 8, 9]));
    }

    #[test]
    fn a_list_starts_empty_each_time() {
        let mut list = GatherList::default();
        {
            let bytes = vec![1; 4];
            let mut gather = list.start();
            gather.push(GuestSlice::from_bytes(&bytes));
            assert_eq!(gather.slices().len(), 1);
        }
        assert!(list.start().slices().is_empty());
        let mut list = ScatterList::default();
        {
            let mut bytes = vec![1; 4];
            let mut scatter = list.start();
            scatter.push(&mut bytes);
            assert_eq!(scatter.slices().len(), 1);
        }
        assert!(list.start().slices().is_empty());
    }
}
