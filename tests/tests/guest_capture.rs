//! Tests of `hawser capture` on a guest's port.

use hawser_testkit::guest::Kind;
use hawser_testkit::process::Background;
use hawser_testkit::segment::{HOST4, Segment};
use hawser_testkit::{Result, artifacts, failure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MAC: &str = "52:54:00:12:34:56";
const OWN: &str = "192.0.2.5";
const STOLEN: &str = "192.0.2.66";

/// The packets that tshark reads from a live or complete file: source, destination and comment of each.
fn read(file: &Path, filter: &str) -> Result<Vec<String>> {
    let output = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(file)
        .args(["-Y", filter, "-T", "fields"])
        .args([
            "-e",
            "ip.src",
            "-e",
            "ip.dst",
            "-e",
            "frame.comment",
            "-e",
            "frame.cap_len",
        ])
        .output()
        .map_err(|e| failure(format!("tshark (package tshark): {e}")))?;
    // The exit status reports that the last block is incomplete, but the output contains the others.
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

fn wait_for(file: &Path, filter: &str, count: usize) -> Result<Vec<String>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let packets = read(file, filter)?;
        if packets.len() >= count {
            return Ok(packets);
        }
        if Instant::now() > deadline {
            return Err(failure(format!("{} of {count} packets of {filter}", packets.len())));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_capture_shows_both_directions_and_why_frames_were_dropped() -> Result<()> {
    let segment = Segment::new(1500)?;
    segment.add_tap("tap0", "")?;
    let api = segment.path("api.sock");
    let options = [
        "--tap=tap0",
        &format!("--mac={MAC}"),
        &format!("--ip-spoof-check={OWN}"),
        &format!("--api-socket={}", api.display()),
    ];
    let mut hawser = segment.hawser("vm", &options)?;
    let guest = segment.guest(Kind::Uml, &hawser)?;
    guest.sh(&format!("ip addr add {OWN}/24 dev eth0"))?;
    guest.reaches(HOST4)?;

    let file = segment.path("seen.pcapng");
    let mut command = Command::new(artifacts::hawser()?);
    command.arg("capture").arg(format!("--api-socket={}", api.display()));
    command
        .args(["--filter=icmp", "--snap-length=60", "--write"])
        .arg(&file);
    let mut capture = Background::start(command, "hawser capture", segment.path("capture.log"))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !file.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    // The file exists once the capture runs.
    guest.sh(&format!("ping -c 3 -i 0.2 -W 2 -s 200 {HOST4}"))?;
    let seen = wait_for(&file, "icmp", 6)?;
    for (index, packet) in seen.iter().enumerate() {
        let (from, to) = if index % 2 == 0 { (OWN, HOST4) } else { (HOST4, OWN) };
        assert_eq!(*packet, format!("{from}\t{to}\t\t60"), "packet {index} of {seen:?}");
    }
    guest.sh(&format!("ip addr add {STOLEN}/32 dev eth0"))?;
    guest.run(&format!("ping -c 2 -i 0.2 -W 1 -I {STOLEN} {HOST4}"))?;
    let dropped = wait_for(&file, &format!("ip.src == {STOLEN}"), 2)?;
    assert!(
        dropped.iter().all(|packet| packet.contains("dropped: spoofed_address")),
        "{dropped:?}"
    );
    capture.signal(libc::SIGTERM)?;
    capture.wait(Duration::from_secs(5))?;
    // After the capture the port works as before, and another capture may start.
    guest.reaches(HOST4)?;
    hawser.assert_alive()
}
