//! `/v1/peers`: the tunnel of a layer2 port, and its traffic with each peer.

use super::http::{Answer, Method, Request};
use super::openapi::Operation;
use super::router::Route;
use super::{Context, Refusal};
use crate::machine::ServedNic;
use hawser_backend::counters::{PeerCount, PeerLevel};
use hawser_backend::port::PeerReport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Path of the requests.
pub(crate) const PATH: &str = "/v1/peers";
/// The routes of this group.
pub(crate) const ROUTES: &[Route] = &[Route {
    method: Method::Get,
    path: PATH,
    handler: get,
    describe: |generator| {
        Operation::new("The tunnel of a port on a network that spans nodes, and its peers")
            .port()
            .answers::<Peers>(generator)
    },
}];

/// The end of a tunnel, and its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peers {
    /// This end.
    pub tunnel: Tunnel,
    /// The other ends, in the order of their addresses.
    pub peers: Vec<Peer>,
}

/// This end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tunnel {
    /// Identifier of the network.
    pub vni: u32,
    /// Address and port.
    #[schemars(with = "String")]
    pub endpoint: SocketAddr,
    /// Number of peers.
    pub peers: usize,
    /// Number of peers to which the host does not split batches of datagrams properly.
    pub limited_peers: u64,
    /// The file of `--peers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers_file: Option<PathBuf>,
}

/// Another end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peer {
    /// Address and port.
    #[schemars(with = "String")]
    pub endpoint: SocketAddr,
    /// Whether frames may be sent whole, with hawser's Geneve option.
    pub frames: bool,
    /// Whether any MAC may be behind it.
    pub any: bool,
    /// The guests behind it.
    pub guests: Vec<Guest>,
    /// Bytes of the longest IP packet that the path carries; 0: not known yet.
    pub path_mtu: u64,
    /// Maximum datagrams that the host accepts in one buffer (UDP_SEGMENT); 1 if it does not split.
    pub batch_datagrams: u64,
    /// Traffic sent to the peer.
    pub sent: Traffic,
    /// Traffic received from the peer.
    pub received: Traffic,
}

/// A guest behind an end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Guest {
    /// Its MAC.
    pub mac: String,
    /// Its addresses.
    pub ip_addresses: Vec<IpAddr>,
}

/// The traffic in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes, with the tunnel's headers.
    pub bytes: u64,
    /// Datagrams that were dropped.
    pub drops: u64,
}

fn get(context: &Context, request: &Request) -> Result<Answer, Refusal> {
    let nic = context.nic(request)?;
    let tunnel = Tunnel::of(&nic).ok_or_else(|| {
        let error = format!("{} is on no network that spans nodes", nic.name());
        Refusal::conflict(error, "name a port in layer2 mode with ?port=")
    })?;
    let peers = nic.peers().into_iter().map(Peer::from).collect();
    Ok(super::json(200, &Peers { tunnel, peers }))
}

impl Tunnel {
    /// The tunnel of a NIC; `None` without one.
    pub(crate) fn of(nic: &ServedNic) -> Option<Self> {
        nic.tunnel().map(|tunnel| Self {
            vni: tunnel.end.vni.get(),
            endpoint: tunnel.end.endpoint,
            peers: tunnel.peers,
            limited_peers: tunnel.limited_peers,
            peers_file: nic.peers_file().map(|file| file.path().to_owned()),
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
}
