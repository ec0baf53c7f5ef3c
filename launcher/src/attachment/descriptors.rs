//! Queues of a TAP or macvtap device that another process has opened.

use super::AttachError;
use super::device::{Device, DeviceRecord, adopt};
use super::survey::Finding;
use crate::sandbox::Needs;
use hawser_backend::sys::tap::TapQueue;
use hawser_host::journal::Journal;
use hawser_host::link::Link;
use hawser_host::netlink::Netlink;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;

/// The device of the queues, which cannot be opened again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Descriptors {
    name: Option<String>,
}

/// Surveys open queues.
///
/// # Errors
/// A descriptor is not a queue.
pub(super) fn look(queues: Vec<OwnedFd>) -> Result<Finding, AttachError> {
    let descriptors = adopt(queues)?;
    let first = descriptors.first();
    let name = first.map(TapQueue::name);
    let mtu = first.map(|queue| Ok::<_, io::Error>((queue.mtu()?.into(), queue.name())));
    Ok(Finding {
        mtu: mtu.transpose()?,
        descriptors,
        ..Finding::of(Descriptors { name }, None)
    })
}

impl Device for Descriptors {
    fn record(&self) -> DeviceRecord {
        DeviceRecord::Descriptors(self.clone())
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn add_needs(&self, _needs: &mut Needs) {}

    fn open(
        &self,
        _netlink: &mut Netlink,
        _journal: Option<&mut Journal>,
        _count: usize,
    ) -> Result<Vec<TapQueue>, AttachError> {
        Ok(Vec::new())
    }

    fn is_up(&self, _netlink: &mut Netlink, link: &Link) -> io::Result<bool> {
        Ok(link.is_up)
    }

    fn can_return(&self, _netlink: &mut Netlink) -> io::Result<bool> {
        Ok(false)
    }
}
