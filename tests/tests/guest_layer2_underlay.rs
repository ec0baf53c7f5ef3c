//! Tests of guests in layer2 mode over an underlay that loses, duplicates and reorders datagrams, and of frames that a
//! guest receives but that are for others.

use hawser_testkit::guest::{Guest, Kind, Running};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::interop::{BAD_UNDERLAY, assert_faults, vtep};
use hawser_testkit::nodes::{Nodes, PORT, Port};
use hawser_testkit::relay::{Faults, Relay};
use hawser_testkit::{Result, until};
use std::time::Duration;

const VNI: u32 = 4711;
const LIFETIME: Duration = Duration::from_secs(600);

/// Starts a process and a guest at `port`, whose peers are `others`. `form` follows each of them, such as `,frames`.
fn member(
    nodes: &Nodes,
    vni: u32,
    port: Port,
    others: &[Port],
    underlay6: bool,
    form: &str,
) -> Result<(Hawser, Guest)> {
    let mut arguments = vec![format!("--vtep={}", vtep(port.node, underlay6))];
    arguments.extend(others.iter().map(|other| format!("{}{form}", other.peer(underlay6))));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let hawser = nodes.hawser(vni, port, &arguments)?;
    let guest = nodes.guest(Kind::Uml, &hawser)?;
    Ok((hawser, guest))
}

/// Two members on two nodes whose traffic a relay forwards.
struct Pair {
    process: Hawser,
    other_process: Hawser,
    guest: Guest,
    _server: Running,
    _other: Guest,
    relay: Relay,
    _nodes: Nodes,
}

impl Pair {
    fn new(underlay6: bool, form: &str) -> Result<Self> {
        let nodes = Nodes::new(2, 1500)?;
        let relay = nodes.relay(1)?;
        let (process, guest) = member(&nodes, VNI, Self::FIRST, &[Self::SECOND], underlay6, form)?;
        let (other_process, other) = member(&nodes, VNI, Self::SECOND, &[Self::FIRST], underlay6, form)?;
        Ok(Self {
            _server: other.serve(&format!("[::]:{PORT}"))?,
            process,
            other_process,
            guest,
            _other: other,
            relay,
            _nodes: nodes,
        })
    }

    const FIRST: Port = Port::new(0, 11);
    const SECOND: Port = Port::new(1, 12);

    /// Exchanges streams in both directions and families, with these arguments each.
    fn exchange(&self, streams: &[&str]) -> Result<()> {
        for to in [
            format!("{}:{PORT}", Self::SECOND.address4()),
            format!("[{}]:{PORT}", Self::SECOND.address6()),
        ] {
            for command in ["send", "receive"] {
                for stream in streams {
                    self.guest.traffic(&format!("{command} to={to} {stream}"))?;
                }
            }
        }
        self.relay.set(Faults::default());
        Ok(())
    }
}

#[test]
fn streams_between_guests_arrive_whole_over_an_underlay_that_loses_duplicates_and_reorders() -> Result<()> {
    for (underlay6, form) in [(false, ""), (true, ",frames")] {
        let mut pair = Pair::new(underlay6, form)?;
        pair.relay.set(BAD_UNDERLAY);
        pair.exchange(&["bytes=500000", "bytes=200001 connections=2"])?;
        assert_faults(&pair.relay);
        // The relay affects whole datagrams and corrupts none of them.
        for counters in [pair.process.counters()?, pair.other_process.counters()?] {
            for reason in ["tunnel_malformed", "tunnel_option", "tunnel_spoofed_mac"] {
                assert_eq!(counters.dropped(reason), 0, "{reason}");
            }
        }
    }
    Ok(())
}

/// A NIC or a switch on the way that changes bytes. The outer checksum covers them all, also those of a frame whose own
/// checksum is left to the receiver.
#[test]
fn no_byte_that_the_underlay_changes_reaches_a_guest() -> Result<()> {
    for (underlay6, form) in [(false, ",frames"), (true, "")] {
        let mut pair = Pair::new(underlay6, form)?;
        pair.relay.set(Faults {
            corrupted: 30,
            ..Faults::default()
        });
        pair.exchange(&["bytes=500000"])?;
        let counts = pair.relay.counts();
        assert!(counts.corrupted > 0 && counts.corrupted < counts.seen, "{counts:?}");
        pair.process.assert_alive()?;
        pair.other_process.assert_alive()?;
    }
    Ok(())
}

#[test]
fn pings_larger_than_the_mtu_cross_in_fragments_of_the_guest() -> Result<()> {
    for underlay6 in [false, true] {
        let nodes = Nodes::new(2, 1500)?;
        let [first, second] = [Port::new(0, 11), Port::new(1, 12)];
        let wire = nodes.listen(0)?;
        let (mut process, guest) = member(&nodes, VNI, first, &[second], underlay6, "")?;
        let (_other_process, _other) = member(&nodes, VNI, second, &[first], underlay6, "")?;
        let mtu = nodes.inner_mtu(underlay6);
        for (family, address, headers) in [("-4", second.address4(), 28), ("-6", second.address6(), 48)] {
            for size in [mtu - headers - 1, mtu - headers, mtu - headers + 1, 8000, 60_000] {
                guest.sh(&format!("ping {family} -c 2 -W 5 -s {size} {address}"))?;
            }
        }
        assert_eq!(process.counters()?.dropped("tunnel_too_big"), 0);
        let fragment = if underlay6 {
            "ip6[6] = 44"
        } else {
            "ip[6:2] & 0x3fff != 0"
        };
        wire.wait_for(1, "udp dst port 6081")?;
        assert_eq!(wire.seen(fragment)?, Vec::<String>::new(), "fragments of the underlay");
    }
    Ok(())
}

/// Captures the frames that a guest receives, in the guest's file `/run/heard.pcap`.
fn listen(guest: &Guest) -> Result<()> {
    guest.start(
        "tcpdump -Z root -i eth0 --immediate-mode -U -w /run/heard.pcap 2>/run/heard.log",
        LIFETIME,
    )?;
    until("the guest listens", || {
        Ok(guest.sh("cat /run/heard.log || true")?.contains("listening on"))
    })
}

/// The captured frames of IP and ARP that mention a guest of the network.
fn heard(guest: &Guest, port: Port) -> Result<Vec<String>> {
    let filter = format!(
        "host {} or host {} or ether host {}",
        port.address4(),
        port.address6(),
        port.mac()
    );
    let text = guest.sh(&format!("tcpdump -Z root -nn -e -r /run/heard.pcap '{filter}'"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[test]
fn a_third_guest_hears_no_frame_between_two_others_and_a_guest_of_another_network_hears_none_at_all() -> Result<()> {
    let nodes = Nodes::new(3, 1500)?;
    let ports = [Port::new(0, 11), Port::new(1, 12), Port::new(2, 13)];
    let mut members = Vec::new();
    for port in ports {
        let others: Vec<Port> = ports.into_iter().filter(|other| other.number != port.number).collect();
        members.push(member(&nodes, VNI, port, &others, false, "")?);
    }
    // The other guest is on the third node too, with the same subnet and the same endpoints as peers.
    let stranger = Port {
        vtep_port: 6082,
        ..Port::new(2, 14)
    };
    let (_process, other_network) = member(&nodes, VNI + 1, stranger, &ports, false, "")?;
    let wire = nodes.listen(2)?;
    for guest in [&members[2].1, &other_network] {
        listen(guest)?;
    }
    let (first, second) = (&members[0].1, &members[1].1);
    let _server = second.serve(&format!("[::]:{PORT}"))?;
    for to in [
        format!("{}:{PORT}", ports[1].address4()),
        format!("[{}]:{PORT}", ports[1].address6()),
    ] {
        for command in ["send", "receive"] {
            first.traffic(&format!("{command} to={to} bytes=5000000"))?;
        }
        first.traffic(&format!("udp to={to} sizes=1,1300 count=50"))?;
    }
    // Neither this neighbour nor this MAC exists.
    first.run("ping -c 2 -W 1 10.100.0.99")?;
    first.sh("ip neigh replace 10.100.0.98 lladdr 52:54:00:00:09:99 dev eth0")?;
    first.run("ping -c 2 -W 1 10.100.0.98")?;
    // The captures work: the third guest sees a ping of its own, and each of the listeners sees its own frames.
    members[2].1.reaches(&ports[1].address4())?;
    other_network.reaches("10.100.0.1")?;
    until("the third guest hears its own ping", || {
        Ok(heard(&members[2].1, ports[2])?.len() >= 2)
    })?;
    until("the stranger hears itself", || {
        Ok(heard(&other_network, stranger)?.len() >= 2)
    })?;
    let between = heard(&members[2].1, ports[0])?;
    let unicast: Vec<&String> = between
        .iter()
        .filter(|line| !line.contains(&format!("> {}", ports[2].mac())))
        .filter(|line| !line.contains("> ff:ff") && !line.contains("> 33:33") && !line.contains("> 01:00:5e"))
        .collect();
    assert_eq!(unicast, Vec::<&String>::new(), "flooded unicast");
    for port in ports {
        assert_eq!(heard(&other_network, port)?, Vec::<String>::new(), "in another network");
    }
    // No segment of that transfer has reached the third node's link either.
    let tcp = format!("udp dst port 6081 and src host {} and greater 1000", vtep(0, false));
    assert_eq!(wire.seen(&tcp)?, Vec::<String>::new());
    Ok(())
}
