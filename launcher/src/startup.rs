//! Set-up before the first packet: logging, limits, and warnings about the system.

use crate::failure::Failure;
use crate::logging;
use hawser_backend::config::{Families, ModeConfig};
use hawser_host::system;

/// Descriptors that the process needs in addition to the sockets of flows and forwards: memory regions, ring events,
/// epoll instances, signals.
const OWN_DESCRIPTORS: u64 = 256;

/// Descriptors for which there is room from the start.
const DESCRIPTOR_ROOM: u32 = 4000;

/// Starts logging to standard error. The parser of the option has checked `filter`.
pub(crate) fn start_log(filter: &str) {
    logging::start(filter);
}

/// Raises the limit of open descriptors and checks that the forwards fit into it. Every flow and every forwarded port
/// needs a socket.
///
/// # Errors
/// Even the hard limit is too low for the forwarded ports.
pub(crate) fn raise_limits<'a>(ports: impl Iterator<Item = &'a ModeConfig>) -> Result<(), Failure> {
    let limit = system::raise_descriptor_limit()
        .map_err(|e| Failure::runtime(format_args!("cannot raise the limit of open files: {e}")))?;
    let needed = OWN_DESCRIPTORS + ports.map(listening_sockets).sum::<u64>();
    if needed > limit {
        return Err(Failure::runtime(format_args!(
            "--port: the forwarded ports need {needed} open files and the hard limit is {limit}: \
             forward fewer, or raise it (ulimit -Hn, LimitNOFILE=)"
        )));
    }
    // Without it, a worker waits for some milliseconds while the guest opens connections.
    let _ = system::make_descriptor_room(DESCRIPTOR_ROOM);
    Ok(())
}

/// Number of listening sockets of a port.
fn listening_sockets(mode: &ModeConfig) -> u64 {
    mode.properties().inbound().map_or(0, |inbound| inbound.sockets())
}

/// Warns if this system restricts a guest whose echo requests of `families` leave through sockets.
pub(crate) fn warn_of_restrictions(families: Families) {
    let echo = [(families.ipv4, true, "ping"), (families.ipv6, false, "ping of IPv6")];
    for (enabled, ipv4, what) in echo {
        if enabled && !system::echo_permitted(ipv4) {
            log::warn!(
                "the guest's {what} is not answered: this system permits neither ping sockets (sysctl \
                 net.ipv4.ping_group_range) nor raw ones (CAP_NET_RAW)"
            );
        }
    }
}

/// True if echo requests leave through raw sockets, because this system permits raw sockets but not ping sockets.
pub(crate) fn echo_takes_raw_sockets() -> bool {
    [true, false].into_iter().any(system::echo_is_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_without_an_address_listens_once_per_family() {
        let sockets = |ipv6: &str, port: &str| {
            let cli =
                <crate::cli::Cli as clap::Parser>::parse_from(["hawser", "--fd=3", "--ipv4=10.0.2.0/24", ipv6, port]);
            let spec = cli.port.spec("p".into()).unwrap();
            let found = crate::config::resolve(spec, &crate::host::Host::default(), None).unwrap();
            listening_sockets(&found.port.mode)
        };
        let (one, both) = ("--ipv6=off", "--ipv6=fd00::/64");
        let range = "--port=1-65535";
        assert_eq!((sockets(one, range), sockets(both, range)), (65535, 131_070));
        assert_eq!(sockets(both, "--port=127.0.0.1:80"), 1);
    }
}
