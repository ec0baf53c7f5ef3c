//! Tests of bulk transfers between a real guest and the world, with different MTUs, offloads and ring features, and
//! with iperf3. Every byte is compared.

use hawser_testkit::frontend::feature::{MRG_RXBUF, SEGMENTATION};
use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::lab::Lab;
use hawser_testkit::losses::Losses;
use hawser_testkit::netns::address::{FAR4, FAR6};
use hawser_testkit::peers::{self, Iperf};
use hawser_testkit::{Result, failure};
use std::time::Duration;

const MB: u64 = 1_000_000;
/// Time limit for slow machines and slow guests. It is far longer than a transfer should take.
const PATIENCE: Duration = Duration::from_secs(900);
const MTUS: [u32; 3] = [1500, 9000, 65520];

/// Sends to each of `servers` from the guest, and receives from each.
fn both_ways(guest: &Guest, servers: &[String], bytes: u64, connections: u32) -> Result<()> {
    for server in servers {
        for command in ["send", "receive"] {
            let arguments = format!("{command} to={server} bytes={bytes} connections={connections}");
            let report = guest.traffic_for(&arguments, PATIENCE)?;
            println!("{arguments}: {} s", report["seconds"]);
        }
    }
    Ok(())
}

fn servers(lab: &mut Lab) -> Result<[String; 2]> {
    Ok([lab.serve_world(FAR4)?.to_string(), lab.serve_world(FAR6)?.to_string()])
}

/// A QEMU guest whose NIC has `properties`.
fn qemu(lab: &Lab, arguments: &[&str], properties: &[&str]) -> Result<(Hawser, Guest)> {
    let hawser = lab.hawser(arguments)?;
    let mut plan = Plan::new(Kind::Qemu, hawser.socket());
    plan.properties = properties.iter().map(ToString::to_string).collect();
    let guest = plan.boot()?;
    guest.net_up()?;
    Ok((hawser, guest))
}

/// A UML guest without the features in the mask `withheld`.
fn uml_without(withheld: u64, lab: &Lab, arguments: &[&str]) -> Result<(Hawser, Guest)> {
    let hawser = lab.hawser(arguments)?;
    let guest = Plan {
        withheld,
        ..Plan::new(Kind::Uml, hawser.socket())
    }
    .boot()?;
    guest.net_up()?;
    let agreed = guest.features()?;
    let expected = (MRG_RXBUF | SEGMENTATION) & !withheld;
    assert_eq!(agreed & (MRG_RXBUF | SEGMENTATION), expected, "of {agreed:#x}");
    Ok((hawser, guest))
}

const NO_TSO: &str = "host_tso4=off,host_tso6=off,host_ecn=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,\
                      host_uso=off,guest_uso4=off,guest_uso6=off";
const NO_CHECKSUMS: &str = "csum=off,guest_csum=off";

#[test]
fn every_mtu_carries_bulk_with_and_without_segmentation_by_the_guest() -> Result<()> {
    for mtu in MTUS {
        let mut lab = Lab::new()?;
        let servers = servers(&mut lab)?;
        let (_hawser, guest) = lab.up(Kind::Uml, &[&format!("--mtu={mtu}")])?;
        assert_eq!(guest.sh("cat /sys/class/net/eth0/mtu")?.trim(), mtu.to_string());
        both_ways(&guest, &servers, 60 * MB, 1)?;
        guest.sh("ethtool -K eth0 tso off gso off gro off")?;
        both_ways(&guest, &servers, 30 * MB, 1)?;
    }
    Ok(())
}

#[test]
fn a_hundred_connections_at_once_carry_bulk() -> Result<()> {
    let mut lab = Lab::new()?;
    let servers = servers(&mut lab)?;
    let (_hawser, guest) = lab.up(Kind::Uml, &[])?;
    both_ways(&guest, &servers[..1], 300 * MB, 100)
}

#[test]
fn a_narrow_way_that_loses_what_it_cannot_hold_neither_stalls_a_transfer_nor_harms_it() -> Result<()> {
    let mut lab = Lab::new()?;
    let servers = servers(&mut lab)?;
    let (_hawser, guest) = lab.up(Kind::Uml, &[])?;
    let ends = [(&lab.networks.pod, "eth0"), (&lab.networks.world, "pod0")];
    for (namespace, device) in ends {
        namespace.run(&format!(
            "tc qdisc add dev {device} root tbf rate 200mbit burst 100k limit 100k"
        ))?;
    }
    both_ways(&guest, &servers, 20 * MB, 1)?;
    both_ways(&guest, &servers[..1], 20 * MB, 10)?;
    for (namespace, device) in ends {
        let seen = namespace.run(&format!("tc -s qdisc show dev {device}"))?;
        assert!(!seen.contains("dropped 0,"), "nothing was lost: {seen}");
    }
    Ok(())
}

#[test]
fn any_subset_of_features_a_guest_accepts_carries_bulk() -> Result<()> {
    let no_offloads = format!("{NO_TSO},{NO_CHECKSUMS}");
    for properties in [
        "mrg_rxbuf=off",
        NO_TSO,
        &no_offloads,
        "indirect_desc=off,event_idx=off",
        "rx_queue_size=1024,tx_queue_size=1024",
        "disable-legacy=on,host_mtu=1500",
    ] {
        let mut lab = Lab::new()?;
        let servers = servers(&mut lab)?;
        let (mut hawser, guest) = qemu(&lab, &[], &[properties])?;
        println!("{properties}");
        both_ways(&guest, &servers, 10 * MB, 3)?;
        guest.traffic(&format!("udp to={} sizes=1,1472,1473,9000,65507 count=3", servers[0]))?;
        hawser.assert_alive()?;
    }
    Ok(())
}

#[test]
fn a_guest_without_mergeable_buffers_or_segmentation_works_at_every_mtu() -> Result<()> {
    for mtu in MTUS {
        for withheld in [MRG_RXBUF, MRG_RXBUF | SEGMENTATION] {
            let mut lab = Lab::new()?;
            let servers = servers(&mut lab)?;
            let (_hawser, guest) = uml_without(withheld, &lab, &[&format!("--mtu={mtu}")])?;
            println!("MTU {mtu}, without {withheld:#x}");
            both_ways(&guest, &servers, 30 * MB, 1)?;
        }
    }
    Ok(())
}

#[test]
fn several_queue_pairs_share_the_work() -> Result<()> {
    let mut lab = Lab::new()?;
    let servers = servers(&mut lab)?;
    let hawser = lab.hawser(&["--queue-pairs=2"])?;
    let guest = Plan {
        queue_pairs: 2,
        ..Plan::new(Kind::Qemu, hawser.socket())
    }
    .boot()?;
    guest.net_up()?;
    let channels = guest.sh("ethtool -L eth0 combined 2; ethtool -l eth0")?;
    let combined: Vec<_> = channels.lines().filter(|line| line.starts_with("Combined:")).collect();
    assert!(
        combined.len() == 2 && combined.iter().all(|line| line.ends_with('2')),
        "{channels}"
    );
    both_ways(&guest, &servers, 60 * MB, 8)?;
    // Both transmit queues have been used.
    let interrupts = guest.sh("cat /proc/interrupts")?;
    let used = |queue: &str| {
        let line = interrupts
            .lines()
            .find(|line| line.ends_with(queue))
            .unwrap_or_default()
            .to_owned();
        line.split_whitespace()
            .skip(1)
            .take(2)
            .filter_map(|n| n.parse::<u64>().ok())
            .sum::<u64>()
    };
    assert!(used("input.0") > 0 && used("input.1") > 0, "{interrupts}");
    Ok(())
}

#[test]
fn connections_outlive_the_queue_pair_they_were_made_on() -> Result<()> {
    let mut lab = Lab::new()?;
    let servers = servers(&mut lab)?;
    let mut hawser = lab.hawser(&["--queue-pairs=2"])?;
    let guest = Plan {
        queue_pairs: 2,
        ..Plan::new(Kind::Qemu, hawser.socket())
    }
    .boot()?;
    guest.net_up()?;
    for direction in ["receive", "send"] {
        guest.sh("ethtool -L eth0 combined 2")?;
        let before = hawser.counters()?;
        let transfer = format!(
            "hawser-traffic {direction} to={} bytes={} connections=8",
            servers[0],
            100 * MB
        );
        let running = guest.start(&transfer, Duration::from_secs(120))?;
        hawser.wait_for_counters("the transfer", |now| {
            now.get("tcp_connections_out") >= before.get("tcp_connections_out") + 8
        })?;
        assert!(running.poll().is_none(), "it was over before the pair was");
        guest.sh("ethtool -L eth0 combined 1")?;
        let output = running.wait(Duration::from_secs(120))?;
        assert_eq!(output.status, Some(0), "{direction}: {output:?}");
        let moved = hawser.counters()?.get("flows_moved") - before.get("flows_moved");
        assert!(moved > 0, "{direction}: no connection was on the pair that went");
    }
    Ok(())
}

#[test]
fn datagrams_above_the_mtu_travel_both_ways() -> Result<()> {
    let mut lab = Lab::new()?;
    let servers = servers(&mut lab)?;
    let (_hawser, guest) = lab.up(Kind::Uml, &[])?;
    for server in servers {
        guest.traffic(&format!(
            "udp to={server} sizes=0,1,1452,1453,1472,1473,3000,9000,30000,65000 count=10"
        ))?;
    }
    Ok(())
}

fn iperf(guest: &Guest, arguments: &str) -> Result<Iperf> {
    let output = guest.run(&format!("iperf3 --json --time 3 {arguments}"))?;
    Iperf::parse(&output.out).map_err(|e| failure(format!("iperf3 {arguments}: {e} {}", output.err)))
}

fn iperf3_both_ways(kind: Kind) -> Result<()> {
    let lab = Lab::new()?;
    let _servers = [
        peers::iperf_server(&lab.networks.world, lab.folder(), FAR4)?,
        peers::iperf_server(&lab.networks.world, lab.folder(), FAR6)?,
    ];
    let (mut hawser, guest) = lab.up(kind, &[])?;
    for to in [FAR4, FAR6] {
        for direction in ["", "--reverse"] {
            let tcp = iperf(&guest, &format!("--client {to} {direction}"))?;
            println!("{kind:?} {to} {direction}: TCP {:.0} Mbit/s", tcp.bits_per_second / 1e6);
            assert!(tcp.bits_per_second > 0.0, "{kind:?} {to} {direction}: {tcp:?}");
            // The number of lost datagrams depends on the machine: a busy one leaves the receiver
            // too little time to empty its socket. But each must be counted where it was lost.
            let before = Losses::read(&lab.networks, &mut hawser, &guest)?;
            let udp = iperf(
                &guest,
                &format!("--client {to} {direction} --udp --bitrate 20M --length 1200"),
            )?;
            let losses = Losses::read(&lab.networks, &mut hawser, &guest)?.since(before);
            println!("{kind:?} {to} {direction}: {udp:?}, {losses:?}");
            assert!(udp.bits_per_second > 0.0, "{kind:?} {to} {direction}: {udp:?}");
            assert!(
                udp.lost <= losses.sum(),
                "{kind:?} {to} {direction}: {udp:?}, {losses:?}"
            );
        }
    }
    hawser.assert_alive()
}

#[test]
fn iperf3_runs_both_ways_over_tcp_and_udp() -> Result<()> {
    iperf3_both_ways(Kind::Uml)
}

#[test]
#[ignore = "long: run by hack/test --long"]
fn iperf3_runs_both_ways_over_tcp_and_udp_in_qemu() -> Result<()> {
    iperf3_both_ways(Kind::Qemu)
}

#[test]
fn every_datagram_of_a_flood_arrives_or_is_counted_where_it_was_lost() -> Result<()> {
    let mut lab = Lab::new()?;
    let servers = servers(&mut lab)?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &[])?;
    for server in &servers {
        for from in ["client", "server"] {
            let before = Losses::read(&lab.networks, &mut hawser, &guest)?;
            let report = guest.traffic(&format!("flood to={server} from={from} size=1000 millis=300"))?;
            let losses = Losses::read(&lab.networks, &mut hawser, &guest)?.since(before);
            println!("from the {from}: {report}, {losses:?}");
            let count = |name: &str| report[name].as_u64().unwrap_or(0);
            assert!(count("received") > 0, "{from}: {report}");
            let lost = count("sent").saturating_sub(count("received"));
            assert!(lost <= losses.sum(), "{from}: {report}, {losses:?}");
        }
    }
    hawser.assert_alive()
}

/// Number of datagrams that is larger than the guest's ring can hold at once.
#[test]
fn a_burst_larger_than_the_ring_waits_for_the_guest_and_loses_nothing() -> Result<()> {
    const BURST: u64 = 420;
    let mut lab = Lab::new()?;
    let servers = servers(&mut lab)?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &[])?;
    // The socket can hold the whole burst.
    guest.sh("sysctl -w net.core.rmem_max=8388608")?;
    for server in &servers {
        let before = Losses::read(&lab.networks, &mut hawser, &guest)?;
        let output = guest.run(&format!("hawser-traffic burst to={server} size=1200 count={BURST}"))?;
        let report: serde_json::Value = serde_json::from_str(&output.out)?;
        let losses = Losses::read(&lab.networks, &mut hawser, &guest)?.since(before);
        assert_eq!((losses.hawser, losses.guest), (0, 0), "{report}, {losses:?}");
        // The host's sockets may be smaller than the burst; everything that hawser receives is
        // delivered.
        let received = report["received"].as_u64().unwrap_or(0);
        assert_eq!(received + losses.world + losses.pod, BURST, "{report}, {losses:?}");
        assert!(received > 300, "{report}, {losses:?}");
    }
    hawser.assert_alive()
}

#[test]
fn ten_gigabytes_over_one_connection_arrive_whole() -> Result<()> {
    let mut lab = Lab::new()?;
    let servers = servers(&mut lab)?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &[])?;
    both_ways(&guest, &servers[..1], 10_000 * MB, 1)?;
    hawser.assert_alive()
}

/// Runs the full transfers for a guest without the features in the mask `withheld`.
fn ten_gigabytes_arrive_whole_without(withheld: u64) -> Result<()> {
    for mtu in MTUS {
        let mut lab = Lab::new()?;
        let servers = servers(&mut lab)?;
        let (mut hawser, guest) = uml_without(withheld, &lab, &[&format!("--mtu={mtu}")])?;
        println!("MTU {mtu}, without {withheld:#x}");
        both_ways(&guest, &servers[..1], 10_000 * MB, 1)?;
        both_ways(&guest, &servers[1..], 1000 * MB, 100)?;
        hawser.assert_alive()?;
    }
    Ok(())
}

#[test]
#[ignore = "long: run by hack/test --long"]
fn ten_gigabytes_arrive_whole_at_every_mtu_with_and_without_segmentation() -> Result<()> {
    ten_gigabytes_arrive_whole_without(0)?;
    ten_gigabytes_arrive_whole_without(SEGMENTATION)
}

#[test]
#[ignore = "long: run by hack/test --long"]
fn ten_gigabytes_arrive_whole_without_mergeable_buffers() -> Result<()> {
    ten_gigabytes_arrive_whole_without(MRG_RXBUF)?;
    ten_gigabytes_arrive_whole_without(MRG_RXBUF | SEGMENTATION)
}
