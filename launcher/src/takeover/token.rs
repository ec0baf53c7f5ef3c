//! The right to serve the guest, which exactly one of two processes gets.
//!
//! The old process makes the token and passes a copy on. The new process takes it before it serves the guest; the old
//! one takes it before it goes on. The kernel gives it to whichever comes first, so a new process that stops before it
//! has taken the token finds nothing when it continues, and the guest is never served twice.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read};
use std::io;
use std::os::fd::OwnedFd;

/// An eventfd that can be read once.
#[derive(Debug)]
pub(super) struct Token(OwnedFd);

impl Token {
    /// A token that no process has taken.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// The token for the other process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Takes the token. False if the other process has it.
    ///
    /// # Errors
    /// The descriptor is not a token.
    pub(super) fn take(&self) -> io::Result<bool> {
        match read(&self.0, &mut [0; size_of::<u64>()]) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<OwnedFd> for Token {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn exactly_one_of_two_processes_gets_the_token() {
        const ROUNDS: usize = 200;
        for _ in 0..ROUNDS {
            let ours = Token::new().unwrap();
            let theirs = Token::from(ours.share().unwrap());
            let start = Barrier::new(2);
            let take = |token: &Token| {
                start.wait();
                token.take().unwrap()
            };
            let (a, b) = thread::scope(|scope| {
                let other = scope.spawn(|| take(&theirs));
                (take(&ours), other.join().unwrap())
            });
            assert!(a != b);
            assert!(!ours.take().unwrap() && !theirs.take().unwrap());
        }
    }
}
