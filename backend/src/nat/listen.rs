//! The addresses and ports on which forwards listen, and the errors of listening, for TCP and UDP.

use crate::config::{Families, Forward};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Calls `make` for each address and port that `forward` listens on, with the guest's port for it. The address is the
/// one in `forward`, or all addresses of the enabled families.
///
/// # Errors
/// The first address and port that cannot be bound.
pub fn listen(
    families: Families,
    forward: &Forward,
    mut make: impl FnMut(SocketAddr, u16) -> io::Result<()>,
) -> Result<(), ListenError> {
    let addresses = addresses(families, forward)?;
    for step in 0..forward.count.get() {
        let port = forward.host_port.saturating_add(step);
        for &address in &addresses {
            match make(SocketAddr::new(address, port), forward.guest_port.saturating_add(step)) {
                Ok(()) => {}
                // A forward for "all addresses" also works on a host without IPv6.
                Err(e) if addresses.len() > 1 && e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(e) => return Err(ListenError::new(forward, address, port, e)),
            }
        }
    }
    Ok(())
}

/// Every address and port that a forward listens on. Empty if the forward cannot listen.
pub fn ends(families: Families, forward: &Forward) -> HashSet<SocketAddr> {
    let addresses = addresses(families, forward).unwrap_or_default();
    let ports = (0..forward.count.get()).map(|step| forward.host_port.saturating_add(step));
    ports
        .flat_map(|port| addresses.iter().map(move |&address| SocketAddr::new(address, port)))
        .collect()
}

fn addresses(families: Families, forward: &Forward) -> Result<Vec<IpAddr>, ListenError> {
    let any = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let wanted = forward.bind.map_or(any, |address| vec![address]);
    let addresses: Vec<_> = wanted.into_iter().filter(|a| families.has(*a)).collect();
    if addresses.is_empty() {
        let option = forward.to_string();
        return Err(ListenError::FamilyOff { option });
    }
    Ok(addresses)
}

/// A `--port` that cannot be bound. The message names the option and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program, or another forward, has the port.
    #[error(
        "--port {option}: port {port} is in use on the host: choose another one, or stop the program that listens there"
    )]
    InUse {
        /// Value of the option.
        option: String,
        /// Port that is in use.
        port: u16,
    },
    /// Ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE.
    #[error(
        "--port {option}: not allowed to listen on port {port}: choose a higher one, or lower the sysctl \
         net.ipv4.ip_unprivileged_port_start"
    )]
    Forbidden {
        /// Value of the option.
        option: String,
        /// Port that may not be bound.
        port: u16,
    },
    /// The address to listen on is not one of the host's.
    #[error("--port {option}: the host has no address {address}: name one of its addresses, or none to listen on all")]
    NoSuchAddress {
        /// Value of the option.
        option: String,
        /// Address in the option's value.
        address: IpAddr,
    },
    /// The address is of a family that the guest does not have.
    #[error("--port {option}: the guest has no address of that family: enable the family, or name another address")]
    FamilyOff {
        /// Value of the option.
        option: String,
    },
    /// No descriptor is left for a port.
    #[error("--port {option}: out of file descriptors at port {port}: forward fewer ports, or raise `ulimit -n`")]
    TooMany {
        /// Value of the option.
        option: String,
        /// Port at which the descriptors ran out.
        port: u16,
    },
    /// Listening failed for another reason.
    #[error("--port {option}: cannot listen on port {port}: {source}")]
    System {
        /// Value of the option.
        option: String,
        /// Port that could not be bound.
        port: u16,
        /// Error of the system call.
        source: io::Error,
    },
}

impl ListenError {
    /// The error for port `port` of `forward`, bound to `address`.
    fn new(forward: &Forward, address: IpAddr, port: u16, source: io::Error) -> Self {
        let option = forward.to_string();
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::InUse { option, port },
            Some(libc::EACCES) => Self::Forbidden { option, port },
            Some(libc::EADDRNOTAVAIL) => Self::NoSuchAddress { option, address },
            Some(libc::EMFILE | libc::ENFILE) => Self::TooMany { option, port },
            _ => Self::System { option, port, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Transport;

    #[test]
    fn an_error_names_the_option_as_it_is_written() {
        let forward = Forward {
            transport: Transport::Udp,
            bind: Some("::1".parse().unwrap()),
            host_port: 5000,
            guest_port: 53,
            count: 10.try_into().unwrap(),
        };
        let busy = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let error = ListenError::new(&forward, "::".parse().unwrap(), 5003, busy);
        let text = error.to_string();
        assert!(
            text.starts_with("--port udp:[::1]:5000-5009:53-62: port 5003 is in use"),
            "{text}"
        );
    }
}
