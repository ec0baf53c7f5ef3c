//! Surveys the physical functions of this node and their virtual functions.

use crate::failure::Failure;
use hawser_host::link::Link;
use hawser_host::netlink::Netlink;
use hawser_host::pci::{Capability, Function, Pci, PciAddress};
use hawser_host::vf_state::PASSING_DRIVER;
use hawser_host::vfio::{self, Access};
use hawser_host::virtual_function::VirtualFunction;
use std::io;

/// A physical function with a network device in this network namespace.
#[derive(Clone, Debug)]
pub(super) struct Pf {
    /// The PCI function.
    pub function: Function,
    /// SR-IOV capability of the function.
    pub capability: Capability,
    /// Network device of the function.
    pub link: Link,
    /// Virtual functions, by number.
    pub vfs: Vec<Vf>,
}

/// A virtual function.
#[derive(Clone, Debug)]
pub(super) struct Vf {
    /// Number of the virtual function.
    pub number: u32,
    /// The PCI function.
    pub function: Function,
    /// Attributes of the virtual function, if the driver reports them.
    pub attributes: Option<VirtualFunction>,
    /// Network device of the virtual function in this network namespace.
    pub link: Option<Link>,
}

impl Vf {
    /// The user of the function; `None` if it is free.
    pub(super) fn user(&self) -> Option<&'static str> {
        let driver = self.function.driver.as_deref()?;
        let group = self.function.group;
        match driver {
            PASSING_DRIVER if group.is_some_and(|group| matches!(vfio::access(group), Access::Taken)) => Some("a VM"),
            PASSING_DRIVER => None,
            // The function has a driver, but its network device is not here, so it was moved to a pod.
            _ if self.link.is_none() => Some("another network namespace"),
            _ if self.link.as_ref().is_some_and(|link| link.master.is_some()) => Some("a bridge or bond"),
            _ => None,
        }
    }
}

/// Finds the physical functions.
///
/// # Errors
/// The kernel refuses to list them.
pub(super) fn look(pci: &Pci) -> Result<Vec<Pf>, Failure> {
    let look = || -> io::Result<Vec<Pf>> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        let mut found = Vec::new();
        for address in pci.functions()? {
            let Some(capability) = pci.capability(address)? else {
                continue;
            };
            let (Some(function), Some(link)) = (pci.function(address)?, link_of(&links, address)) else {
                continue;
            };
            let attributes = netlink.virtual_functions(link.index)?;
            let mut vfs = Vec::new();
            for (number, address) in pci.virtual_functions(address)? {
                let Some(function) = pci.function(address)? else {
                    continue;
                };
                vfs.push(Vf {
                    number,
                    function,
                    attributes: attributes.iter().find(|vf| vf.number == number).cloned(),
                    link: link_of(&links, address),
                });
            }
            found.push(Pf {
                function,
                capability,
                link,
                vfs,
            });
        }
        Ok(found)
    };
    look().map_err(|error| Failure::runtime(format_args!("cannot list the PFs of this node: {error}")))
}

fn link_of(links: &[Link], address: PciAddress) -> Option<Link> {
    let address = address.to_string();
    links
        .iter()
        .find(|link| link.device.as_ref() == Some(&address))
        .cloned()
}
