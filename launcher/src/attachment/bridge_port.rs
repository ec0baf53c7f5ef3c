//! A TAP device as a port of a Linux bridge.

use super::AttachError;
use super::device::{Device, DeviceRecord, port_mac, random_name};
use super::survey::{Finding, article, find, require_privilege};
use crate::sandbox::Needs;
use hawser_backend::packet::MacAddr;
use hawser_backend::sys::tap::TapQueue;
use hawser_host::bridge_vlan::PortVlans;
use hawser_host::journal::{Journal, Undo};
use hawser_host::link::{Link, PortManner};
use hawser_host::netlink::Netlink;
use hawser_manifest::nic::{BridgePortSpec, NicSpec};
use serde::{Deserialize, Serialize};
use std::io;

/// A TAP device as a port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BridgePort {
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the TAP device.
    pub tap: String,
    /// MAC of the TAP device. A bridge without other ports may adopt it.
    pub mac: MacAddr,
    /// MTU of the bridge.
    pub mtu: u32,
    /// Settings of the bridge port.
    pub manner: PortManner,
    /// True if the bridge is set to promiscuous mode.
    pub promiscuous: bool,
    /// VLANs of the guest, on a VLAN-filtering bridge. `None`: the bridge's default.
    pub vlans: Option<PortVlans>,
}

/// Surveys a bridge for a guest.
pub(super) fn look(netlink: &mut Netlink, port: &BridgePortSpec, spec: &NicSpec) -> Result<Finding, AttachError> {
    let bridge = find_bridge(netlink, &port.bridge)?;
    require_privilege(netlink, "creating a TAP device as a port of a bridge")?;
    let port = BridgePort {
        tap: random_name("hw")?,
        mac: port_mac()?,
        mtu: bridge.mtu,
        manner: PortManner {
            hairpin: port.hairpin,
            isolated: port.isolated,
            no_learning: false,
        },
        promiscuous: port.promiscuous,
        bridge: port.bridge.clone(),
        vlans: PortVlans::of(&spec.policy.vlan),
    };
    Ok(Finding::of(port, Some(&bridge)))
}

fn find_bridge(netlink: &mut Netlink, name: &str) -> Result<Link, AttachError> {
    let bridge = find(netlink, name, "bridge")?;
    if bridge.is("bridge") {
        return Ok(bridge);
    }
    Err(AttachError::Kind {
        found: article(&bridge.kind),
        wanted: "a bridge",
        remedy: format!("name a bridge, or attach the guest above the link (--macvtap={name}, CNI macvlan)"),
        name: bridge.name,
    })
}

impl Device for BridgePort {
    fn record(&self) -> DeviceRecord {
        DeviceRecord::BridgePort(self.clone())
    }

    fn name(&self) -> Option<&str> {
        Some(&self.tap)
    }

    fn add_needs(&self, needs: &mut Needs) {
        needs.links = true;
    }

    fn needs_journal(&self) -> bool {
        self.promiscuous
    }

    fn open(
        &self,
        netlink: &mut Netlink,
        journal: Option<&mut Journal>,
        count: usize,
    ) -> Result<Vec<TapQueue>, AttachError> {
        let bridge = self.find(netlink)?;
        let queues = TapQueue::open(&self.tap, count)?;
        let tap = netlink.link_named(&self.tap)?;
        let tap = tap.ok_or_else(|| AttachError::Vanished(self.tap.clone()))?.index;
        netlink.set_mac(tap, self.mac)?;
        netlink.set_mtu(tap, self.mtu)?;
        netlink.silence(tap)?;
        netlink.set_master(tap, Some(bridge.index))?;
        netlink.set_port_manner(tap, self.manner)?;
        self.join_vlans(netlink, &bridge, tap)?;
        if self.promiscuous && !bridge.is_promiscuous {
            if let Some(journal) = journal {
                journal.note(Undo::ClearPromiscuous {
                    index: bridge.index,
                    name: bridge.name.clone(),
                })?;
            }
            netlink.set_promiscuous(bridge.index, true)?;
        }
        netlink.set_up(tap, true)?;
        Ok(queues)
    }

    /// Adds a port that has lost its bridge to the bridge that now has the name.
    fn is_up(&self, netlink: &mut Netlink, tap: &Link) -> io::Result<bool> {
        let bridge = match tap.master {
            Some(master) => netlink.link(master)?,
            None => {
                let bridge = netlink.link_named(&self.bridge)?.filter(|link| link.is("bridge"));
                if let Some(bridge) = &bridge {
                    netlink.set_master(tap.index, Some(bridge.index))?;
                    netlink.set_port_manner(tap.index, self.manner)?;
                    self.join_vlans(netlink, bridge, tap.index)?;
                }
                bridge
            }
        };
        Ok(tap.is_up && bridge.is_some_and(|bridge| bridge.is_up))
    }

    fn can_return(&self, netlink: &mut Netlink) -> io::Result<bool> {
        let bridge = netlink.link_named(&self.bridge)?;
        Ok(bridge.is_some_and(|link| link.is("bridge")))
    }
}

impl BridgePort {
    fn find(&self, netlink: &mut Netlink) -> Result<Link, AttachError> {
        let bridge = netlink.link_named(&self.bridge)?.filter(|link| link.is("bridge"));
        bridge.ok_or_else(|| AttachError::Vanished(self.bridge.clone()))
    }

    /// Adds the port to the VLANs of the guest, on a bridge that filters VLANs.
    fn join_vlans(&self, netlink: &mut Netlink, bridge: &Link, tap: u32) -> io::Result<()> {
        match (&self.vlans, bridge.default_vlan) {
            (Some(vlans), Some(default)) => netlink.set_port_vlans(tap, vlans, default),
            _ => Ok(()),
        }
    }
}
