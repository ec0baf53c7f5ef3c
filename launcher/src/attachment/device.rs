//! The device that leads to a segment. Each kind of attachment implements [`Device`] in a module of its own, which also
//! surveys the host for it.

use super::AttachError;
use super::bridge_port::BridgePort;
use super::descriptors::Descriptors;
use super::stacked::{Adopted, Stacked};
use super::tap::Tap;
use crate::sandbox::Needs;
use hawser_backend::packet::MacAddr;
use hawser_backend::sys::tap::TapQueue;
use hawser_host::journal::Journal;
use hawser_host::link::Link;
use hawser_host::netlink::Netlink;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// First byte of the MAC of a TAP device. It is the highest that is not multicast. A bridge adopts the lowest MAC of
/// its ports, so it never adopts this one.
const TAP_MAC_PREFIX: u8 = 0xfe;

/// The device that leads to a segment. It opens its queues at the start, and again after the device was re-created.
pub(crate) trait Device: Debug + Send + Sync {
    /// Record from which another process can reopen the device.
    fn record(&self) -> DeviceRecord;

    /// Name of the device. `None` if it is not known.
    fn name(&self) -> Option<&str>;

    /// Adds what the process needs to look after the device and to remove it.
    fn add_needs(&self, needs: &mut Needs);

    /// True if the journal must have an entry before the device is created. A TAP device needs none,
    /// because it disappears with its queues.
    fn needs_journal(&self) -> bool {
        false
    }

    /// Takes over the guest's MAC and addresses, as far as they are known.
    ///
    /// # Errors
    /// An address cannot be reached in this way.
    fn settle(&mut self, _mac: Option<MacAddr>, _guests: &[IpAddr]) -> Result<(), AttachError> {
        Ok(())
    }

    /// Creates what is missing and opens `count` queues.
    ///
    /// # Errors
    /// [`AttachError`]. Whatever was created is in the journal, or disappears with its queues.
    fn open(
        &self,
        netlink: &mut Netlink,
        journal: Option<&mut Journal>,
        count: usize,
    ) -> Result<Vec<TapQueue>, AttachError>;

    /// True if frames pass through the device, which is `link`. A port whose bridge was re-created
    /// is added to the new bridge.
    ///
    /// # Errors
    /// The kernel's error.
    fn is_up(&self, netlink: &mut Netlink, link: &Link) -> io::Result<bool>;

    /// True once the device, or what it is created on, exists (again).
    ///
    /// # Errors
    /// The kernel's error.
    fn can_return(&self, netlink: &mut Netlink) -> io::Result<bool>;
}

/// A device while it is handed over to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeviceRecord {
    /// A TAP device as a port of a bridge.
    BridgePort(BridgePort),
    /// A TAP device.
    Tap(Tap),
    /// A macvtap or ipvtap created by hawser.
    Stacked(Stacked),
    /// An existing macvtap or ipvtap.
    Adopted(Adopted),
    /// The device of queues that another process opened.
    Descriptors(Descriptors),
}

impl DeviceRecord {
    /// Restores the device from its record.
    pub(crate) fn into_device(self) -> Arc<dyn Device> {
        match self {
            Self::BridgePort(device) => Arc::new(device),
            Self::Tap(device) => Arc::new(device),
            Self::Stacked(device) => Arc::new(device),
            Self::Adopted(device) => Arc::new(device),
            Self::Descriptors(device) => Arc::new(device),
        }
    }
}

/// Whether the device passes frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The device passes frames.
    Up,
    /// The device exists, but it is down or has no segment.
    Down,
    /// The device is gone.
    Gone,
}

impl State {
    /// The state of `device`, whose interface index is `index`.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn of(device: &dyn Device, netlink: &mut Netlink, index: u32) -> io::Result<Self> {
        let Some(link) = netlink.link(index)? else {
            return Ok(Self::Gone);
        };
        Ok(if device.is_up(netlink, &link)? {
            Self::Up
        } else {
            Self::Down
        })
    }
}

/// Adopts open queues.
///
/// # Errors
/// A descriptor is not a queue.
pub(super) fn adopt(descriptors: Vec<OwnedFd>) -> Result<Vec<TapQueue>, AttachError> {
    let queues = descriptors.into_iter().map(TapQueue::adopt);
    Ok(queues.collect::<Result<_, _>>()?)
}

/// A random MAC, locally administered and unicast.
///
/// # Errors
/// The system returns no random numbers.
pub(super) fn random_mac() -> io::Result<MacAddr> {
    const LOCAL: u8 = 0x02;
    let mut mac = [0; 6];
    getrandom::fill(&mut mac).map_err(io::Error::other)?;
    mac[0] = LOCAL;
    Ok(MacAddr(mac))
}

/// A MAC for a port of a bridge.
///
/// # Errors
/// The system returns no random numbers.
pub(super) fn port_mac() -> io::Result<MacAddr> {
    let mut mac = random_mac()?;
    mac.0[0] = TAP_MAC_PREFIX;
    Ok(mac)
}

/// A random name for a device that is created here.
///
/// # Errors
/// The system returns no random numbers.
pub(super) fn random_name(prefix: &str) -> io::Result<String> {
    let mac = random_mac()?.0;
    Ok(format!(
        "{prefix}{:02x}{:02x}{:02x}{:02x}",
        mac[2], mac[3], mac[4], mac[5]
    ))
}
