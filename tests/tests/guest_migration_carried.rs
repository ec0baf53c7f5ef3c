//! Tests of connections that go on when a real guest migrates to a hawser with another address, by QEMU. The two processes
//! carry the connections' bytes.

use hawser_testkit::certificates::certify;
use hawser_testkit::hawser::Hawser;
use hawser_testkit::migrating::{Client, Setting, channels, plan};
use hawser_testkit::nodes::Nodes;
use hawser_testkit::{Result, peers, until};
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// Number of clients from outside that stay connected.
const CLIENTS: usize = 100;

#[test]
fn connections_go_on_although_the_address_of_the_pod_changes() -> Result<()> {
    let mut setting = Setting::new(&[])?;
    let mut guest = setting.boot()?;
    let world = setting.world;
    let mut clients = (0..CLIENTS).map(|_| setting.client()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.exchange("before")?;
    }
    let streams = [
        guest.traffic_lasting(&format!("rounds to={world} bytes=700"))?,
        guest.traffic_lasting(&format!("send to={world}"))?,
        guest.traffic_lasting(&format!("receive to={world}"))?,
    ];
    assert_eq!(setting.prepare()?["phase"], "ready");

    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    for stream in &streams {
        stream.assert_lasts()?;
    }
    for client in &mut clients {
        client.exchange("after")?;
    }
    let status = setting.migrate("source", &["status"])?;
    assert_eq!(status["phase"], "anchored", "{status}");
    assert_eq!(status["reset"], 0, "{status}");
    // Half of a connection ends, then the other half.
    let Some(Client(mut half)) = clients.pop() else {
        return Ok(());
    };
    half.shutdown(std::net::Shutdown::Write)?;
    assert_eq!(half.read(&mut [0])?, 0);
    // New connections have the new address.
    let seen = guest.traffic(&format!("peer to={world}"))?;
    assert!(seen.to_string().contains(&Nodes::vtep4(1)), "{seen}");
    peers::traffic(
        &setting.nodes.world,
        &format!("send to={}:8080 bytes=10000", Nodes::vtep4(1)),
    )?;
    for stream in &streams {
        stream.end(&guest)?;
    }
    let counters = setting.source.counters()?;
    assert!(counters.get("flows_left") >= CLIENTS as u64 + 3, "{counters:?}");
    assert_eq!(counters.get("flows_left"), setting.target.counters()?.get("flows_came"));
    // The rest is reset when the source ends.
    setting.source.process().signal(libc::SIGTERM)?;
    for Client(client) in &mut clients {
        assert_eq!(
            client.read(&mut [0]).map_err(|e| e.kind()),
            Err(ErrorKind::ConnectionReset)
        );
    }
    until("the guest has no connection left", || {
        Ok(setting.target.counters()?.get("tcp_flows") == 0
            || !guest.sh("ss -Htn state established")?.contains(":7000"))
    })?;
    setting.target.stop()
}

#[test]
fn a_cancelled_migration_leaves_the_connections_at_the_source() -> Result<()> {
    let setting = Setting::new(&[])?;
    let mut guest = setting.boot()?;
    let mut client = setting.client()?;
    let rounds = guest.traffic_lasting(&format!("rounds to={} bytes=700", setting.world))?;
    setting.prepare()?;
    // The guest is stopped, and goes on in the source.
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.pause_before_switchover()?;
    guest.begin_migration(&incoming)?;
    guest.monitor()?.wait_for_migration("pre-switchover")?;
    until("the source has stopped", || {
        Ok(setting.migrate("source", &["status"])?["phase"] == "stopped")
    })?;
    guest.cancel_migration()?;
    drop(incoming);
    client.exchange("after")?;
    assert_eq!(setting.migrate("source", &["status"])?["phase"], "ready");
    // The next attempt succeeds.
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    client.exchange("there")?;
    rounds.end(&guest)?;
    setting.migrate("source", &["abort"])?;
    assert_eq!(
        client.0.read(&mut [0]).map_err(|e| e.kind()),
        Err(ErrorKind::ConnectionReset)
    );
    Ok(())
}

#[test]
fn a_target_that_is_killed_leaves_the_connections_at_the_source() -> Result<()> {
    let mut setting = Setting::new(&[])?;
    let mut guest = setting.boot()?;
    let mut client = setting.client()?;
    setting.prepare()?;
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.pause_before_switchover()?;
    guest.begin_migration(&incoming)?;
    guest.monitor()?.wait_for_migration("pre-switchover")?;
    setting.target.process().kill();
    guest.cancel_migration()?;
    drop(incoming);
    client.exchange("after")?;
    let status = setting.migrate("source", &["status"])?;
    assert_eq!(status["phase"], "ended", "{status}");
    setting.source.assert_alive()
}

#[test]
fn the_channel_crosses_nodes_only_between_those_with_certificates() -> Result<()> {
    let setting = Setting::new(&[])?;
    for name in ["node", "stranger"] {
        certify(setting.nodes.path("").as_path(), name, &Nodes::vtep4(1))?;
    }
    let path = |name: &str| setting.nodes.path(name).display().to_string();
    let far = setting.carry_to_target("node")?;
    let near = |name: &str, socket: &str| setting.carry_from_source(name, socket);
    let prepare = |socket: &str| setting.migrate("source", &["prepare", &format!("--to={}", path(socket))]);

    let stranger = near("stranger", "stranger.sock")?;
    let refused = prepare("stranger.sock");
    assert!(refused.is_err(), "{refused:?}");
    drop(stranger);
    until("the refusal is logged", || {
        Ok(far.log().contains("has shown no certificate of --ca"))
    })?;
    let nobody = setting.migrate("target", &["status"])?;
    assert!(nobody.is_null(), "a stranger reached the target: {nobody}");

    let _near = near("node", "departures.sock")?;
    assert_eq!(prepare("departures.sock")?["phase"], "ready");
    let mut guest = setting.boot()?;
    let mut client = setting.client()?;
    client.exchange("before")?;
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    client.exchange("after")?;
    let status = setting.migrate("target", &["status"])?;
    assert_eq!(
        (&status["phase"], &status["carried"]),
        (&"anchored".into(), &1.into()),
        "{status}"
    );
    Ok(())
}

#[test]
fn a_process_that_serves_another_nic_is_refused_by_name() -> Result<()> {
    let setting = Setting::new(&["--mac=52:54:00:00:00:99"])?;
    let refused = setting.prepare().map_err(|e| e.to_string());
    assert!(
        refused
            .as_ref()
            .is_err_and(|why| why.contains("the MAC of the NIC is ")),
        "{refused:?}"
    );
    setting.source.stop()?;
    setting.target.stop()
}

#[test]
fn a_guest_that_migrates_again_keeps_its_connections_as_long_as_all_processes_carry_them() -> Result<()> {
    let setting = Setting::on(Nodes::new(3, 1500)?, &[])?;
    let path = |name: &str| setting.nodes.path(name).display().to_string();
    let options = [
        format!("--api-socket={}", path("third-api.sock")),
        format!("--migration-socket={}", path("third-arrivals.sock")),
    ];
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let third = Hawser::start(&setting.nodes.nodes[2], &setting.nodes.path("third.sock"), &options)?;
    let mut guest = setting.boot()?;
    let mut clients = (0..CLIENTS).map(|_| setting.client()).collect::<Result<Vec<_>>>()?;
    let streams = [
        guest.traffic_lasting(&format!("rounds to={} bytes=700", setting.world))?,
        guest.traffic_lasting(&format!("send to={}", setting.world))?,
        guest.traffic_lasting(&format!("receive to={}", setting.world))?,
    ];
    setting.prepare()?;
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    for client in &mut clients {
        client.exchange("in the second")?;
    }
    // A connection that begins in the second process is anchored there.
    let begun = guest.traffic_lasting(&format!("rounds to={} bytes=90", setting.world))?;

    // The guest is stopped in the second process while the first one still sends.
    setting.migrate("target", &["prepare", &format!("--to={}", path("third-arrivals.sock"))])?;
    let incoming = plan(third.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    for client in &mut clients {
        client.exchange("in the third")?;
    }
    begun.assert_lasts()?;
    begun.end(&guest)?;
    for stream in &streams {
        stream.assert_lasts()?;
        stream.end(&guest)?;
    }
    let seen = guest.traffic(&format!("peer to={}", setting.world))?;
    assert!(seen.to_string().contains(&Nodes::vtep4(2)), "{seen}");
    // What ends at one end, ends at the other.
    let Some(Client(mut half)) = clients.pop() else {
        return Ok(());
    };
    half.shutdown(std::net::Shutdown::Write)?;
    assert_eq!(half.read(&mut [0])?, 0);
    // The first process bounds it all.
    setting.migrate("source", &["abort"])?;
    for Client(client) in &mut clients {
        assert_eq!(
            client.read(&mut [0]).map_err(|e| e.kind()),
            Err(ErrorKind::ConnectionReset)
        );
    }
    until("the guest has no connection left", || {
        Ok(!guest.sh("ss -Htn state established")?.contains(":7000"))
    })?;
    until("no channel carries anything", || {
        let all =
            ["target", "third"].map(|name| channels(&setting.nodes.path(&format!("{name}-api.sock")), &["status"]));
        let [second, third] = all;
        Ok(second?.iter().chain(&third?).all(|one| one["carried"] == 0))
    })?;
    third.stop()
}

/// A file system without room.
struct FullDisk(TempDir);

impl FullDisk {
    fn new() -> Result<Self> {
        let at = tempfile::Builder::new().prefix("hawser-full-").tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "full"])
            .arg(at.path())
            .status()?;
        assert!(mounted.success(), "{mounted}");
        Ok(Self(at))
    }

    /// An empty file on it.
    fn file(&self, name: &str) -> Result<PathBuf> {
        let file = self.0.path().join(name);
        fs::write(&file, "")?;
        Ok(file)
    }

    /// Takes all room.
    fn fill(&self) -> Result<()> {
        let written = fs::write(self.0.path().join("everything"), vec![0; 1 << 20]);
        assert!(written.is_err_and(|error| error.kind() == ErrorKind::StorageFull));
        Ok(())
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        // The folder is removed with its contents otherwise.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_guest_migrates_with_its_connections_although_nothing_can_be_written_to_the_disks() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let disk = FullDisk::new()?;
    for log in ["source.log", "target.log"] {
        std::os::unix::fs::symlink(disk.file(log)?, nodes.path(log))?;
    }
    let events = format!("--event-log={}", disk.file("events.json")?.display());
    disk.fill()?;
    let mut setting = Setting::on(nodes, &[&events])?;
    let mut guest = setting.boot()?;
    let mut client = setting.client()?;
    client.exchange("before")?;
    assert_eq!(setting.prepare()?["phase"], "ready");
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    client.exchange("after")?;
    assert_eq!(setting.migrate("source", &["status"])?["phase"], "anchored");
    setting.source.assert_alive()?;
    setting.target.assert_alive()
}

#[test]
#[ignore = "long: run by hack/test --long"]
fn a_thousand_silent_connections_and_ten_busy_ones_go_on_although_the_address_changes() -> Result<()> {
    const SILENT: usize = 1000;
    const BUSY: usize = 10;
    let setting = Setting::new(&[])?;
    let mut guest = setting.boot()?;
    let mut clients = (0..SILENT).map(|_| setting.client()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.exchange("before")?;
    }
    // Every byte of them is compared, half of them in each direction.
    let busy = |number: usize| {
        let command = if number.is_multiple_of(2) { "send" } else { "receive" };
        guest.traffic_lasting(&format!("{command} to={} seed={number}", setting.world))
    };
    let streams = (0..BUSY).map(busy).collect::<Result<Vec<_>>>()?;
    setting.prepare()?;
    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    let carried = || setting.migrate("source", &["status"]);
    until(
        "the channel carries them",
        || Ok(carried()?["carried"] == SILENT + BUSY),
    )?;
    assert_eq!(carried()?["reset"], 0);
    for stream in &streams {
        stream.assert_lasts()?;
        stream.end(&guest)?;
    }
    for client in &mut clients {
        client.exchange("after")?;
    }
    Ok(())
}
