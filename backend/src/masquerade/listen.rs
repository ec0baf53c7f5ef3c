//! Why a forwarded port cannot be listened on, for TCP and UDP alike.

use crate::config::{Forward, Transport};
use std::io;
use std::net::IpAddr;

/// A `--port` that cannot be had. The message names the option and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program, or another forward, has the port.
    #[error("--port {option}: port {port} is in use on the host: choose another one, or stop who listens there")]
    InUse {
        /// The option's value.
        option: String,
        /// The port of it that is in use.
        port: u16,
    },
    /// Ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE.
    #[error(
        "--port {option}: not allowed to listen on port {port}: choose a higher one, or lower the sysctl \
         net.ipv4.ip_unprivileged_port_start"
    )]
    Forbidden {
        /// The option's value.
        option: String,
        /// The port of it that is forbidden.
        port: u16,
    },
    /// The address to listen on is not one of the host's.
    #[error("--port {option}: the host has no address {address}: name one it has, or none for all")]
    NoSuchAddress {
        /// The option's value.
        option: String,
        /// The address of it.
        address: IpAddr,
    },
    /// The address is of a family the guest does not have.
    #[error("--port {option}: the guest has no address of that family: switch it on, or name another address")]
    FamilyOff {
        /// The option's value.
        option: String,
    },
    /// More ports than descriptors.
    #[error("--port {option}: out of file descriptors at port {port}: forward fewer ports, or raise `ulimit -n`")]
    TooMany {
        /// The option's value.
        option: String,
        /// The port at which they ran out.
        port: u16,
    },
    /// Anything else the system says.
    #[error("--port {option}: cannot listen on port {port}: {source}")]
    System {
        /// The option's value.
        option: String,
        /// The port of it.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
}

impl ListenError {
    /// The error for port `port` of `forward`, bound to `address`.
    pub fn new(forward: &Forward, address: IpAddr, port: u16, source: io::Error) -> Self {
        let option = option_value(forward);
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::InUse { option, port },
            Some(libc::EACCES) => Self::Forbidden { option, port },
            Some(libc::EADDRNOTAVAIL) => Self::NoSuchAddress { option, address },
            Some(libc::EMFILE | libc::ENFILE) => Self::TooMany { option, port },
            _ => Self::System { option, port, source },
        }
    }
}

/// A forward as the option is written: `udp:[::1]:5000-5009:53-62`.
pub fn option_value(forward: &Forward) -> String {
    let transport = match forward.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let address = match forward.bind {
        Some(IpAddr::V4(a)) => format!("{a}:"),
        Some(IpAddr::V6(a)) => format!("[{a}]:"),
        None => String::new(),
    };
    let range = |first: u16| match forward.count.get() {
        1 => first.to_string(),
        n => format!("{first}-{}", u32::from(first) + u32::from(n) - 1),
    };
    let host = range(forward.host_port);
    if forward.guest_port == forward.host_port {
        format!("{transport}:{address}{host}")
    } else {
        format!("{transport}:{address}{host}:{}", range(forward.guest_port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(bind: Option<&str>, guest_port: u16, count: u16) -> Forward {
        Forward {
            transport: Transport::Udp,
            bind: bind.map(|a| a.parse().unwrap()),
            host_port: 5000,
            guest_port,
            count: count.try_into().unwrap(),
        }
    }

    #[test]
    fn an_error_names_the_option_as_it_is_written() {
        let busy = || io::Error::from_raw_os_error(libc::EADDRINUSE);
        let any = "::".parse().unwrap();
        let error = ListenError::new(&forward(Some("::1"), 53, 10), any, 5003, busy());
        let text = error.to_string();
        assert!(
            text.starts_with("--port udp:[::1]:5000-5009:53-62: port 5003 is in use"),
            "{text}"
        );
        assert_eq!(option_value(&forward(Some("127.0.0.1"), 5000, 1)), "udp:127.0.0.1:5000");
        assert_eq!(option_value(&forward(None, 5000, 2)), "udp:5000-5001");
    }
}
