//! What the vhost-user side tells a worker, and how.
//!
//! Commands travel over a channel and ring an eventfd the worker's epoll watches.
//! Those that hand memory or rings back wait until the worker has let go of them, and
//! features until they hold: a migration counts on every write after that being logged.

use crate::config::Rates;
use crate::mode::ModeCommand;
use crate::policy::rate::Limiter;
use crate::virtio::GuestMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What a ring is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RingRole {
    /// Towards the guest.
    Receive,
    /// From the guest.
    Transmit,
    /// The control queue; only worker 0 has one.
    Control,
}

/// A ring as the front end describes it.
#[derive(Debug)]
pub struct RingSetup {
    /// Descriptors in the ring: a power of two, 1 to [`crate::virtio::MAX_RING_SIZE`].
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// Index of the first available entry that has not been taken.
    pub next_avail: u16,
    /// Eventfd the guest kicks.
    pub kick: File,
    /// Eventfd that interrupts the guest.
    pub call: Option<File>,
    /// Eventfd that tells the front end the ring is broken.
    pub error: Option<File>,
}

/// What the workers of a port share of its rates: `None` where there is no limit.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Towards the guest.
    pub to_guest: Option<Arc<Limiter>>,
    /// From the guest.
    pub from_guest: Option<Arc<Limiter>>,
}

impl Limits {
    /// Buckets for `rates`.
    pub fn new(rates: Rates) -> Self {
        Self {
            to_guest: Limiter::new(rates.to_guest),
            from_guest: Limiter::new(rates.from_guest),
        }
    }
}

/// One order to a worker.
pub(super) enum Command {
    SetMemory(Option<Arc<GuestMap>>, SyncSender<()>),
    SetFeatures(u64, SyncSender<()>),
    Reset,
    StartRing(RingRole, Box<RingSetup>),
    StopRing(RingRole, SyncSender<Option<u16>>),
    SetEnabled(RingRole, bool),
    SetCall(RingRole, Option<File>),
    SetError(RingRole, Option<File>),
    SetLink(bool),
    SetRates(Limits),
    /// For the mode; the reply is left out where the sender does not wait.
    Mode(ModeCommand, Option<SyncSender<io::Result<()>>>),
    Exit,
}

/// The sending end, one per handle.
pub(super) struct CommandSender {
    channel: Sender<Command>,
    bell: Arc<EventFd>,
}

/// The worker's end.
pub(super) struct CommandReceiver {
    channel: Receiver<Command>,
    bell: Arc<EventFd>,
}

/// A connected pair.
pub(super) fn command_channel() -> io::Result<(CommandSender, CommandReceiver)> {
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK)?);
    let (sender, receiver) = channel();
    let receiver = CommandReceiver {
        channel: receiver,
        bell: Arc::clone(&bell),
    };
    Ok((CommandSender { channel: sender, bell }, receiver))
}

impl CommandSender {
    /// Sends without waiting. A worker that is gone takes no orders and needs none.
    pub(super) fn send(&self, command: Command) {
        if self.channel.send(command).is_ok() {
            // Fails only when the counter is full, and then the bell rings already.
            let _ = self.bell.write(1);
        }
    }

    /// Sends and waits for the answer; `None` if the worker is gone, which the channel says at
    /// once. There is no other limit: a turn of the worker is bounded, and whoever went on
    /// without the answer would tell the front end something wrong.
    pub(super) fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.send(command(reply));
        answer.recv().ok()
    }
}

impl CommandReceiver {
    /// The next order, if there is one.
    pub(super) fn next(&self) -> Option<Command> {
        self.channel.try_recv().ok()
    }

    /// Silences the bell; to be called before the orders are taken.
    pub(super) fn silence(&self) {
        // Fails when nobody has rung since, which is all the same.
        let _ = self.bell.read();
    }
}

impl AsRawFd for CommandReceiver {
    fn as_raw_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }
}
