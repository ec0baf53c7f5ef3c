//! A UDP flow: a pair of endpoints as the guest sees them, and the host socket for them.

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

/// Lifetime of a flow that only one side has used, or that both have used for less than [`STREAM_AFTER`]: Linux's
/// nf_conntrack_udp_timeout.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Lifetime of a flow that both sides have used for longer: Linux's nf_conntrack_udp_timeout_stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(120);

/// Time after which a flow used by both sides counts as a stream, as in nf_conntrack_proto_udp. A query with its answer
/// ends after [`TIMEOUT`].
const STREAM_AFTER: Duration = Duration::from_secs(2);

/// A reference to a flow in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlowRef {
    /// Slot in the table.
    pub index: u32,
    /// Distinguishes successive flows in the same slot.
    pub generation: u32,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The guest's end.
    Guest,
    /// The peer's end, behind the host socket.
    World,
}

/// The sides that have sent datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// Only this side has sent.
    From(Side),
    /// Both sides have sent, since this time.
    BothSince(Instant),
}

/// A flow and its socket.
#[derive(Debug)]
pub(super) struct Flow {
    /// The two endpoints, as the guest sees them.
    pub key: FlowId,
    /// Host socket, connected to the host-side destination.
    pub socket: Socket,
    /// Family of the socket, which may differ from that of the guest's addresses.
    pub domain: Domain,
    /// The side that sent first.
    pub origin: Side,
    /// Local address, for a flow that the remote peer opened.
    pub local: Option<SocketAddr>,
    /// The sides that have sent datagrams.
    pub exchange: Exchange,
    /// Time of the last datagram in either direction.
    pub last_used: Instant,
    /// Entry in the timer queue.
    pub scheduled: Scheduled,
    /// Distinguishes successive flows in the same slot.
    pub generation: u32,
    /// IP options last set on the socket.
    pub ip_options: SocketIpOptions,
    /// False once the kernel has refused to segment for this socket.
    pub segmenting: bool,
    /// What the flow is expected to receive next.
    pub intake: Intake,
    /// Whether the kernel reports the traffic class of received datagrams.
    pub class_watch: ClassWatch,
    /// True while the flow waits for its turn or for room in the guest.
    pub waiting: bool,
    /// Port of the guest, if the socket has the same port.
    pub kept_port: Option<u16>,
    /// Entry among the flows of all workers, if there are several.
    pub claim: Option<Claim>,
    /// True if the socket leads to the process from which the guest came, which has the socket to the peer.
    pub is_anchored: bool,
}

impl Flow {
    /// Creates a flow that `origin` opens.
    pub(super) fn new(key: FlowId, socket: Socket, domain: Domain, origin: Side, now: Instant) -> Self {
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
            is_anchored: false,
        }
    }

    /// Local address and port of the socket.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// Time at which the flow ends if no more datagrams are sent.
    pub(super) fn expires(&self) -> Instant {
        let timeout = if self.is_stream() { STREAM_TIMEOUT } else { TIMEOUT };
        self.last_used + timeout
    }

    /// True once both sides have used the flow for a while.
    pub(super) const fn is_stream(&self) -> bool {
        match self.exchange {
            Exchange::BothSince(since) => self.last_used.since(since).as_nanos() >= STREAM_AFTER.as_nanos(),
            Exchange::From(_) => false,
        }
    }

    /// True as long as only the side that opened the flow has sent datagrams.
    pub(super) fn is_unreplied(&self) -> bool {
        matches!(self.exchange, Exchange::From(_))
    }

    /// Records a datagram from `side`.
    pub(super) fn heard(&mut self, side: Side, now: Instant) {
        self.last_used = now;
        if let Exchange::From(first) = self.exchange
            && first != side
        {
            self.exchange = Exchange::BothSince(now);
        }
    }
}
