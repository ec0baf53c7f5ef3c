//! The environment of a migration that keeps connections: two nodes with a process each, and a world. The guest begins on
//! the first node. Clients of the world are connected to it through a forward of the source.

use crate::guest::{Guest, Incoming, Kind, Plan};
use crate::hawser::Hawser;
use crate::nodes::{Nodes, PORT, WORLD4};
use crate::process::Background;
use crate::{Result, artifacts, failure, until};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Port of the first node that leads to the guest's server.
pub const FORWARDED: u16 = 8080;
/// Longest wait for bytes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two nodes, each with a process, and a world.
#[derive(Debug)]
pub struct Setting {
    /// The two nodes and the world.
    pub nodes: Nodes,
    /// A server in the world.
    pub world: SocketAddr,
    /// The process that has the guest at first, on the first node.
    pub source: Hawser,
    /// The process that waits for it, on the second node.
    pub target: Hawser,
    /// Arguments of the target.
    of_target: Vec<String>,
}

/// Name of the socket for migrations to the process of this name.
fn arrivals_of(name: &str) -> String {
    format!("{name}-arrivals.sock")
}

/// Where the agents of the two nodes meet.
fn between() -> String {
    format!("{}:7900", Nodes::vtep4(1))
}

/// Options for the guest on `socket`: the same in the source and in the target.
pub fn plan(socket: &Path) -> Plan {
    Plan {
        memory_mib: 256,
        ..Plan::new(Kind::Qemu, socket)
    }
}

/// The first channel in the output of `hawser migrate WORDS…` for the process with this API socket.
pub fn migrate(api: &Path, words: &[&str]) -> Result<Value> {
    Ok(channels(api, words)?.into_iter().next().unwrap_or_default())
}

/// All channels in this output.
pub fn channels(api: &Path, words: &[&str]) -> Result<Vec<Value>> {
    let output = Command::new(artifacts::hawser()?)
        .arg("migrate")
        .args(words)
        .args(["--json", &format!("--api-socket={}", api.display())])
        .output()?;
    if !output.status.success() {
        return Err(failure(String::from_utf8_lossy(&output.stderr)));
    }
    let mut answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(serde_json::from_value(answer["channels"].take())?)
}

impl Setting {
    /// Waits for a share of the machine, and starts the processes, the target with further arguments.
    pub fn new(of_target: &[&str]) -> Result<Self> {
        Self::on(Nodes::new(2, 1500)?, of_target)
    }

    /// Starts the processes on two nodes.
    pub fn on(mut nodes: Nodes, of_target: &[&str]) -> Result<Self> {
        let [forward, datagrams] = ["tcp", "udp"].map(|of| format!("--port={of}:{FORWARDED}:{PORT}"));
        let world = nodes.serve_world(WORLD4)?;
        let path = |name: &str| nodes.path(name).display().to_string();
        let api = format!("--api-socket={}", path("source-api.sock"));
        // A guest may come back.
        let home = format!("--migration-socket={}", path(&arrivals_of("source")));
        let arguments = [&forward, &datagrams, &api, &home].map(String::as_str);
        let source = Hawser::start(&nodes.nodes[0], &nodes.path("source.sock"), &arguments)?;
        let api = format!("--api-socket={}", path("target-api.sock"));
        let arrivals = format!("--migration-socket={}", path(&arrivals_of("target")));
        let arguments = [&[forward.as_str(), &datagrams, &api, &arrivals], of_target].concat();
        let target = Hawser::start(&nodes.nodes[1], &nodes.path("target.sock"), &arguments)?;
        let of_target = arguments.into_iter().map(str::to_owned).collect();
        Ok(Self {
            nodes,
            world,
            source,
            target,
            of_target,
        })
    }

    /// Boots the guest in the source, with a server.
    pub fn boot(&self) -> Result<Guest> {
        let guest = plan(self.source.socket()).boot_to_migrate()?;
        guest.net_up()?;
        guest.serve(&format!("0.0.0.0:{PORT}"))?;
        Ok(guest)
    }

    /// The first channel in the output of `hawser migrate WORDS…` for the process of this name.
    pub fn migrate(&self, of: &str, words: &[&str]) -> Result<Value> {
        migrate(&self.nodes.path(&format!("{of}-api.sock")), words)
    }

    /// Starts the target again if it has ended.
    pub fn revive_target(&mut self) -> Result<()> {
        if self.target.assert_alive().is_err() {
            let arguments: Vec<_> = self.of_target.iter().map(String::as_str).collect();
            self.target = Hawser::start(&self.nodes.nodes[1], &self.nodes.path("target.sock"), &arguments)?;
        }
        Ok(())
    }

    /// Migrates the guest until it is stopped and the source knows that. The target's process waits.
    pub fn stop(&self, guest: &mut Guest) -> Result<Incoming> {
        let incoming = plan(self.target.socket()).incoming(guest)?;
        guest.pause_before_switchover()?;
        guest.begin_migration(&incoming)?;
        guest.monitor()?.wait_for_migration("pre-switchover")?;
        until("the source knows that the guest is stopped", || {
            Ok(self.migrate("source", &["status"])?["phase"] == "stopped")
        })?;
        Ok(incoming)
    }

    /// Lets a guest that is stopped run in the target.
    pub fn go_on(&self, guest: &mut Guest, incoming: Incoming) -> Result<()> {
        guest.continue_migration()?;
        guest.finish_migration(incoming)?;
        until("the source knows that the guest has left", || {
            Ok(self.migrate("source", &["status"])?["phase"] != "stopped")
        })
    }

    /// Starts `hawser-agent carry` on the target's node, with the certificate `name`.
    pub fn carry_to_target(&self, name: &str) -> Result<Background> {
        let to = self.nodes.path(&arrivals_of("target"));
        self.carry(
            1,
            name,
            &[format!("--listen={}", between()), format!("--to={}", to.display())],
        )
    }

    /// Starts `hawser-agent carry` on the source's node, with the certificate `name`. The source prepares to `socket`.
    pub fn carry_from_source(&self, name: &str, socket: &str) -> Result<Background> {
        let from = self.nodes.path(socket);
        self.carry(
            0,
            name,
            &[format!("--from={}", from.display()), format!("--to={}", between())],
        )
    }

    fn carry(&self, node: usize, name: &str, arguments: &[String]) -> Result<Background> {
        let file = |file: String| self.nodes.path(&file).display().to_string();
        let mut command = self.nodes.nodes[node].command(artifacts::agent()?);
        command.arg("carry").args(arguments);
        command.arg(format!("--ca={}", file("node-ca.pem".to_owned())));
        command.arg(format!("--cert={}", file(format!("{name}.pem"))));
        command.arg(format!("--key={}", file(format!("{name}.key"))));
        let log = self.nodes.path(&format!("carry-{node}-{name}.log"));
        let mut process = Background::start(command, "hawser-agent carry", log)?;
        process.wait_until("carrying", PATIENCE, |log| log.contains("carrying migrations"))?;
        Ok(process)
    }

    /// Opens the channel from the source to the target.
    pub fn prepare(&self) -> Result<Value> {
        self.prepare_from("source", "target")
    }

    /// Opens the channel between the processes of these names.
    pub fn prepare_from(&self, from: &str, to: &str) -> Result<Value> {
        let to = format!("--to={}", self.nodes.path(&arrivals_of(to)).display());
        self.migrate(from, &["prepare", &to])
    }

    /// The vhost-user socket of the process of this name.
    pub fn socket(&self, of: &str) -> &Path {
        match of {
            "source" => self.source.socket(),
            _ => self.target.socket(),
        }
    }

    /// A client of the guest's server, from the world.
    pub fn client(&self) -> Result<Client> {
        Client::connect(&self.nodes)
    }
}

/// A connection on which the guest sends everything back.
#[derive(Debug)]
pub struct Client(pub TcpStream);

impl Client {
    /// Connects from the world to the guest's server through the first node.
    pub fn connect(nodes: &Nodes) -> Result<Self> {
        Self::to(nodes, &format!("{}:{FORWARDED}", Nodes::vtep4(0)))
    }

    /// Connects from the world to the guest's server at this address.
    pub fn to(nodes: &Nodes, at: &str) -> Result<Self> {
        let mut stream = nodes.world.inside(|| TcpStream::connect(at))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        stream.write_all(b"{\"do\":\"echo\"}\n")?;
        Ok(Self(stream))
    }

    /// Sends `text`, and waits until it comes back.
    pub fn exchange(&mut self, text: &str) -> Result<()> {
        self.send(text)?;
        self.receive(text, Instant::now() + PATIENCE)
    }

    /// Sends `text`.
    pub fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.0.write_all(text.as_bytes())?)
    }

    /// Waits until `text` comes back, for a moment at least.
    pub fn receive(&mut self, text: &str, deadline: Instant) -> Result<()> {
        const MOMENT: Duration = Duration::from_millis(1);
        let left = deadline.saturating_duration_since(Instant::now());
        self.0.set_read_timeout(Some(left.max(MOMENT)))?;
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back)?;
        assert_eq!(back, text.as_bytes());
        Ok(())
    }
}
