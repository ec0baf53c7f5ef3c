//! One thread per queue pair. Being built: orders are taken, rings do not run yet.

#[expect(dead_code, reason = "the rings that follow these orders are being written")]
mod command;
mod handle;

pub use command::{RingRole, RingSetup};
pub use handle::WorkerHandle;

use crate::counters::Counters;
use crate::mode::Mode;
use crate::packet::MacAddr;
use crate::poller::{EventBuffer, Interest, Owner, Poller, Token};
use command::{Command, CommandReceiver, command_channel};
use std::io;
use std::sync::Arc;

/// What a worker is made of.
pub struct WorkerSpec {
    /// Name of the thread; the kernel keeps 15 bytes of it.
    pub name: String,
    /// The guest's MAC, if it is fixed.
    pub mac: Option<MacAddr>,
    /// The epoll instance the mode's sockets are in.
    pub poller: Poller,
    /// Where the worker counts.
    pub counters: Arc<Counters>,
    /// What frames are given to.
    pub mode: Box<dyn Mode>,
}

/// Starts a worker.
///
/// # Errors
/// The system has no descriptor or thread left.
pub fn spawn(spec: WorkerSpec) -> io::Result<WorkerHandle> {
    let (sender, receiver) = command_channel()?;
    spec.poller
        .add(&receiver, Token::new(Owner::Command, 0), Interest::ReadLevel)?;
    let thread = std::thread::Builder::new()
        .name(spec.name.clone())
        .spawn(move || run(&spec, &receiver))?;
    Ok(WorkerHandle::new(sender, thread))
}

fn run(spec: &WorkerSpec, commands: &CommandReceiver) {
    let mut events = EventBuffer::with_capacity(64);
    while spec.poller.wait(&mut events, None, |_, _| {}).is_ok() {
        commands.silence();
        while let Some(command) = commands.next() {
            match command {
                Command::Exit => return,
                Command::SetMemory(_, reply) => drop(reply.send(())),
                Command::StopRing(_, reply) => drop(reply.send(None)),
                _ => {}
            }
        }
    }
}
