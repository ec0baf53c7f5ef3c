//! The memory that the allocator keeps: large blocks are mapped, and what a large request has used is returned.

/// Bytes from which a block is mapped on its own.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 64 << 10;

/// Has the allocator map large blocks on their own, so that they go back to the system as soon as they are freed. By
/// default it does so only until the first of them is freed, and then places others of that size in the heap. There,
/// smaller blocks that stay keep the memory of a table that was replaced.
pub(crate) fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function sets a number of the allocator; no pointer is passed.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Returns free memory in all heaps to the system. Otherwise the allocator would keep it for this thread, which may not
/// need it again for months. Threads that allocate in the meantime must wait, but nothing on the packet path allocates.
pub(crate) fn give_back() {
    // musl has no such call and returns memory anyway.
    #[cfg(target_env = "gnu")]
    // SAFETY: the function works on the allocator's own lists, under its locks. No pointer is passed.
    unsafe {
        libc::malloc_trim(0);
    }
}
