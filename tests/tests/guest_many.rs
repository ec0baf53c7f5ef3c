//! Tests with many hosts, ports and endpoints at once: scanners, monitoring and careless programs in a real guest must
//! not cut off its other programs from the network.

use hawser_testkit::guest::Kind;
use hawser_testkit::hawser::Hawser;
use hawser_testkit::lab::Lab;
use hawser_testkit::netns::Namespace;
use hawser_testkit::netns::address::{FAR4, FAR6, WORLD4, WORLD6};
use hawser_testkit::{Result, until};
use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

/// Limit on descriptors for tests that need a small table. The table has the same number of connections, a quarter of
/// which may be opening. A burst of the guest's ring is smaller than that.
const DESCRIPTORS: u32 = 1600;

fn descriptors(hawser: &mut Hawser) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", hawser.process().id()))?.count())
}

#[test]
fn hosts_asked_at_once_with_one_ping_identifier_answer_each_for_itself() -> Result<()> {
    let lab = Lab::new()?;
    // The world answers for every address of these networks.
    lab.networks.world.run("ip route add local 198.18.0.0/16 dev lo")?;
    lab.networks
        .world
        .run("ip -6 route add local 2001:db8:18::/64 dev lo")?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &[])?;
    for first in ["198.18.0.1", "2001:db8:18::1"] {
        let report = guest.traffic(&format!("sweep to={first} hosts=1000"))?;
        assert_eq!(
            (&report["answered"], &report["wrong"]),
            (&1000.into(), &0.into()),
            "{report}"
        );
    }
    assert_eq!(hawser.counters()?.dropped("echo_no_flow"), 0);
    hawser.assert_alive()
}

#[test]
fn a_scan_of_silent_ports_stops_no_new_connection() -> Result<()> {
    const SCANNED: u64 = 3500;
    let mut lab = Lab::new()?;
    let server = lab.serve_world(FAR4)?;
    lab.networks.world.run("ip route add blackhole 198.51.100.77/32")?;
    let mut hawser = lab.hawser_with_descriptors(DESCRIPTORS, &[])?;
    let guest = lab.guest(Kind::Uml, &hawser)?;
    let scan = format!("hawser-traffic scan to=198.51.100.77:1000 ports={SCANNED}");
    let scan = guest.start(&scan, Duration::from_secs(60))?;
    let enough = SCANNED - u64::from(DESCRIPTORS);
    hawser.wait_for_counters("the scan", |c| c.dropped("tcp_opening_evicted") >= enough)?;
    // The guest opens one connection after another while the scanner's SYNs are retransmitted.
    for _ in 0..20 {
        let report = guest.traffic(&format!("connect to={server} wait=10"))?;
        assert_eq!(report["outcome"], "connected", "{report}");
        // Not even its first SYN is lost.
        assert!(report["seconds"].as_f64() < Some(0.9), "{report}");
    }
    assert_eq!(hawser.counters()?.dropped("flow_limit"), 0);
    guest.kill(&scan)?;
    hawser.assert_alive()
}

/// A server that never closes its connections.
fn keeping_server(lab: &Lab) -> Result<String> {
    let listener = lab.networks.world.inside(|| TcpListener::bind((FAR4, 0)))??;
    let at = listener.local_addr()?.to_string();
    thread::spawn(move || {
        let kept: Vec<_> = listener.incoming().collect();
        drop(kept);
    });
    Ok(at)
}

#[test]
fn connections_a_server_never_closes_give_way_when_descriptors_run_out() -> Result<()> {
    const FEW: u32 = 300;
    let lab = Lab::new()?;
    let server = keeping_server(&lab)?;
    let mut hawser = lab.hawser_with_descriptors(FEW, &[])?;
    let guest = lab.guest(Kind::Uml, &hawser)?;
    // Each client ends immediately, so that its connection is half closed.
    let clients = 2 * FEW;
    guest.sh(&format!(
        "for n in $(seq {clients}); do hawser-traffic connect to={server} wait=10; done | grep -c connected >/run/made; \
         [ $(cat /run/made) = {clients} ] || {{ cat /run/made; exit 1; }}"
    ))?;
    let counters = hawser.counters()?;
    let evicted = counters.dropped("tcp_half_closed_evicted");
    assert!(evicted >= u64::from(clients - FEW), "{counters:?}");
    hawser.assert_alive()
}

#[test]
#[ignore = "long: run by hack/test --long"]
fn connections_a_server_never_closes_give_their_descriptors_back() -> Result<()> {
    const CLIENTS: usize = 100;
    let lab = Lab::new()?;
    let server = keeping_server(&lab)?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &[])?;
    let before = descriptors(&mut hawser)?;
    guest.sh(&format!(
        "for n in $(seq {CLIENTS}); do hawser-traffic connect to={server}; done"
    ))?;
    assert!(descriptors(&mut hawser)? >= before + CLIENTS);
    // The guest is probed after 75 s, and its kernel has dropped the connections after 60 s.
    let begun = Instant::now();
    while descriptors(&mut hawser)? > before + 2 {
        assert!(
            begun.elapsed() < Duration::from_secs(150),
            "{} descriptors",
            descriptors(&mut hawser)?
        );
        thread::sleep(Duration::from_secs(1));
    }
    hawser.assert_alive()
}

#[test]
fn a_source_port_below_1024_is_kept_if_the_host_lets_all_users_bind_it() -> Result<()> {
    for (start, kept) in [("0", true), ("1024", false)] {
        let mut lab = Lab::new()?;
        let servers = [lab.serve_world(FAR4)?, lab.serve_world(FAR6)?];
        lab.networks.pod.sysctl("net/ipv4/ip_unprivileged_port_start", start)?;
        let (_hawser, guest) = lab.up(Kind::Uml, &[])?;
        for server in servers {
            let report = guest.traffic(&format!("peer to={server} port=700"))?;
            assert_eq!(report["seen_port"] == 700, kept, "{server}, from {start}: {report}");
            // The port is neither privileged nor in the kernel's range.
            let report = guest.traffic(&format!("peer to={server} port=20700"))?;
            assert_eq!(report["seen_port"], 20700, "{server}: {report}");
        }
    }
    Ok(())
}

#[test]
fn a_syn_ends_at_the_router_its_ttl_ends_at_which_tells_the_guest() -> Result<()> {
    let (beyond4, beyond6) = ("198.51.100.20", "2001:db8:20::20");
    let lab = Lab::new()?;
    // This namespace is one router hop further away than the world itself.
    let beyond = Namespace::new()?;
    let world = &lab.networks.world;
    world.run(&format!(
        "ip link add far0 type veth peer name eth0 netns {}",
        beyond.path()
    ))?;
    for line in [
        "ip addr add 198.51.100.1/24 dev far0",
        "ip -6 addr add 2001:db8:20::1/64 dev far0 nodad",
        "ip link set far0 up",
    ] {
        world.run(line)?;
    }
    for line in [
        &format!("ip addr add {beyond4}/24 dev eth0"),
        &format!("ip -6 addr add {beyond6}/64 dev eth0 nodad"),
        "ip link set eth0 up",
        "ip route add default via 198.51.100.1",
        "ip -6 route add default via 2001:db8:20::1",
    ] {
        beyond.run(line)?;
    }
    let _listeners = [beyond4, beyond6]
        .map(|at| beyond.inside(|| TcpListener::bind((at, 80))))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &[])?;
    for (to, router, says) in [
        (format!("{beyond4}:80"), WORLD4, "icmp and icmp[0] == 11"),
        (format!("[{beyond6}]:80"), WORLD6, "icmp6 and ip6[40] == 3"),
    ] {
        // The kernel limits how often a router answers, and one that does not know the return path yet answers a later SYN.
        let mut heard = String::new();
        for _ in 0..3 {
            let ear = guest.start(
                &format!("tcpdump -Z root --immediate-mode -nn -c 1 -i eth0 '{says}' 2>/run/ear"),
                Duration::from_secs(40),
            )?;
            until("tcpdump listens", || {
                Ok(guest.run("grep -q listening /run/ear")?.status == Some(0))
            })?;
            let report = guest.traffic(&format!("connect to={to} ttl=1 wait=15"))?;
            assert_ne!(report["outcome"], "connected", "{to}: {report}");
            heard = ear.wait(Duration::from_secs(45))?.out;
            if !heard.is_empty() {
                break;
            }
        }
        assert!(heard.contains(&format!("{router} > ")), "{to}: {heard:?}");
        let report = guest.traffic(&format!("connect to={to} ttl=2 wait=10"))?;
        assert_eq!(report["outcome"], "connected", "{to}: {report}");
    }
    hawser.assert_alive()
}
