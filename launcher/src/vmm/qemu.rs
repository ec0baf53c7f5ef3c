//! Changes the NICs of a running QEMU over its monitor.
//!
//! A NIC consists of three objects: a chardev (the socket), a netdev (the front end) and the device. They are created
//! in this order and removed in reverse. Removing the device is a request to the guest. An event of QEMU reports its
//! completion.

use super::qemu_version::RECONNECT_MS;
use super::qmp::{Qmp, QmpError};
use super::running::{Patience, RunningError};
use super::{Card, Passed, QemuNames, ROOT_PORT, vectors};
use hawser_manifest::nic::Teaming;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// QEMU's error class for an unknown name.
const NOT_FOUND: &str = "DeviceNotFound";
/// QEMU's error text for a device whose removal is already pending.
const ASKED_ALREADY: &str = "already in the process of unplug";

/// Client of a QEMU monitor.
#[derive(Debug)]
pub(crate) struct Qemu(Qmp);

impl Qemu {
    /// Connects to the monitor at `path`.
    ///
    /// # Errors
    /// [`QmpError`]
    pub(crate) fn connect(path: &Path) -> Result<Self, QmpError> {
        Qmp::connect(path).map(Self)
    }

    /// Adds a NIC. After a failure none of its objects is left.
    ///
    /// # Errors
    /// Errors of the monitor.
    pub(crate) fn plug(&mut self, card: &Card<'_>) -> Result<(), RunningError> {
        let names = QemuNames::of(card.port.name);
        if self.has_device(&names.device)? {
            return Err(RunningError::There(card.port.name.to_owned()));
        }
        if card.device.pci_address.is_some() {
            return Err(RunningError::Fixed(card.port.name.to_owned()));
        }
        // This removes the remains of a NIC that the guest released after the wait had ended.
        self.sweep(&names)?;
        let made = self.make(card, &names);
        if made.is_err()
            && let Err(error) = self.sweep(&names)
        {
            log::error!("cannot undo what was created in QEMU for {}: {error}", card.port.name);
        }
        made
    }

    fn make(&mut self, card: &Card<'_>, names: &QemuNames) -> Result<(), RunningError> {
        let path = super::utf8(card.socket).map_err(RunningError::Card)?;
        let mut socket = json!({"addr": {"type": "unix", "data": {"path": path}}, "server": card.vmm_listens});
        if card.vmm_listens {
            socket["wait"] = false.into();
        } else {
            socket["reconnect-ms"] = RECONNECT_MS.into();
        }
        let backend = json!({"type": "socket", "data": socket});
        self.0
            .execute("chardev-add", json!({"id": names.chardev, "backend": backend}))?;
        let pairs = card.port.queue_pairs.get();
        self.0.execute(
            "netdev_add",
            json!({"type": "vhost-user", "id": names.netdev, "chardev": names.chardev, "queues": pairs}),
        )?;
        self.add_device(&device(card, names), card.bus.as_ref())
    }

    /// Adds a virtual function.
    ///
    /// # Errors
    /// Errors of the monitor.
    pub(crate) fn plug_passed(&mut self, passed: &Passed<'_>) -> Result<(), RunningError> {
        let names = QemuNames::of(passed.name);
        if self.has_device(&names.device)? {
            return Err(RunningError::There(passed.name.to_owned()));
        }
        if passed.device.pci_address.is_some() {
            return Err(RunningError::Fixed(passed.name.to_owned()));
        }
        let mut device = json!({"driver": "vfio-pci", "id": names.device, "host": passed.address});
        if let Some(index) = passed.device.acpi_index {
            device["acpi-index"] = index.into();
        }
        if let Some(standby) = passed.device.teaming.standby() {
            device["failover_pair_id"] = QemuNames::of(standby).device.into();
        }
        self.add_device(&device, passed.bus.as_ref())
    }

    /// Adds the device to a free root port, or lets QEMU place it.
    fn add_device(&mut self, device: &Value, bus: Option<&String>) -> Result<(), RunningError> {
        let buses = match bus {
            Some(bus) => vec![bus.clone()],
            None => free_ports(&self.0.execute("query-pci", json!({}))?),
        };
        let mut refused = None;
        for bus in buses {
            let mut device = device.clone();
            device["bus"] = bus.into();
            match self.0.execute("device_add", device) {
                Ok(_) => return Ok(()),
                // Before the guest has numbered its buses, a port may look free although it is not.
                Err(error @ QmpError::Refused { .. }) => refused = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        match refused {
            Some(error) => Err(error.into()),
            None => self.0.execute("device_add", device.clone()).map(drop).map_err(no_port),
        }
    }

    /// Removes a NIC and waits until the guest has released it. A missing NIC is not an error.
    ///
    /// # Errors
    /// Errors of the monitor, and [`RunningError::Kept`], which leaves the NIC as it was.
    pub(crate) fn unplug(&mut self, port: &str, patience: &Patience) -> Result<(), RunningError> {
        let names = QemuNames::of(port);
        let deadline = Instant::now() + patience.whole;
        // A guest that is booting misses the first request.
        while self.request_release(&names.device)? {
            let turn = deadline.min(Instant::now() + patience.again);
            let about_it = |event: &Value| event["data"]["device"] == *names.device;
            let ended = self.0.event(turn, |event| {
                about_it(event) && (event["event"] == "DEVICE_DELETED" || event["event"] == "DEVICE_UNPLUG_GUEST_ERROR")
            })?;
            match ended {
                Some(event) if event["event"] == "DEVICE_DELETED" => break,
                Some(_) => return Err(RunningError::Refused(port.to_owned())),
                None if Instant::now() >= deadline => return Err(RunningError::Kept(port.to_owned(), patience.whole)),
                None => {}
            }
        }
        self.sweep(&names)
    }

    /// Requests the release from the guest. False if the device no longer exists.
    fn request_release(&mut self, device: &str) -> Result<bool, QmpError> {
        match self.0.execute("device_del", json!({"id": device})) {
            Ok(_) => Ok(true),
            Err(QmpError::Refused { class, .. }) if class == NOT_FOUND => Ok(false),
            Err(QmpError::Refused { description, .. }) if description.contains(ASKED_ALREADY) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Sets the link state that the guest sees.
    ///
    /// # Errors
    /// Errors of the monitor.
    pub(crate) fn set_link(&mut self, port: &str, up: bool) -> Result<(), RunningError> {
        let name = QemuNames::of(port).netdev;
        self.0.execute("set_link", json!({"name": name, "up": up}))?;
        Ok(())
    }

    /// Presses the VM's power button.
    ///
    /// # Errors
    /// Errors of the monitor.
    pub(crate) fn power_down(&mut self) -> Result<(), RunningError> {
        self.0.execute("system_powerdown", json!({}))?;
        Ok(())
    }

    fn has_device(&mut self, device: &str) -> Result<bool, QmpError> {
        let list = self.0.execute("qom-list", json!({"path": "/machine/peripheral"}))?;
        let entries = list.as_array().into_iter().flatten();
        Ok(entries.into_iter().any(|entry| entry["name"] == *device))
    }

    /// Removes netdev and chardev if they exist. The device must be gone.
    fn sweep(&mut self, names: &QemuNames) -> Result<(), RunningError> {
        // QEMU has no error class for an unknown name here, only text.
        let unless_absent = |done: Result<Value, QmpError>| match done {
            Err(QmpError::Refused { class, description, .. })
                if class == NOT_FOUND || description.contains("not found") =>
            {
                Ok(())
            }
            other => other.map(drop),
        };
        unless_absent(self.0.execute("netdev_del", json!({"id": names.netdev})))?;
        unless_absent(self.0.execute("chardev-remove", json!({"id": names.chardev})))?;
        Ok(())
    }
}

/// Arguments of device_add, without the bus.
fn device(card: &Card<'_>, names: &QemuNames) -> Value {
    let pairs = card.port.queue_pairs.get();
    let mut device = json!({
        "driver": "virtio-net-pci",
        "id": names.device,
        "netdev": names.netdev,
        "host_mtu": card.port.mtu,
        "romfile": "",
    });
    if let Some(mac) = card.port.mac {
        device["mac"] = mac.to_string().into();
    }
    if pairs > 1 {
        device["mq"] = true.into();
        device["vectors"] = vectors(pairs).into();
    }
    // The boot order concerns the firmware, which has already run.
    if let Some(index) = card.device.acpi_index {
        device["acpi-index"] = index.into();
    }
    if card.device.teaming == Teaming::Persistent {
        device["failover"] = true.into();
    }
    device
}

/// Names of free root ports, hawser's own first.
fn free_ports(pci: &Value) -> Vec<String> {
    let buses = pci.as_array().into_iter().flatten();
    let devices = buses.flat_map(|bus| bus["devices"].as_array().into_iter().flatten());
    let free = devices.filter(|device| {
        let behind = device["pci_bridge"]["devices"].as_array();
        device.get("pci_bridge").is_some() && behind.is_none_or(Vec::is_empty)
    });
    let names = free.filter_map(|device| device["qdev_id"].as_str());
    let mut names: Vec<String> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
    names.sort_by_key(|name| !name.starts_with(ROOT_PORT));
    names
}

/// Adds the remedy to QEMU's error when no port is free.
fn no_port(error: QmpError) -> RunningError {
    match error {
        QmpError::Refused { description, .. } if description.contains("does not support hotplug") => {
            RunningError::NoPort(description)
        }
        error => error.into(),
    }
}
