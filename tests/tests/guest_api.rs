//! Tests of hawser's control API with a real guest.

use hawser_testkit::guest::{Guest, Kind};
use hawser_testkit::hawser::{Hawser, get};
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::address::{POD4, WORLD4};
use hawser_testkit::{Result, artifacts, failure, peers};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// Bytes of a transfer whose cost is measured.
const BULK: u64 = 400_000_000;
/// Number of clients that send requests continuously. It is greater than the number of threads that answer.
const HAMMERS: usize = 6;

/// Output of `hawser WORDS… --json` for the process on `socket`.
fn ask(socket: &Path, words: &[&str]) -> Result<Value> {
    let output = Command::new(artifacts::hawser()?)
        .args(words)
        .arg("--json")
        .arg(format!("--api-socket={}", socket.display()))
        .output()?;
    if !output.status.success() {
        return Err(failure(String::from_utf8_lossy(&output.stderr)));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn up() -> Result<(Lab, Hawser, Guest)> {
    let lab = Lab::new()?;
    let socket = format!("--api-socket={}", lab.path("api.sock").display());
    let (hawser, guest) = lab.up(Kind::Uml, &[&socket])?;
    guest.serve(&format!("[::]:{PORT}"))?;
    Ok((lab, hawser, guest))
}

#[test]
fn a_running_hawser_tells_its_guests_addresses_takes_forwards_and_rates_and_counts() -> Result<()> {
    let (mut lab, mut hawser, guest) = up()?;
    let api = lab.path("api.sock");
    let world = lab.serve_world(WORLD4)?;
    guest.traffic(&format!("send to={world} bytes=1000"))?;
    let nic = ask(&api, &["status"])?["interfaces"][0].clone();
    let mac = guest.sh("cat /sys/class/net/eth0/address")?;
    assert_eq!(nic["mac"], mac.trim(), "{nic}");
    assert_eq!(nic["ipAddress"], "10.0.2.2", "{nic}");
    let addresses = nic["ipAddresses"].as_array().cloned().unwrap_or_default();
    assert!(addresses.contains(&"fd10:0:2::2".into()), "{nic}");
    assert_eq!((&nic["linkState"], &nic["driver"]), (&"up".into(), &"running".into()));

    let forward = format!("tcp:8080:{PORT}");
    let refused = peers::traffic(&lab.networks.world, &format!("connect to={POD4}:8080 wait=3"))?;
    assert_eq!(refused["outcome"], "ConnectionRefused");
    ask(&api, &["forward", "add", &forward])?;
    peers::traffic(&lab.networks.world, &format!("send to={POD4}:8080 bytes=1000000"))?;
    ask(&api, &["forward", "remove", &forward])?;
    let refused = peers::traffic(&lab.networks.world, &format!("connect to={POD4}:8080 wait=3"))?;
    assert_eq!(refused["outcome"], "ConnectionRefused");

    // Sending 1.5 MB more than the burst takes 1.5 s at 8 Mbit/s.
    ask(&api, &["rate", "--rate-out=8M:128K"])?;
    let begun = Instant::now();
    guest.traffic(&format!("send to={world} bytes=1500000"))?;
    assert!(begun.elapsed().as_secs_f64() > 1.2, "{:?}", begun.elapsed());
    // Without a rate, nothing waits, however long the machine takes.
    ask(&api, &["rate", "--rate-out=off"])?;
    let throttled = hawser.counters()?.get("tx_throttled");
    guest.traffic(&format!("send to={world} bytes=1500000"))?;
    let counters = hawser.counters()?;
    assert!(throttled > 0, "{counters:?}");
    assert_eq!(counters.get("tx_throttled"), throttled);

    let metrics = get(&api, "/v1/metrics")?;
    let value = |series: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(-1.0)
    };
    let port = "{port=\"hawser\"}";
    assert!(
        value(&format!("hawser_port_tx_bytes_total{port}")) > 3_000_000.0,
        "{metrics}"
    );
    assert!(
        value(&format!("hawser_port_tx_throttled_total{port}")) > 0.0,
        "{metrics}"
    );
    assert!(
        (value(&format!("hawser_port_queue_pairs{port}")) - 1.0).abs() < 0.1,
        "{metrics}"
    );
    hawser.assert_alive()
}

#[test]
fn clients_that_hammer_the_api_harm_no_transfer_and_get_no_more_threads() -> Result<()> {
    let (mut lab, mut hawser, guest) = up()?;
    let api = lab.path("api.sock");
    let world = lab.serve_world(WORLD4)?;
    let threads = format!("/proc/{}/task", hawser.process().id());
    let (ending, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let hammer = |n: usize| {
        while !ending.load(Ordering::Relaxed) {
            // Half of them send invalid requests.
            let outcome = match n % 2 {
                0 => get(&api, if n == 0 { "/v1/metrics" } else { "/v1/status" }),
                _ => get(&api, "/\r\n\r\n\0garbage"),
            };
            answered.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
        }
    };
    let most_threads = thread::scope(|scope| -> Result<usize> {
        for n in 0..HAMMERS {
            let hammer = &hammer;
            scope.spawn(move || hammer(n));
        }
        let moved = guest.traffic(&format!("send to={world} bytes={BULK}"));
        let most = fs::read_dir(&threads).map(Iterator::count);
        ending.store(true, Ordering::Relaxed);
        moved?;
        Ok(most?)
    })?;
    let answered = answered.into_inner();
    assert!(answered > 10, "{answered}");
    assert!(most_threads < 12, "{most_threads}");
    hawser.assert_alive()
}
