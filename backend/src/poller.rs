//! The worker's epoll instance, and the owners of its events.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Identifies the source of an event. It consists of an owner (8 bits), a generation (24 bits) that distinguishes
/// events of a reused slot from those of its former user, and an index (32 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Part of the worker or mode to which the descriptor belongs.
    pub owner: Owner,
    /// Counter that distinguishes successive users of a slot. 24 bits of it are kept.
    pub generation: u32,
    /// Number of the slot or queue.
    pub index: u32,
}

/// The part of the worker or of a mode that registered a descriptor. Worker and modes number their parts themselves. An
/// event of a mode's part is passed to the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(u8);

impl Owner {
    const MODE: u8 = 0x80;

    /// The part of the worker with number `part`, below 128.
    pub const fn of_worker(part: u8) -> Self {
        Self(part & !Self::MODE)
    }

    /// The part of a mode with number `part`, below 128.
    pub const fn of_mode(part: u8) -> Self {
        Self(part | Self::MODE)
    }

    /// True if the part belongs to a mode.
    #[inline]
    pub const fn is_mode(self) -> bool {
        self.0 & Self::MODE != 0
    }
}

/// The bits of [`Token::generation`] that fit into the kernel's 64-bit value.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Token {
    /// A token with the first generation.
    pub const fn new(owner: Owner, index: u32) -> Self {
        Self {
            owner,
            generation: 0,
            index,
        }
    }

    fn to_bits(self) -> u64 {
        (u64::from(self.owner.0) << 56) | (u64::from(self.generation & GENERATION_MASK) << 32) | u64::from(self.index)
    }

    #[allow(clippy::cast_possible_truncation, reason = "taking a word apart")]
    const fn from_bits(bits: u64) -> Self {
        Self {
            owner: Owner((bits >> 56) as u8),
            generation: (bits >> 32) as u32 & GENERATION_MASK,
            index: bits as u32,
        }
    }
}

/// Readiness of a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// True if bytes, a connection or an end of stream can be read.
    pub readable: bool,
    /// True if there is room to write.
    pub writable: bool,
    /// True if the peer has closed its sending side (EPOLLRDHUP).
    pub read_closed: bool,
    /// True if both directions are closed (EPOLLHUP).
    pub hung_up: bool,
    /// True if an urgent byte is among the bytes to read (EPOLLPRI).
    pub urgent: bool,
    /// True if an error is pending (EPOLLERR), in the error queue or SO_ERROR.
    pub error: bool,
}

/// How a descriptor is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Reports as long as there is something to read.
    ReadLevel,
    /// Reports once for each change, for reading.
    ReadEdge,
    /// Reports errors only, until it is armed again.
    Nothing,
    /// Reports once for each change, for reading, urgent bytes, writing and the peer's close.
    StreamEdge,
}

impl Interest {
    fn events(self) -> epoll::Events {
        use epoll::Events as E;
        match self {
            Self::ReadLevel => E::EPOLLIN,
            Self::ReadEdge => E::EPOLLIN | E::EPOLLET,
            Self::Nothing => E::EPOLLET,
            Self::StreamEdge => E::EPOLLIN | E::EPOLLPRI | E::EPOLLOUT | E::EPOLLRDHUP | E::EPOLLET,
        }
    }
}

/// A shared handle to one epoll instance.
#[derive(Clone, Debug)]
pub struct Poller {
    epoll: Arc<OwnedFd>,
}

/// Room for the events of one wait.
pub struct EventBuffer(Vec<epoll::Event>);

debug_fields!(EventBuffer {});

impl EventBuffer {
    /// Creates room for `n` events.
    pub fn with_capacity(n: usize) -> Self {
        Self(vec![epoll::Event::new(epoll::Events::empty(), 0); n])
    }
}

impl Poller {
    /// Creates an epoll instance.
    ///
    /// # Errors
    /// The error of epoll_create1(2), such as EMFILE.
    pub fn new() -> io::Result<Self> {
        let fd = epoll::create(true)?;
        // SAFETY: epoll::create has just returned this descriptor and keeps no copy.
        let epoll = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self { epoll })
    }

    fn control(&self, op: epoll::ControlOptions, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let event = epoll::Event::new(interest.events(), token.to_bits());
        epoll::ctl(self.epoll.as_raw_fd(), op, fd, event)
    }

    /// Starts watching `fd`. Closing the descriptor ends the watch.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn add(&self, fd: &impl AsRawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.control(epoll::ControlOptions::EPOLL_CTL_ADD, fd.as_raw_fd(), token, interest)
    }

    /// Arms an edge-triggered watch again. If the descriptor is ready now, an event follows.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn rearm(&self, fd: &impl AsRawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.control(epoll::ControlOptions::EPOLL_CTL_MOD, fd.as_raw_fd(), token, interest)
    }

    /// Stops watching `fd`.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        let event = epoll::Event::new(epoll::Events::empty(), 0);
        epoll::ctl(
            self.epoll.as_raw_fd(),
            epoll::ControlOptions::EPOLL_CTL_DEL,
            fd.as_raw_fd(),
            event,
        )
    }

    /// Waits for events, at most `timeout` (rounded up to a millisecond; `None`: without a limit), and passes each to
    /// `f`. A signal ends the wait early without an error.
    ///
    /// # Errors
    /// The error of epoll_wait(2).
    pub fn wait(
        &self,
        buffer: &mut EventBuffer,
        timeout: Option<Duration>,
        mut f: impl FnMut(Token, Readiness),
    ) -> io::Result<usize> {
        let millis = timeout.map_or(-1, |t| {
            i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        let n = match epoll::wait(self.epoll.as_raw_fd(), millis, &mut buffer.0) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        for event in &buffer.0[..n] {
            let (bits, data) = (event.events, event.data);
            let has = |e: epoll::Events| bits & e.bits() != 0;
            let ready = Readiness {
                readable: has(epoll::Events::EPOLLIN),
                writable: has(epoll::Events::EPOLLOUT),
                read_closed: has(epoll::Events::EPOLLRDHUP),
                hung_up: has(epoll::Events::EPOLLHUP),
                urgent: has(epoll::Events::EPOLLPRI),
                error: has(epoll::Events::EPOLLERR),
            };
            f(Token::from_bits(data), ready);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_trip_through_the_kernel_and_tells_worker_from_mode() {
        for owner in [Owner::of_worker(1), Owner::of_mode(1), Owner::of_mode(127)] {
            let token = Token {
                owner,
                generation: GENERATION_MASK,
                index: u32::MAX - 1,
            };
            assert_eq!(Token::from_bits(token.to_bits()), token);
        }
        assert!(Owner::of_mode(1).is_mode() && !Owner::of_worker(1).is_mode());
    }
}
