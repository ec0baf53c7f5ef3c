//! Surveys the links of this node.

use crate::failure::Failure;
use hawser_host::addresses::Address;
use hawser_host::link::Link;
use hawser_host::link_state;
use hawser_host::netlink::Netlink;
use std::io;

/// A link and its addresses.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The link.
    pub link: Link,
    /// Addresses that are valid beyond the link.
    pub addresses: Vec<Address>,
    /// True if the kernel's IPv6 is off here.
    pub ipv6_disabled: bool,
}

/// Finds all links of this network namespace.
///
/// # Errors
/// The kernel refuses to list them.
pub(super) fn look() -> Result<Vec<Found>, Failure> {
    try_look().map_err(|error| Failure::runtime(format_args!("cannot list the links of this node: {error}")))
}

fn try_look() -> io::Result<Vec<Found>> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?.into_iter();
    let found = links.map(|link| {
        let mut addresses = netlink.addresses(link.index)?;
        addresses.retain(Address::is_global);
        Ok(Found {
            addresses,
            // A kernel without IPv6 has none to switch off.
            ipv6_disabled: link_state::is_ipv6_disabled(&link.name)?.unwrap_or(true),
            link,
        })
    });
    found.collect()
}
