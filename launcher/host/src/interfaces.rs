//! The interfaces of this network namespace, with the addresses and routers that a guest can share.

use super::netlink::Netlink;
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;

/// An interface with addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name of the link.
    pub name: String,
    /// Its addresses that are valid beyond the link, with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The next hops of default routes through it.
    pub gateways: Vec<IpAddr>,
}

/// The interfaces of the calling thread's network namespace.
///
/// # Errors
/// The kernel's error.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut netlink = Netlink::open()?;
    let addresses = netlink.all_addresses()?;
    let gateways = netlink.default_gateways()?;
    let of_link = |(name, index): (String, u32)| Interface {
        name,
        addresses: addresses
            .iter()
            .filter(|(of, address)| *of == index && address.is_global())
            .map(|(_, address)| address.net)
            .collect(),
        gateways: gateways
            .iter()
            .filter(|(of, _)| *of == index)
            .map(|(_, gateway)| *gateway)
            .collect(),
    };
    let links = netlink.links()?;
    Ok(links.into_iter().map(|link| of_link((link.name, link.index))).collect())
}
