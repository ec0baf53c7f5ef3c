//! Surveys the physical functions of this node and their virtual functions.

use crate::failure::Failure;
use hawser_host::link::Link;
use hawser_host::netlink::Netlink;
use hawser_host::pci::{Capability, Function, Pci};
use hawser_host::vf_user::VfUser;
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
    /// The user of the function; `None` if it is free.
    pub user: Option<VfUser>,
}

/// The physical functions of this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// Those with a network device in this network namespace.
    pub here: Vec<Pf>,
    /// The others, which policies cannot change from here.
    pub elsewhere: Vec<Function>,
}

/// Finds the physical functions.
///
/// # Errors
/// The kernel refuses to list them.
pub(super) fn look(pci: &Pci) -> Result<Survey, Failure> {
    let look = || -> io::Result<Survey> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        let mut found = Survey::default();
        for address in pci.functions()? {
            let Some(capability) = pci.capability(address)? else {
                continue;
            };
            let Some(function) = pci.function(address)? else {
                continue;
            };
            let Some(link) = Link::of_device(&links, &address.to_string()).cloned() else {
                found.elsewhere.push(function);
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
                    user: VfUser::of(pci, &mut netlink, &function, &links)?,
                    function,
                    attributes: attributes.iter().find(|vf| vf.number == number).cloned(),
                    link: Link::of_device(&links, &address.to_string()).cloned(),
                });
            }
            found.here.push(Pf {
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
