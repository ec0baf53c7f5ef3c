//! Forwards every free port of the pod to the guest. There is one socket for each transport and family, and an
//! sk_lookup program in the network namespace assigns packets to them ([`SocketLookup`]).
//!
//! For TCP, the port that a client used is the local port of the accepted socket. For UDP, it is in the ancillary data
//! of the datagram. The program runs before the kernel's own lookup of listening sockets, so it leaves out the ports of
//! the pod: those that programs listen on at the start, those of forwards, and those excluded by configuration. Where this
//! process may not install it, each port gets a socket of its own ([`each_port`]).

use super::each_port::{self, EachPort};
use crate::config::{EveryPort, Families, Forward, MasqueradeConfig, Otherwise, PortSet, Transport};
use crate::mode::{BoundForward, ForwardSocket, GuestPort};
use crate::nat::engine::Engine;
use crate::nat::{tcp, udp};
use crate::sys::lookup::{LookupError, SocketLookup, Taker};
use rustix::thread::{CapabilitySet, capabilities};
use socket2::Socket;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

const DNS_PORT: u16 = 53;

/// Makes `engine` serve every wanted port for as long as the returned program is attached. The sockets of forwards must
/// already be listening.
///
/// # Errors
/// The ports cannot be forwarded, and the configuration does not allow serving the NIC without them.
pub(super) fn serve(
    name: &str,
    config: &MasqueradeConfig,
    families: Families,
    engine: &mut Engine,
) -> Result<Option<SocketLookup>, EveryPortError> {
    let Some(wanted) = &config.every_port else {
        return Ok(None);
    };
    let opened = match check_namespace(wanted).and_then(|()| open(config, wanted, families)) {
        Ok(opened) => opened,
        Err(EveryPortError::Lookup(why @ (LookupError::NotPermitted | LookupError::NotSupported))) => {
            serve_each(name, config, wanted, families, engine, &why)?;
            return Ok(None);
        }
        Err(error) if wanted.otherwise == Otherwise::Warn => {
            let forwards: Vec<String> = config.forwards.iter().map(ToString::to_string).collect();
            let reached = match &forwards[..] {
                [] => "no port reaches".into(),
                forwards => format!("of all ports only {} reach", forwards.join(" ")),
            };
            log::warn!("port {name}: {reached} the guest from outside: {error}; connections that the guest opens work");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if !opened.kept.is_empty() {
        log::warn!(
            "port {name}: {} do not reach the guest: programs of this network namespace use them",
            opened.kept
        );
    }
    if !opened.forbidden.is_empty() {
        log::warn!(
            "port {name}: {} do not reach the guest: answers from these ports need CAP_NET_BIND_SERVICE, or the sysctl \
             net.ipv4.ip_unprivileged_port_start=0",
            opened.forbidden
        );
    }
    let unwatched = |source| EveryPortError::Socket {
        step: "cannot watch a socket",
        source,
    };
    for bound in [opened.tcp, opened.udp] {
        engine.add_forward(bound).map_err(unwatched)?;
    }
    Ok(Some(opened.lookup))
}

/// Makes `engine` serve the wanted ports with a socket for each, because the program cannot be installed.
fn serve_each(
    name: &str,
    config: &MasqueradeConfig,
    wanted: &EveryPort,
    families: Families,
    engine: &mut Engine,
    why: &LookupError,
) -> Result<(), EveryPortError> {
    let mut ports = wanted.ports.clone();
    ports.remove_all(&forwarded(config));
    let EachPort { bound, left_out } = each_port::open(&ports, families);
    let count: usize = bound.iter().map(|bound| bound.sockets.len()).sum();
    log::warn!(
        "port {name}: each port has a socket of its own, {count} in total: one socket for all is not possible: {why}; \
         {left_out} do not reach the guest"
    );
    for bound in bound {
        engine.add_forward(bound).map_err(|source| EveryPortError::Socket {
            step: "cannot watch a socket",
            source,
        })?;
    }
    Ok(())
}

/// The reason why not every port can be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum EveryPortError {
    /// The lookup program cannot be loaded or attached.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// A socket cannot be opened or watched.
    #[error("{step}: {source}")]
    Socket {
        /// Step that failed.
        step: &'static str,
        /// Error of the system call.
        source: io::Error,
    },
    /// The namespace is the node's own, where programs that start later need their ports.
    #[error(
        "in the system's own network namespace, the system's programs need their ports: serve from a pod's \
            namespace (--netns), or name the ports"
    )]
    SystemsOwn,
}

/// Refuses the system's own namespace unless every port was requested explicitly.
fn check_namespace(wanted: &EveryPort) -> Result<(), EveryPortError> {
    /// This file lists limits of the whole system's network, which are visible only in its own namespace.
    const SYSTEMS_OWN: &str = "/proc/sys/net/core/netdev_budget";
    if wanted.otherwise == Otherwise::Warn && Path::new(SYSTEMS_OWN).exists() {
        return Err(EveryPortError::SystemsOwn);
    }
    Ok(())
}

/// The sockets of every port, and the program that assigns packets to them.
#[derive(Debug)]
struct AnyPort {
    /// Listening TCP sockets.
    tcp: BoundForward,
    /// Bound UDP sockets.
    udp: BoundForward,
    /// The program that assigns packets to the sockets.
    lookup: SocketLookup,
    /// Wanted ports that programs of the pod use already.
    kept: PortSet,
    /// Wanted UDP ports from which this process may not send answers.
    forbidden: PortSet,
}

/// Opens the sockets and assigns the ports in `wanted` to them, in the network namespace of the calling thread.
///
/// # Errors
/// [`EveryPortError`]; nothing has changed in that case.
fn open(config: &MasqueradeConfig, wanted: &EveryPort, families: Families) -> Result<AnyPort, EveryPortError> {
    let failed = |step| move |source| EveryPortError::Socket { step, source };
    let mut ports = wanted.ports.clone();
    ports.remove_all(&forwarded(config));
    let mut kept = listening().map_err(failed("cannot list the listening sockets of this network namespace"))?;
    kept.remove_all(&forwarded(config));
    kept.retain(&ports);
    ports.remove_all(&kept);
    let mut forbidden = unanswerable();
    forbidden.retain(&ports);
    ports.remove_all(&forbidden);

    let make = |transport, listen: fn(SocketAddr) -> io::Result<Socket>| -> io::Result<BoundForward> {
        let on = |address: &SocketAddr| {
            if address.is_ipv4() {
                families.ipv4
            } else {
                families.ipv6
            }
        };
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let addresses = any.map(|any| SocketAddr::new(any, 0));
        let sockets = addresses.into_iter().filter(on).map(|any| {
            let socket = listen(any)?;
            // The kernel returns the local end of every bound socket.
            let at = socket.local_addr()?.as_socket().unwrap_or(any);
            let guest_port = GuestPort::AsAsked;
            Ok(ForwardSocket { socket, at, guest_port })
        });
        let sockets = sockets.collect::<io::Result<_>>()?;
        Ok(BoundForward { transport, sockets })
    };
    let tcp = make(Transport::Tcp, tcp::listen).map_err(failed("cannot listen"))?;
    let udp = make(Transport::Udp, udp::listen_at_any_port).map_err(failed("cannot listen"))?;
    let takers: Vec<Taker<'_>> = [&tcp, &udp]
        .into_iter()
        .flat_map(|bound| bound.sockets.iter().map(|socket| taker(bound.transport, socket)))
        .collect();
    let lookup = SocketLookup::attach(&takers, ports.words())?;
    Ok(AnyPort {
        tcp,
        udp,
        lookup,
        kept,
        forbidden,
    })
}

/// A socket in the form that the lookup program takes.
fn taker(transport: Transport, bound: &ForwardSocket) -> Taker<'_> {
    Taker {
        is_udp: transport == Transport::Udp,
        is_ipv6: bound.at.is_ipv6(),
        socket: &bound.socket,
    }
}

/// Ports with a listening socket of their own, and the port of the name server on the pod's loopback, to which the
/// guest's queries are forwarded.
fn forwarded(config: &MasqueradeConfig) -> PortSet {
    let mut ports = PortSet::default();
    for forward in &config.forwards {
        let Forward {
            transport,
            host_port,
            count,
            ..
        } = *forward;
        ports.insert(transport, host_port..=host_port.saturating_add(count.get() - 1));
    }
    // A server on the pod's loopback uses that port.
    if config.dns_forward.iter().any(IpAddr::is_loopback) {
        for transport in [Transport::Tcp, Transport::Udp] {
            ports.insert(transport, DNS_PORT..=DNS_PORT);
        }
    }
    ports
}

/// UDP ports to which this process may not bind the socket for a client.
fn unanswerable() -> PortSet {
    /// The sysctl applies to IPv6 too.
    const FIRST_FREE: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let mut ports = PortSet::default();
    let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_BIND_SERVICE));
    let first_free = fs::read_to_string(FIRST_FREE)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    if let (false, Some(last)) = (may, first_free.unwrap_or(1024u16).checked_sub(1)) {
        ports.insert(Transport::Udp, 0..=last);
    }
    ports
}

/// Ports in the calling thread's network namespace on which a program listens or has an unconnected socket.
fn listening() -> io::Result<PortSet> {
    let mut ports = PortSet::default();
    for (transport, ipv4, ipv6) in [(Transport::Tcp, "tcp", "tcp6"), (Transport::Udp, "udp", "udp6")] {
        for name in [ipv4, ipv6] {
            match fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
                Ok(table) => add_listening(&mut ports, transport, &table),
                // A kernel without IPv6 has no such file.
                Err(e) if e.kind() == io::ErrorKind::NotFound && name == ipv6 => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(ports)
}

/// Adds the ports in a table of /proc/net (proc_net_tcp(5)). The second column contains address and port, and the
/// fourth the state.
fn add_listening(ports: &mut PortSet, transport: Transport, table: &str) {
    const LISTEN: &str = "0A";
    /// State of an unconnected UDP socket, which is also that of a closed TCP socket.
    const CLOSE: &str = "07";
    let state = match transport {
        Transport::Tcp => LISTEN,
        Transport::Udp => CLOSE,
    };
    for line in table.lines().skip(1) {
        let mut columns = line.split_ascii_whitespace().skip(1).step_by(2);
        let (Some(local), Some(found)) = (columns.next(), columns.next()) else {
            continue;
        };
        let port = local
            .rsplit_once(':')
            .and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        if let (true, Some(port)) = (found == state, port) {
            ports.insert(transport, port..=port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_the_systems_tables() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr\n\
                   \x20  0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000\n\
                   \x20  1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000\n";
        let udp6 = "  sl  local_address                         remote_address\n\
                    \x20 10: 00000000000000000000000000000000:0044 00000000000000000000000000000000:0000 07 00000000\n\
                    \x20 11: 00000000000000000000000000000000:C001 00000000000000000000000000000001:0035 01 00000000\n";
        let mut ports = PortSet::default();
        add_listening(&mut ports, Transport::Tcp, tcp);
        add_listening(&mut ports, Transport::Udp, udp6);
        assert_eq!(ports.to_string(), "tcp:22 udp:68");
    }

    #[test]
    fn a_socket_of_this_process_is_among_those_that_listen() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(listening().unwrap().contains(Transport::Tcp, port));
        drop(socket);
        assert!(!listening().unwrap().contains(Transport::Tcp, port));
    }
}
