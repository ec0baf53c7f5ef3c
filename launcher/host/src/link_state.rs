//! A link as it was before a change, and the way back to it.

use super::addresses::Recorded;
use super::link::Link;
use super::netlink::Netlink;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::PathBuf;

/// The state of a link that the administrator may change. A link that is gone, or that has another name, is not put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// Interface index, which never changes.
    pub index: u32,
    /// Interface name.
    pub name: String,
    is_up: bool,
    mtu: u32,
    mac: Option<String>,
    master: Option<u32>,
    stp: Option<bool>,
    ipv6_disabled: Option<bool>,
    addresses: Vec<Recorded>,
    routes: Vec<Recorded>,
}

impl LinkState {
    /// The present state of a link.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn of(netlink: &mut Netlink, link: &Link) -> io::Result<Self> {
        let addresses = netlink.addresses(link.index)?;
        let routes = netlink.routes(link.index)?;
        Ok(Self {
            index: link.index,
            name: link.name.clone(),
            is_up: link.is_up,
            mtu: link.mtu,
            mac: link.mac.map(|mac| mac.to_string()),
            master: link.master,
            stp: link.stp,
            ipv6_disabled: is_ipv6_disabled(&link.name)?,
            addresses: addresses.iter().map(|address| address.record()).collect(),
            routes: routes.iter().map(|route| route.record()).collect(),
        })
    }

    /// Puts the link back.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn restore(&self, netlink: &mut Netlink) -> io::Result<()> {
        let Some(link) = netlink.link(self.index)?.filter(|link| link.name == self.name) else {
            return Ok(());
        };
        if link.master != self.master {
            // A bridge that is gone cannot get its port back.
            let master = match self.master {
                Some(master) => netlink.link(master)?.map(|link| link.index),
                None => None,
            };
            netlink.set_master(self.index, master)?;
        }
        if let Some(stp) = self.stp.filter(|_| link.stp != self.stp) {
            netlink.set_stp(self.index, stp)?;
        }
        if link.mtu != self.mtu {
            netlink.set_mtu(self.index, self.mtu)?;
        }
        if let Some(mac) = self
            .mac
            .as_ref()
            .filter(|mac| link.mac.map(|m| m.to_string()).as_ref() != Some(mac))
        {
            netlink.set_mac(self.index, mac.parse().map_err(io::Error::other)?)?;
        }
        if let Some(disabled) = self.ipv6_disabled {
            set_ipv6_disabled(&self.name, disabled)?;
        }
        netlink.set_up(self.index, self.is_up)?;
        for address in netlink.addresses(self.index)? {
            if !self.addresses.contains(&address.record()) && address.is_global() {
                netlink.delete_address(&address)?;
            }
        }
        for address in &self.addresses {
            netlink.restore_address(address)?;
        }
        if self.is_up {
            for route in &self.routes {
                netlink.restore_route(route)?;
            }
        }
        Ok(())
    }
}

fn ipv6_switch(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv6/conf").join(name).join("disable_ipv6")
}

/// Whether the kernel has switched IPv6 off on a link. `None`: it has no IPv6 at all.
///
/// # Errors
/// The error of read(2).
pub fn is_ipv6_disabled(name: &str) -> io::Result<Option<bool>> {
    match fs::read_to_string(ipv6_switch(name)) {
        Ok(text) => Ok(Some(text.trim() != "0")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Switches IPv6 of a link off or on. Off removes its addresses.
///
/// # Errors
/// The error of write(2).
pub fn set_ipv6_disabled(name: &str, disabled: bool) -> io::Result<()> {
    match is_ipv6_disabled(name)? {
        Some(now) if now != disabled => fs::write(ipv6_switch(name), if disabled { "1" } else { "0" }),
        _ => Ok(()),
    }
}
