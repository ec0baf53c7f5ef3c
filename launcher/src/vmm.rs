//! The flags a VMM needs so that its card meets this back end.
//!
//! One line, each word quoted for the shell where it has to be: good for
//! `eval "vmm … $(hawser …)"`, and without quoting where nothing in it is special.

use crate::cli::SocketArgs;
use hawser_backend::config::PortConfig;
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
    /// Where hawser is met.
    pub socket: &'a SocketArgs,
    /// The card.
    pub port: &'a PortConfig,
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

/// Flags for QEMU 10 and later (`reconnect-ms`).
///
/// # Errors
/// If the socket's path cannot be written.
pub fn qemu_args(vm: &Vm<'_>) -> Result<String, VmmError> {
    // QEMU reads a doubled comma as one that is part of the value.
    let path = utf8(&vm.socket.socket_path)?.replace(',', ",,");
    let pairs = vm.port.queue_pairs.get();
    let role = if vm.socket.connect {
        "server=on".to_owned()
    } else {
        format!("reconnect-ms={RECONNECT_MS}")
    };
    let (mut queues, mut device) = (String::new(), String::from("virtio-net-pci,netdev=hawser0"));
    if let Some(mac) = vm.port.mac {
        push(&mut device, format_args!(",mac={mac}"));
    }
    if pairs > 1 {
        // A vector for each ring, one for changes of configuration, one for the control ring.
        push(&mut queues, format_args!(",queues={pairs}"));
        push(&mut device, format_args!(",mq=on,vectors={}", 2 * pairs + 2));
    }
    push(&mut device, format_args!(",host_mtu={},romfile=", vm.port.mtu));
    Ok(line(&[
        ("-m", vm.memory.to_owned()),
        (
            "-object",
            format!("memory-backend-memfd,id=hawser-mem,size={},share=on", vm.memory),
        ),
        ("-machine", "memory-backend=hawser-mem".to_owned()),
        ("-chardev", format!("socket,id=hawser-chr0,path={path},{role}")),
        ("-netdev", format!("vhost-user,id=hawser0,chardev=hawser-chr0{queues}")),
        ("-device", device),
    ]))
}

/// Flags for cloud-hypervisor.
///
/// # Errors
/// If the socket's path or the MTU cannot be given to it.
pub fn cloud_hypervisor_args(vm: &Vm<'_>) -> Result<String, VmmError> {
    let path = utf8(&vm.socket.socket_path)?;
    if path.contains('"') {
        return Err(VmmError::QuoteInPath);
    }
    if vm.port.mtu < CLOUD_HYPERVISOR_MIN_MTU {
        return Err(VmmError::MtuTooSmall(vm.port.mtu));
    }
    let path = if path.contains([',', '[', ']', '=']) {
        format!("\"{path}\"")
    } else {
        path.to_owned()
    };
    let mut net = format!("vhost_user=true,socket={path}");
    if vm.socket.connect {
        net.push_str(",vhost_mode=server");
    }
    if let Some(mac) = vm.port.mac {
        push(&mut net, format_args!(",mac={mac}"));
    }
    let queues = 2 * vm.port.queue_pairs.get();
    push(&mut net, format_args!(",num_queues={queues},mtu={}", vm.port.mtu));
    Ok(line(&[
        ("--memory", format!("size={},shared=on", vm.memory)),
        ("--net", net),
    ]))
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(more);
}

fn utf8(path: &Path) -> Result<&str, VmmError> {
    path.to_str().ok_or(VmmError::PathNotUtf8)
}

fn line(flags: &[(&str, String)]) -> String {
    let words = flags
        .iter()
        .map(|(flag, value)| format!("{flag} {}", shell_word(value)));
    words.collect::<Vec<_>>().join(" ") + "\n"
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
#[path = "vmm_tests.rs"]
mod tests;
