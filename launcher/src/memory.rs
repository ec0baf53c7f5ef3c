//! Returns memory that a large request has used.

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
