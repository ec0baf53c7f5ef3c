//! The flags a VMM needs so that its card meets this back end; and the VMM that runs, told
//! to take cards in and give them up ([`running`]).
//!
//! The flags are one line, each word quoted for the shell where it has to be: good for
//! `eval "vmm … $(hawser …)"`, and without quoting where nothing in it is special.
//!
//! A card is called after its port in both, so that one of either kind can be found again.

mod cloud_hypervisor;
mod qemu;
mod qmp;
pub mod running;

use hawser_backend::config::PortConfig;
use hawser_manifest::objects::interface::DeviceHints;
use std::fmt::Write as _;
use std::path::Path;

/// Least MTU cloud-hypervisor takes.
const CLOUD_HYPERVISOR_MIN_MTU: u16 = 1280;
/// How soon QEMU tries again after hawser was away.
const RECONNECT_MS: u16 = 1000;

/// What a VMM's flags are made from.
pub struct Vm<'a> {
    /// Memory, in the VMM's notation.
    pub memory: &'a str,
    /// Its cards, in their order.
    pub cards: &'a [Card<'a>],
}

/// A network card.
pub struct Card<'a> {
    /// Where hawser is met.
    pub socket: &'a Path,
    /// Whether the VMM listens there and hawser connects.
    pub vmm_listens: bool,
    /// What the card is.
    pub port: &'a PortConfig,
    /// How the guest's firmware is to see it.
    pub device: DeviceHints,
    /// QEMU: the bus it is on; `None`: QEMU's choice.
    pub bus: Option<String>,
}

/// What a card is called in QEMU.
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

/// Ports of a PCI Express root that are left for cards that come while the VM runs.
const SPARE_PORTS: usize = 4;
/// Chassis of those ports, far from those people number: chassis and slot are a port's
/// identity.
const CHASSIS: u8 = 200;

/// The bus behind root port `n`.
pub fn root_port(n: usize) -> String {
    format!("{ROOT_PORT}{n}")
}

/// What the buses behind root ports are called, before their number.
const ROOT_PORT: &str = "hawser-port";

/// Flags for QEMU that make a root port for each of `cards` cards, and spare ones: on the bus
/// of the root itself nothing can be plugged while a machine runs.
pub fn qemu_root_ports(cards: usize) -> Vec<Flag> {
    let port = |n| {
        let value = format!("pcie-root-port,id={},chassis={CHASSIS},slot={n}", root_port(n));
        ("-device", vec![value])
    };
    (0..cards + SPARE_PORTS).map(port).collect()
}

/// The flag for QEMU that makes a monitor at `path`.
///
/// # Errors
/// If the path cannot be written.
pub fn qemu_monitor(path: &Path) -> Result<Flag, VmmError> {
    let path = utf8(path)?.replace(',', ",,");
    Ok(("-qmp", vec![format!("unix:{path},server=on,wait=off")]))
}

/// Options that a VMM cannot be told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmmError {
    /// A path that has no text form.
    #[error("--socket-path is not UTF-8: choose a path that can be written on a command line")]
    PathNotUtf8,
    /// A character the VMM's option syntax has no way to write.
    #[error("--socket-path has a double quote, which cloud-hypervisor cannot be told: choose another path")]
    QuoteInPath,
    /// Below what cloud-hypervisor takes.
    #[error("--mtu={0} is less than the {CLOUD_HYPERVISOR_MIN_MTU} bytes cloud-hypervisor takes: raise it")]
    MtuTooSmall(u16),
}

/// A flag with its values, several where it takes several.
pub type Flag = (&'static str, Vec<String>);

/// Flags for QEMU 10 and later (`reconnect-ms`), for a shell.
///
/// # Errors
/// If a socket's path cannot be written.
pub fn qemu_args(vm: &Vm<'_>) -> Result<String, VmmError> {
    Ok(line(&qemu_flags(vm)?))
}

/// Flags for QEMU 10 and later (`reconnect-ms`).
///
/// # Errors
/// If a socket's path cannot be written.
pub fn qemu_flags(vm: &Vm<'_>) -> Result<Vec<Flag>, VmmError> {
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
    for card in vm.cards {
        let [chardev, netdev, device] = qemu_card(card)?;
        flags.extend([
            ("-chardev", vec![chardev]),
            ("-netdev", vec![netdev]),
            ("-device", vec![device]),
        ]);
    }
    Ok(flags)
}

/// Values of -chardev, -netdev and -device for a card.
fn qemu_card(card: &Card<'_>) -> Result<[String; 3], VmmError> {
    // QEMU reads a doubled comma as one that is part of the value.
    let path = utf8(card.socket)?.replace(',', ",,");
    let pairs = card.port.queue_pairs.get();
    let role = if card.vmm_listens {
        "server=on".to_owned()
    } else {
        format!("reconnect-ms={RECONNECT_MS}")
    };
    let names = QemuNames::of(&card.port.name);
    let mut queues = String::new();
    let mut device = format!("virtio-net-pci,id={},netdev={}", names.device, names.netdev);
    if let Some(bus) = &card.bus {
        push(&mut device, format_args!(",bus={bus}"));
    }
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
    push(&mut device, format_args!(",host_mtu={},romfile=", card.port.mtu));
    Ok([
        format!("socket,id={},path={path},{role}", names.chardev),
        format!("vhost-user,id={},chardev={}{queues}", names.netdev, names.chardev),
        device,
    ])
}

/// A vector for each ring, one for changes of configuration, one for the control ring.
const fn vectors(pairs: u16) -> u16 {
    2 * pairs + 2
}

/// What a card is called in cloud-hypervisor.
fn cloud_hypervisor_name(port: &str) -> String {
    format!("hawser-{port}")
}

/// Flags for cloud-hypervisor, for a shell.
///
/// # Errors
/// If a socket's path or the MTU cannot be given to it.
pub fn cloud_hypervisor_args(vm: &Vm<'_>) -> Result<String, VmmError> {
    Ok(line(&cloud_hypervisor_flags(vm)?))
}

/// Flags for cloud-hypervisor.
///
/// # Errors
/// If a socket's path or the MTU cannot be given to it.
pub fn cloud_hypervisor_flags(vm: &Vm<'_>) -> Result<Vec<Flag>, VmmError> {
    let nets: Result<Vec<String>, VmmError> = vm.cards.iter().map(cloud_hypervisor_card).collect();
    Ok(vec![
        ("--memory", vec![format!("size={},shared=on", vm.memory)]),
        ("--net", nets?),
    ])
}

fn cloud_hypervisor_card(card: &Card<'_>) -> Result<String, VmmError> {
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
    let id = cloud_hypervisor_name(&card.port.name);
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

fn line(flags: &[Flag]) -> String {
    let mut words = Vec::new();
    for (flag, values) in flags {
        words.push((*flag).to_owned());
        words.extend(values.iter().map(|value| shell_word(value)));
    }
    words.join(" ") + "\n"
}

/// `word` as a POSIX shell reads it back, unchanged where nothing in it is special.
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
