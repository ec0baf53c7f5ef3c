//! A TAP device, which is created if it does not exist.

use super::AttachError;
use super::device::{Device, DeviceRecord};
use super::survey::{Finding, article, require_privilege};
use crate::sandbox::Needs;
use hawser_backend::sys::tap::TapQueue;
use hawser_host::journal::Journal;
use hawser_host::link::Link;
use hawser_host::netlink::Netlink;
use hawser_manifest::nic::NicSpec;
use serde::{Deserialize, Serialize};
use std::io;

/// A TAP device and how to create it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tap {
    name: String,
    /// MTU of the device if hawser creates it.
    mtu: Option<u32>,
}

/// Surveys a TAP device for a guest.
pub(super) fn look(netlink: &mut Netlink, name: String, spec: &NicSpec) -> Result<Finding, AttachError> {
    let Some(link) = netlink.link_named(&name)? else {
        require_privilege(netlink, "creating a TAP device")?;
        let mtu = spec.mtu.map(u32::from);
        return Ok(Finding::of(Tap { name, mtu }, None));
    };
    if link.is("tun") {
        // A link that carries Ethernet has a MAC.
        if link.mac.is_none() {
            return Err(AttachError::Kind {
                found: "a TUN device, which carries no Ethernet".into(),
                wanted: "a TAP device",
                remedy: "create it again (ip tuntap add NAME mode tap vnet_hdr), or name another".into(),
                name,
            });
        }
        return Ok(Finding::of(Tap { name, mtu: None }, Some(&link)));
    }
    let remedy = match link.kind.as_str() {
        "macvtap" => format!("give --macvtap={name} instead"),
        "ipvtap" => format!("give --ipvtap={name} instead"),
        "bridge" => format!("give --bridge={name} instead"),
        _ => "name a TAP device, or a device that does not exist yet".into(),
    };
    Err(AttachError::Kind {
        found: article(&link.kind),
        wanted: "a TAP device",
        remedy,
        name,
    })
}

impl Device for Tap {
    fn record(&self) -> DeviceRecord {
        DeviceRecord::Tap(self.clone())
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn add_needs(&self, needs: &mut Needs) {
        needs.links = true;
    }

    fn open(
        &self,
        netlink: &mut Netlink,
        _journal: Option<&mut Journal>,
        count: usize,
    ) -> Result<Vec<TapQueue>, AttachError> {
        let is_new = netlink.link_named(&self.name)?.is_none();
        let queues = TapQueue::open(&self.name, count)?;
        if is_new {
            let link = netlink.link_named(&self.name)?;
            let index = link.ok_or_else(|| AttachError::Vanished(self.name.clone()))?.index;
            if let Some(mtu) = self.mtu {
                netlink.set_mtu(index, mtu)?;
            }
            netlink.set_up(index, true)?;
        }
        Ok(queues)
    }

    fn is_up(&self, _netlink: &mut Netlink, link: &Link) -> io::Result<bool> {
        Ok(link.is_up)
    }

    fn can_return(&self, netlink: &mut Netlink) -> io::Result<bool> {
        let tap = netlink.link_named(&self.name)?;
        Ok(tap.is_some_and(|link| link.is("tun")))
    }
}
