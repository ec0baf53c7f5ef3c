//! PCI functions as sysfs shows them: physical functions, their virtual functions, drivers and IOMMU groups.
//!
//! Every write of this module is one write(2) to one file of sysfs. Callers are responsible for the order of the writes
//! and for undoing them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// PCI base class and subclass of a bridge between PCI buses.
const BRIDGE_CLASS: u32 = 0x0604;
/// Content of `driver_override` if none is set.
const NO_OVERRIDE: &str = "(null)";

/// Address of a PCI function: `0000:01:10.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let [domain, bus, rest] = text.split(':').collect::<Vec<_>>().try_into().ok()?;
            let (device, function) = rest.split_once('.')?;
            let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
                let valid = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
                valid.then(|| u32::from_str_radix(text, 16).ok()).flatten()
            };
            Some(Self {
                domain: hex(domain, 4..=8)?,
                bus: hex(bus, 2..=2)?.try_into().ok()?,
                device: hex(device, 2..=2)?.try_into().ok().filter(|n| *n < 32)?,
                function: hex(function, 1..=1)?.try_into().ok().filter(|n| *n < 8)?,
            })
        };
        parse().ok_or_else(|| format!("{text:?}: give a PCI address such as 0000:01:10.0"))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Address of the function.
    pub address: PciAddress,
    /// Vendor id, four hexadecimal digits.
    pub vendor: String,
    /// Device id, four hexadecimal digits.
    pub device: String,
    /// Base class and subclass.
    pub class: u32,
    /// Driver of the function.
    pub driver: Option<String>,
    /// `driver_override`
    pub driver_override: Option<String>,
    /// IOMMU group of the function.
    pub group: Option<u32>,
}

impl Function {
    /// True if vfio can open the function's group despite this function: its driver passes devices on, or does no DMA.
    pub fn is_viable(&self) -> bool {
        let harmless = ["vfio-pci", "pci-stub", "pcieport"];
        self.class == BRIDGE_CLASS
            || self
                .driver
                .as_deref()
                .is_none_or(|driver| harmless.contains(&driver) || driver.ends_with("vfio_pci"))
    }
}

/// The SR-IOV capability of a physical function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Maximum number of virtual functions.
    pub total: u32,
    /// Current number of virtual functions.
    pub present: u32,
    /// True if the kernel binds a driver to new virtual functions.
    pub autoprobe: bool,
}

/// The PCI part of sysfs.
#[derive(Clone, Debug)]
pub struct Pci {
    root: PathBuf,
}

impl Default for Pci {
    fn default() -> Self {
        Self { root: "/sys".into() }
    }
}

impl Pci {
    /// A tree like that of sysfs.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory of a function.
    pub fn path(&self, address: PciAddress) -> PathBuf {
        self.root.join("bus/pci/devices").join(address.to_string())
    }

    /// All functions.
    ///
    /// # Errors
    /// The error of reading the directory.
    pub fn functions(&self) -> io::Result<Vec<PciAddress>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join("bus/pci/devices"))? {
            found.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<PciAddress>().ok()),
            );
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The function with this address; `None` if there is none.
    ///
    /// # Errors
    /// The error of reading its files.
    pub fn function(&self, address: PciAddress) -> io::Result<Option<Function>> {
        let path = self.path(address);
        if !path.exists() {
            return Ok(None);
        }
        let id = |file: &str| {
            let text = read(&path.join(file))?;
            Ok::<_, io::Error>(text.trim_start_matches("0x").to_owned())
        };
        let class = u32::from_str_radix(&id("class")?, 16).map_err(io::Error::other)?;
        let given = read(&path.join("driver_override")).unwrap_or_default();
        Ok(Some(Function {
            address,
            vendor: id("vendor")?,
            device: id("device")?,
            class: class >> 8,
            driver: link_name(&path.join("driver")),
            driver_override: Some(given).filter(|given| !given.is_empty() && given != NO_OVERRIDE),
            group: link_name(&path.join("iommu_group")).and_then(|name| name.parse().ok()),
        }))
    }

    /// The functions of an IOMMU group.
    ///
    /// # Errors
    /// The error of reading them.
    pub fn group(&self, group: u32) -> io::Result<Vec<Function>> {
        let folder = self.root.join(format!("kernel/iommu_groups/{group}/devices"));
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let address = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(address) = address else { continue };
            found.extend(self.function(address)?);
        }
        Ok(found)
    }

    /// The SR-IOV capability of a function; `None` if it has none.
    ///
    /// # Errors
    /// The error of reading it.
    pub fn capability(&self, pf: PciAddress) -> io::Result<Option<Capability>> {
        let path = self.path(pf);
        let number = |file: &str| read(&path.join(file))?.parse::<u32>().map_err(io::Error::other);
        match number("sriov_totalvfs") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(0) => Ok(None),
            Ok(total) => Ok(Some(Capability {
                total,
                present: number("sriov_numvfs")?,
                autoprobe: number("sriov_drivers_autoprobe").map_or(true, |on| on != 0),
            })),
        }
    }

    /// The virtual functions of a physical function, by number.
    ///
    /// # Errors
    /// The error of reading the directory.
    pub fn virtual_functions(&self, pf: PciAddress) -> io::Result<Vec<(u32, PciAddress)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path(pf))? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("virtfn")?.parse().ok());
            let address = link_name(&entry.path()).and_then(|name| name.parse().ok());
            found.extend(number.zip(address));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The physical function of a virtual function, and the number of the virtual function there.
    ///
    /// # Errors
    /// The error of reading the directory.
    pub fn parent(&self, vf: PciAddress) -> io::Result<Option<(PciAddress, u32)>> {
        let pf = link_name(&self.path(vf).join("physfn")).and_then(|name| name.parse().ok());
        let Some(pf) = pf else { return Ok(None) };
        let siblings = self.virtual_functions(pf)?;
        Ok(siblings
            .iter()
            .find(|(_, address)| *address == vf)
            .map(|(number, _)| (pf, *number)))
    }

    /// True if the driver of a function has made a network device of it, in whichever network namespace that is.
    pub fn is_network_device(&self, address: PciAddress) -> bool {
        self.path(address).join("net").exists()
    }

    /// Speed of a function's link in Mbit/s; `None` if the link is down, or its driver does not say.
    pub fn link_speed(&self, address: PciAddress, link: &str) -> Option<u32> {
        // The file holds -1, or cannot be read, while the link is down.
        let speed = read(&self.path(address).join("net").join(link).join("speed")).ok()?;
        speed.parse().ok().filter(|speed| *speed != 0)
    }

    /// True if the kernel has the driver.
    pub fn has_driver(&self, driver: &str) -> bool {
        self.root.join("bus/pci/drivers").join(driver).exists()
    }

    /// Sets the only driver that may bind to a function; `None` allows any driver that matches.
    ///
    /// # Errors
    /// The error of write(2).
    pub fn set_driver_override(&self, address: PciAddress, driver: Option<&str>) -> io::Result<()> {
        write(&self.path(address).join("driver_override"), driver.unwrap_or("\n"))
    }

    /// Unbinds a function from its driver, if it has one.
    ///
    /// # Errors
    /// The error of write(2).
    pub fn unbind(&self, address: PciAddress) -> io::Result<()> {
        let driver = self.path(address).join("driver");
        match driver.exists() {
            true => write(&driver.join("unbind"), &address.to_string()),
            false => Ok(()),
        }
    }

    /// Makes the kernel probe its drivers for a function without one.
    ///
    /// # Errors
    /// The error of write(2).
    pub fn probe(&self, address: PciAddress) -> io::Result<()> {
        write(&self.root.join("bus/pci/drivers_probe"), &address.to_string())
    }

    /// Sets the number of virtual functions. The kernel changes it only from zero or to zero.
    ///
    /// # Errors
    /// The error of write(2).
    pub fn set_present(&self, pf: PciAddress, number: u32) -> io::Result<()> {
        write(&self.path(pf).join("sriov_numvfs"), &number.to_string())
    }

    /// Sets whether the kernel binds drivers to new virtual functions.
    ///
    /// # Errors
    /// The error of write(2).
    pub fn set_autoprobe(&self, pf: PciAddress, on: bool) -> io::Result<()> {
        let on = if on { "1" } else { "0" };
        write(&self.path(pf).join("sriov_drivers_autoprobe"), on)
    }

    /// Resets a function. A function that cannot be reset stays unchanged.
    ///
    /// # Errors
    /// The error of write(2).
    pub fn reset(&self, address: PciAddress) -> io::Result<()> {
        match write(&self.path(address).join("reset"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

/// Writes to a file of sysfs, which must exist.
fn write(path: &Path, text: &str) -> io::Result<()> {
    use io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// The last component of a link's target.
fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_complete_and_in_range() {
        let address: PciAddress = "0000:3B:0a.7".parse().unwrap();
        assert_eq!(address.to_string(), "0000:3b:0a.7");
        assert_eq!(
            "10000:01:00.0".parse::<PciAddress>().unwrap().to_string(),
            "10000:01:00.0"
        );
        for bad in [
            "",
            "01:00.0",
            "0000:01:00",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:1:00.0",
            "0000:01:0+.0",
        ] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tree_of_sysfs_is_read_as_the_kernel_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let devices = folder.path().join("bus/pci/devices");
        let pf = devices.join("0000:01:00.0");
        let vf = devices.join("0000:01:10.0");
        for (path, vendor, class) in [(&pf, "0x8086", "0x020000"), (&vf, "0x8086", "0x020000")] {
            fs::create_dir_all(path).unwrap();
            fs::write(path.join("vendor"), format!("{vendor}\n")).unwrap();
            fs::write(path.join("device"), "0x10c9\n").unwrap();
            fs::write(path.join("class"), format!("{class}\n")).unwrap();
            fs::write(path.join("driver_override"), "(null)\n").unwrap();
        }
        for (file, text) in [
            ("sriov_totalvfs", "7\n"),
            ("sriov_numvfs", "1\n"),
            ("sriov_drivers_autoprobe", "0\n"),
        ] {
            fs::write(pf.join(file), text).unwrap();
        }
        let link = std::os::unix::fs::symlink::<&str, PathBuf>;
        link("../0000:01:10.0", pf.join("virtfn0")).unwrap();
        link("../0000:01:00.0", vf.join("physfn")).unwrap();
        link("../../../../kernel/iommu_groups/4", vf.join("iommu_group")).unwrap();
        link("../../../bus/pci/drivers/igb", pf.join("driver")).unwrap();
        let pci = Pci {
            root: folder.path().to_owned(),
        };
        let [pf, vf]: [PciAddress; 2] = pci.functions().unwrap().try_into().unwrap();
        let capability = pci.capability(pf).unwrap().unwrap();
        assert_eq!(
            (capability.total, capability.present, capability.autoprobe),
            (7, 1, false)
        );
        assert_eq!(pci.capability(vf).unwrap(), None);
        assert_eq!(pci.virtual_functions(pf).unwrap(), [(0, vf)]);
        assert_eq!(pci.parent(vf).unwrap(), Some((pf, 0)));
        let function = pci.function(vf).unwrap().unwrap();
        assert_eq!((function.vendor.as_str(), function.group), ("8086", Some(4)));
        assert_eq!(
            (function.driver.clone(), function.driver_override.clone()),
            (None, None)
        );
        assert!(function.is_viable());
        assert!(!pci.function(pf).unwrap().unwrap().is_viable(), "igb does DMA");
        assert_eq!(pci.function("0000:09:00.0".parse().unwrap()).unwrap(), None);
    }
}
