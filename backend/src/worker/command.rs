//! Commands from the vhost-user side to a worker, and the channel that carries them.
//!
//! An eventfd in the worker's epoll instance announces a command. Commands that revoke memory or rings wait until the
//! worker has released them. A change of features waits until it is in effect, because a migration relies on every
//! later write being logged.

use crate::config::Rates;
use crate::mode::{Departure, HandoffError, ModeCommand, SavedMode, Unwritten};
use crate::policy::rate::Limiter;
use crate::virtio::GuestMap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The use of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RingRole {
    /// Carries frames to the guest.
    Receive,
    /// Carries frames from the guest.
    Transmit,
    /// Carries commands of the driver. Only worker 0 has this ring.
    Control,
}

/// A ring as the front end describes it.
#[derive(Debug)]
pub struct RingSetup {
    /// Number of descriptors: a power of two from 1 to [`crate::virtio::MAX_RING_SIZE`].
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// Index of the first available entry that has not been taken.
    pub next_avail: u16,
    /// Eventfd by which the guest kicks.
    pub kick: File,
    /// Eventfd that interrupts the guest.
    pub call: Option<File>,
    /// Eventfd that reports a broken ring to the front end.
    pub error: Option<File>,
}

/// Rate limits that the workers of a port share. `None` means no limit.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Limit on frames to the guest.
    pub to_guest: Option<Arc<Limiter>>,
    /// Limit on frames from the guest.
    pub from_guest: Option<Arc<Limiter>>,
}

impl Limits {
    /// Limiters for `rates`, with full buckets.
    pub fn new(rates: Rates) -> Self {
        Self {
            to_guest: Limiter::new(rates.to_guest),
            from_guest: Limiter::new(rates.from_guest),
        }
    }
}

/// A command to a worker.
pub(super) enum Command {
    /// Without memory, the front end has gone for this reason.
    SetMemory(Result<Arc<GuestMap>, Departure>, SyncSender<()>),
    SetFeatures(u64, SyncSender<()>),
    Reset,
    StartRing(RingRole, Box<RingSetup>),
    StopRing(RingRole, SyncSender<Option<u16>>),
    SetEnabled(RingRole, bool),
    SetCall(RingRole, Option<File>),
    SetError(RingRole, Option<File>),
    SetLink(bool),
    SetRates(Limits),
    /// A command for the mode. There is no reply channel if the sender does not wait.
    Mode(ModeCommand, Option<SyncSender<io::Result<()>>>),
    /// Asks for duplicates of the descriptors with which the mode was created.
    Share(SyncSender<Result<Vec<OwnedFd>, HandoffError>>),
    /// Asks for what the mode can pass on in advance, and goes on.
    SaveAhead(SyncSender<Result<Option<Unwritten>, HandoffError>>),
    /// What the mode of another process has passed on in advance.
    LoadAhead(SavedMode, SyncSender<Result<(), HandoffError>>),
    /// Asks for the mode's state. The worker rests until the sender of the second channel is gone.
    Save(SyncSender<Result<SavedMode, HandoffError>>, Receiver<Infallible>),
    /// State of the mode of another process, for a worker that has not begun.
    Load(SavedMode, SyncSender<Result<(), HandoffError>>),
    /// Lets a worker begin that was created to rest. It answers with the time.
    Begin(SyncSender<std::time::Instant>),
    Exit,
}

/// The sending end. Each handle has one.
pub(super) struct CommandSender {
    channel: Sender<Command>,
    bell: Arc<EventFd>,
}

/// The receiving end, which the worker has.
pub(super) struct CommandReceiver {
    channel: Receiver<Command>,
    bell: Arc<EventFd>,
}

/// Creates a connected pair of ends.
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
    /// Sends a command without waiting. A worker that has ended needs no commands.
    pub(super) fn send(&self, command: Command) {
        if self.channel.send(command).is_ok() {
            // This fails only if the counter is full. The eventfd is already readable then.
            let _ = self.bell.write(1);
        }
    }

    /// Sends a command and waits for the answer. `None` if the worker has ended, which the channel reports immediately.
    /// There is no time limit, because a turn of the worker is bounded and a caller that continued without the answer
    /// would misinform the front end.
    pub(super) fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.send(command(reply));
        answer.recv().ok()
    }
}

impl CommandReceiver {
    /// Takes the next command, if there is one.
    pub(super) fn next(&self) -> Option<Command> {
        self.channel.try_recv().ok()
    }

    /// Waits for the next command. `None` if there will be none.
    pub(super) fn wait(&self) -> Option<Command> {
        self.channel.recv().ok()
    }

    /// Clears the eventfd. Call this before taking commands.
    pub(super) fn silence(&self) {
        // This fails if no command has arrived since, which does no harm.
        let _ = self.bell.read();
    }
}

impl AsRawFd for CommandReceiver {
    fn as_raw_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }
}
