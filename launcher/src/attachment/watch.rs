//! Watches the device to the segment: what goes down, away and comes back is told to the
//! port, which tells the guest.
//!
//! The kernel says whenever any link of the namespace changes; what has changed is then looked
//! at, not read from the message, so that nothing is lost when messages are.

use super::AttachError;
use super::device::{Device, DeviceRecord, State};
use crate::failure::Failure;
use crate::sandbox::{Sandbox, ThreadKind};
use crate::watcher::{End, Wake, Watcher};
use hawser_backend::port::Port;
use hawser_backend::sys::tap::TapQueue;
use hawser_config::handover::Version;
use hawser_host::netlink::Netlink;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

/// Keeps the port's queues those of the device that is there.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    device: Arc<dyn Device>,
    /// Number of the device; `None` if it is in no namespace we see.
    index: Option<u32>,
    /// How many queues the port has.
    count: usize,
    told: State,
}

/// What a keeper is to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeeperRecord {
    version: Version<1>,
    device: DeviceRecord,
    index: Option<u32>,
    count: usize,
}

impl Keeper {
    /// For a device that has just been opened; frames get through until something else is seen.
    pub(crate) fn new(device: Arc<dyn Device>, index: Option<u32>, count: usize) -> Self {
        Self {
            device,
            index,
            count,
            told: State::Up,
        }
    }

    /// What a keeper in another process needs to go on.
    pub(crate) fn into_record(self) -> KeeperRecord {
        KeeperRecord {
            version: Version,
            device: self.device.record(),
            index: self.index,
            count: self.count,
        }
    }

    /// The keeper of a record. The device that has its name now counts: the watching thread may
    /// have opened it again since the record's keeper was made.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn from_record(record: KeeperRecord) -> io::Result<Self> {
        let device = record.device.into_device();
        let found = match device.name() {
            Some(name) => Netlink::open()?.link_named(name)?,
            None => None,
        };
        let index = found.map(|link| link.index).or(record.index);
        Ok(Self::new(device, index, record.count))
    }

    /// Looks at the device and tells the port what has changed.
    fn check(&mut self, netlink: &mut Netlink, port: &Port) -> Result<(), AttachError> {
        let Some(index) = self.index else { return Ok(()) };
        let mut state = State::of(&*self.device, netlink, index)?;
        if state == State::Gone && self.device.can_return(netlink)? {
            state = self.reopen(netlink, port)?;
        }
        if state != self.told {
            self.told = state;
            log::info!("the segment is {}", describe(state));
            port.set_segment(state == State::Up);
        }
        Ok(())
    }

    /// Opens the device that has taken the place of the one that is gone.
    fn reopen(&mut self, netlink: &mut Netlink, port: &Port) -> Result<State, AttachError> {
        // What may have to be undone is the same as the first time, and noted.
        let queues = self.device.open(netlink, None, self.count)?;
        let device = self.device.name().map(|name| netlink.link_named(name));
        self.index = device.transpose()?.flatten().map(|link| link.index);
        let queues: Vec<Arc<TapQueue>> = queues.into_iter().map(Arc::new).collect();
        port.replace_segment(queues);
        self.told = State::Up;
        log::info!("the segment is back");
        match self.index {
            Some(index) => Ok(State::of(&*self.device, netlink, index)?),
            None => Ok(State::Gone),
        }
    }
}

const fn describe(state: State) -> &'static str {
    match state {
        State::Up => "up",
        State::Down => "down",
        State::Gone => "gone",
    }
}

/// Starts to watch for `port`, until what this returns is dropped.
///
/// # Errors
/// The system has no thread, descriptor or netlink left.
pub(crate) fn start(keeper: Keeper, port: Arc<Port>, sandbox: &Sandbox) -> Result<Watcher, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::runtime(format_args!("cannot watch the network's links: {e}"));
    let events = Netlink::watch_links().map_err(|e| failed(&e))?;
    let netlink = Netlink::open().map_err(|e| failed(&e))?;
    Watcher::start(sandbox, ThreadKind::Links, "links", move |end| {
        watch(keeper, &events, netlink, &port, end);
    })
}

fn watch(mut keeper: Keeper, events: &Netlink, mut netlink: Netlink, port: &Port, end: &End) {
    loop {
        if let Err(error) = keeper.check(&mut netlink, port) {
            // Tried again with the next change.
            log::warn!("the segment: {error}");
        }
        match end.or_event(events) {
            Ok(Wake::Event) => events.drain(),
            Ok(Wake::End) => return,
            Err(error) => return log::error!("the segment is not watched any more: {error}"),
        }
    }
}
