//! Requests of other threads to a server: to stop, or to hand its front end and its socket over to another process.

use super::connection::ConnectionRecord;
use super::session::Busy;
use super::socket::{Watch, wait};
use crate::config::handover::Descriptors;
use crate::config::payload::{Payload, Sealed};
use crate::sys::listening_socket::SocketRecord;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Ends a server from another thread or a signal handler.
#[derive(Clone, Debug)]
pub struct StopHandle {
    stop: Arc<EventFd>,
    handover: Arc<Handovers>,
}

/// A request to hand over, and the eventfd that reports it to the server.
#[derive(Debug)]
struct Handovers {
    event: EventFd,
    asked: Mutex<Asked>,
}

#[derive(Debug)]
enum Asked {
    /// The server runs, and this request waits for it.
    Open(Option<SyncSender<Answer>>),
    /// The server has ended.
    Ended,
}

type Answer = Result<HandedOver, HandOverError>;

/// A server that another process continues: [`StagedServer`](super::StagedServer).
#[derive(Debug)]
pub struct HandedOver {
    /// Its state.
    pub record: Sealed<ServerRecord>,
    /// Its descriptors.
    pub descriptors: Vec<OwnedFd>,
}

impl HandedOver {
    /// The descriptors in the order in which they are taken.
    pub(super) fn split(self) -> (ServerRecord, Descriptors) {
        let Sealed(record) = self.record;
        (record, self.descriptors.into_iter())
    }
}

/// A server without its descriptors, which are those of the source, then those of the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    pub(super) source: SourceRecord,
    /// The front end that is served.
    pub(super) front: Option<ConnectionRecord>,
}

impl Payload for ServerRecord {
    const KIND: &'static str = "vhost-user-server";
    const VERSION: u32 = 2;
}

/// The source of front ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SourceRecord {
    /// They connect to this socket.
    Listener(Sealed<SocketRecord>),
    /// They listen at this path.
    Connect(PathBuf),
    /// There is only one. True: its connection follows as a descriptor, because it is not served yet.
    Connected(bool),
}

/// The reason why a server is not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The front end cannot be handed over now, and the server continues.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The server has ended.
    #[error("the port is no longer served")]
    Ended,
}

impl StopHandle {
    pub(super) fn new() -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        Ok(Self {
            stop: Arc::new(event()?),
            handover: Arc::new(Handovers {
                event: event()?,
                asked: Mutex::new(Asked::Open(None)),
            }),
        })
    }

    /// Ends the server: it closes the connection to the front end and removes the socket file. Safe in a signal
    /// handler: one write(2) to an eventfd.
    pub fn stop(&self) {
        // The write fails only when the counter is full. The server is already stopping then.
        let _ = self.stop.write(1);
    }

    /// Ends the server without closing anything, and returns it for another process. Waits for its thread.
    ///
    /// # Errors
    /// [`HandOverError`]
    pub fn hand_over(&self) -> Result<HandedOver, HandOverError> {
        let (sender, answer) = sync_channel(1);
        match &mut *self.asked() {
            Asked::Open(request) => *request = Some(sender),
            Asked::Ended => return Err(HandOverError::Ended),
        }
        // Fails only when the counter is full, in which case the server already wakes up.
        let _ = self.handover.event.write(1);
        answer.recv().map_err(|_| HandOverError::Ended)?
    }

    /// The request to hand over, if there is one.
    pub(super) fn take_request(&self) -> Option<SyncSender<Answer>> {
        // Fails if nothing was written.
        let _ = self.handover.event.read();
        match &mut *self.asked() {
            Asked::Open(request) => request.take(),
            Asked::Ended => None,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        let stop = Watch {
            fd: self.stop.as_raw_fd(),
            read: true,
            write: false,
        };
        wait([stop], 0).is_ok_and(|[stop]| stop.readable)
    }

    /// Refuses requests from now on, because the server ends.
    pub(super) fn end(&self) {
        *self.asked() = Asked::Ended;
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.handover.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Descriptors that become readable with a request.
    pub(super) fn interrupts(&self) -> [RawFd; 2] {
        [self.stop.as_raw_fd(), self.handover.event.as_raw_fd()]
    }
}

impl AsRawFd for StopHandle {
    /// The eventfd. Writing a 64-bit 1 in native byte order has the same effect as [`stop`](Self::stop).
    fn as_raw_fd(&self) -> RawFd {
        self.stop.as_raw_fd()
    }
}
