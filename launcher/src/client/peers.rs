//! `hawser peers`: shows the tunnel of a layer2 port of a running process and its peers, and changes the peers.

use super::{Client, Target, show};
use crate::api::http::Method;
use crate::api::peers::{Change, PATH, PathProbe, Peer, Peers};
use crate::cli::client::{PeersArgs, PeersCommand};
use crate::failure::Failure;
use std::fmt::Write as _;

/// Changes the peers if requested. Then prints a line for this end of the tunnel and one for each peer, or JSON.
///
/// # Errors
/// If the process does not exist, the port has no tunnel, or the process refuses the change.
pub(crate) fn run(args: &PeersArgs) -> Result<(), Failure> {
    let (method, change, args) = match &args.change {
        None => (Method::Get, None, &args.args),
        Some(PeersCommand::Add(change)) => (Method::Post, Some(change), &change.args),
        Some(PeersCommand::Remove(change)) => (Method::Delete, Some(change), &change.args),
        Some(PeersCommand::Replace(change)) => (Method::Put, Some(change), &change.args),
    };
    let target = Target::new(PATH).of(args.ask.port.as_deref());
    let client = Client::of(&args.ask);
    let peers: Peers = match change {
        None => client.get(&target)?,
        Some(change) => {
            let body = Change {
                peers: change.peers.clone(),
                epoch: change.epoch,
            };
            client.send(method, &target, &body)?
        }
    };
    show(args.json, &peers, text)
}

fn text(peers: &Peers) -> String {
    let mut text = format!("network {} at {}\n", peers.tunnel.vni, peers.tunnel.endpoint);
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<28} {:>6} {:>5} {:>10} {:>12} {:>16} {:>8} {:>12} {:>16} {:>8}  GUESTS",
        "PEER", "MTU", "BATCH", "PROBE", "SENT", "BYTES", "DROPS", "RECEIVED", "BYTES", "DROPS"
    );
    for peer in &peers.peers {
        let _ = writeln!(
            text,
            "{:<28} {:>6} {:>5} {:>10} {:>12} {:>16} {:>8} {:>12} {:>16} {:>8}  {}",
            peer.endpoint.to_string(),
            peer.path_mtu,
            peer.batch_datagrams,
            probe(peer.path_probe),
            peer.sent.datagrams,
            peer.sent.bytes,
            peer.sent.drops,
            peer.received.datagrams,
            peer.received.bytes,
            peer.received.drops,
            guests(peer),
        );
    }
    text
}

/// The result of a probe as one word.
const fn probe(probe: PathProbe) -> &'static str {
    match probe {
        PathProbe::None => "-",
        PathProbe::Running => "running",
        PathProbe::Passed => "passed",
        PathProbe::Failed => "failed",
        PathProbe::Unanswered => "unanswered",
    }
}

/// Lists the MACs and addresses behind a peer.
fn guests(peer: &Peer) -> String {
    let any = peer.any.then(|| "any".to_owned());
    let named = peer.guests.iter().map(|guest| {
        let addresses = guest.ip_addresses.iter().map(|address| format!(",{address}"));
        guest.mac.clone() + &addresses.collect::<String>()
    });
    any.into_iter().chain(named).collect::<Vec<_>>().join(" ")
}
