//! A limit of time that ends this process even if it is stopped.
//!
//! A process that has the token and hangs before it serves would leave the guest to nobody. The kernel ends it in time, so
//! that the old process, which waits for that, can go on.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

/// A timer of the kernel that sends this process SIGKILL. Dropping it disarms it.
#[derive(Debug)]
pub(super) struct LastMoment(libc::timer_t);

impl LastMoment {
    /// Ends this process `limit` from now.
    ///
    /// # Errors
    /// The system has no timer left.
    pub(super) fn arm(limit: Duration) -> io::Result<Self> {
        let mut event = MaybeUninit::<libc::sigevent>::zeroed();
        let mut timer = ptr::null_mut();
        let failed = |result: libc::c_int| match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        let time = |duration: Duration| -> io::Result<libc::timespec> {
            Ok(libc::timespec {
                tv_sec: duration.as_secs().try_into().map_err(io::Error::other)?,
                tv_nsec: duration.subsec_nanos().into(),
            })
        };
        // SAFETY: zero is a value of each field of this plain structure, and `event` and `timer` outlive the call.
        failed(unsafe {
            let event = event.assume_init_mut();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = libc::SIGKILL;
            libc::timer_create(libc::CLOCK_MONOTONIC, event, &raw mut timer)
        })?;
        let armed = Self(timer);
        let once = libc::itimerspec {
            it_interval: time(Duration::ZERO)?,
            it_value: time(limit)?,
        };
        // SAFETY: the timer exists, `once` outlives the call, and the previous value is not wanted.
        failed(unsafe { libc::timer_settime(armed.0, 0, &raw const once, ptr::null_mut()) })?;
        Ok(armed)
    }
}

impl Drop for LastMoment {
    fn drop(&mut self) {
        // SAFETY: the timer exists, and is not used any more.
        unsafe { libc::timer_delete(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;
    use std::thread;
    use std::time::Instant;

    /// Set in the process of the test below.
    const CHILD: &str = "HAWSER_TEST_LAST_MOMENT";
    const LIMIT: Duration = Duration::from_millis(200);

    #[test]
    fn a_stopped_process_ends_in_time_and_one_that_goes_on_does_not() {
        if std::env::var_os(CHILD).is_some() {
            let disarmed = LastMoment::arm(LIMIT).unwrap();
            drop(disarmed);
            thread::sleep(2 * LIMIT);
            let _armed = LastMoment::arm(LIMIT).unwrap();
            // SAFETY: the call stops this process and touches no memory.
            unsafe { libc::raise(libc::SIGSTOP) };
            thread::sleep(100 * LIMIT);
            return;
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([
            "--exact",
            "takeover::last_moment::tests::a_stopped_process_ends_in_time_and_one_that_goes_on_does_not",
        ]);
        let started = Instant::now();
        let output = child.env(CHILD, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{output:?}");
        assert!(started.elapsed() > 3 * LIMIT, "it was armed twice");
    }
}
