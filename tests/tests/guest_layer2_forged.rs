//! Tests with hand-made datagrams on the underlay of a running process. Each is dropped and counted under its name, and
//! no guest receives it.

use hawser_backend::packet::checksum::Sum;
use hawser_backend::packet::{ArpPacket, Ipv4Header, Ipv6Header, MacAddr, UdpHeader, icmp, protocol};
use hawser_testkit::guest::{Guest, Kind};
use hawser_testkit::hawser::{Counters, Hawser, get};
use hawser_testkit::interop::vtep;
use hawser_testkit::nodes::{Nodes, Port};
use hawser_testkit::{Result, failure, peers, until};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const VNI: u32 = 4711;
const GENEVE: u16 = 6081;
/// The guest that is attacked, the guest on whose node the datagrams are sent, and a third guest.
const TARGET: Port = Port::new(0, 11);
const SENDER: Port = Port::new(1, 12);
const OTHER: Port = Port::new(2, 13);
/// A guest of another network on the node that is attacked.
const STRANGER: Port = Port {
    vtep_port: 6082,
    ..Port::new(0, 21)
};
const ETHERNET: usize = 14;
/// Attempts to send a datagram while the guest receives nothing else.
const ATTEMPTS: u64 = 4;
/// The congestion mark in a traffic class.
const CONGESTED: u8 = 3;

/// The six bytes of a MAC.
fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<std::result::Result<_, _>>()?;
    bytes.try_into().map_err(|_| failure("a MAC has six bytes"))
}

/// Addresses of a datagram to the process, on the underlay.
#[derive(Clone)]
struct Route {
    link: [[u8; 6]; 2],
    source: IpAddr,
    destination: IpAddr,
    class: u8,
    has_checksum: bool,
}

impl Route {
    /// The route from the node of `SENDER` to the node of `TARGET`.
    fn new(nodes: &Nodes, underlay6: bool) -> Result<Self> {
        let link = |node: usize| {
            let shown = nodes.nodes[node].run("ip -o link show dev eth0")?;
            let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
            mac(words.nth(1).ok_or_else(|| failure("eth0 has no MAC"))?)
        };
        Ok(Self {
            link: [link(TARGET.node)?, link(SENDER.node)?],
            source: vtep(SENDER.node, underlay6).parse()?,
            destination: vtep(TARGET.node, underlay6).parse()?,
            class: 0,
            has_checksum: true,
        })
    }

    /// A frame of the underlay with an IP packet that carries `payload` as protocol `next`.
    fn packet(&self, next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = self.link.concat();
        frame.extend(if self.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        frame.extend(ip([self.source, self.destination], next, self.class, payload));
        frame
    }

    /// A frame of the underlay with a datagram to the UDP port of Geneve.
    fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        self.packet(protocol::UDP, &self.udp(payload))
    }

    fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0; UdpHeader::LEN];
        let header = UdpHeader {
            src_port: 40_000,
            dst_port: GENEVE,
            payload_len: payload.len(),
        };
        header.emit(&mut datagram, 0);
        datagram.extend(payload);
        if self.has_checksum {
            let sum = sum_of(self.source, self.destination, protocol::UDP, &datagram);
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        datagram
    }
}

/// The checksum over a pseudo-header and a message whose checksum field is zero.
fn sum_of(source: IpAddr, destination: IpAddr, next: u8, message: &[u8]) -> u16 {
    let len = u16::try_from(message.len()).expect("a short message");
    let sum = match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Sum::default().bytes(&a.octets()).bytes(&b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => Sum::default().bytes(&a.octets()).bytes(&b.octets()),
        _ => unreachable!("one family"),
    };
    sum.word(next.into()).word(len).bytes(message).finish()
}

/// A datagram's payload: a Geneve header without options, and a frame.
fn geneve(vni: u32, frame: &[u8]) -> Vec<u8> {
    let vni = vni.to_be_bytes();
    [&[0, 0, 0x65, 0x58, vni[1], vni[2], vni[3], 0], frame].concat()
}

/// A frame from one guest to another.
fn frame(from: Port, to: [u8; 6], ethertype: u16, packet: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = [to, mac(&from.mac())?].concat();
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    Ok(bytes)
}

/// An IP packet between two addresses of one family. Its hop limit is that of neighbour discovery.
fn ip(addresses: [IpAddr; 2], next: u8, class: u8, payload: &[u8]) -> Vec<u8> {
    const HOPS: u8 = 255;
    let mut packet;
    match addresses {
        [IpAddr::V4(src), IpAddr::V4(dst)] => {
            packet = vec![0; Ipv4Header::LEN];
            Ipv4Header {
                src,
                dst,
                protocol: next,
                ttl: HOPS,
                tos: class,
                dont_fragment: true,
                fragment: None,
                header_len: Ipv4Header::LEN,
                payload_len: payload.len(),
            }
            .emit(&mut packet);
        }
        [IpAddr::V6(src), IpAddr::V6(dst)] => {
            packet = vec![0; Ipv6Header::LEN];
            Ipv6Header {
                src,
                dst,
                protocol: next,
                hop_limit: HOPS,
                traffic_class: class,
                fragment: None,
                header_len: Ipv6Header::LEN,
                payload_len: payload.len(),
            }
            .emit(&mut packet);
        }
        _ => unreachable!("a packet has one family"),
    }
    packet.extend(payload);
    packet
}

/// An IPv4 packet from `SENDER`.
fn ipv4(to: &str, next: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let from = SENDER.address4().parse()?;
    Ok(ip([from, to.parse()?], next, 0, payload))
}

/// A UDP header, whose checksum is not verified, and some bytes.
fn udp(ports: [u16; 2]) -> Vec<u8> {
    let mut datagram = vec![7; UdpHeader::LEN + 32];
    let header = UdpHeader {
        src_port: ports[0],
        dst_port: ports[1],
        payload_len: 32,
    };
    header.emit(&mut datagram, 0);
    datagram
}

/// An ARP reply from `SENDER` to `TARGET` that claims an address for the sender's MAC.
fn arp(claimed: &str) -> Result<Vec<u8>> {
    let mut packet = vec![0; ArpPacket::LEN];
    ArpPacket {
        operation: ArpPacket::REPLY,
        sender_mac: MacAddr(mac(&SENDER.mac())?),
        sender: claimed.parse()?,
        target_mac: MacAddr(mac(&TARGET.mac())?),
        target: TARGET.address4().parse()?,
    }
    .emit(&mut packet);
    frame(SENDER, mac(&TARGET.mac())?, 0x0806, &packet)
}

/// An unsolicited neighbour advertisement that does the same.
fn advertisement(claimed: &str) -> Result<Vec<u8>> {
    let mut message = vec![icmp::v6::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(claimed.parse::<Ipv6Addr>()?.octets());
    message.extend([2, 1]);
    message.extend(mac(&SENDER.mac())?);
    neighbour_frame(&message)
}

/// A frame from `SENDER` to `TARGET` with a neighbour discovery message.
fn neighbour_frame(message: &[u8]) -> Result<Vec<u8>> {
    let addresses = [SENDER.address6().parse()?, TARGET.address6().parse()?];
    let mut message = message.to_vec();
    icmp::fill_checksum(addresses[0], addresses[1], &mut message);
    let packet = ip(addresses, protocol::ICMPV6, 0, &message);
    frame(SENDER, mac(&TARGET.mac())?, 0x86dd, &packet)
}

/// Datagrams, each with the reason for which it must be dropped.
fn forged(route: &Route) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let target = mac(&TARGET.mac())?;
    let plain = |from: Port| -> Result<Vec<u8>> {
        frame(
            from,
            target,
            0x0800,
            &ipv4(&TARGET.address4(), protocol::UDP, &udp([9, 9]))?,
        )
    };
    let good = geneve(VNI, &plain(SENDER)?);
    let header = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let option = |words: u8, option: [u8; 4], critical: u8| {
        let mut bytes = good.clone();
        (bytes[0], bytes[1]) = (words, critical);
        bytes.splice(8..8, option);
        bytes
    };
    let inside = |frame: Vec<u8>| geneve(VNI, &frame);
    let to_group = |last: u8| -> Result<Vec<u8>> {
        let mut bytes = plain(SENDER)?;
        bytes[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, last]);
        Ok(bytes)
    };
    let igmp = ipv4("224.0.0.22", protocol::IGMP, &[0x22, 0, 1])?;
    let dhcp = ipv4(&TARGET.address4(), protocol::UDP, &udp([67, 68]))?;
    let gateway = mac("0a:58:0a:64:00:01")?;
    let mut from_gateway = plain(SENDER)?;
    from_gateway[6..12].copy_from_slice(&gateway);
    let mut any = vec![
        ("tunnel_malformed", header(0, 0x40)),
        ("tunnel_malformed", header(0, 0x3f)),
        ("tunnel_malformed", option(1, [1, 2, 0, 3], 0)),
        ("tunnel_control", header(1, 0x80)),
        ("tunnel_malformed", header(2, 0x08)),
        ("tunnel_malformed", geneve(VNI, &plain(SENDER)?[..13])),
        ("tunnel_malformed", good[..7].to_vec()),
        ("tunnel_malformed", Vec::new()),
        ("tunnel_option", option(1, [1, 2, 0x80, 0], 0x40)),
        ("tunnel_other_network", geneve(VNI + 1, &plain(SENDER)?)),
        ("tunnel_spoofed_mac", inside(plain(OTHER)?)),
        ("tunnel_unknown_mac", inside(plain(Port::new(1, 99))?)),
        ("tunnel_unknown_mac", inside(from_gateway)),
        ("tunnel_spoofed_arp", inside(arp(&OTHER.address4())?)),
        ("tunnel_spoofed_arp", inside(arp("10.100.0.1")?)),
        ("tunnel_spoofed_arp", inside(arp(&TARGET.address4())?)),
        ("tunnel_spoofed_neighbour", inside(advertisement(&OTHER.address6())?)),
        ("tunnel_spoofed_neighbour", inside(advertisement("fd00:100::1")?)),
        (
            "tunnel_router_guard",
            inside(neighbour_frame(&[icmp::v6::ROUTER_ADVERTISEMENT; 16])?),
        ),
        ("tunnel_dhcp_guard", inside(frame(SENDER, target, 0x0800, &dhcp)?)),
        (
            "tunnel_hidden_transport",
            inside(frame(SENDER, target, 0x0020, &[0xaa; 40])?),
        ),
        ("reserved_group", inside(to_group(0)?)),
        (
            "bad_group_message",
            inside(frame(SENDER, [1, 0, 0x5e, 0, 0, 22], 0x0800, &igmp)?),
        ),
    ];
    let mut all: Vec<_> = any
        .drain(..)
        .map(|(reason, bytes)| (reason, route.datagram(&bytes)))
        .collect();
    let marked = Route {
        class: CONGESTED,
        ..route.clone()
    };
    all.push(("tunnel_congestion", marked.datagram(&good)));
    let stranger = Route {
        source: match route.source {
            IpAddr::V4(_) => Ipv4Addr::new(198, 51, 100, 99).into(),
            IpAddr::V6(_) => "2001:db8:100::63".parse()?,
        },
        ..route.clone()
    };
    all.push(("tunnel_unknown_peer", stranger.datagram(&good)));
    Ok(all)
}

/// The IPv4 packet in a frame of the underlay, split into two fragments.
fn fragments(frame: &[u8]) -> [Vec<u8>; 2] {
    const MORE: u8 = 0x20;
    let at = ETHERNET + Ipv4Header::LEN;
    let (first, second) = frame[at..].split_at(16);
    [(first, [MORE, 0]), (second, [0, 2])].map(|(payload, field)| {
        let mut bytes = frame[..at].to_vec();
        let total = u16::try_from(Ipv4Header::LEN + payload.len()).expect("short");
        bytes[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
        bytes[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&[0x12, 0x34]);
        bytes[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&field);
        bytes[ETHERNET + 10..ETHERNET + 12].fill(0);
        let sum = Sum::default().bytes(&bytes[ETHERNET..at]).finish();
        bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(payload);
        bytes
    })
}

/// The process and the guest that are attacked, those of another network on the same node, and the sender of the
/// datagrams.
struct Attack {
    hawser: Hawser,
    guest: Guest,
    stranger: Hawser,
    _other_guest: Guest,
    nodes: Nodes,
}

impl Attack {
    fn new(underlay6: bool) -> Result<Self> {
        let nodes = Nodes::new(3, 1500)?;
        let peers = [SENDER, OTHER].map(|port| port.peer(underlay6));
        let own = format!("--vtep={}", vtep(TARGET.node, underlay6));
        let api = format!("--api-socket={}", nodes.path("api.sock").display());
        let hawser = nodes.hawser(VNI, TARGET, &[&own, &api, &peers[0], &peers[1]])?;
        let guest = nodes.guest(Kind::Uml, &hawser)?;
        let stranger = nodes.hawser(VNI + 1, STRANGER, &[&own, &peers[0], &peers[1]])?;
        Ok(Self {
            guest,
            _other_guest: nodes.guest(Kind::Uml, &stranger)?,
            hawser,
            stranger,
            nodes,
        })
    }

    /// Sends a frame on the underlay from the sender's node.
    fn send(&self, frame: &[u8]) -> Result<()> {
        let bytes: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        peers::traffic(&self.nodes.nodes[SENDER.node], &format!("frame on=eth0 bytes={bytes}")).map(drop)
    }

    /// Sends a datagram until it is dropped, counted as `reason`, and no frame reaches the guest meanwhile. The gateway
    /// may answer the guest's kernel at any time, so one of a few attempts must be quiet. Returns the number of attempts.
    fn assert_dropped(&mut self, reason: &str, datagram: &[u8]) -> Result<u64> {
        for attempt in 1..=ATTEMPTS {
            let before = self.hawser.counters()?;
            self.send(datagram)?;
            let counted = |counters: &Counters| counters.dropped(reason) > before.dropped(reason);
            let after = self.hawser.wait_for_counters(reason, counted)?;
            assert_eq!(after.dropped(reason), before.dropped(reason) + 1, "{reason}");
            if after.get("rx_frames") == before.get("rx_frames") {
                return Ok(attempt);
            }
        }
        Err(failure(format!("{reason}: the guest heard it")))
    }

    /// Waits until one more frame from the tunnel has reached the guest. The guest may also receive answers to its own
    /// frames.
    fn assert_received(&mut self, datagrams: &[Vec<u8>]) -> Result<()> {
        let before = self.hawser.counters()?;
        for datagram in datagrams {
            self.send(datagram)?;
        }
        let after = self.hawser.wait_for_counters("the frame", |counters| {
            counters.get("tunnel_received") == before.get("tunnel_received") + 1
        })?;
        assert!(after.get("rx_frames") > before.get("rx_frames"));
        Ok(())
    }
}

#[test]
fn a_forged_datagram_is_dropped_under_its_name_and_heard_by_no_guest() -> Result<()> {
    for underlay6 in [false, true] {
        let mut attack = Attack::new(underlay6)?;
        let route = Route::new(&attack.nodes, underlay6)?;
        // The guest's neighbour entries: the gateway, and the guest whose address the forged claims name.
        attack.guest.reaches("10.100.0.1")?;
        let known = format!("{} lladdr {}", OTHER.address4(), OTHER.mac());
        attack
            .guest
            .sh(&format!("ip neigh replace {known} nud reachable dev eth0"))?;
        let quiet = attack.stranger.counters()?;
        let all = forged(&route)?;
        let mut sent: HashMap<&str, u64> = HashMap::new();
        for (reason, datagram) in &all {
            *sent.entry(reason).or_default() += attack.assert_dropped(reason, datagram)?;
        }
        let api = attack.nodes.path("api.sock");
        let shown = get(&api, "/v1/metrics")?;
        for (reason, count) in sent {
            let series = format!("reason=\"{reason}\"}} {count}\n");
            assert!(shown.contains(&series), "{series} is not in\n{shown}");
        }
        let neighbours = attack.guest.sh("ip neigh show")?;
        assert!(neighbours.contains(&OTHER.mac()), "{neighbours}");
        assert!(!neighbours.contains(&SENDER.mac()), "{neighbours}");

        let plain = ipv4(&TARGET.address4(), protocol::UDP, &udp([9, 9]))?;
        let good = geneve(VNI, &frame(SENDER, mac(&TARGET.mac())?, 0x0800, &plain)?);
        let unchecked = Route {
            has_checksum: false,
            ..route.clone()
        };
        if underlay6 {
            let refused = attack.nodes.refused_checksums(TARGET.node)?;
            let received = attack.hawser.counters()?.get("tunnel_received");
            attack.send(&unchecked.datagram(&good))?;
            until("the kernel refuses it", || {
                Ok(attack.nodes.refused_checksums(TARGET.node)? > refused)
            })?;
            assert_eq!(attack.hawser.counters()?.get("tunnel_received"), received);
        } else {
            attack.assert_received(&[unchecked.datagram(&good)])?;
            // The kernel reassembles the packet. A fragment without the other one is never delivered.
            let [first, second] = fragments(&route.datagram(&good));
            let received = attack.hawser.counters()?.get("tunnel_received");
            attack.send(&second)?;
            assert_eq!(attack.hawser.counters()?.get("tunnel_received"), received);
            attack.assert_received(&[first])?;
        }
        attack.assert_received(&[route.datagram(&good)])?;
        let after = attack.stranger.counters()?;
        let received = [&quiet, &after].map(|counters| counters.get("tunnel_received"));
        assert_eq!(received[0], received[1], "the other network");
        attack.hawser.assert_alive()?;
        attack.stranger.assert_alive()?;
    }
    Ok(())
}
