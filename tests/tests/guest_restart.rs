//! Tests of the effects of a restart of hawser on a real guest and on the guest's peers.

use hawser_testkit::Result;
use hawser_testkit::guest::{Chardev, Kind, Plan};
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::address::{FAR4, POD4};
use hawser_testkit::pings::longest_gap;
use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

/// Longest acceptable gap. One lost request for the gateway's MAC would cost a second.
const GAP: Duration = Duration::from_millis(300);

#[test]
fn a_restart_costs_the_guest_no_lost_request_for_the_gateway() -> Result<()> {
    let lab = Lab::alone()?;
    let mut hawser = lab.hawser(&[])?;
    let guest = Plan {
        chardev: Chardev::Reconnects(10),
        ..Plan::new(Kind::Qemu, hawser.socket())
    }
    .boot()?;
    guest.net_up()?;
    let mut gaps = Vec::new();
    for _ in 0..3 {
        let beat = guest.start(&format!("ping -i 0.01 -c 400 -W 3 {FAR4}"), Duration::from_secs(60))?;
        std::thread::sleep(Duration::from_millis(1500));
        hawser.process().kill();
        hawser = lab.hawser(&[])?;
        let output = beat.wait(Duration::from_secs(60))?;
        gaps.push(longest_gap(&output.out, 0.01).unwrap_or(Duration::MAX));
    }
    gaps.sort();
    assert!(gaps[1] <= GAP, "gaps of {gaps:?}");
    Ok(())
}

#[test]
fn clients_of_the_guest_are_reset_when_hawser_ends() -> Result<()> {
    let lab = Lab::new()?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &["--port=8080:7000"])?;
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    let at = format!("{POD4}:8080");
    let client = lab.networks.world.inside(|| TcpStream::connect(&at))??;
    hawser.wait_for_counters("the client", |counters| counters.get("tcp_connections_in") == 1)?;
    hawser.process().signal(libc::SIGTERM)?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let waited = (&client).read(&mut [0]).map_err(|e| e.kind());
    // The end of the stream would call it complete.
    assert_eq!(waited, Err(ErrorKind::ConnectionReset), "{}", hawser.process().log());
    Ok(())
}
