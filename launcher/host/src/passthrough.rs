//! Passes a virtual function to a guest: checks, attributes, driver.
//!
//! [`survey`] reads everything and refuses what cannot work, before anything is changed. [`Survey::pass`] then records
//! the way back in the [`Journal`], sets the attributes in the order of sriov-cni, binds vfio-pci, and opens, checks
//! and resets the function once, so that a failure occurs here and not in the VMM.

use super::journal::{Journal, Undo};
use super::link::Link;
use super::netlink::Netlink;
use super::pci::{Function, Pci, PciAddress};
use super::vf_state::{PASSING_DRIVER, VfState};
use super::vf_times::VfTimes;
use super::vf_user::VfUser;
use super::vfio::{self, Access, Facts};
use super::virtual_function::{Attribute, AttributeError, PfLimits, VirtualFunction};
use hawser_packet::MacAddr;
use serde::{Deserialize, Serialize};
use std::io;
use vfio_ioctls::VfioError;

/// The reason why a virtual function cannot be passed to a guest.
#[derive(Debug, thiserror::Error)]
pub enum PassthroughError {
    /// There is no such function.
    #[error("there is no PCI function {0}; hawser node status lists the VFs of this node")]
    NoFunction(PciAddress),
    /// The function is not a virtual one.
    #[error("{0} is not a VF; hawser node status lists the VFs of this node")]
    NotVirtual(PciAddress),
    /// The network device of the physical function is not visible.
    #[error(
        "the PF {pf} of {vf} has no network device in this network namespace; run hawser where the PF is, or move the \
         PF back (ip link set NAME netns PID)"
    )]
    NoLink {
        /// The virtual function.
        vf: PciAddress,
        /// Its physical function.
        pf: PciAddress,
    },
    /// The driver has no such attribute.
    #[error("{}: the driver {driver} of {pf} cannot set {attribute}: {why}; change or leave out the field", attribute.field())]
    Unsupported {
        /// Attribute that was requested.
        attribute: Attribute,
        /// Driver of the physical function.
        driver: String,
        /// Name of the physical function.
        pf: String,
        /// The driver's limitation.
        why: String,
    },
    /// Another device has the MAC.
    #[error("mac: {mac} is already the MAC of {holder} on the segment of {pf}; give the interface another MAC")]
    MacTaken {
        /// MAC that was requested.
        mac: MacAddr,
        /// The device that has the MAC.
        holder: String,
        /// Name of the physical function.
        pf: String,
    },
    /// The function is in no IOMMU group.
    #[error(
        "{0} is in no IOMMU group, so it cannot be passed to a guest; switch the IOMMU on in the firmware and give the \
         kernel intel_iommu=on or amd_iommu=on"
    )]
    NoIommu(PciAddress),
    /// The kernel has no vfio-pci.
    #[error("the kernel has no driver {PASSING_DRIVER}; load it (modprobe {PASSING_DRIVER})")]
    NoDriver,
    /// The group contains a function that stays with the host.
    #[error(
        "the IOMMU group {group} of {vf} also contains {stranger} with the driver {driver}, so vfio does not open the \
         group; unbind that device, or choose a VF of another group"
    )]
    Stranger {
        /// The virtual function.
        vf: PciAddress,
        /// IOMMU group of the function.
        group: u32,
        /// The other function in the group.
        stranger: PciAddress,
        /// Driver of the other function.
        driver: String,
    },
    /// Another process has the function open.
    #[error("{vf} is in use: another process has /dev/vfio/{group} open; end it, or choose another VF")]
    InUse {
        /// The virtual function.
        vf: PciAddress,
        /// IOMMU group of the function.
        group: u32,
    },
    /// The host, or a program on it, uses the function.
    #[error("{user} uses {vf}; end that, or choose another VF")]
    OfHost {
        /// The virtual function.
        vf: PciAddress,
        /// Its user.
        user: VfUser,
    },
    /// This user may not open the file of the group.
    #[error("cannot open /dev/vfio/{group} of {vf}: {source}; run hawser as root, or give its user the file")]
    Denied {
        /// The virtual function.
        vf: PciAddress,
        /// IOMMU group of the function.
        group: u32,
        /// The error of open(2).
        source: io::Error,
    },
    /// An attribute could not be set.
    #[error("{}VF {number} of {pf} (driver {driver}): {source}", field.map_or_else(String::new, |field| format!("{field}: ")))]
    Attribute {
        /// Field of the network that requests the attribute.
        field: Option<&'static str>,
        /// Number of the virtual function.
        number: u32,
        /// Name of the physical function.
        pf: String,
        /// Driver of the physical function.
        driver: String,
        /// The reason for the failure.
        source: AttributeError,
    },
    /// The driver could not be changed.
    #[error("cannot bind {vf} to {PASSING_DRIVER}: {source}")]
    Bind {
        /// The virtual function.
        vf: PciAddress,
        /// The error of write(2).
        source: io::Error,
    },
    /// vfio refuses every function of this machine.
    #[error(
        "vfio refuses {0} because the IOMMU does not remap interrupts; switch interrupt remapping on (firmware, kernel \
         without intremap=off), or accept the risk: vfio_iommu_type1 with allow_unsafe_interrupts=1"
    )]
    NoInterruptRemapping(PciAddress),
    /// vfio refuses the function.
    #[error("{vf} is bound to {PASSING_DRIVER}, but cannot be opened: {source}")]
    Vfio {
        /// The virtual function.
        vf: PciAddress,
        /// The step that failed.
        source: VfioError,
    },
    /// The state of the host cannot be read, or the journal cannot be written.
    #[error("{what}: {source}")]
    System {
        /// Operation that failed.
        what: &'static str,
        /// Error of the operation.
        source: io::Error,
    },
}

/// A virtual function that can be passed to a guest.
#[derive(Debug)]
pub struct Survey {
    function: Function,
    pf: PciAddress,
    number: u32,
    group: u32,
    link: Link,
    pf_driver: String,
    before: VirtualFunction,
    /// Attributes whose current values differ from the requested ones.
    changes: Vec<Attribute>,
    /// True if the VMM of an earlier process has the function, with all attributes as requested.
    is_running: bool,
    times: VfTimes,
}

/// A virtual function that is ready for a VMM.
#[derive(Clone, Debug)]
pub struct PassedVf {
    /// Address of the function.
    pub vf: PciAddress,
    /// Address of its physical function.
    pub pf: PciAddress,
    /// Name of the physical function.
    pub pf_link: String,
    /// Interface index of that link.
    pub pf_index: u32,
    /// Driver of the physical function.
    pub pf_driver: String,
    /// Number of the function among those of its physical function.
    pub number: u32,
    /// IOMMU group of the function.
    pub group: u32,
    /// Properties that vfio reports. `None` if a VMM already has the function.
    pub facts: Option<Facts>,
    /// How long its set-up took.
    pub times: VfTimes,
}

const fn system(what: &'static str) -> impl FnOnce(io::Error) -> PassthroughError {
    move |source| PassthroughError::System { what, source }
}

/// The segment of a physical function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PfSegment {
    /// Name of the physical function.
    pub link: String,
    /// Name of the bridge whose port it is, if it is one.
    pub bridge: Option<String>,
}

/// Finds the segment of a virtual function's physical function.
///
/// # Errors
/// There is none in this network namespace.
pub fn segment(pci: &Pci, netlink: &mut Netlink, vf: PciAddress) -> Result<PfSegment, PassthroughError> {
    let parent = pci.parent(vf).map_err(system(NO_PCI))?;
    let (pf, _) = parent.ok_or(PassthroughError::NotVirtual(vf))?;
    let links = netlink.links().map_err(system(NO_LINKS))?;
    let link = Link::of_device(&links, &pf.to_string()).cloned();
    let link = link.ok_or(PassthroughError::NoLink { vf, pf })?;
    let master = links.into_iter().find(|other| Some(other.index) == link.master);
    Ok(PfSegment {
        link: link.name,
        bridge: master.filter(|master| master.is("bridge")).map(|master| master.name),
    })
}

/// Refuses a MAC that another device has on the segment of a virtual function's physical function. A standby of hawser
/// counts as another device: this is for a function without one.
///
/// # Errors
/// [`PassthroughError::MacTaken`], or the state of the host cannot be read.
pub fn check_segment(
    pci: &Pci,
    netlink: &mut Netlink,
    vf: PciAddress,
    asked: &[Attribute],
) -> Result<(), PassthroughError> {
    let Some(mac) = mac_of(asked) else { return Ok(()) };
    let parent = pci.parent(vf).map_err(system(NO_PCI))?;
    let (pf, _) = parent.ok_or(PassthroughError::NotVirtual(vf))?;
    let links = netlink.links().map_err(system(NO_LINKS))?;
    let link = Link::of_device(&links, &pf.to_string()).cloned();
    let link = link.ok_or(PassthroughError::NoLink { vf, pf })?;
    let holder = netlink.holder_of_mac(mac, &link, &links, &vf.to_string());
    match holder.map_err(system("cannot read the MACs of the segment"))? {
        None => Ok(()),
        Some(holder) => Err(PassthroughError::MacTaken {
            mac,
            holder,
            pf: link.name,
        }),
    }
}

const NO_PCI: &str = "cannot read PCI devices in /sys";
const NO_LINKS: &str = "cannot list the links";

/// The MAC among attributes, unless that is to be removed.
fn mac_of(asked: &[Attribute]) -> Option<MacAddr> {
    asked.iter().find_map(|attribute| match attribute {
        Attribute::Mac(mac) if *mac != [0; 6] => Some(MacAddr(*mac)),
        _ => None,
    })
}

/// Checks that a virtual function can be given these attributes and be passed to a guest. Changes nothing.
///
/// # Errors
/// The first reason that was found.
pub fn survey(
    pci: &Pci,
    netlink: &mut Netlink,
    vf: PciAddress,
    asked: &[Attribute],
) -> Result<Survey, PassthroughError> {
    let times = VfTimes::start();
    let read = || system(NO_PCI);
    let function = pci.function(vf).map_err(read())?;
    let function = function.ok_or(PassthroughError::NoFunction(vf))?;
    let parent = pci.parent(vf).map_err(read())?;
    let (pf, number) = parent.ok_or(PassthroughError::NotVirtual(vf))?;
    let links = netlink.links().map_err(system(NO_LINKS))?;
    let link = Link::of_device(&links, &pf.to_string()).cloned();
    let link = link.ok_or(PassthroughError::NoLink { vf, pf })?;
    let pf_function = pci.function(pf).map_err(read())?;
    let pf_function = pf_function.ok_or(PassthroughError::NoFunction(pf))?;
    let pf_driver = pf_function.driver.unwrap_or_default();
    let limits = PfLimits {
        driver: &pf_driver,
        device: &pf_function.device,
        speed: pci.link_speed(pf, &link.name),
    };
    if let Some((attribute, why)) = asked.iter().find_map(|a| Some((*a, a.refusal(&limits)?))) {
        return Err(PassthroughError::Unsupported {
            attribute,
            driver: pf_driver,
            pf: link.name,
            why,
        });
    }
    let all = netlink.virtual_functions(link.index);
    let all = all.map_err(system("cannot read the attributes of VFs"))?;
    check_mac(&link, &all, number, asked)?;
    let before = all.into_iter().find(|other| other.number == number).unwrap_or_default();
    let group = viable_group(pci, &function)?;
    match VfUser::of(pci, netlink, &function, &links).map_err(system(NO_LINKS))? {
        // The VMM may be that of an earlier process for the same VM.
        None | Some(VfUser::Vm) => {}
        Some(user) => return Err(PassthroughError::OfHost { vf, user }),
    }
    let changes: Vec<Attribute> = asked
        .iter()
        .filter(|asked| before.current(asked) != Some(**asked))
        .copied()
        .collect();
    let is_bound = function.driver.as_deref() == Some(PASSING_DRIVER);
    let is_running = match vfio::access(group) {
        Access::Free => false,
        Access::Taken if changes.is_empty() && is_bound => true,
        Access::Taken => return Err(PassthroughError::InUse { vf, group }),
        Access::Denied(source) => return Err(PassthroughError::Denied { vf, group, source }),
    };
    Ok(Survey {
        function,
        pf,
        number,
        group,
        link,
        pf_driver,
        before,
        changes,
        is_running,
        times,
    })
}

/// The IOMMU group of a function, if vfio can open it.
fn viable_group(pci: &Pci, function: &Function) -> Result<u32, PassthroughError> {
    let vf = function.address;
    let group = function.group.ok_or(PassthroughError::NoIommu(vf))?;
    if !pci.has_driver(PASSING_DRIVER) {
        return Err(PassthroughError::NoDriver);
    }
    let members = pci.group(group).map_err(system(NO_PCI))?;
    let is_stranger = |member: &&Function| member.address != vf && !member.is_viable();
    match members.iter().find(is_stranger) {
        None => Ok(group),
        Some(stranger) => Err(PassthroughError::Stranger {
            vf,
            group,
            stranger: stranger.address,
            driver: stranger.driver.clone().unwrap_or_default(),
        }),
    }
}

/// Refuses a MAC that the physical function or another virtual function has.
fn check_mac(link: &Link, all: &[VirtualFunction], number: u32, asked: &[Attribute]) -> Result<(), PassthroughError> {
    let Some(mac) = mac_of(asked) else { return Ok(()) };
    let others = all.iter().filter(|vf| vf.number != number);
    let mut holders = others.filter(|vf| vf.attributes.contains(&Attribute::Mac(mac.0)));
    let holder = match (link.mac == Some(mac), holders.next()) {
        (true, _) => "the PF itself".to_owned(),
        (false, Some(vf)) => format!("VF {}", vf.number),
        (false, None) => return Ok(()),
    };
    Err(PassthroughError::MacTaken {
        mac,
        holder,
        pf: link.name.clone(),
    })
}

impl Survey {
    /// Makes the changes. They are undone with the journal, also after an error.
    ///
    /// # Errors
    /// The step that failed.
    pub fn pass(
        mut self,
        pci: &Pci,
        netlink: &mut Netlink,
        journal: &mut Journal,
    ) -> Result<PassedVf, PassthroughError> {
        let vf = self.function.address;
        let is_bound = self.function.driver.as_deref() == Some(PASSING_DRIVER);
        if !self.changes.is_empty() || !is_bound {
            let undo = Undo::RestoreVf(self.state());
            journal.note(undo).map_err(system("cannot write the journal"))?;
        }
        for change in &self.changes {
            let set = netlink.set_attribute(self.link.index, self.number, *change);
            let took = set.map_err(|source| self.attribute_error(Some(change.field()), source))?;
            self.times.add(change.field(), took);
        }
        if !is_bound {
            self.times.of_driver("bind", || bind(pci, vf))?;
        }
        let check = || vfio::check(&pci.path(vf));
        let facts = match self.is_running {
            true => None,
            false => Some(self.times.of_driver("vfio", check).map_err(|source| match source {
                VfioError::ContainerSetIOMMU(errno) if errno.errno() == libc::EPERM => {
                    PassthroughError::NoInterruptRemapping(vf)
                }
                source => PassthroughError::Vfio { vf, source },
            })?),
        };
        // The reset may have changed the attributes.
        let found = netlink.virtual_function(self.link.index, self.number);
        let found = found.map_err(|source| self.attribute_error(None, source))?;
        for asked in &self.changes {
            let current = found.current(asked);
            if current != Some(*asked) {
                let source = AttributeError::Ignored {
                    asked: *asked,
                    found: current,
                };
                return Err(self.attribute_error(Some(asked.field()), source));
            }
        }
        self.times.end();
        Ok(PassedVf {
            vf,
            pf: self.pf,
            pf_link: self.link.name,
            pf_index: self.link.index,
            pf_driver: self.pf_driver,
            number: self.number,
            group: self.group,
            facts,
            times: self.times,
        })
    }

    fn state(&self) -> VfState {
        let attributes = self.changes.iter().filter_map(|change| self.before.current(change));
        VfState {
            vf: self.function.address,
            pf: self.pf,
            number: self.number,
            driver: self.function.driver.clone(),
            driver_override: self.function.driver_override.clone(),
            attributes: attributes.collect(),
        }
    }

    fn attribute_error(&self, field: Option<&'static str>, source: AttributeError) -> PassthroughError {
        PassthroughError::Attribute {
            field,
            number: self.number,
            pf: self.link.name.clone(),
            driver: self.pf_driver.clone(),
            source,
        }
    }
}

fn bind(pci: &Pci, vf: PciAddress) -> Result<(), PassthroughError> {
    let bind = || {
        pci.set_driver_override(vf, Some(PASSING_DRIVER))?;
        pci.unbind(vf)?;
        pci.probe(vf)?;
        match pci.function(vf)?.and_then(|function| function.driver) {
            Some(driver) if driver == PASSING_DRIVER => Ok(()),
            found => Err(io::Error::other(format!(
                "the kernel left it with {}",
                found.unwrap_or_else(|| "no driver".to_owned())
            ))),
        }
    };
    bind().map_err(|source| PassthroughError::Bind { vf, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_group_with_a_device_of_the_host_and_a_machine_without_an_iommu_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (address, driver) in [("0000:01:10.0", None), ("0000:02:00.0", Some("nvme"))] {
            let device = root.join("bus/pci/devices").join(address);
            fs::create_dir_all(&device).unwrap();
            for (file, text) in [("vendor", "0x8086"), ("device", "0x10ca"), ("class", "0x020000")] {
                fs::write(device.join(file), text).unwrap();
            }
            if let Some(driver) = driver {
                symlink(format!("../../../bus/pci/drivers/{driver}"), device.join("driver")).unwrap();
            }
        }
        let pci = Pci::at(root);
        let vf: PciAddress = "0000:01:10.0".parse().unwrap();
        let refusal = || {
            let function = pci.function(vf).unwrap().unwrap();
            viable_group(&pci, &function).map_err(|error| error.to_string())
        };
        let error = refusal().unwrap_err();
        assert!(
            error.contains("0000:01:10.0 is in no IOMMU group") && error.contains("intel_iommu=on"),
            "{error}"
        );

        let group = root.join("kernel/iommu_groups/4");
        fs::create_dir_all(group.join("devices/0000:01:10.0")).unwrap();
        symlink(
            "../../../../kernel/iommu_groups/4",
            root.join("bus/pci/devices/0000:01:10.0/iommu_group"),
        )
        .unwrap();
        assert!(refusal().unwrap_err().contains("the kernel has no driver vfio-pci"));
        fs::create_dir_all(root.join("bus/pci/drivers/vfio-pci")).unwrap();
        assert_eq!(refusal(), Ok(4));
        fs::create_dir_all(group.join("devices/0000:02:00.0")).unwrap();
        let error = refusal().unwrap_err();
        assert!(
            error.contains("group 4 of 0000:01:10.0 also contains 0000:02:00.0 with the driver nvme"),
            "{error}"
        );
    }
}
