//! `hawser qemu-args`, `cloud-hypervisor-args` and `libvirt-xml`: what a VMM has to be told to use a NIC.
//!
//! A process that serves the NIC already knows best: if one answers beside the vhost-user socket, its NIC is described.
//! Otherwise the options are, as a process would serve them in this network namespace, or in that of `--netns`.

use crate::api::status::{Interface, Status};
use crate::cli::{VmmArgs, api_socket_beside};
use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::machine::{Endpoint, Nic};
use crate::vmm::{Card, CardPort, QemuVersion, Vm, VmmError};
use hawser_backend::packet::MacAddr;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;

/// Source of information in [`Interface::info_source`] for a MAC that was configured.
const CONFIGURED: &str = "domain";

/// Prints what `flags` makes of the NIC.
///
/// # Errors
/// The options are wrong, or the VMM cannot be told them.
pub(crate) fn print(args: &VmmArgs, flags: impl Fn(&Vm<'_>) -> Result<String, VmmError>) -> Result<(), Failure> {
    let path = args.socket.socket_path.clone();
    let endpoint = match args.socket.connect {
        true => Endpoint::Connect(path),
        false => Endpoint::Listen(path),
    };
    let spec = args.port.spec(PORT_NAME.to_owned()).map_err(Failure::usage)?;
    let running = running(args, &endpoint.port_name())?;
    let queues = args.port.queues()?;
    let told = |card: Option<Card<'_>>| {
        let vm = Vm {
            memory: &args.memory,
            cards: &card.into_iter().collect::<Vec<_>>(),
            passed: &[],
            qemu: args.qemu_version.unwrap_or(QemuVersion::CURRENT),
        };
        crate::output::print(&flags(&vm).map_err(Failure::usage)?)
    };
    match &running {
        Some(nic) => told(Some(Card {
            socket: &args.socket.socket_path,
            vmm_listens: args.socket.connect,
            port: port(nic)?,
            // The process does not know how the VMM shows the NIC to the guest.
            device: spec.device,
            bus: None,
        })),
        None => told(Nic::of_options(spec, endpoint, queues, &args.run.site()?)?.card()),
    }
}

/// Name of the NIC in the VMM.
const PORT_NAME: &str = "vm";

/// The NIC as the process serves it that listens on the socket, if one does.
fn running(args: &VmmArgs, name: &str) -> Result<Option<Interface>, Failure> {
    let asked = args.run.api_socket.clone();
    let socket = match asked {
        Some(path) => path,
        None => {
            let beside = api_socket_beside(&args.socket.socket_path);
            if UnixStream::connect(&beside).is_err() {
                return Ok(None);
            }
            beside
        }
    };
    let status: Status = Client::new(&socket).get(&Target::new("/v1/status"))?;
    let found = status.interfaces.into_iter().find(|nic| nic.name == name);
    let unknown = || {
        Failure::usage(format_args!(
            "--api-socket={}: this process serves no NIC named {name}, after the file of --socket-path: hawser status \
             lists them",
            socket.display()
        ))
    };
    found.map(Some).ok_or_else(unknown)
}

fn port(nic: &Interface) -> Result<CardPort<'_>, Failure> {
    let is_configured = nic.info_source.split(',').any(|source| source.trim() == CONFIGURED);
    let mac = nic.mac.as_ref().filter(|_| is_configured);
    let strange = |what: &str| Failure::runtime(format_args!("the status of the running process has no usable {what}"));
    Ok(CardPort {
        name: PORT_NAME,
        mac: mac
            .map(|mac| mac.parse::<MacAddr>())
            .transpose()
            .map_err(|_| strange("MAC"))?,
        mtu: nic.mtu,
        queue_pairs: NonZeroU16::new(nic.queue_count).ok_or_else(|| strange("number of queue pairs"))?,
    })
}
