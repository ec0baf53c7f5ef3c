//! `hawser status`: shows the NICs of a running process.

use super::{Client, Target, show};
use crate::api::peers::Tunnel;
use crate::api::status::{Driver, Interface, LinkState, Status, VirtualFunction};
use crate::cli::client::StatusArgs;
use crate::failure::Failure;
use std::fmt::Write as _;

/// Prints one paragraph per NIC, or JSON.
///
/// # Errors
/// The process or port does not exist.
pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let mut status: Status = Client::of(&args.ask).get(&Target::new("/v1/status"))?;
    if let Some(name) = &args.ask.port {
        status.interfaces.retain(|nic| nic.name == *name);
        if status.interfaces.is_empty() {
            return Err(Failure::runtime(format_args!(
                "--port={name}: the process has no port of this name; hawser status without --port lists them"
            )));
        }
    }
    show(args.json, &status, text)
}

fn text(status: &Status) -> String {
    status.interfaces.iter().map(paragraph).collect::<Vec<_>>().join("\n")
}

fn paragraph(nic: &Interface) -> String {
    let link = match nic.link_state {
        LinkState::Up => "up",
        LinkState::Down => "down",
    };
    let driver = match nic.driver {
        Driver::Running => "running",
        Driver::Absent => "absent",
    };
    let addresses: Vec<String> = nic.ip_addresses.iter().map(ToString::to_string).collect();
    let lines = [
        ("mac", nic.mac.clone().unwrap_or_default()),
        ("addresses", addresses.join(" ")),
        ("in the guest", nic.interface_name.clone().unwrap_or_default()),
        ("link", link.to_owned()),
        ("driver", driver.to_owned()),
        (
            "mode",
            format!("{}, MTU {}, {} queue pairs", nic.mode.name(), nic.mtu, nic.queue_count),
        ),
        ("VF", nic.virtual_function.as_ref().map(function).unwrap_or_default()),
        ("tunnel", nic.tunnel.as_ref().map(tunnel).unwrap_or_default()),
        ("known from", nic.info_source.clone()),
        ("warning", nic.warnings.join("; ")),
    ];
    let mut text = format!("{}\n", nic.name);
    for (what, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {what:<13} {value}");
    }
    text
}

fn function(vf: &VirtualFunction) -> String {
    let vlan = match vf.vlan {
        0 => String::new(),
        id => format!(", VLAN {id}"),
    };
    format!(
        "{}, number {} of {} ({}){vlan}",
        vf.address, vf.number, vf.pf, vf.pf_driver
    )
}

fn tunnel(tunnel: &Tunnel) -> String {
    let file = tunnel.peers_file.as_ref();
    let file = file
        .map(|path| format!(", file {}", path.display()))
        .unwrap_or_default();
    let limited = match tunnel.limited_peers {
        0 => String::new(),
        n => format!(", {n} with reduced batches"),
    };
    format!(
        "network {} at {}, {} peers{limited}{file}",
        tunnel.vni, tunnel.endpoint, tunnel.peers
    )
}
