//! What the node reaches before its links change, and must still reach afterwards: its default gateways, and the
//! endpoints that the administrator names. A gateway that does not answer before is not waited for.

use crate::cli::node::ApplyPolicies;
use hawser_host::neighbour;
use hawser_host::netlink::Netlink;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for what is reached before the change.
const BEFORE: Duration = Duration::from_secs(3);
/// Time between two looks at the kernel's table of neighbours.
const LOOK: Duration = Duration::from_millis(50);
/// Time between two questions to a gateway, and between two attempts to connect.
const AGAIN: Duration = Duration::from_secs(1);

/// What was reached.
#[derive(Debug)]
pub(super) struct CheckPoint {
    gateways: Vec<IpAddr>,
    endpoints: Vec<SocketAddr>,
    patience: Duration,
}

/// What is no longer reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// A default gateway.
    #[error(
        "the default gateway {gateway} does not answer within {seconds} s of the change; the links are put back. Does \
         the bridge have the addresses and routes of its port?"
    )]
    Gateway { gateway: IpAddr, seconds: u64 },
    /// An endpoint.
    #[error("--reach={endpoint}: no connection within {seconds} s of the change; the links are put back")]
    Endpoint { endpoint: SocketAddr, seconds: u64 },
    /// The kernel refuses to tell.
    #[error("cannot look for the default gateway: {0}; the links are put back")]
    Kernel(#[from] io::Error),
}

impl CheckPoint {
    /// Finds out what is reached now.
    ///
    /// # Errors
    /// The kernel's error, or an endpoint that is not reached even now.
    pub(super) fn new(netlink: &mut Netlink, args: &ApplyPolicies) -> io::Result<Self> {
        let mut gateways = BTreeSet::new();
        for link in netlink.links()? {
            let routes = netlink.routes(link.index)?;
            gateways.extend(routes.iter().filter_map(|route| route.default_gateway()));
        }
        netlink.forget_neighbours()?;
        let mut reached = Vec::new();
        for gateway in gateways {
            if answers(netlink, gateway, BEFORE)? {
                reached.push(gateway);
            }
        }
        for &endpoint in &args.reach {
            if !connects(endpoint, BEFORE) {
                return Err(io::Error::other(format!(
                    "--reach={endpoint}: no connection even before the change; nothing is changed"
                )));
            }
        }
        Ok(Self {
            gateways: reached,
            endpoints: args.reach.clone(),
            patience: Duration::from_secs(args.reach_within),
        })
    }

    /// Waits until everything is reached again.
    ///
    /// # Errors
    /// [`Lost`]
    pub(super) fn hold(&self, netlink: &mut Netlink) -> Result<(), Lost> {
        let end = Instant::now() + self.patience;
        let seconds = self.patience.as_secs();
        // Frames to a known neighbour still leave by the port of a bridge, although no answer to a question arrives there.
        netlink.forget_neighbours()?;
        for &gateway in &self.gateways {
            if !answers(netlink, gateway, end.saturating_duration_since(Instant::now()))? {
                return Err(Lost::Gateway { gateway, seconds });
            }
        }
        for &endpoint in &self.endpoints {
            if !connects(endpoint, end.saturating_duration_since(Instant::now())) {
                return Err(Lost::Endpoint { endpoint, seconds });
            }
        }
        Ok(())
    }
}

/// True if the gateway answers a question for its link-layer address within `patience`.
fn answers(netlink: &mut Netlink, gateway: IpAddr, patience: Duration) -> io::Result<bool> {
    let end = Instant::now() + patience;
    let mut asked: Option<Instant> = None;
    loop {
        if asked.is_none_or(|asked| asked.elapsed() > AGAIN) {
            neighbour::ask(gateway);
            asked = Some(Instant::now());
        }
        if netlink.has_answered(gateway)? {
            return Ok(true);
        }
        if Instant::now() > end {
            return Ok(false);
        }
        thread::sleep(LOOK);
    }
}

fn connects(endpoint: SocketAddr, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        // An attempt takes some time at least, even when there is none left.
        let attempt = end.saturating_duration_since(Instant::now()).clamp(LOOK, AGAIN);
        if TcpStream::connect_timeout(&endpoint, attempt).is_ok() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(LOOK);
    }
}
