//! What happens before the first packet: logging, limits, and what the operator should
//! know about the system.

use crate::failure::Failure;
use crate::logging;
use hawser_backend::config::{Forward, MasqueradeConfig, ModeConfig};
use hawser_host::system;

/// Descriptors the process needs besides sockets of flows and forwards: memory regions,
/// ring events, epoll instances, signals.
const OWN_DESCRIPTORS: u64 = 256;

/// Starts logging to standard error. `filter` has been checked by its option's parser.
pub fn start_log(filter: &str) {
    logging::start(filter);
}

/// Raises the limit of open descriptors and checks that the forwards fit into it: every
/// flow and every forwarded port is a socket.
///
/// # Errors
/// If even the hard limit does not hold the forwarded ports.
pub fn raise_limits<'a>(ports: impl Iterator<Item = &'a ModeConfig>) -> Result<(), Failure> {
    let limit = system::raise_descriptor_limit()
        .map_err(|e| Failure::runtime(format_args!("cannot raise the limit of open files: {e}")))?;
    let needed = OWN_DESCRIPTORS + ports.map(listening).sum::<u64>();
    if needed > limit {
        return Err(Failure::runtime(format_args!(
            "--port: the forwarded ports need {needed} open files and the hard limit is {limit}: \
             forward fewer, or raise it (ulimit -Hn, LimitNOFILE=)"
        )));
    }
    Ok(())
}

/// Sockets of a port that listen.
fn listening(mode: &ModeConfig) -> u64 {
    match mode {
        ModeConfig::Masquerade(config) => config.forwards.iter().map(|f| sockets(f, config)).sum(),
        ModeConfig::Bridge(_) => 0,
    }
}

/// Sockets that listen for a forward.
fn sockets(forward: &Forward, config: &MasqueradeConfig) -> u64 {
    let families = if forward.bind.is_some() {
        1
    } else {
        u64::from(config.ipv4.is_some()) + u64::from(config.ipv6.is_some())
    };
    u64::from(forward.count.get()) * families
}

/// Tells of the ways this system keeps a guest from what it could do elsewhere.
pub fn warn_of_restrictions(config: &MasqueradeConfig) {
    let echo = [
        (config.ipv4.is_some(), true, "ping"),
        (config.ipv6.is_some(), false, "ping of IPv6"),
    ];
    for (enabled, ipv4, what) in echo {
        if enabled && !system::echo_permitted(ipv4) {
            log::warn!(
                "the guest's {what} goes unanswered: this system permits neither ping sockets (sysctl \
                 net.ipv4.ping_group_range) nor raw ones (CAP_NET_RAW)"
            );
        }
    }
}

/// True if echo requests go out through raw sockets: this system permits those and no ping
/// sockets.
pub fn echo_takes_raw_sockets() -> bool {
    [true, false].into_iter().any(system::echo_is_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_manifest::forward;

    #[test]
    fn a_port_without_an_address_listens_once_per_family() {
        let link = |options: &[&str]| {
            let argv = ["hawser", "--fd=3"].iter().chain(options);
            let cli = <crate::cli::Cli as clap::Parser>::parse_from(argv);
            let plan =
                crate::config::resolve(&cli.port.spec("p".into()).unwrap(), &crate::host::Host::default()).unwrap();
            match plan.port.mode {
                ModeConfig::Masquerade(config) => config,
                ModeConfig::Bridge(_) => panic!("masquerade was planned"),
            }
        };
        let (one, both) = (
            link(&["--ipv4=10.0.2.0/24", "--ipv6=off"]),
            link(&["--ipv4=10.0.2.0/24", "--ipv6=fd00::/64"]),
        );
        let range = forward::parse("1-65535").unwrap();
        assert_eq!((sockets(&range, &one), sockets(&range, &both)), (65535, 131_070));
        assert_eq!(sockets(&forward::parse("127.0.0.1:80").unwrap(), &both), 1);
    }
}
