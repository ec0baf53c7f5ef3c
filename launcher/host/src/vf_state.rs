//! The state of a virtual function before it was passed to a guest, and how to restore it.

use super::netlink::Netlink;
use super::pci::{Pci, PciAddress};
use super::vfio::{self, Access};
use super::virtual_function::Attribute;
use serde::{Deserialize, Serialize};
use std::io;
use std::thread;
use std::time::Duration;

/// The driver that passes functions to guests.
pub const PASSING_DRIVER: &str = "vfio-pci";
/// Attempts to get a function back from a VMM that is ending, and the pause between them.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_millis(100);

/// A virtual function before any change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfState {
    /// Address of the function.
    pub vf: PciAddress,
    /// Address of its physical function.
    pub pf: PciAddress,
    /// Number of the function there.
    pub number: u32,
    /// Driver of the function.
    pub driver: Option<String>,
    /// `driver_override` of the function.
    pub driver_override: Option<String>,
    /// The values of the attributes that are changed, in the order of the changes.
    pub attributes: Vec<Attribute>,
}

impl VfState {
    /// Restores the function. Does nothing if the function no longer exists.
    ///
    /// # Errors
    /// The step that failed. EBUSY if a VMM still has the function: an unbind would then wait in the kernel without a
    /// limit.
    pub fn restore(&self, pci: &Pci, netlink: &mut Netlink) -> io::Result<()> {
        let Some(function) = pci.function(self.vf)? else {
            return Ok(());
        };
        if pci.parent(self.vf)? != Some((self.pf, self.number)) {
            return Ok(());
        }
        if function.driver.as_deref() == Some(PASSING_DRIVER) {
            await_release(function.group)?;
        }
        if function.driver != self.driver {
            pci.unbind(self.vf)?;
        }
        self.restore_attributes(netlink)?;
        if function.driver_override != self.driver_override {
            pci.set_driver_override(self.vf, self.driver_override.as_deref())?;
        }
        if function.driver != self.driver && self.driver.is_some() {
            pci.probe(self.vf)?;
        }
        Ok(())
    }

    fn restore_attributes(&self, netlink: &mut Netlink) -> io::Result<()> {
        if self.attributes.is_empty() {
            return Ok(());
        }
        let link = netlink.link_of_device(&self.pf.to_string())?;
        let link = link.ok_or_else(|| {
            io::Error::other(format!(
                "the PF {} has no network device in this network namespace",
                self.pf
            ))
        })?;
        for attribute in self.attributes.iter().rev() {
            let found = netlink.virtual_function(link.index, self.number);
            if found.map_err(io::Error::other)?.current(attribute) != Some(*attribute) {
                let set = netlink.set_attribute(link.index, self.number, *attribute);
                set.map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}

fn await_release(group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    for _ in 0..ATTEMPTS {
        if !matches!(vfio::access(group), Access::Taken) {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    Err(io::Error::new(
        io::ErrorKind::ResourceBusy,
        "a VMM still has it; it is put back at the next start of hawser after the VMM has ended",
    ))
}
