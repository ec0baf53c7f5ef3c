//! Places of devices in the guest's PCI tree, for QEMU.
//!
//! A device is behind a root port, or at the address that a manifest names (`pciAddress`). Bus 0 of such an address is
//! the root bus of the machine. Any other bus is behind a root port of a further root bus (`pxb-pcie`), whose number
//! QEMU lets a flag decide: the firmware gives the ports of that bus the numbers that follow.

use super::{Flag, VmmError, root_port_flag};
use hawser_manifest::nic::DeviceHints;
use std::collections::BTreeSet;

/// The only domain of a guest.
const DOMAIN: &str = "0000";
/// The root bus of the machine q35.
const ROOT_BUS: &str = "pcie.0";
/// First bus that an address can name: the root ports that hawser and the user add have the numbers below it.
const FIRST_BUS: u8 = 0x20;
/// The only slot and function behind a root port.
const ONLY_SLOT: &str = "00.0";

/// An address in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuestAddress<'a> {
    /// On the root bus: slot and function.
    Root(&'a str),
    /// The only device of a bus.
    Bus(u8),
}

impl<'a> GuestAddress<'a> {
    /// The address that a manifest names for a device; `None` if QEMU is to choose.
    fn of(device: &'a DeviceHints) -> Result<Option<Self>, VmmError> {
        let Some(address) = device.pci_address.as_deref() else {
            return Ok(None);
        };
        let parts: Vec<&str> = address.splitn(3, ':').collect();
        let found = match parts[..] {
            [DOMAIN, "00", slot] => Some(Self::Root(slot)),
            [DOMAIN, bus, ONLY_SLOT] => u8::from_str_radix(bus, 16).ok().map(Self::Bus),
            _ => None,
        };
        let is_possible = |found: &Self| !matches!(found, Self::Bus(..FIRST_BUS));
        let found = found.filter(is_possible);
        found.map(Some).ok_or_else(|| VmmError::PciAddress(address.to_owned()))
    }
}

fn port_of(bus: u8) -> String {
    format!("hawser-bus{bus:02x}")
}

/// The part of a value of -device that says where the device is. `port` is its root port, if it has one.
///
/// # Errors
/// QEMU has no such place.
pub(super) fn place(device: &DeviceHints, port: Option<&String>) -> Result<String, VmmError> {
    Ok(match (GuestAddress::of(device)?, port) {
        (Some(GuestAddress::Root(slot)), _) => format!(",bus={ROOT_BUS},addr={slot}"),
        (Some(GuestAddress::Bus(bus)), _) => format!(",bus={}", port_of(bus)),
        (None, Some(port)) => format!(",bus={port}"),
        (None, None) => String::new(),
    })
}

/// Flags for the buses that devices need.
///
/// # Errors
/// QEMU has no such place.
pub(super) fn buses<'a>(devices: impl Iterator<Item = &'a DeviceHints>) -> Result<Vec<Flag>, VmmError> {
    let mut buses = BTreeSet::new();
    for device in devices {
        if let Some(GuestAddress::Bus(bus)) = GuestAddress::of(device)? {
            buses.insert(bus);
        }
    }
    let mut flags = Vec::new();
    let (mut root, mut last) = (String::new(), None);
    for bus in buses {
        let before = bus - 1;
        // Buses in a row share a root bus, which needs a number of its own.
        if last != Some(before) {
            root = format!("hawser-root{before:02x}");
            let value = format!("pxb-pcie,id={root},bus={ROOT_BUS},bus_nr={before}");
            flags.push(("-device", vec![value]));
        }
        flags.push(root_port_flag(&port_of(bus), &format!("bus={root}"), usize::from(bus)));
        last = Some(bus);
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> DeviceHints {
        DeviceHints {
            pci_address: Some(address.to_owned()),
            ..DeviceHints::default()
        }
    }

    #[test]
    fn a_device_is_at_the_address_that_its_manifest_names() {
        let port = "hawser-port1".to_owned();
        for (device, wanted) in [
            (DeviceHints::default(), ",bus=hawser-port1"),
            (at("0000:00:0a.0"), ",bus=pcie.0,addr=0a.0"),
            (at("0000:81:00.0"), ",bus=hawser-bus81"),
        ] {
            assert_eq!(place(&device, Some(&port)).unwrap(), wanted);
        }
        let all = ["0000:81:00.0", "0000:00:0a.0", "0000:82:00.0", "0000:20:00.0"].map(at);
        let flags = buses(all.iter()).unwrap();
        let values: Vec<&str> = flags.iter().map(|(_, values)| &*values[0]).collect();
        assert_eq!(
            values,
            [
                "pxb-pcie,id=hawser-root1f,bus=pcie.0,bus_nr=31",
                "pcie-root-port,id=hawser-bus20,bus=hawser-root1f,chassis=200,slot=32",
                "pxb-pcie,id=hawser-root80,bus=pcie.0,bus_nr=128",
                "pcie-root-port,id=hawser-bus81,bus=hawser-root80,chassis=200,slot=129",
                "pcie-root-port,id=hawser-bus82,bus=hawser-root80,chassis=200,slot=130",
            ]
        );
    }

    #[test]
    fn an_address_that_qemu_does_not_have_is_refused() {
        for address in ["0001:00:0a.0", "0000:81:01.0", "0000:81:00.1", "0000:03:00.0"] {
            let refused = place(&at(address), None).unwrap_err().to_string();
            assert!(
                refused.contains(address) && refused.contains("0000:20:00.0"),
                "{refused}"
            );
        }
    }
}
