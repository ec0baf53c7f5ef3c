//! Tests of connections that go on when a real guest migrates to a hawser with another address, by QEMU. The two processes
//! carry the connections' bytes.

use hawser_testkit::certificates::certify;
use hawser_testkit::guest::{Guest, Kind, Plan, Running};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::nodes::{Nodes, PORT, WORLD4};
use hawser_testkit::process::Background;
use hawser_testkit::{Result, artifacts, failure, peers, until};
use serde_json::Value;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const FORWARD: &str = "--port=8080:7000";
/// Longest wait for bytes or a reset.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time that the streams of a test should last, so that a migration lies within.
const LASTS: f64 = 20.0;
/// Number of clients from outside that stay connected.
const CLIENTS: usize = 100;

/// Two nodes, each with a process, and a world.
struct Setting {
    nodes: Nodes,
    world: SocketAddr,
    source: Hawser,
    target: Hawser,
}

fn plan(socket: &Path) -> Plan {
    Plan {
        memory_mib: 256,
        ..Plan::new(Kind::Qemu, socket)
    }
}

impl Setting {
    fn new(of_target: &[&str]) -> Result<Self> {
        let mut nodes = Nodes::new(2, 1500)?;
        let world = nodes.serve_world(WORLD4)?;
        let path = |name: &str| nodes.path(name).display().to_string();
        let api = format!("--api-socket={}", path("source-api.sock"));
        let source = Hawser::start(&nodes.nodes[0], &nodes.path("source.sock"), &[FORWARD, &api])?;
        let api = format!("--api-socket={}", path("target-api.sock"));
        let arrivals = format!("--migration-socket={}", path("arrivals.sock"));
        let arguments = [&[FORWARD, &api, &arrivals], of_target].concat();
        let target = Hawser::start(&nodes.nodes[1], &nodes.path("target.sock"), &arguments)?;
        Ok(Self {
            nodes,
            world,
            source,
            target,
        })
    }

    fn boot(&self) -> Result<Guest> {
        let guest = plan(self.source.socket()).boot_to_migrate()?;
        guest.net_up()?;
        guest.serve(&format!("0.0.0.0:{PORT}"))?;
        Ok(guest)
    }

    /// The first channel in the output of `hawser migrate WORDS…` for the process of this name.
    fn migrate(&self, of: &str, words: &[&str]) -> Result<Value> {
        let api = self.nodes.path(&format!("{of}-api.sock"));
        let output = Command::new(artifacts::hawser()?)
            .arg("migrate")
            .args(words)
            .args(["--json", &format!("--api-socket={}", api.display())])
            .output()?;
        if !output.status.success() {
            return Err(failure(String::from_utf8_lossy(&output.stderr)));
        }
        let mut answer: Value = serde_json::from_slice(&output.stdout)?;
        let first = answer["channels"].get_mut(0);
        Ok(first.map(Value::take).unwrap_or_default())
    }

    fn prepare(&self) -> Result<Value> {
        let to = format!("--to={}", self.nodes.path("arrivals.sock").display());
        self.migrate("source", &["prepare", &to])
    }

    /// A client of the guest's server, from the world.
    fn client(&self) -> Result<Client> {
        let at = format!("{}:8080", Nodes::vtep4(0));
        let mut stream = self.nodes.world.inside(|| TcpStream::connect(&at))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"{\"do\":\"echo\"}\n")?;
        Ok(Client(stream))
    }
}

/// A connection on which the guest sends everything back.
struct Client(TcpStream);

impl Client {
    fn exchange(&mut self, text: &str) -> Result<()> {
        self.0.write_all(text.as_bytes())?;
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back)?;
        assert_eq!(back, text.as_bytes());
        Ok(())
    }
}

/// Starts a stream of the guest that lasts about [`LASTS`] seconds: `command` with `count` and a number that is
/// proportional to the time it takes.
fn start_long(guest: &Guest, command: &str, count: &str, trial: f64) -> Result<Running> {
    let begun = std::time::Instant::now();
    guest.traffic(&format!("{command} {count}={trial}"))?;
    let number = (trial * LASTS / begun.elapsed().as_secs_f64()).ceil();
    guest.start(
        &format!("hawser-traffic {command} {count}={number}"),
        Duration::from_secs(300),
    )
}

fn assert_whole(running: &Running) -> Result<()> {
    let output = running.wait(Duration::from_secs(300))?;
    assert_eq!(output.status, Some(0), "{} {}", output.out, output.err);
    Ok(())
}

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
        start_long(&guest, &format!("rounds to={world} bytes=700"), "count", 200.0)?,
        start_long(&guest, &format!("send to={world}"), "bytes", 2_000_000.0)?,
        start_long(&guest, &format!("receive to={world}"), "bytes", 2_000_000.0)?,
    ];
    assert_eq!(setting.prepare()?["phase"], "ready");

    let incoming = plan(setting.target.socket()).incoming(&guest)?;
    guest.migrate(incoming)?;
    for stream in &streams {
        assert!(stream.poll().is_none(), "a stream ended before the migration");
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
        assert_whole(stream)?;
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
    let rounds = start_long(
        &guest,
        &format!("rounds to={} bytes=700", setting.world),
        "count",
        200.0,
    )?;
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
    assert_whole(&rounds)?;
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

/// Starts `hawser-agent carry` on a node, with the certificate `name`, for peers of the authority of `node`.
fn carry(setting: &Setting, node: usize, name: &str, arguments: &[String]) -> Result<Background> {
    let file = |file: String| setting.nodes.path(&file).display().to_string();
    let mut command = setting.nodes.nodes[node].command(artifacts::agent()?);
    command.arg("carry").args(arguments);
    command.arg(format!("--ca={}", file("node-ca.pem".to_owned())));
    command.arg(format!("--cert={}", file(format!("{name}.pem"))));
    command.arg(format!("--key={}", file(format!("{name}.key"))));
    let log = setting.nodes.path(&format!("carry-{node}-{name}.log"));
    let mut process = Background::start(command, "hawser-agent carry", log)?;
    process.wait_until("carrying", PATIENCE, |log| log.contains("carrying migrations"))?;
    Ok(process)
}

#[test]
fn the_channel_crosses_nodes_only_between_those_with_certificates() -> Result<()> {
    let setting = Setting::new(&[])?;
    for name in ["node", "stranger"] {
        certify(setting.nodes.path("").as_path(), name, &Nodes::vtep4(1))?;
    }
    let path = |name: &str| setting.nodes.path(name).display().to_string();
    let at = format!("{}:7900", Nodes::vtep4(1));
    let listen = [format!("--listen={at}"), format!("--to={}", path("arrivals.sock"))];
    let far = carry(&setting, 1, "node", &listen)?;
    let from = |name: &str| [format!("--from={}", path(name)), format!("--to={at}")];
    let prepare = |socket: &str| setting.migrate("source", &["prepare", &format!("--to={}", path(socket))]);

    let stranger = carry(&setting, 0, "stranger", &from("stranger.sock"))?;
    let refused = prepare("stranger.sock");
    assert!(refused.is_err(), "{refused:?}");
    drop(stranger);
    until("the refusal is logged", || {
        Ok(far.log().contains("has shown no certificate of --ca"))
    })?;
    let nobody = setting.migrate("target", &["status"])?;
    assert!(nobody.is_null(), "a stranger reached the target: {nobody}");

    let _near = carry(&setting, 0, "node", &from("departures.sock"))?;
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
            .is_err_and(|why| why.contains("the MAC of the NIC differs")),
        "{refused:?}"
    );
    setting.source.stop()?;
    setting.target.stop()
}
