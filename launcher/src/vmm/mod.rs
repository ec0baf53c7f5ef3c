//! Flags that connect a VMM's NICs to this back end, the same as XML for libvirt ([`libvirt`]), and changes to the NICs
//! of a running VMM ([`running`]).
//!
//! The flags are one line for `eval "vmm … $(hawser …)"`; words with special characters are quoted
//! for the shell.
//!
//! In both VMMs a NIC is named after its port, so that it can be found again.

mod cloud_hypervisor;
pub(crate) mod libvirt;
mod place;
mod qemu;
mod qemu_version;
mod qmp;
pub(crate) mod running;

pub(crate) use qemu_version::QemuVersion;

use hawser_backend::config::PortConfig;
use hawser_backend::packet::MacAddr;
use hawser_manifest::nic::{DeviceHints, Teaming};
use std::fmt::Write as _;
use std::num::NonZeroU16;
use std::path::Path;

/// Smallest MTU that cloud-hypervisor accepts.
const CLOUD_HYPERVISOR_MIN_MTU: u16 = 1280;

/// The VM for which flags are printed.
pub(crate) struct Vm<'a> {
    /// Memory, in the VMM's notation.
    pub memory: &'a str,
    /// NICs of the VM, in order.
    pub cards: &'a [Card<'a>],
    /// Virtual functions, after the NICs.
    pub passed: &'a [Passed<'a>],
    /// The QEMU that reads the flags.
    pub qemu: QemuVersion,
}

/// A virtual function of the VM.
pub(crate) struct Passed<'a> {
    /// Name of its interface.
    pub name: &'a str,
    /// Its PCI address on the host.
    pub address: String,
    /// Its position as the guest's firmware sees it.
    pub device: DeviceHints,
    /// QEMU: its bus; `None` for QEMU's choice.
    pub bus: Option<String>,
}

/// A NIC of the VM.
pub(crate) struct Card<'a> {
    /// Path of the vhost-user socket.
    pub socket: &'a Path,
    /// True if the VMM listens there and hawser connects.
    pub vmm_listens: bool,
    /// What the VMM has to know of the NIC's port.
    pub port: CardPort<'a>,
    /// Position of the NIC as the guest's firmware sees it.
    pub device: DeviceHints,
    /// Name of its bus in QEMU. `None` for QEMU's choice.
    pub bus: Option<String>,
}

/// What a VMM has to know of a port.
#[derive(Clone, Copy)]
pub(crate) struct CardPort<'a> {
    /// Its name.
    pub name: &'a str,
    /// MAC of the guest's NIC; `None` for the VMM's choice.
    pub mac: Option<MacAddr>,
    /// MTU of the guest's NIC.
    pub mtu: u16,
    /// Number of queue pairs.
    pub queue_pairs: NonZeroU16,
}

impl<'a> From<&'a PortConfig> for CardPort<'a> {
    fn from(port: &'a PortConfig) -> Self {
        Self {
            name: &port.name,
            mac: port.mac,
            mtu: port.mtu,
            queue_pairs: port.queue_pairs,
        }
    }
}

/// Names of a NIC in QEMU.
struct QemuNames {
    chardev: String,
    netdev: String,
    device: String,
}

impl QemuNames {
    fn of(port: &str) -> Self {
        Self {
            chardev: format!("hawser-chr-{port}"),
            netdev: format!("hawser-{port}"),
            device: format!("hawser-nic-{port}"),
        }
    }
}

/// Number of spare PCI Express root ports for NICs that are plugged later.
const SPARE_PORTS: usize = 4;
/// Chassis number of these ports. Chassis and slot identify a port, so the number is far from those that users choose.
const CHASSIS: u8 = 200;

/// Name of the bus behind root port `n`.
pub(crate) fn root_port(n: usize) -> String {
    format!("{ROOT_PORT}{n}")
}

/// Name of the buses behind root ports, before the number.
const ROOT_PORT: &str = "hawser-port";

/// QEMU flags for a root port per NIC (`cards` of them) and spare ones: nothing can be plugged into
/// the root bus itself at run time.
pub(crate) fn qemu_root_ports(cards: usize) -> Vec<Flag> {
    let port = |n| root_port_flag(&root_port(n), "", n);
    (0..cards + SPARE_PORTS).map(port).collect()
}

/// QEMU flag for a root port; `bus` is an option for its bus, or empty for the machine's root bus.
fn root_port_flag(name: &str, bus: &str, slot: usize) -> Flag {
    let comma = if bus.is_empty() { "" } else { "," };
    let value = format!("pcie-root-port,id={name}{comma}{bus},chassis={CHASSIS},slot={slot}");
    ("-device", vec![value])
}

/// QEMU flag for a monitor at `path`.
///
/// # Errors
/// The path cannot be expressed as an option.
pub(crate) fn qemu_monitor(path: &Path) -> Result<Flag, VmmError> {
    let path = utf8(path)?.replace(',', ",,");
    Ok(("-qmp", vec![format!("unix:{path},server=on,wait=off")]))
}

/// The reason why a VMM's command line cannot express the options.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VmmError {
    /// The path is not UTF-8.
    #[error("--socket-path is not UTF-8: choose a path that can be written on a command line")]
    PathNotUtf8,
    /// The path contains a character that the VMM's option syntax cannot express.
    #[error("--socket-path has a double quote, which cloud-hypervisor's options cannot express: choose another path")]
    QuoteInPath,
    /// The VMM has no failover pairs.
    #[error("failover: cloud-hypervisor has no standby NICs: leave it out, or start QEMU")]
    NoFailover,
    /// The guest has no such PCI address.
    #[error(
        "pciAddress {0}: QEMU has no such place: give 0000:00:SLOT.FUNCTION, or 0000:BUS:00.0 from 0000:20:00.0 on"
    )]
    PciAddress(String),
    /// cloud-hypervisor places devices itself.
    #[error("pciAddress: cloud-hypervisor chooses the addresses of its devices: leave it out, or start QEMU")]
    NoPciAddress,
    /// The MTU is below the minimum of cloud-hypervisor.
    #[error("--mtu={0} is less than cloud-hypervisor's minimum of {CLOUD_HYPERVISOR_MIN_MTU} bytes: raise it")]
    MtuTooSmall(u16),
}

/// A flag with its values.
pub(crate) type Flag = (&'static str, Vec<String>);

/// QEMU flags for a shell.
///
/// # Errors
/// A socket's path cannot be expressed.
pub(crate) fn qemu_args(vm: &Vm<'_>) -> Result<String, VmmError> {
    Ok(line(&qemu_flags(vm)?))
}

/// QEMU flags.
///
/// # Errors
/// A socket's path cannot be expressed.
pub(crate) fn qemu_flags(vm: &Vm<'_>) -> Result<Vec<Flag>, VmmError> {
    let mut flags = vec![
        ("-m", vec![vm.memory.to_owned()]),
        (
            "-object",
            vec![format!(
                "memory-backend-memfd,id=hawser-mem,size={},share=on",
                vm.memory
            )],
        ),
        ("-machine", vec!["memory-backend=hawser-mem".to_owned()]),
    ];
    let devices = vm.cards.iter().map(|card| &card.device);
    let devices = devices.chain(vm.passed.iter().map(|passed| &passed.device));
    flags.extend(place::buses(devices)?);
    for card in vm.cards {
        let [chardev, netdev, device] = qemu_card(card, vm.qemu)?;
        flags.extend([
            ("-chardev", vec![chardev]),
            ("-netdev", vec![netdev]),
            ("-device", vec![device]),
        ]);
    }
    for passed in vm.passed {
        flags.push(("-device", vec![qemu_passed(passed)?]));
    }
    Ok(flags)
}

/// Value of -device for a virtual function. QEMU opens its IOMMU group itself.
fn qemu_passed(passed: &Passed<'_>) -> Result<String, VmmError> {
    let mut device = format!(
        "vfio-pci,id={},host={}",
        QemuNames::of(passed.name).device,
        passed.address
    );
    device.push_str(&place::place(&passed.device, passed.bus.as_ref())?);
    if let Some(order) = passed.device.boot_order {
        push(&mut device, format_args!(",bootindex={order}"));
    }
    if let Some(index) = passed.device.acpi_index {
        push(&mut device, format_args!(",acpi-index={index}"));
    }
    if let Some(standby) = passed.device.teaming.standby() {
        push(
            &mut device,
            format_args!(",failover_pair_id={}", QemuNames::of(standby).device),
        );
    }
    Ok(device)
}

/// Directory of a virtual function, as cloud-hypervisor names it.
fn sysfs_path(passed: &Passed<'_>) -> String {
    format!("/sys/bus/pci/devices/{}", passed.address)
}

/// Values of -chardev, -netdev and -device for a NIC.
fn qemu_card(card: &Card<'_>, qemu: QemuVersion) -> Result<[String; 3], VmmError> {
    // In QEMU's syntax a doubled comma is a literal comma.
    let path = utf8(card.socket)?.replace(',', ",,");
    let pairs = card.port.queue_pairs.get();
    let role = match card.vmm_listens {
        true => Some("server=on".to_owned()),
        false => qemu.reconnect(),
    };
    let role = role.map(|role| format!(",{role}")).unwrap_or_default();
    let names = QemuNames::of(card.port.name);
    let mut queues = String::new();
    let mut device = format!("virtio-net-pci,id={},netdev={}", names.device, names.netdev);
    device.push_str(&place::place(&card.device, card.bus.as_ref())?);
    if let Some(mac) = card.port.mac {
        push(&mut device, format_args!(",mac={mac}"));
    }
    if pairs > 1 {
        push(&mut queues, format_args!(",queues={pairs}"));
        push(&mut device, format_args!(",mq=on,vectors={}", vectors(pairs)));
    }
    if let Some(order) = card.device.boot_order {
        push(&mut device, format_args!(",bootindex={order}"));
    }
    if let Some(index) = card.device.acpi_index {
        push(&mut device, format_args!(",acpi-index={index}"));
    }
    if card.device.teaming == Teaming::Persistent {
        device.push_str(",failover=on");
    }
    push(&mut device, format_args!(",host_mtu={},romfile=", card.port.mtu));
    Ok([
        format!("socket,id={},path={path}{role}", names.chardev),
        format!("vhost-user,id={},chardev={}{queues}", names.netdev, names.chardev),
        device,
    ])
}

/// Number of interrupt vectors: one per ring, one for configuration changes, and one for the control ring.
const fn vectors(pairs: u16) -> u16 {
    2 * pairs + 2
}

/// Name of a NIC in cloud-hypervisor.
fn cloud_hypervisor_name(port: &str) -> String {
    format!("hawser-{port}")
}

/// cloud-hypervisor flags for a shell.
///
/// # Errors
/// A socket's path or the MTU cannot be expressed.
pub(crate) fn cloud_hypervisor_args(vm: &Vm<'_>) -> Result<String, VmmError> {
    Ok(line(&cloud_hypervisor_flags(vm)?))
}

/// cloud-hypervisor flags.
///
/// # Errors
/// A socket's path or the MTU cannot be expressed.
pub(crate) fn cloud_hypervisor_flags(vm: &Vm<'_>) -> Result<Vec<Flag>, VmmError> {
    let nets: Result<Vec<String>, VmmError> = vm.cards.iter().map(cloud_hypervisor_card).collect();
    let nets = nets?;
    if vm.passed.iter().any(|passed| passed.device.pci_address.is_some()) {
        return Err(VmmError::NoPciAddress);
    }
    let passed = |passed: &Passed<'_>| {
        let id = cloud_hypervisor_name(passed.name);
        format!("id={id},path={}", sysfs_path(passed))
    };
    let devices: Vec<String> = vm.passed.iter().map(passed).collect();
    let mut flags = vec![("--memory", vec![format!("size={},shared=on", vm.memory)])];
    // A flag without a value is refused.
    if !nets.is_empty() || devices.is_empty() {
        flags.push(("--net", nets));
    }
    if !devices.is_empty() {
        flags.push(("--device", devices));
    }
    Ok(flags)
}

fn cloud_hypervisor_card(card: &Card<'_>) -> Result<String, VmmError> {
    if card.device.teaming == Teaming::Persistent {
        return Err(VmmError::NoFailover);
    }
    if card.device.pci_address.is_some() {
        return Err(VmmError::NoPciAddress);
    }
    let path = utf8(card.socket)?;
    if path.contains('"') {
        return Err(VmmError::QuoteInPath);
    }
    if card.port.mtu < CLOUD_HYPERVISOR_MIN_MTU {
        return Err(VmmError::MtuTooSmall(card.port.mtu));
    }
    let path = if path.contains([',', '[', ']', '=']) {
        format!("\"{path}\"")
    } else {
        path.to_owned()
    };
    let id = cloud_hypervisor_name(card.port.name);
    let mut net = format!("id={id},vhost_user=true,socket={path}");
    if card.vmm_listens {
        net.push_str(",vhost_mode=server");
    }
    if let Some(mac) = card.port.mac {
        push(&mut net, format_args!(",mac={mac}"));
    }
    let queues = 2 * card.port.queue_pairs.get();
    push(&mut net, format_args!(",num_queues={queues},mtu={}", card.port.mtu));
    Ok(net)
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(more);
}

fn utf8(path: &Path) -> Result<&str, VmmError> {
    path.to_str().ok_or(VmmError::PathNotUtf8)
}

/// The flags as one line for a shell.
pub(crate) fn line(flags: &[Flag]) -> String {
    let mut words = Vec::new();
    for (flag, values) in flags {
        words.push((*flag).to_owned());
        words.extend(values.iter().map(|value| shell_word(value)));
    }
    words.join(" ") + "\n"
}

/// Quotes `word` for a POSIX shell, if it contains special characters.
fn shell_word(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=.,/:+@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
