//! Tests layer2 mode against a foreign endpoint, with checks that every kind of endpoint must pass.
//!
//! A guest of hawser is on the first node. The foreign endpoint is on the second node, with a host behind it. Every
//! check here runs against Open vSwitch's user-space datapath (`tests/tests/guest_layer2_ovs.rs`) and against the
//! kernel's Geneve (`tests/tests/guest_layer2_kernel.rs`).

use crate::guest::{Guest, Kind, Plan, Running};
use crate::hawser::{Counters, Hawser};
use crate::netns::Namespace;
use crate::nodes::{Nodes, PORT, Port};
use crate::relay::{Faults, Relay};
use crate::{Result, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// Identifier of the network in the tunnel.
pub const VNI: u32 = 4711;
/// Guest of hawser.
pub const GUEST: Port = Port::new(0, 11);
/// Host behind the foreign endpoint.
pub const FAR: Port = Port::new(1, 12);
/// MTU of the underlay.
pub const UNDERLAY_MTU: u32 = 1500;
/// VIRTIO_NET_F_MTU. Without this feature a guest may have a larger MTU than the network.
const FEATURE_MTU: u64 = 1 << 3;
/// Total length of the IP and UDP headers over IPv4, and over IPv6.
const HEADERS: [u32; 2] = [28, 48];
/// Longest time that a background command of the guest runs.
const LIFETIME: Duration = Duration::from_secs(600);
/// ECN fields: not capable, ECT(1), ECT(0), congestion experienced.
const ECN_FIELDS: [u8; 4] = [0, 1, 2, 3];
/// A port without a server.
const DISCARD: u16 = 9;
/// Base length of datagrams for the ECN tests. The length increases by 1 per inner ECN field and by 4 per outer field,
/// so that it identifies both.
const ECN_SIZE: usize = 600;

/// A host behind the foreign endpoint. It serves `hawser-traffic` on [`PORT`].
pub trait Far {
    /// Runs a client of `hawser-traffic` that must succeed. `node` is the far node.
    fn traffic(&self, node: &Namespace, arguments: &str) -> Result<Value>;
    /// Sets whether the endpoint's datagrams have a UDP checksum.
    fn set_checksums(&self, on: bool) -> Result<()>;
    /// The host's interface on the network.
    fn link(&self) -> &'static str;
    /// Sets the MTU of that interface; `node` is the far node.
    fn set_mtu(&self, node: &Namespace, mtu: u32) -> Result<()>;
}

/// The environment of the tests. Fields are dropped in order.
#[derive(Debug)]
pub struct Interop<F> {
    _server: Running,
    /// Guest on hawser. It also serves on [`PORT`].
    pub guest: Guest,
    /// Process that serves the guest.
    pub hawser: Hawser,
    /// Foreign endpoint and the host behind it.
    pub far: F,
    /// The two nodes.
    pub nodes: Nodes,
    underlay6: bool,
}

/// Address of the endpoint of a node.
pub fn vtep(node: usize, underlay6: bool) -> String {
    if underlay6 {
        Nodes::vtep6(node)
    } else {
        Nodes::vtep4(node)
    }
}

impl<F: Far> Interop<F> {
    /// Starts the foreign endpoint with `lay`, then hawser and its guest. `form` is appended to the foreign endpoint in
    /// `--peer`, such as `,frames`.
    pub fn new(underlay6: bool, form: &str, lay: impl FnOnce(&Nodes) -> Result<F>) -> Result<Self> {
        let nodes = Nodes::new(2, UNDERLAY_MTU)?;
        let far = lay(&nodes)?;
        let own = format!("--vtep={}", vtep(GUEST.node, underlay6));
        let peer = format!("{}{form}", FAR.peer(underlay6));
        let hawser = nodes.hawser(VNI, GUEST, &[&own, &peer])?;
        let guest = Plan {
            withheld: FEATURE_MTU,
            ..Plan::new(Kind::Uml, hawser.socket())
        }
        .boot()?;
        guest.net_up()?;
        let mtu = nodes.inner_mtu(underlay6);
        guest.sh(&format!("ip link set eth0 mtu {mtu}"))?;
        Ok(Self {
            _server: guest.serve(&format!("[::]:{PORT}"))?,
            guest,
            hawser,
            far,
            nodes,
            underlay6,
        })
    }

    /// MTU inside the tunnel.
    pub const fn mtu(&self) -> u32 {
        self.nodes.inner_mtu(self.underlay6)
    }

    /// Runs a client of `hawser-traffic` on the far host.
    pub fn far_traffic(&self, arguments: &str) -> Result<Value> {
        self.far.traffic(&self.nodes.nodes[FAR.node], arguments)
    }

    /// Addresses at which `hawser-traffic` serves on a host of the network.
    pub fn to(port: Port) -> [String; 2] {
        [
            format!("{}:{PORT}", port.address4()),
            format!("[{}]:{PORT}", port.address6()),
        ]
    }

    /// Runs all checks that every kind of foreign endpoint must pass, with transfers of `bytes`, and streams of
    /// `lossy_bytes` over an underlay that loses datagrams.
    pub fn assert_matrix(&mut self, bytes: u64, lossy_bytes: u64) -> Result<()> {
        self.assert_bytes_cross(bytes)?;
        self.assert_odd_tails_cross()?;
        self.assert_checksums()?;
        self.assert_mtu()?;
        self.assert_mtu_inward()?;
        self.assert_tags()?;
        self.assert_ecn_outward()?;
        let relay = self.nodes.relay(FAR.node)?;
        self.assert_ecn_inward(&relay)?;
        self.assert_streams_recover(&relay, lossy_bytes)?;
        self.hawser.assert_alive()
    }

    /// Tests ping, TCP and UDP of both families, opened by either side. No drop may be counted.
    fn assert_bytes_cross(&mut self, bytes: u64) -> Result<()> {
        let before = self.hawser.counters()?;
        self.guest.sh(&format!("ping -c 2 -W 5 {}", FAR.address4()))?;
        self.guest.sh(&format!("ping -6 -c 2 -W 5 {}", FAR.address6()))?;
        for ((far, guest), headers) in Self::to(FAR).into_iter().zip(Self::to(GUEST)).zip(HEADERS) {
            let largest = self.mtu() - headers;
            for command in ["send", "receive"] {
                self.guest.traffic(&format!("{command} to={far} bytes={bytes}"))?;
                self.far_traffic(&format!("{command} to={guest} bytes={bytes} connections=2"))?;
            }
            let sizes = format!("sizes=1,22,1300,{},{largest}", largest - 1);
            self.guest.traffic(&format!("udp to={far} {sizes} count=10"))?;
            self.far_traffic(&format!("udp to={guest} {sizes} count=10"))?;
        }
        let after = self.hawser.counters()?;
        for count in ["tunnel_sent", "tunnel_received"] {
            assert!(after.get(count) > before.get(count), "{count}: {after:?}");
        }
        assert_no_drops(&before, &after);
        Ok(())
    }

    /// Tests streams that end with a short segment, with one byte, and at the end of a full segment. They have from one
    /// segment to more than a 64 KiB frame.
    pub fn assert_odd_tails_cross(&self) -> Result<()> {
        for (to, headers) in Self::to(FAR).into_iter().zip([52, 72]) {
            let segment = self.mtu() - headers;
            let whole = [1, 2, 44, 45, 128].map(|count| count * segment);
            let sizes: Vec<String> = whole
                .iter()
                .flat_map(|size| [size - 1, *size, size + 1, size + segment / 2])
                .map(|size| size.to_string())
                .collect();
            self.guest.sh(&format!(
                "for bytes in {}; do for way in send receive; do \
                 hawser-traffic $way to={to} bytes=$bytes || exit 1; done; done",
                sizes.join(" ")
            ))?;
        }
        Ok(())
    }

    /// hawser's datagrams must have a checksum. Datagrams of the far endpoint without a checksum are accepted over IPv4
    /// and refused over IPv6 (RFC 8200 8.1).
    pub fn assert_checksums(&mut self) -> Result<()> {
        let wire = self.nodes.listen(GUEST.node)?;
        self.far.set_checksums(false)?;
        let [far, _] = Self::to(FAR);
        if self.underlay6 {
            let (before, refused) = (self.hawser.counters()?, self.nodes.refused_checksums(GUEST.node)?);
            let exchange = self
                .guest
                .run(&format!("hawser-traffic udp to={far} sizes=99 wait=1"))?;
            assert_ne!(exchange.status, Some(0), "{exchange:?}");
            let after = self.hawser.counters()?;
            assert_eq!(after.get("tunnel_received"), before.get("tunnel_received"));
            assert!(after.get("tunnel_sent") > before.get("tunnel_sent"));
            assert!(
                self.nodes.refused_checksums(GUEST.node)? > refused,
                "the kernel counts them"
            );
        } else {
            self.guest.traffic(&format!("udp to={far} sizes=99,1300 count=5"))?;
            for command in ["send", "receive"] {
                self.guest.traffic(&format!("{command} to={far} bytes=2000000"))?;
            }
        }
        self.far.set_checksums(true)?;
        self.guest.traffic(&format!("udp to={far} sizes=99 count=5"))?;
        let zero = if self.underlay6 {
            "ip6[46:2] = 0"
        } else {
            "udp[6:2] = 0"
        };
        let [ours, theirs] = [GUEST, FAR].map(|port| format!("src host {}", vtep(port.node, self.underlay6)));
        wire.wait_for(1, &format!("{theirs} and {zero}"))?;
        wire.wait_for(1, &format!("{ours} and udp dst port 6081"))?;
        assert_eq!(wire.seen(&format!("{ours} and udp dst port 6081 and {zero}"))?.len(), 0);
        Ok(())
    }

    /// Tests a guest that sends packets above the MTU. It gets an error, or its packet is fragmented if it allows that.
    /// When the MTU of an underlay link shrinks, hawser follows. No outer packet is a fragment.
    pub fn assert_mtu(&mut self) -> Result<()> {
        let (wire, mtu) = (self.nodes.listen(GUEST.node)?, self.mtu());
        self.guest.sh(&format!("ip link set eth0 mtu {}", mtu + 1))?;
        for (to, headers) in Self::to(FAR).into_iter().zip(HEADERS) {
            let above = mtu + 1 - headers;
            // The first packet is lost and answered. The guest itself sends the second in fragments.
            let command = format!("hawser-traffic udp to={to} sizes={above} count=2 wait=1");
            let output = self.guest.run(&command)?;
            let report: Value = serde_json::from_str(&output.out)?;
            assert_eq!(report["good"], 1, "{output:?}");
        }
        let learned = self.guest.sh(&format!(
            "ip route get {}; ip -6 route get {}",
            FAR.address4(),
            FAR.address6()
        ))?;
        assert_eq!(learned.matches(&format!("mtu {mtu}")).count(), 2, "{learned}");
        let before = self.hawser.counters()?;
        // This packet has no "do not fragment" flag and another address, because the first address's MTU is known now.
        self.guest
            .sh("ip route flush cache; sysctl -w net.ipv4.ip_no_pmtu_disc=1")?;
        let [to, _] = Self::to(FAR);
        let above = mtu + 1 - HEADERS[0];
        self.guest.traffic(&format!("udp to={to} sizes={above} count=3"))?;
        let after = self.hawser.counters()?;
        assert_eq!(after.get("tunnel_fragmented") - before.get("tunnel_fragmented"), 3);
        self.guest.sh(&format!(
            "sysctl -w net.ipv4.ip_no_pmtu_disc=0; ip link set eth0 mtu {mtu}"
        ))?;
        let link = |mtu: u32| self.nodes.nodes[GUEST.node].run(&format!("ip link set eth0 mtu {mtu}"));
        link(UNDERLAY_MTU - 100)?;
        for to in Self::to(FAR) {
            self.guest.traffic(&format!("send to={to} bytes=500000"))?;
        }
        let shrunk = self.hawser.counters()?;
        assert!(shrunk.get("tunnel_path_changed") > after.get("tunnel_path_changed"));
        link(UNDERLAY_MTU)?;
        let ours = format!("src host {}", vtep(GUEST.node, self.underlay6));
        let fragment = if self.underlay6 {
            "ip6[6] = 44"
        } else {
            "ip[6:2] & 0x3fff != 0"
        };
        wire.wait_for(1, &format!("{ours} and udp dst port 6081"))?;
        assert_eq!(wire.seen(&format!("{ours} and {fragment}"))?, Vec::<String>::new());
        Ok(())
    }

    /// Tests that packets of the far host that are one byte longer than the MTU of the network reach the guest, which
    /// answers in fragments.
    pub fn assert_mtu_inward(&mut self) -> Result<()> {
        let (node, mtu) = (&self.nodes.nodes[FAR.node], self.mtu());
        let before = self.hawser.counters()?;
        self.far.set_mtu(node, mtu + 1)?;
        for (to, headers) in Self::to(GUEST).into_iter().zip(HEADERS) {
            let above = mtu + 1 - headers;
            self.far.traffic(node, &format!("udp to={to} sizes={above} count=3"))?;
        }
        self.far.set_mtu(node, mtu)?;
        assert_no_drops(&before, &self.hawser.counters()?);
        Ok(())
    }

    /// Tests that a frame of the far host with a VLAN tag reaches the guest unchanged, and that the guest may not send any
    /// such frame.
    pub fn assert_tags(&mut self) -> Result<()> {
        let heard = self.start_capture("vlan 7", "tags")?;
        let frame = |to: Port, from: Port| {
            let macs = format!("{}{}", to.mac(), from.mac()).replace(':', "");
            // A priority, VLAN 7, and an EtherType for experiments (IEEE 802, 88b5).
            format!("bytes={macs}8100600788b5{}", "a5".repeat(46))
        };
        let link = self.far.link();
        self.far_traffic(&format!("frame on={link} count=3 {}", frame(GUEST, FAR)))?;
        until("the guest has the tagged frames", || {
            let seen = self.guest.sh("tcpdump -Z root -r /run/tags.pcap -n -e")?;
            Ok(seen.matches("vlan 7, p 3").count() == 3)
        })?;
        self.guest.kill(&heard)?;
        self.guest
            .traffic(&format!("frame on=eth0 count=3 {}", frame(FAR, GUEST)))?;
        let dropped = |counters: &Counters| counters.dropped("unexpected_vlan") == 3;
        self.hawser
            .wait_for_counters("frames of the guest with tags", dropped)?;
        Ok(())
    }

    /// Captures packets of `filter` in the guest into `/run/NAME.pcap`. When this returns, the capture runs.
    fn start_capture(&self, filter: &str, name: &str) -> Result<Running> {
        let capture = self.guest.start(
            &format!("tcpdump -Z root -i eth0 --immediate-mode -U -w /run/{name}.pcap {filter} 2>/run/{name}.log"),
            LIFETIME,
        )?;
        self.guest.sh(&format!(
            "for n in $(seq 100); do grep -q 'listening on' /run/{name}.log && exit; usleep 50000; done; \
             cat /run/{name}.log; exit 1"
        ))?;
        Ok(capture)
    }

    /// The ECN field of the guest's packets in the outer header (RFC 6040 4.1, normal mode).
    pub fn assert_ecn_outward(&self) -> Result<()> {
        let wire = self.nodes.listen(GUEST.node)?;
        for (to, headers) in [
            (format!("{}:{DISCARD}", FAR.address4()), 28),
            (format!("[{}]:{DISCARD}", FAR.address6()), 48),
        ] {
            for ecn in ECN_FIELDS {
                let size = ECN_SIZE + usize::from(ecn);
                self.guest
                    .traffic(&format!("datagram to={to} sizes={size} class={ecn}"))?;
                // The length includes the UDP, Geneve and Ethernet headers.
                let outer = size + headers + 8 + 8 + 14;
                let (length, field) = if self.underlay6 {
                    ("ip6[44:2]", "(ip6[1] & 0x30) >> 4")
                } else {
                    ("udp[4:2]", "ip[1] & 3")
                };
                let own = format!("src host {}", vtep(GUEST.node, self.underlay6));
                wire.wait_for(1, &format!("{own} and {length} = {outer} and {field} = {ecn}"))?;
            }
        }
        Ok(())
    }

    /// Tests every inner ECN field with every outer one, in packets from the far host (RFC 6040 4.2). A router on the
    /// path, which is the relay, writes the outer field.
    pub fn assert_ecn_inward(&mut self, relay: &Relay) -> Result<()> {
        let file = "/run/ecn.pcap";
        let capture = self.start_capture(&format!("udp dst port {DISCARD}"), "ecn")?;
        let before = self.hawser.counters()?;
        let (mut expected, mut seen) = (BTreeSet::new(), BTreeSet::new());
        for outer in ECN_FIELDS {
            relay.set(Faults {
                marked: Some(outer),
                ..Faults::default()
            });
            for inner in ECN_FIELDS {
                let size = ECN_SIZE + usize::from(4 * outer + inner);
                for (to, is_ipv6) in [
                    (format!("{}:{DISCARD}", GUEST.address4()), false),
                    (format!("[{}]:{DISCARD}", GUEST.address6()), true),
                ] {
                    self.far_traffic(&format!("datagram to={to} sizes={size} class={inner}"))?;
                    expected.extend(decapsulated(inner, outer).map(|ecn| (size, is_ipv6, ecn)));
                }
            }
            // The relay marks what arrives at it while it has this setting.
            until("the guest has these datagrams", || {
                seen = marks(&self.guest.sh(&format!("tcpdump -Z root -r {file} -n -v"))?);
                Ok(seen.len() >= expected.len())
            })?;
        }
        relay.set(Faults::default());
        self.guest.kill(&capture)?;
        assert_eq!(seen, expected, "bytes, IPv6, ECN field");
        let dropped = self.hawser.counters()?.dropped("tunnel_congestion") - before.dropped("tunnel_congestion");
        // There are more if the far host sent packets of its own in the meantime.
        assert!(dropped >= 2, "Not-ECT inside a mark, of each family: {dropped}");
        Ok(())
    }

    /// Streams arrive complete over an underlay that loses, duplicates and reorders datagrams.
    pub fn assert_streams_recover(&mut self, relay: &Relay, bytes: u64) -> Result<()> {
        relay.set(BAD_UNDERLAY);
        for to in Self::to(FAR) {
            for command in ["send", "receive"] {
                self.guest.traffic(&format!("{command} to={to} bytes={bytes}"))?;
            }
        }
        relay.set(Faults::default());
        assert_faults(relay);
        Ok(())
    }
}

/// The relay loses one datagram of twenty, duplicates one of fifty, and reorders one of thirty.
pub const BAD_UNDERLAY: Faults = Faults {
    lost: 50,
    duplicated: 20,
    overtaken: 33,
    corrupted: 0,
    marked: None,
};

/// Asserts that the relay produced every fault and forwarded the rest.
pub fn assert_faults(relay: &Relay) {
    let counts = relay.counts();
    for count in [counts.lost, counts.duplicated, counts.overtaken] {
        assert!(count > 0 && count < counts.seen, "{counts:?}");
    }
    assert_eq!(counts.refused, 0, "{counts:?}");
}

/// The field that leaves the tunnel. `None` for a packet that must be dropped (RFC 6040 figure 4).
const fn decapsulated(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (0, 3) => None,
        (0, _) => Some(0),
        (_, 3) | (3, _) => Some(3),
        (1, _) | (_, 1) => Some(1),
        _ => Some(2),
    }
}

/// Length, family and ECN field of each datagram in the output of `tcpdump -v`.
fn marks(text: &str) -> BTreeSet<(usize, bool, u8)> {
    let mut all = BTreeSet::new();
    let (mut is_ipv6, mut class) = (false, 0);
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once(" IP") {
            is_ipv6 = rest.starts_with('6');
            let number = rest.split_once("tos 0x").or_else(|| rest.split_once("class 0x"));
            let digits = number.map_or("0", |(_, rest)| rest.split([',', ')']).next().unwrap_or("0"));
            class = u8::from_str_radix(digits, 16).unwrap_or(u8::MAX);
        }
        if let Some(size) = line.rsplit_once("length ").and_then(|(_, size)| size.parse().ok()) {
            all.insert((size, is_ipv6, class & 3));
        }
    }
    all
}

/// Asserts that no datagram from the tunnel was dropped.
fn assert_no_drops(before: &Counters, after: &Counters) {
    for reason in [
        "tunnel_malformed",
        "tunnel_option",
        "tunnel_control",
        "tunnel_other_network",
        "tunnel_unknown_peer",
        "tunnel_unknown_mac",
        "tunnel_spoofed_mac",
        "tunnel_congestion",
        "tunnel_too_big",
        "tunnel_full",
    ] {
        assert_eq!(after.dropped(reason), before.dropped(reason), "{reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_from_both_families() {
        let text = "10:00:00.1 IP (tos 0x2,ECT(0), ttl 64, id 1, offset 0, flags [DF], proto UDP (17), length 628)\n    \
                    10.100.0.12.5 > 10.100.0.11.9: UDP, length 600\n\
                    10:00:00.2 IP6 (class 0x03, flowlabel 0x1, hlim 64, next-header UDP (17) payload length: 609) \
                    fd00::1.5 > fd00::2.9: [udp sum ok] UDP, length 601\n\
                    10:00:00.3 IP6 (flowlabel 0x1, hlim 64, next-header UDP (17) payload length: 610) \
                    fd00::1.5 > fd00::2.9: [udp sum ok] UDP, length 602\n";
        assert_eq!(
            marks(text),
            BTreeSet::from([(600, false, 2), (601, true, 3), (602, true, 0)])
        );
    }
}
