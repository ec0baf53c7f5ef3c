//! Memory that a large request took.

/// Gives what is free in all heaps back to the system: the allocator keeps it otherwise, for
/// this thread, which may not need it again for months. Others wait meanwhile if they allocate,
/// which nothing does on the way of a packet.
pub(crate) fn give_back() {
    // musl has no such call and returns memory anyway.
    #[cfg(target_env = "gnu")]
    // SAFETY: it looks at the allocator's own lists, under its locks; no pointer is passed.
    unsafe {
        libc::malloc_trim(0);
    }
}
