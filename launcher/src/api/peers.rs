//! `/v1/peers`: the tunnel of a layer2 port, its traffic with each peer, and changes of the peers.

use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use super::{Context, Refusal};
use crate::machine::{ChangeError, PeersChange, ServedNic};
use hawser_backend::counters::{PeerCount, PeerLevel};
use hawser_backend::port::PeerReport;
use hawser_config::PeerConfig;
use hawser_manifest::values;
use hawser_packet::MacAddr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Path of the requests.
pub(crate) const PATH: &str = "/v1/peers";
/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        method: Method::Get,
        path: PATH,
        handler: get,
        describe: |generator| {
            Operation::new("The tunnel of a port on a network that spans nodes, and its peers")
                .port()
                .answers::<Peers>(generator)
        },
    },
    Route {
        method: Method::Put,
        path: PATH,
        handler: |context, request| change(context, request, PeersChange::Replace),
        describe: |generator| {
            Operation::new("Replaces the peers of a port, unless it follows a file of peers")
                .port()
                .takes::<Change>(generator)
                .answers::<Peers>(generator)
        },
    },
    Route {
        method: Method::Post,
        path: PATH,
        handler: |context, request| change(context, request, PeersChange::Add),
        describe: |generator| {
            Operation::new("Adds peers; an entry with the MAC of another one takes its place")
                .port()
                .takes::<Change>(generator)
                .answers::<Peers>(generator)
        },
    },
    Route {
        method: Method::Delete,
        path: PATH,
        handler: |context, request| change(context, request, PeersChange::Remove),
        describe: |generator| {
            Operation::new("Removes peers, each by its MAC or by its endpoint if it has any MACs")
                .port()
                .takes::<Change>(generator)
                .answers::<Peers>(generator)
        },
    },
];

/// A change of the peers. It is made completely or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// Peers in the syntax of `--peer`. To remove a peer, its MAC or `any@ADDR[:PORT]` is enough.
    pub peers: Vec<String>,
    /// Number of the change; refused unless it is greater than that of the last change that had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// The tunnel of a port, and its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peers {
    /// The local end of the tunnel.
    pub tunnel: Tunnel,
    /// The other ends of the tunnel, in the order of their addresses.
    pub peers: Vec<Peer>,
}

/// The local end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tunnel {
    /// Identifier of the network in the tunnel.
    pub vni: u32,
    /// Address and port to which peers send.
    #[schemars(with = "String")]
    pub endpoint: SocketAddr,
    /// Number of peers.
    pub peers: usize,
    /// Number of peers for which the host does not split batches of datagrams as it should.
    pub limited_peers: u64,
    /// File given by `--peers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers_file: Option<PathBuf>,
    /// The file of `--services`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services_file: Option<PathBuf>,
    /// Number of the last change of the peers that had a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// Another end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peer {
    /// Address and port to which this process sends.
    #[schemars(with = "String")]
    pub endpoint: SocketAddr,
    /// True if frames may be sent whole, with hawser's Geneve option.
    pub frames: bool,
    /// True if any MAC may be behind the peer.
    pub any: bool,
    /// Guests behind the peer.
    pub guests: Vec<Guest>,
    /// Length of the longest IP packet that the path carries, in bytes. 0: not known yet.
    pub path_mtu: u64,
    /// Maximum datagrams that the host accepts in one buffer (UDP_SEGMENT). 1: the host does not split.
    pub batch_datagrams: u64,
    /// Whether batches that the host splits arrive at the peer as they were sent.
    pub path_probe: PathProbe,
    /// Traffic sent to the peer.
    pub sent: Traffic,
    /// Traffic received from the peer.
    pub received: Traffic,
}

/// What a probe has found about the path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum PathProbe {
    /// No probe: the peer knows none, or the guest has sent nothing to it.
    None,
    /// Answers are awaited.
    Running,
    /// Batches arrive as they were sent.
    Passed,
    /// They do not: datagrams are sent one by one.
    Failed,
    /// The peer does not answer.
    Unanswered,
}

impl PathProbe {
    /// By the number in the metrics.
    const fn of(level: u64) -> Self {
        match level {
            1 => Self::Failed,
            2 => Self::Passed,
            3 => Self::Unanswered,
            4 => Self::Running,
            _ => Self::None,
        }
    }
}

/// A guest behind an end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Guest {
    /// MAC of the guest.
    pub mac: String,
    /// Addresses of the guest.
    pub ip_addresses: Vec<IpAddr>,
}

/// Traffic in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Traffic {
    /// Number of datagrams.
    pub datagrams: u64,
    /// Bytes in these datagrams, including the tunnel's headers.
    pub bytes: u64,
    /// Number of datagrams that were dropped.
    pub drops: u64,
}

fn get(context: &Context, request: &Request) -> Result<Answer, Refusal> {
    show(&context.nic(request)?)
}

fn show(nic: &ServedNic) -> Result<Answer, Refusal> {
    let tunnel = Tunnel::of(nic).ok_or_else(|| no_tunnel(nic))?;
    let peers = nic.peers().into_iter().map(Peer::from).collect();
    Ok(super::json(200, &Peers { tunnel, peers }))
}

fn no_tunnel(nic: &ServedNic) -> Refusal {
    let error = format!("{} is on no network that spans nodes", nic.name());
    Refusal::conflict(error, "name a port in layer2 mode with ?port=")
}

fn change(context: &Context, request: &Request, what: fn(Vec<PeerConfig>) -> PeersChange) -> Result<Answer, Refusal> {
    let nic = context.nic(request)?;
    let Change { peers, epoch } = super::body(request)?;
    let is_removal = request.method == Method::Delete;
    let parsed = peers.iter().enumerate().map(|(index, text)| {
        parse(text, is_removal).map_err(|why| {
            let remedy = "write it as --peer has it, such as 52:54:00:00:01:0c,10.100.0.12@198.51.100.2";
            Refusal::bad_request(format!("peers[{index}]: {why}"), remedy)
        })
    });
    let change = what(parsed.collect::<Result<_, _>>()?);
    if let Some(file) = nic.peers_file() {
        let error = format!("the peers of {} are those of {}", nic.name(), file.path().display());
        return Err(Refusal::conflict(
            error,
            "change that file, which is followed, or start hawser without --peers",
        ));
    }
    let changed = nic.change_peers(change, epoch).ok_or_else(|| no_tunnel(&nic))?;
    changed.map_err(refusal)?;
    log::info!("{} has {} peers now", nic.name(), nic.peers().len());
    show(&nic)
}

fn refusal(error: ChangeError) -> Refusal {
    match error {
        ChangeError::Stale { .. } => Refusal::conflict(error, "give the epoch of a later change"),
        ChangeError::Unknown(_) => Refusal::not_found(error, format!("GET {PATH} lists the existing ones")),
        ChangeError::Peers(_) => Refusal::bad_request(error, "nothing was changed"),
    }
}

/// A peer in the syntax of `--peer`; to remove one, its MAC is enough.
fn parse(text: &str, is_removal: bool) -> Result<PeerConfig, String> {
    let mac = text.parse::<MacAddr>().ok().filter(|_| is_removal);
    match mac {
        // The endpoint of a peer with MACs does not matter.
        Some(mac) => values::peer(&format!("{mac}@192.0.2.1")),
        None => values::peer(text),
    }
}

impl Tunnel {
    /// The tunnel of a NIC. `None` if it has none.
    pub(crate) fn of(nic: &ServedNic) -> Option<Self> {
        nic.tunnel().map(|tunnel| Self {
            vni: tunnel.end.vni.get(),
            endpoint: tunnel.end.endpoint,
            peers: tunnel.peers,
            limited_peers: tunnel.limited_peers,
            peers_file: nic.peers_file().map(|file| file.path().to_owned()),
            services_file: nic.services_file().map(|file| file.path().to_owned()),
            epoch: nic.peers_epoch(),
        })
    }
}

impl From<PeerReport> for Peer {
    fn from(report: PeerReport) -> Self {
        let count = |count| report.counters.count(count);
        Self {
            endpoint: report.endpoint,
            frames: report.knows_frame_option,
            any: report.has_other_macs,
            path_mtu: report.counters.level(PeerLevel::PathMtu),
            batch_datagrams: report.counters.level(PeerLevel::Batch),
            path_probe: PathProbe::of(report.counters.level(PeerLevel::Probe)),
            sent: Traffic {
                datagrams: count(PeerCount::SentDatagrams),
                bytes: count(PeerCount::SentBytes),
                drops: count(PeerCount::SendDrops),
            },
            received: Traffic {
                datagrams: count(PeerCount::ReceivedDatagrams),
                bytes: count(PeerCount::ReceivedBytes),
                drops: count(PeerCount::ReceiveDrops),
            },
            guests: report
                .guests
                .into_iter()
                .map(|(mac, ip_addresses)| Guest {
                    mac: mac.to_string(),
                    ip_addresses,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ask, context, layer2};
    use serde_json::json;

    #[test]
    fn the_tunnel_and_its_peers_are_shown_and_a_nic_without_one_is_refused() {
        let context = layer2(&[
            "--peer=52:54:00:00:00:02,10.100.0.12@127.0.0.2,frames",
            "--peer=any@127.0.0.3:7000",
        ]);
        let peers = ask(&context, "GET", "/v1/peers", "").json();
        assert_eq!(
            (&peers["tunnel"]["vni"], &peers["tunnel"]["peers"]),
            (&7.into(), &2.into())
        );
        let none = json!({"datagrams": 0, "bytes": 0, "drops": 0});
        let first = json!({
            "endpoint": "127.0.0.2:6081", "frames": true, "any": false, "pathMtu": 65535, "batchDatagrams": 64,
            "pathProbe": "none",
            "guests": [{"mac": "52:54:00:00:00:02", "ipAddresses": ["10.100.0.12"]}], "sent": none, "received": none
        });
        assert_eq!(peers["peers"][0], first);
        assert_eq!(peers["peers"][1]["any"], true);
        let status = ask(&context, "GET", "/v1/status", "").json();
        assert_eq!(status["interfaces"][0]["tunnel"], peers["tunnel"]);
        let metrics = ask(&context, "GET", "/v1/metrics", "");
        let series = "hawser_peer_path_mtu{port=\"net0\",peer=\"127.0.0.3:7000\"} 65535";
        assert!(metrics.text().contains(series), "{}", metrics.text());
        let series = "hawser_peer_sent_bytes_total{port=\"net0\",peer=\"127.0.0.2:6081\"} 0";
        assert!(metrics.text().contains(series), "{}", metrics.text());
        for (at, status) in [("nic", 200), ("tunnel", 200), ("middle", 400)] {
            let answer = ask(&context, "GET", &format!("/v1/capture?at={at}"), "");
            assert_eq!(answer.status, status, "{at}: {}", answer.text());
        }
        let refused = ask(&self::context(&["net0"]), "GET", "/v1/capture?at=tunnel", "");
        assert_eq!(refused.status, 409, "{}", refused.text());
        let refused = ask(&self::context(&["net0"]), "GET", "/v1/peers", "");
        assert_eq!(refused.status, 409, "{}", refused.text());
    }

    /// The endpoints and MACs of the peers of an answer, and its epoch.
    fn listed(answer: &super::super::testing::Answered) -> (Vec<String>, Option<u64>) {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let peers = answer.json();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("any").to_owned();
        let one = |peer: &serde_json::Value| text(&peer["endpoint"]) + " " + &text(&peer["guests"][0]["mac"]);
        let all = peers["peers"].as_array().unwrap().iter().map(one).collect();
        (all, peers["tunnel"]["epoch"].as_u64())
    }

    #[test]
    fn peers_are_added_removed_and_replaced_while_the_port_is_served() {
        let context = layer2(&["--peer=52:54:00:00:00:02,10.100.0.12@127.0.0.2"]);
        let send = |method: &str, peers: &[&str], epoch: Option<u64>| {
            let body = match epoch {
                Some(epoch) => json!({"peers": peers, "epoch": epoch}),
                None => json!({"peers": peers}),
            };
            ask(&context, method, "/v1/peers", &body.to_string())
        };
        let added = send(
            "POST",
            &["52:54:00:00:00:03,10.100.0.13@127.0.0.3", "any@127.0.0.9"],
            None,
        );
        assert_eq!(added.status, 200, "{}", added.text());
        let (all, epoch) = listed(&added);
        let expected = [
            "127.0.0.2:6081 52:54:00:00:00:02",
            "127.0.0.3:6081 52:54:00:00:00:03",
            "127.0.0.9:6081 any",
        ];
        assert_eq!((all, epoch), (expected.map(str::to_owned).to_vec(), None));
        // The guest has moved to another node.
        let moved = send("POST", &["52:54:00:00:00:03,10.100.0.13@127.0.0.4"], Some(7));
        let expected = [
            "127.0.0.2:6081 52:54:00:00:00:02",
            "127.0.0.4:6081 52:54:00:00:00:03",
            "127.0.0.9:6081 any",
        ];
        assert_eq!(listed(&moved), (expected.map(str::to_owned).to_vec(), Some(7)));
        let removed = send("DELETE", &["52:54:00:00:00:02", "any@127.0.0.9"], Some(8));
        assert_eq!(listed(&removed), (vec![expected[1].to_owned()], Some(8)));
        let replaced = send("PUT", &["52:54:00:00:00:05@127.0.0.5"], Some(9));
        assert_eq!(
            listed(&replaced),
            (vec!["127.0.0.5:6081 52:54:00:00:00:05".to_owned()], Some(9))
        );
        for (method, peers, epoch, status, words) in [
            (
                "PUT",
                &["any@127.0.0.9"][..],
                Some(9),
                409,
                "epoch 9 is not later than 9",
            ),
            ("DELETE", &["52:54:00:00:00:02"], None, 404, "no peer 52:54:00:00:00:02"),
            ("POST", &["52:54:00:00:00:02"], None, 400, "peers[0]: give MAC"),
            (
                "POST",
                &["any@127.0.0.9", "02:00:00:00:00:09@127.0.0.6"],
                Some(10),
                400,
                "peers[2]: two guests have the MAC",
            ),
            (
                "POST",
                &["52:54:00:00:00:06,10.9.0.1@127.0.0.6"],
                None,
                400,
                "10.9.0.1 is not in the network",
            ),
        ] {
            let refused = send(method, peers, epoch);
            assert_eq!(refused.status, status, "{}", refused.text());
            assert!(refused.text().contains(words), "{}", refused.text());
        }
        let after = ask(&context, "GET", "/v1/peers", "");
        assert_eq!(listed(&after), listed(&replaced), "a refused change changes nothing");
    }

    #[test]
    fn peers_of_a_file_are_changed_in_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        std::fs::write(&path, "any@127.0.0.9\n").unwrap();
        let context = layer2(&[&format!("--peers={}", path.display())]);
        let body = json!({"peers": ["any@127.0.0.8"]}).to_string();
        let refused = ask(&context, "PUT", "/v1/peers", &body);
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert!(
            refused.text().contains(&path.display().to_string()),
            "{}",
            refused.text()
        );
        let other = ask(&self::context(&["net0"]), "PUT", "/v1/peers", &body);
        assert_eq!(other.status, 409, "{}", other.text());
    }
}
