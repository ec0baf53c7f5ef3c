//! Tests with real guests of front ends that connect, disconnect and reconnect, and of a hostile front end.

use hawser_testkit::frontend::{Buffer, Vmm, VmmConfig};
use hawser_testkit::guest::{Chardev, Guest, Kind, Plan};
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::address::{FAR4, POD4};
use hawser_testkit::{Result, peers};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Connects from the guest to the outside, and from the outside to the guest.
fn assert_reachable(lab: &Lab, guest: &Guest) -> Result<()> {
    guest.traffic(&format!("send to={FAR4}:{PORT} bytes=5000000"))?;
    guest.traffic(&format!("receive to={FAR4}:{PORT} bytes=5000000"))?;
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    peers::traffic(&lab.networks.world, &format!("send to={POD4}:8080 bytes=5000000"))?;
    Ok(())
}

#[test]
fn a_new_guest_takes_the_place_of_one_whose_power_was_cut() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.serve_world(FAR4)?;
    let mut hawser = lab.hawser(&["--port=8080:7000"])?;
    for kind in [Kind::Uml, Kind::Qemu, Kind::Uml] {
        let mut guest = lab.guest(kind, &hawser)?;
        assert_reachable(&lab, &guest)?;
        // The guest is lost in the middle of a transfer.
        let running = guest.start(
            &format!("hawser-traffic send to={FAR4}:{PORT} bytes=100000000000"),
            Duration::from_secs(60),
        )?;
        std::thread::sleep(Duration::from_millis(300));
        assert!(running.poll().is_none(), "the transfer ended early");
        guest.kill_machine();
        hawser.wait_for_counters("the guest's leaving", |_| true)?;
        hawser.assert_alive()?;
    }
    assert_eq!(hawser.counters()?.get("dhcp4_leases"), 3);
    hawser.stop()
}

#[test]
fn an_idle_client_is_reset_when_the_guest_reboots() -> Result<()> {
    let lab = Lab::new()?;
    let mut hawser = lab.hawser(&["--port=8080:7000"])?;
    // The guest reboots inside QEMU, so the front end stays connected.
    let mut guest = Plan {
        arguments: vec!["-action".into(), "reboot=reset".into()],
        ..Plan::new(Kind::Qemu, hawser.socket())
    }
    .boot()?;
    guest.net_up()?;
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    let at = format!("{POD4}:8080");
    let client = lab.networks.world.inside(|| TcpStream::connect(&at))??;
    hawser.wait_for_counters("the client", |counters| counters.get("tcp_connections_in") == 1)?;
    let _gone = guest.start("sleep 1; echo b >/proc/sysrq-trigger", Duration::from_secs(60))?;
    std::thread::sleep(Duration::from_secs(3));
    guest.wait_for_boot()?;
    guest.net_up()?;
    // The interval to the next probe is at most the time between driver and address.
    client.set_read_timeout(Some(Duration::from_secs(40)))?;
    let waited = (&client).read(&mut [0]).map_err(|e| e.kind());
    assert_eq!(waited, Err(ErrorKind::ConnectionReset), "{}", hawser.process().log());
    assert_eq!(hawser.counters()?.get("tcp_resets"), 1);
    // The same process accepts the next connection.
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    peers::traffic(&lab.networks.world, &format!("send to={at} bytes=5000"))?;
    hawser.assert_alive()
}

#[test]
fn one_off_ends_well_with_its_guest() -> Result<()> {
    let lab = Lab::new()?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &["--one-off"])?;
    drop(guest);
    let status = hawser.process().wait(Duration::from_secs(10))?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn qemu_reconnects_to_a_restarted_hawser_and_the_guest_continues() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.serve_world(FAR4)?;
    let mut hawser = lab.hawser(&["--port=8080:7000"])?;
    let guest = Plan {
        chardev: Chardev::Reconnects(100),
        ..Plan::new(Kind::Qemu, hawser.socket())
    }
    .boot()?;
    guest.net_up()?;
    assert_reachable(&lab, &guest)?;
    hawser.process().kill();
    let mut hawser = lab.hawser(&["--port=8080:7000"])?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while guest.run(&format!("ping -c 1 -W 1 {FAR4}"))?.status != Some(0) {
        assert!(
            Instant::now() < deadline,
            "the guest did not come back: {}",
            hawser.process().log()
        );
    }
    guest.traffic(&format!("send to={FAR4}:{PORT} bytes=5000000"))?;
    guest.traffic(&format!("receive to={FAR4}:{PORT} bytes=5000000"))?;
    hawser.assert_alive()
}

#[test]
fn qemu_may_listen_and_hawser_connect() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.serve_world(FAR4)?;
    let socket = lab.path("vm.sock");
    let plan = Plan {
        chardev: Chardev::Listens,
        ..Plan::new(Kind::Qemu, &socket)
    };
    let mut guest = plan.start()?;
    guest.process().wait_for_socket(&socket, Duration::from_secs(10))?;
    let mut hawser = lab.hawser_named("vm", &["--connect", "--port=8080:7000"])?;
    guest.wait_for_boot()?;
    guest.net_up()?;
    assert_reachable(&lab, &guest)?;
    hawser.assert_alive()
}

/// Breaks the transmit ring in one of several ways.
fn attack(vmm: &mut Vmm, way: u32) -> Result<()> {
    let ring = &mut vmm.nics[0].transmit;
    let wild = Buffer {
        at: 0xdead_0000_0000,
        len: 4096,
        writable: false,
    };
    let nearly = Buffer {
        at: u64::MAX - 16,
        ..wild
    };
    let long = Buffer {
        at: 0,
        len: u32::MAX,
        ..wild
    };
    match way {
        0 => drop(ring.add(&[wild])),
        1 => drop(ring.add(&[nearly])),
        2 => drop(ring.add(&[long])),
        // A chain with a loop is posted.
        3 => {
            ring.set_descriptor(
                0,
                Buffer {
                    at: 0x1000,
                    len: 64,
                    ..wild
                },
                1,
                0,
            );
            ring.offer(0);
        }
        // A head outside the ring is posted.
        4 => ring.offer(u16::MAX),
        // More entries than the ring has are announced.
        _ => ring.set_avail_idx(u16::MAX),
    }
    Ok(ring.publish_and_kick()?)
}

#[test]
fn a_hostile_guest_harms_neither_its_process_nor_another_s_guest() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.serve_world(FAR4)?;
    let mut attacked = lab.hawser_named("attacked", &[])?;
    let (mut hawser, guest) = lab.up(Kind::Uml, &[])?;
    let bulk = guest.start(
        &format!("hawser-traffic send to={FAR4}:{PORT} bytes=2000000000"),
        Duration::from_secs(120),
    )?;

    let connect = |socket: &std::path::Path| -> Result<Vmm> {
        let mut vmm = Vmm::connect(UnixStream::connect(socket)?, VmmConfig::default())?;
        vmm.post_all()?;
        Ok(vmm)
    };
    let round = |attacked: &mut hawser_testkit::hawser::Hawser, n: u32| -> Result<()> {
        let mut vmm = connect(attacked.socket())?;
        attack(&mut vmm, n % 6)?;
        std::thread::sleep(Duration::from_millis(5));
        attacked.assert_alive()
    };
    for n in 0..12 {
        round(&mut attacked, n)?;
    }
    let before = attacked.process().resident_kib()?;
    for n in 0..300 {
        round(&mut attacked, n)?;
    }
    let after = attacked.process().resident_kib()?;
    assert!(
        after < before + 4096,
        "resident memory grew from {before} to {after} KiB"
    );
    assert!(
        attacked.counters()?.dropped("broken_ring") >= 100,
        "{:?}",
        attacked.counters()?
    );

    let output = bulk.wait(Duration::from_secs(150))?;
    assert_eq!(output.status, Some(0), "{output:?}");
    hawser.assert_alive()?;
    // The attacked process still serves a well-behaved guest.
    drop(guest);
    let honest = lab.guest(Kind::Uml, &attacked)?;
    honest.traffic(&format!("send to={FAR4}:{PORT} bytes=5000000"))?;
    Ok(())
}
