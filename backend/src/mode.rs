//! The interface between a mode and the worker. A mode receives each admitted frame of the guest, and sends frames to
//! the guest.

mod following;

pub use following::Following;

use crate::balance::ServiceTable;
use crate::config::handover::{Descriptors, Handover, HandoverError, next_of};
use crate::config::payload::{Payload, PayloadError, Sealed};
use crate::config::{Resolvers, Transport};
use crate::forwarding::Table;
use crate::frame::{GuestBurst, GuestCaps, GuestSink};
use crate::packet::MacAddr;
use crate::poller::{Readiness, Token};
use crate::sys::tap::TapQueue;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use socket2::Socket;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// A change of the segment that a guest is attached to.
#[derive(Clone, Debug)]
pub enum SegmentChange {
    /// The segment can carry frames.
    Up,
    /// The segment carries no frames until it is up again.
    Down,
    /// The segment is up, and is reached through this queue from now on.
    Replaced(Arc<TapQueue>),
}

/// The guest port to which clients of a listening socket are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestPort {
    /// A fixed port.
    One(u16),
    /// The port to which the client has connected. The socket receives traffic to every port.
    AsAsked,
}

/// A socket that listens for clients of the guest. Dropping it stops listening.
#[derive(Debug)]
pub struct ForwardSocket {
    /// Socket that is bound and, for TCP, listening.
    pub socket: Socket,
    /// Address and port to which the socket is bound.
    pub at: SocketAddr,
    /// Port of the guest.
    pub guest_port: GuestPort,
}

impl ForwardSocket {
    /// A copy with a duplicated descriptor.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            ..*self
        })
    }
}

/// A port forward whose sockets are open. The thread that requests a forward opens them, so a port in use is reported
/// there. The worker only takes over the sockets.
#[derive(Debug)]
pub struct BoundForward {
    /// Transport of all sockets.
    pub transport: Transport,
    /// One socket per address and port of the forward.
    pub sockets: Vec<ForwardSocket>,
}

impl BoundForward {
    /// Addresses and ports to which the sockets are bound.
    pub fn addresses(&self) -> HashSet<SocketAddr> {
        self.sockets.iter().map(|socket| socket.at).collect()
    }
}

/// The data of a port forward with open sockets, apart from the sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRecord {
    transport: Transport,
    /// Bound address and guest port of each socket, in the order of the descriptors.
    sockets: Vec<(SocketAddr, GuestPort)>,
}

impl Payload for ForwardRecord {
    const KIND: &'static str = "port-forward";
    const VERSION: u32 = 1;
}

impl Handover for BoundForward {
    type Record = Sealed<ForwardRecord>;

    /// Clients that arrive in the meantime wait in the sockets' queues.
    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
        let parts = self.sockets.into_iter();
        let (sockets, descriptors) = parts.map(|s| ((s.at, s.guest_port), s.socket.into())).unzip();
        let record = ForwardRecord {
            transport: self.transport,
            sockets,
        };
        (Sealed(record), descriptors)
    }

    fn take_over(Sealed(record): Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        let transport = record.transport;
        let socket = |(at, guest_port)| {
            let socket = next_of("a port forward", descriptors)?.into();
            Ok(ForwardSocket { socket, at, guest_port })
        };
        let sockets = record.sockets.into_iter().map(socket).collect::<Result<_, _>>()?;
        Ok(Self { transport, sockets })
    }
}

/// A change of the port forwards of a running mode.
#[derive(Debug)]
pub enum ForwardChange {
    /// Serves clients of these sockets.
    Add(BoundForward),
    /// Closes the listening sockets bound to these addresses.
    Remove(Transport, HashSet<SocketAddr>),
}

/// A command to a running mode. The worker passes it on without inspecting it, so a mode with a command of its own
/// needs only a new variant here.
#[derive(Debug)]
pub enum ModeCommand {
    /// Adds or removes port forwards. Connections and flows of a removed forward stay.
    Forwards(ForwardChange),
    /// Replaces the name servers and search domains, starting with the next answer.
    Resolvers(Arc<Resolvers>),
    /// Replaces the ports of the network as a whole.
    Peers(Arc<Table>),
    /// Replaces the Services that the guest reaches.
    Services(Arc<ServiceTable>),
    /// The segment that the guest is attached to has changed.
    Segment(SegmentChange),
    /// Tells the segment that the guest is here.
    Announce(Announcement),
    /// The VMM shows the guest this MTU, in bytes, which is at most that of the port.
    Mtu(u16),
    /// A step of a migration, for the flows of the guest.
    Follow(Follow),
    /// Ends all TCP connections. Peers are reset now, and the guest when it sends next.
    EndConnections,
    /// Handles what other workers of the port have passed to this one.
    TakeIn,
}

/// A step by which the flows of a guest follow it to another process, while their host sockets stay where they are.
#[derive(Debug)]
pub enum Follow {
    /// Freezes the flows of a guest that has stopped, and answers with their payloads. Refused while the guest runs.
    Freeze(SyncSender<Vec<Vec<u8>>>),
    /// Gives up the frozen flows, and answers with their host sockets, each with the number of its payload. A connection
    /// that is closed has none. A flow that ended meanwhile, or that needs no socket of this process, is left out. Refused
    /// if the guest has run since.
    Part(SyncSender<Vec<PartedFlow>>),
    /// Prepares for the flows of a guest that has not run here yet. Refused if there are flows.
    Expect,
    /// Adds all flows, which are frozen until the guest runs, and answers for each of them.
    Come(Vec<FollowingFlow>, SyncSender<Vec<Result<(), String>>>),
    /// Drops the flows of a guest that does not come.
    Forget,
    /// Answers with what has reached this process for a guest that it has parted with. Refused if the guest has run since.
    Late(SyncSender<Late>),
    /// Delivers such frames of the other process to the guest.
    Deliver(Vec<Vec<u8>>),
}

/// What has reached a process that the guest has left.
#[derive(Debug, Default)]
pub struct Late {
    /// Frames for the guest.
    pub frames: Vec<Vec<u8>>,
    /// Flows of clients that have not sent before.
    pub flows: Vec<LateFlow>,
}

/// The payload of a flow, and its host socket.
pub type LateFlow = (Vec<u8>, OwnedFd);

/// The number of a flow's payload, and its host socket.
pub type PartedFlow = (usize, Option<OwnedFd>);

/// A flow of a guest that comes from another process.
#[derive(Debug)]
pub struct FollowingFlow {
    /// The flow's payload.
    pub payload: Vec<u8>,
    /// A socket in place of its host socket.
    pub socket: Option<OwnedFd>,
}

/// Where the state of a mode comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The configuration: the mode opens its sockets.
    #[default]
    New,
    /// Another process, which passes it on later. Until then, the mode has no sockets of its own.
    Successor,
}

/// The state of a mode on one worker, between two processes.
#[derive(Debug, Default)]
pub struct SavedMode {
    /// A payload of the mode.
    pub payload: Vec<u8>,
    /// The descriptors that it names, in order.
    pub descriptors: Vec<OwnedFd>,
}

/// The state of a mode on one worker, whose payload another thread may write.
pub struct Unwritten {
    /// Writes the payload.
    pub write: Box<dyn FnOnce() -> Vec<u8> + Send>,
    /// The descriptors that it names, in order.
    pub descriptors: Vec<OwnedFd>,
}

debug_fields!(Unwritten { descriptors });

impl Unwritten {
    /// The state with its payload.
    pub fn write(self) -> SavedMode {
        SavedMode {
            payload: (self.write)(),
            descriptors: self.descriptors,
        }
    }
}

/// The reason why a mode cannot continue in another process.
#[derive(Debug, thiserror::Error)]
pub enum HandoffError {
    /// The mode keeps state that it cannot pass on.
    #[error("this mode cannot be handed to another process: restart hawser instead")]
    Unsupported,
    /// The descriptors cannot be duplicated.
    #[error("cannot duplicate the sockets of the guest: {0}; raise the limit on open files (RLIMIT_NOFILE)")]
    System(#[from] io::Error),
    /// The payload is not one that this process reads.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The payload contains something that cannot be continued.
    #[error(transparent)]
    State(Box<dyn std::error::Error + Send + Sync>),
    /// A descriptor is missing.
    #[error(transparent)]
    Descriptor(#[from] HandoverError),
    /// The worker has ended.
    #[error("a worker of the port has ended")]
    Ended,
}

/// What a segment has to know about a guest that came from another place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// MAC of the guest.
    pub mac: MacAddr,
    /// Its addresses, as far as they are known.
    pub addresses: Vec<IpAddr>,
}

/// The reason why a front end has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Departure {
    /// It has disconnected. It or another one may come back with the same guest.
    #[default]
    Disconnected,
    /// Its guest has migrated: the rings were stopped while guest memory was logged. Only a migration within this process
    /// brings the guest back, and that takes a moment.
    Migrated,
}

/// Numbers of a guest's flows that a mode holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// Number of TCP connections.
    pub tcp: usize,
    /// Number of UDP flows.
    pub udp: usize,
    /// Number of echo flows.
    pub echo: usize,
}

/// One mode of a port (masquerade, bridge, …) on one worker.
///
/// The worker calls exactly one method at a time, from one thread, so a mode needs no lock. It never blocks: it does
/// what can be done now and states what it waits for. A mode has no thread and reads no clock (`now` is an argument).
/// Only four things cause calls:
///
/// * frames of the guest: [`on_burst`](Self::on_burst) for each burst taken from the transmit
///   ring, then [`after_burst`](Self::after_burst) once. Payload stays in guest memory and may
///   be used until `on_burst` returns.
/// * descriptors it has registered with its poller: [`on_event`](Self::on_event).
/// * time: [`on_timer`](Self::on_timer), once [`deadline`](Self::deadline) is reached. The worker reads the deadline
///   after each turn.
/// * room: [`on_room`](Self::on_room), once the guest has posted buffers after a call got
///   [`NoRoom`](crate::frame::NoRoom), or while [`has_backlog`](Self::has_backlog) is true.
///
/// These calls are bracketed by the life of a device. [`on_offloads`](Self::on_offloads) comes first, then
/// [`on_link_up`](Self::on_link_up); between that and [`on_link_down`](Self::on_link_down) frames pass in both
/// directions. Outside that period the sink has no room, but events and timers continue, because sockets outlive a
/// guest's reboot. [`on_reset`](Self::on_reset) and [`on_front_end_gone`](Self::on_front_end_gone) report why the link
/// is down, and whether the next driver may belong to another guest. [`on_command`](Self::on_command) can be called at
/// any time.
///
/// After each turn the worker publishes the frames in the sink and notifies the guest once. No method may allocate,
/// lock or make a system call per packet.
///
/// `examples/echo.rs` is a complete mode in a few lines.
pub trait Mode: Send {
    /// Handles frames from the guest, in ring order. The port has already admitted them.
    fn on_burst(&mut self, now: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink);

    /// Called after all frames of a burst have been passed on. Their answers may already have arrived.
    fn after_burst(&mut self, _now: Instant, _sink: &mut dyn GuestSink) {}

    /// Called when a descriptor that the mode has registered is ready.
    fn on_event(&mut self, now: Instant, token: Token, ready: Readiness, sink: &mut dyn GuestSink);

    /// Called when the guest has posted receive buffers after a call returned [`crate::frame::NoRoom`].
    fn on_room(&mut self, now: Instant, sink: &mut dyn GuestSink);

    /// Called when time has reached [`deadline`](Self::deadline).
    fn on_timer(&mut self, now: Instant, sink: &mut dyn GuestSink);

    /// Time of the next [`on_timer`](Self::on_timer). `None` while the mode waits for no particular time, so that an
    /// idle process does not wake up.
    fn deadline(&self) -> Option<Instant>;

    /// True if the mode has postponed work so that other sockets get a turn: the worker
    /// calls [`on_room`](Self::on_room) soon without waiting for the guest.
    fn has_backlog(&self) -> bool {
        false
    }

    /// Executes a command.
    ///
    /// # Errors
    /// The mode does not support the command, or the system refuses it; nothing has changed in that case.
    fn on_command(&mut self, _now: Instant, _command: ModeCommand, _sink: &mut dyn GuestSink) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The number of flows that the mode holds. It is read once per turn.
    fn flow_count(&self) -> FlowCount {
        FlowCount::default()
    }

    /// Called when the guest's driver is up and its rings run. Frames may be sent from now on.
    fn on_link_up(&mut self, now: Instant, sink: &mut dyn GuestSink);

    /// Called when the offloads that the guest accepts are known or have changed. The first call precedes
    /// [`on_link_up`](Self::on_link_up).
    fn on_offloads(&mut self, _caps: GuestCaps) {}

    /// Called when the device was reset. The next driver may belong to another guest, or to the same guest after
    /// suspension.
    fn on_reset(&mut self) {}

    /// Called when the front end has gone, perhaps together with the guest. The call follows
    /// [`on_link_down`](Self::on_link_down).
    fn on_front_end_gone(&mut self, _now: Instant, _departure: Departure) {}

    /// Duplicates of the descriptors with which the mode was created, for the same mode in another process.
    ///
    /// # Errors
    /// [`HandoffError`]
    fn share(&self) -> Result<Vec<OwnedFd>, HandoffError> {
        Err(HandoffError::Unsupported)
    }

    /// Converts what may not change any more to a payload and duplicated descriptors, while the mode goes on. The value of
    /// [`save`](Self::save) may refer to it. `None` if there is nothing of that kind.
    ///
    /// # Errors
    /// [`HandoffError`]
    fn save_ahead(&mut self, _now: Instant) -> Result<Option<Unwritten>, HandoffError> {
        Ok(None)
    }

    /// Keeps what another process has passed on in advance, until [`load`](Self::load).
    ///
    /// # Errors
    /// [`HandoffError`]. The mode is dropped then, after [`leave`](Self::leave).
    fn load_ahead(&mut self, _saved: SavedMode) -> Result<(), HandoffError> {
        Err(HandoffError::Unsupported)
    }

    /// Converts the mode to a payload and duplicated descriptors, for a process that continues it. The guest's driver is
    /// down. No other method is called until it is certain that no process continues it.
    ///
    /// # Errors
    /// [`HandoffError`]
    fn save(&mut self, _now: Instant) -> Result<SavedMode, HandoffError> {
        Err(HandoffError::Unsupported)
    }

    /// Continues a mode of another process. This mode was created for that: it has no flows and listens to nothing.
    ///
    /// # Errors
    /// [`HandoffError`]. The mode is dropped then, after [`leave`](Self::leave).
    fn load(&mut self, _now: Instant, _saved: SavedMode, _sink: &mut dyn GuestSink) -> Result<(), HandoffError> {
        Err(HandoffError::Unsupported)
    }

    /// Called before the mode is dropped because another process has its descriptors too. It then ends nothing.
    fn leave(&mut self) {}

    /// Called when the guest's driver is gone or about to be replaced. No frame can be sent until the next
    /// [`on_link_up`](Self::on_link_up).
    fn on_link_down(&mut self, now: Instant);
}
