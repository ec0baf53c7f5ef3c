//! Processor time of the calling thread.

use std::time::Duration;

/// Processor time that the calling thread has used.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec. Every thread has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_work_and_not_by_sleep() {
        let start = thread_time();
        while thread_time() < start + Duration::from_millis(5) {}
        let worked = thread_time();
        std::thread::sleep(Duration::from_millis(50));
        assert!(thread_time() - worked < Duration::from_millis(40));
    }
}
