//! The user of a virtual function, which would lose it if it were passed to a guest.

use super::link::Link;
use super::netlink::Netlink;
use super::pci::{Function, Pci};
use super::vf_state::PASSING_DRIVER;
use super::vfio::{self, Access};
use ipnet::IpNet;
use std::io;

/// The user of a virtual function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VfUser {
    /// A process has the function's group open, as a VMM does.
    #[error("a VM")]
    Vm,
    /// The network device of the function is in another network namespace, such as that of a pod.
    #[error("another network namespace")]
    Namespace,
    /// The function has a driver for programs, and no network device.
    #[error("a program by the driver {0}")]
    Program(String),
    /// The network device of the function is a port.
    #[error("the {kind} {master}, whose port {port} is,")]
    Port {
        /// Network device of the function.
        port: String,
        /// The bridge, bond or team.
        master: String,
        /// Kind of that link.
        kind: String,
    },
    /// This host has an address on the function.
    #[error("this host, which has {address} on {link},")]
    Host {
        /// Network device of the function.
        link: String,
        /// The address.
        address: IpNet,
    },
}

impl VfUser {
    /// Finds the user of a function among the links of this network namespace; `None` if the function is free.
    ///
    /// # Errors
    /// The addresses of its link cannot be read.
    pub fn of(pci: &Pci, netlink: &mut Netlink, function: &Function, links: &[Link]) -> io::Result<Option<Self>> {
        let Some(driver) = function.driver.as_deref() else {
            return Ok(None);
        };
        if driver == PASSING_DRIVER {
            let is_open = function
                .group
                .is_some_and(|group| matches!(vfio::access(group), Access::Taken));
            return Ok(is_open.then_some(Self::Vm));
        }
        let address = function.address.to_string();
        let Some(link) = Link::of_device(links, &address) else {
            return Ok(Some(match pci.is_network_device(function.address) {
                true => Self::Namespace,
                false => Self::Program(driver.to_owned()),
            }));
        };
        if let Some(master) = links.iter().find(|other| Some(other.index) == link.master) {
            return Ok(Some(Self::Port {
                port: link.name.clone(),
                master: master.name.clone(),
                kind: master.kind.clone(),
            }));
        }
        let addresses = netlink.addresses(link.index)?;
        Ok(addresses
            .iter()
            .find(|address| address.is_global())
            .map(|address| Self::Host {
                link: link.name.clone(),
                address: address.net,
            }))
    }
}
