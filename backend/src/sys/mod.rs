//! Safe APIs for system calls that have no safe wrapper elsewhere, and guards for resources that the system holds for
//! this process. Every file states how its part degrades on an older kernel.

pub mod datagram;
pub mod error_queue;
pub mod listening_socket;
pub mod lookup;
#[cfg(test)]
pub(crate) mod netns;
mod option;
pub mod receive_batch;
pub mod send_batch;
pub mod stream;
pub mod tap;
pub mod thread_time;
pub mod traffic_class;
pub mod userfault;

/// True if the process or the system has reached its limit of open descriptors.
pub fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
