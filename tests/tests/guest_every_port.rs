//! Tests of an interface without ports: every port of the pod is forwarded to a real guest.

use hawser_testkit::guest::{Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::lab::Lab;
use hawser_testkit::netns::address::{POD4, POD6, WORLD4, WORLD6};
use hawser_testkit::{Result, peers};
use std::path::Path;

/// A program of the pod that runs before hawser.
const EARLY: u16 = 9100;
/// Port at which Istio's proxy receives the pod's inbound traffic.
const ISTIO_INBOUND: u16 = 15006;
/// Memory that KubeVirt adds to a pod for passt, in KiB.
const PASST: u64 = 250 * 1024;

#[test]
fn every_port_of_the_pod_but_those_kept_reaches_the_guest() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.serve_pod(POD4, EARLY)?;
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/istio-every-port.yaml");
    let mut hawser = Hawser::run(&lab.networks.pod, &manifest, lab.folder(), &["default"])?;
    let kept = format!("tcp:{EARLY} udp:{EARLY} do not reach the guest");
    assert!(hawser.process().log().contains(&kept), "{}", hawser.process().log());
    // There are two sockets of the earlier program, two of the NodePort, and four for every port.
    let sockets = lab.networks.pod.run("ss -Hltun")?;
    assert_eq!(sockets.lines().count(), 2 + 2 + 4, "{sockets}");

    let guest = Plan::new(Kind::Uml, hawser.socket()).boot()?;
    guest.net_up()?;
    let ports = [22, 53, 60_000];
    let _servers = ports.map(|port| guest.serve(&format!("[::]:{port}")));
    lab.serve_pod(POD4, ISTIO_INBOUND)?;
    let world = &lab.networks.world;
    for (pod, client) in [
        (POD4.to_owned(), format!("::ffff:{WORLD4}")),
        (format!("[{POD6}]"), WORLD6.to_owned()),
    ] {
        for port in ports {
            let report = peers::traffic(world, &format!("peer to={pod}:{port}"))?;
            assert_eq!(report["seen_ip"], client, "port {port}: {report}");
            assert_eq!(report["seen_port"], report["local_port"], "port {port}: {report}");
            // A connected socket receives only answers from that port.
            peers::traffic(world, &format!("udp to={pod}:{port} sizes=1,1400,5000 count=2"))?;
        }
        peers::traffic(world, &format!("send to={pod}:60000 bytes=20000000 connections=2"))?;
        // The guest has no server there.
        peers::traffic(world, &format!("reset to={pod}:81 by=server"))?;
    }
    let report = peers::traffic(world, &format!("peer to={POD4}:30023"))?;
    assert_eq!(report["seen_ip"], format!("::ffff:{WORLD4}"), "{report}");
    // The pod's own servers use IPv4 only, and report the address in that form.
    for port in [EARLY, ISTIO_INBOUND] {
        let report = peers::traffic(world, &format!("peer to={POD4}:{port}"))?;
        assert_eq!(report["seen_ip"], WORLD4, "port {port}: {report}");
    }
    // Istio's proxy forwards its connections in this way.
    for (from, to) in [("127.0.0.6", POD4), ("127.0.0.1", "127.0.0.1")] {
        let report = peers::traffic(&lab.networks.pod, &format!("peer to={to}:22 from={from}"))?;
        assert_eq!(report["seen_ip"], "::ffff:10.0.2.1", "{from}: {report}");
    }
    // Connections of the guest are not affected.
    let at = lab.serve_world(WORLD4)?;
    guest.traffic(&format!("udp to={at} sizes=1,1400 count=2"))?;
    guest.traffic(&format!("send to={at} bytes=1000000"))?;
    let own = hawser.process().resident_kib()? - hawser.process().shared_kib()?;
    println!("resident memory with every port: {own} KiB");
    assert!(own < PASST / 10, "{own} KiB");
    drop(guest);
    hawser.stop()?;
    // The lookup program ends with the process.
    let report = peers::traffic(&lab.networks.world, &format!("connect to={POD4}:22 wait=3"))?;
    assert_eq!(report["outcome"], "ConnectionRefused", "{report}");
    Ok(())
}
