//! The worker's epoll instance, and who an event is for.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Who an event belongs to: an owner (8 bits), a generation (24 bits) against events
/// for a slot that has been given to somebody else meanwhile, and an index (32 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Part of the worker or mode the descriptor belongs to.
    pub owner: Owner,
    /// Counter that tells users of one slot apart; 24 bits are kept.
    pub generation: u32,
    /// Slot or queue number.
    pub index: u32,
}

/// Part of the worker or of a mode that registered a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Owner {
    /// Kick of the transmit ring.
    TransmitKick = 1,
    /// Kick of the receive ring.
    ReceiveKick,
    /// Kick of the control ring.
    ControlKick,
    /// Commands from the vhost-user side.
    Command,
    /// A TCP flow's socket.
    Tcp,
    /// A TCP socket listening for inbound connections.
    TcpListener,
    /// A UDP flow's socket.
    Udp,
    /// A UDP socket waiting for inbound datagrams.
    UdpListener,
    /// A ping socket.
    Echo,
    /// Frames handed over by another worker.
    Handover,
    /// A queue of a TAP device.
    Tap,
    /// What the kernel says of the pod's addresses.
    Addresses,
}

impl Owner {
    const ALL: [Self; 12] = [
        Self::TransmitKick,
        Self::ReceiveKick,
        Self::ControlKick,
        Self::Command,
        Self::Tcp,
        Self::TcpListener,
        Self::Udp,
        Self::UdpListener,
        Self::Echo,
        Self::Handover,
        Self::Tap,
        Self::Addresses,
    ];
}

/// Bits of [`Token::generation`] that survive the trip through the kernel.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Token {
    /// A token of the first generation.
    pub const fn new(owner: Owner, index: u32) -> Self {
        Self {
            owner,
            generation: 0,
            index,
        }
    }

    fn to_bits(self) -> u64 {
        (u64::from(self.owner as u8) << 56)
            | (u64::from(self.generation & GENERATION_MASK) << 32)
            | u64::from(self.index)
    }

    #[allow(clippy::cast_possible_truncation, reason = "taking a word apart")]
    fn from_bits(bits: u64) -> Option<Self> {
        let owner = (bits >> 56) as u8;
        Some(Self {
            owner: *Owner::ALL.iter().find(|o| **o as u8 == owner)?,
            generation: (bits >> 32) as u32 & GENERATION_MASK,
            index: bits as u32,
        })
    }
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes, a connection or an end of stream to read.
    pub readable: bool,
    /// Room to write.
    pub writable: bool,
    /// The peer has closed its sending side (EPOLLRDHUP).
    pub read_closed: bool,
    /// Both directions are closed (EPOLLHUP).
    pub hung_up: bool,
    /// There is an urgent byte among those to read (EPOLLPRI).
    pub urgent: bool,
    /// An error is pending (EPOLLERR): error queue or SO_ERROR.
    pub error: bool,
}

/// How a descriptor is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Told as long as there is something to read.
    ReadLevel,
    /// Told once per change, for reading.
    ReadEdge,
    /// Told of errors only, until it is armed again.
    Nothing,
    /// Told once per change, for reading, urgent bytes, writing and the peer's close.
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

/// A shared handle on one epoll instance.
#[derive(Clone, Debug)]
pub struct Poller {
    epoll: Arc<OwnedFd>,
}

/// Room for the events of one wait.
pub struct EventBuffer(Vec<epoll::Event>);

impl EventBuffer {
    /// Room for `n` events.
    pub fn with_capacity(n: usize) -> Self {
        Self(vec![epoll::Event::new(epoll::Events::empty(), 0); n])
    }
}

impl Poller {
    /// Makes an epoll instance.
    ///
    /// # Errors
    /// What epoll_create1(2) says, EMFILE for one.
    pub fn new() -> io::Result<Self> {
        let fd = epoll::create(true)?;
        // SAFETY: epoll::create has just given us this descriptor and keeps no copy.
        let epoll = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self { epoll })
    }

    fn control(&self, op: epoll::ControlOptions, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let event = epoll::Event::new(interest.events(), token.to_bits());
        epoll::ctl(self.epoll.as_raw_fd(), op, fd, event)
    }

    /// Starts watching `fd`. Closing the descriptor ends it.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn add(&self, fd: &impl AsRawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.control(epoll::ControlOptions::EPOLL_CTL_ADD, fd.as_raw_fd(), token, interest)
    }

    /// Arms an edge-triggered watch again: if the descriptor is ready now, an event follows.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn rearm(&self, fd: &impl AsRawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.control(epoll::ControlOptions::EPOLL_CTL_MOD, fd.as_raw_fd(), token, interest)
    }

    /// Stops watching `fd`.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        let event = epoll::Event::new(epoll::Events::empty(), 0);
        epoll::ctl(
            self.epoll.as_raw_fd(),
            epoll::ControlOptions::EPOLL_CTL_DEL,
            fd.as_raw_fd(),
            event,
        )
    }

    /// Waits for events, at most `timeout` (rounded up to a millisecond; `None`: for
    /// ever), and hands each to `f`. A signal ends the wait early without an error.
    ///
    /// # Errors
    /// What epoll_wait(2) says.
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
            if let Some(token) = Token::from_bits(data) {
                let ready = Readiness {
                    readable: has(epoll::Events::EPOLLIN),
                    writable: has(epoll::Events::EPOLLOUT),
                    read_closed: has(epoll::Events::EPOLLRDHUP),
                    hung_up: has(epoll::Events::EPOLLHUP),
                    urgent: has(epoll::Events::EPOLLPRI),
                    error: has(epoll::Events::EPOLLERR),
                };
                f(token, ready);
            }
        }
        Ok(n)
    }
}
