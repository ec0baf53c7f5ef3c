//! Watches the device to the segment. The port follows each change of its state, and sets the
//! guest's link up or down.
//!
//! The kernel sends a message whenever a link of the namespace changes. The message only triggers a check of the
//! device, so a lost message does no harm.

use super::AttachError;
use super::device::{Device, DeviceRecord, State};
use crate::failure::Failure;
use crate::sandbox::{Sandbox, ThreadKind};
use crate::watcher::{End, Wake, Watcher};
use hawser_backend::port::Port;
use hawser_backend::sys::tap::TapQueue;
use hawser_host::netlink::Netlink;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

/// Gives the port the queues of the device that currently exists.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    device: Arc<dyn Device>,
    /// Interface index of the device. `None` if the device is in a namespace that hawser cannot see.
    index: Option<u32>,
    /// Number of queues of the port.
    count: usize,
    told: State,
}

/// Record of a keeper for another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeeperRecord {
    device: DeviceRecord,
    index: Option<u32>,
    count: usize,
}

impl Keeper {
    /// Creates a keeper for a device that has just been opened. The device is assumed to pass frames until the first
    /// check.
    pub(crate) fn new(device: Arc<dyn Device>, index: Option<u32>, count: usize) -> Self {
        Self {
            device,
            index,
            count,
            told: State::Up,
        }
    }

    /// Record from which a keeper in another process continues.
    pub(crate) fn into_record(self) -> KeeperRecord {
        KeeperRecord {
            device: self.device.record(),
            index: self.index,
            count: self.count,
        }
    }

    /// Restores a keeper from its record. It uses the device that now has the recorded name, because
    /// the watching thread may have reopened the device.
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

    /// Reads the state of the device and passes changes to the port.
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

    /// Opens the device that replaces a removed one.
    fn reopen(&mut self, netlink: &mut Netlink, port: &Port) -> Result<State, AttachError> {
        // The journal already has the entries for this device.
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

/// Watches the device for `port` until the returned handle is dropped.
///
/// # Errors
/// The system has no thread, descriptor or netlink socket left.
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
            // The next change of a link triggers another attempt.
            log::warn!("the segment: {error}");
        }
        match end.or_event(events) {
            Ok(Wake::Event) => events.drain(),
            Ok(Wake::End) => return,
            Err(error) => return log::error!("the segment is no longer watched: {error}"),
        }
    }
}
