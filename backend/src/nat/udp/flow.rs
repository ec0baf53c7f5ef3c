//! One UDP flow: a pair of ends as the guest sees them, and the host socket that
//! stands for it.

use super::class_watch::ClassWatch;
use super::receive::Intake;
use crate::nat::flow_owners::Claim;
use crate::nat::ip_options::SocketIpOptions;
use crate::packet::FlowId;
use crate::time::Instant;
use crate::timers::Scheduled;
use socket2::{Domain, Socket};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a flow lives that only one side has used, or both for less than
/// [`STREAM_AFTER`]: Linux's nf_conntrack_udp_timeout.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a flow lives that both sides use: Linux's nf_conntrack_udp_timeout_stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(120);

/// From when on a flow used by both sides is taken for a stream, as in
/// nf_conntrack_proto_udp: a question and its answer are over after [`TIMEOUT`].
const STREAM_AFTER: Duration = Duration::from_secs(2);

/// A flow in the table; the generation distinguishes users of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowRef {
    /// Slot in the table.
    pub index: u32,
    /// Distinguishes users of the slot.
    pub generation: u32,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest.
    Guest,
    /// The peer behind the host socket.
    World,
}

/// Which sides have sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// One side only.
    From(Side),
    /// Both, since then.
    BothSince(Instant),
}

/// One flow.
#[derive(Debug)]
pub struct Flow {
    /// Its ends.
    pub key: FlowId,
    /// Connected to the host-side destination.
    pub socket: Socket,
    /// Family of the socket: not always that of the guest's addresses.
    pub domain: Domain,
    /// The side that sent first.
    pub origin: Side,
    /// For a flow the world began: the local address it came to.
    pub local: Option<SocketAddr>,
    /// Which sides have sent something.
    pub exchange: Exchange,
    /// When anything was last sent or received.
    pub last_used: Instant,
    /// Its entry in the timer queue.
    pub scheduled: Scheduled,
    /// Counter that tells users of the slot apart.
    pub generation: u32,
    /// IP options last set on the socket.
    pub ip_options: SocketIpOptions,
    /// False once the kernel has refused to segment for this socket.
    pub segmenting: bool,
    /// What is expected from the world.
    pub intake: Intake,
    /// Whether the kernel reports how what comes is marked.
    pub class_watch: ClassWatch,
    /// True while it waits for its turn or for room in the guest.
    pub waiting: bool,
    /// The guest's port, if the socket has the same.
    pub kept_port: Option<u16>,
    /// Its entry among the flows of all workers, if there are several.
    pub claim: Option<Claim>,
}

impl Flow {
    /// A flow that `origin` begins.
    pub fn new(key: FlowId, socket: Socket, domain: Domain, origin: Side, now: Instant) -> Self {
        Self {
            key,
            socket,
            domain,
            origin,
            local: None,
            exchange: Exchange::From(origin),
            last_used: now,
            scheduled: Scheduled::default(),
            generation: 0,
            ip_options: SocketIpOptions::default(),
            segmenting: true,
            intake: Intake::default(),
            class_watch: ClassWatch::default(),
            waiting: false,
            kept_port: None,
            claim: None,
        }
    }

    /// The address and port its socket sends from.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// When the flow is over if nothing more is sent.
    pub fn expires(&self) -> Instant {
        let timeout = if self.is_stream() { STREAM_TIMEOUT } else { TIMEOUT };
        self.last_used + timeout
    }

    /// True once both sides have used it for a while.
    pub const fn is_stream(&self) -> bool {
        match self.exchange {
            Exchange::BothSince(since) => self.last_used.since(since).as_nanos() >= STREAM_AFTER.as_nanos(),
            Exchange::From(_) => false,
        }
    }

    /// True as long as only the side that began has sent something.
    pub fn is_unreplied(&self) -> bool {
        matches!(self.exchange, Exchange::From(_))
    }

    /// Notes that `side` has sent something.
    pub fn heard(&mut self, side: Side, now: Instant) {
        self.last_used = now;
        if let Exchange::From(first) = self.exchange
            && first != side
        {
            self.exchange = Exchange::BothSince(now);
        }
    }
}
