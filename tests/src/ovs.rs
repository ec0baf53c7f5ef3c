//! Runs Open vSwitch with its user-space datapath, as a peer of layer2 mode.
//!
//! Both daemons run in a node's namespace, with a database, sockets and logs in their own directory. The node's address
//! moves from `eth0` to the bridge `br-phy`, because the user-space datapath sends tunnelled packets only through one
//! of its own bridges. Behind the tunnel is the bridge `br-int`, whose local port (a TAP) carries the address of the
//! far host.
//!
//! The datapath reads `eth0` through a packet socket and completes no checksums, so the links of the underlay must not
//! leave segmentation or checksums to the receiver.

use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, artifacts, failure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Running daemons. The switch is dropped before its database.
#[derive(Debug)]
pub struct Ovs {
    switch: Background,
    _database: Background,
    folder: PathBuf,
}

impl Ovs {
    /// Starts both daemons in `node`, with their files in `folder`, which must exist.
    pub fn start(node: &Namespace, folder: &Path) -> Result<Self> {
        let database = folder.join("conf.db");
        let made = Command::new(artifacts::peer_program("ovsdb-tool")?)
            .arg("create")
            .arg(&database)
            .arg(artifacts::peer_file("ovs/vswitch.ovsschema")?)
            .output()?;
        if !made.status.success() {
            return Err(failure(String::from_utf8_lossy(&made.stderr)));
        }
        let socket = folder.join("db.sock");
        let mut command = daemon(node, "ovsdb-server", folder)?;
        command
            .arg(&database)
            .arg(format!("--remote=punix:{}", socket.display()));
        let mut server = Background::start(command, "ovsdb-server", folder.join("ovsdb-server.log"))?;
        server.wait_for_socket(&socket, PATIENCE)?;
        let mut command = daemon(node, "ovs-vswitchd", folder)?;
        command.arg(format!("unix:{}", socket.display()));
        let switch = Background::start(command, "ovs-vswitchd", folder.join("ovs-vswitchd.log"))?;
        let mut ovs = Self {
            switch,
            _database: server,
            folder: folder.to_owned(),
        };
        ovs.vsctl("--no-wait init")?;
        ovs.switch.assert_alive()?;
        Ok(ovs)
    }

    /// Runs `ovs-vsctl` with the words of `arguments`, and waits until the switch has applied them.
    pub fn vsctl(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new(artifacts::peer_program("ovs-vsctl")?);
        command
            .arg(format!("--db=unix:{}", self.folder.join("db.sock").display()))
            .arg(format!("--timeout={}", PATIENCE.as_secs()))
            .args(arguments.split_whitespace());
        output(command)
    }

    /// Adds a bridge of the user-space datapath; `settings` are further ones of its record.
    pub fn add_bridge(&self, name: &str, settings: &str) -> Result<()> {
        self.vsctl(&format!(
            "add-br {name} -- set bridge {name} datapath_type=netdev {settings}"
        ))
        .map(drop)
    }

    /// Runs `ovs-ofctl` with these arguments against a bridge.
    pub fn ofctl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(artifacts::peer_program("ovs-ofctl")?);
        command.env("OVS_RUNDIR", &self.folder).args(arguments);
        output(command).map(drop)
    }

    /// Runs `ovs-appctl` against the switch.
    pub fn appctl(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new(artifacts::peer_program("ovs-appctl")?);
        command
            .arg("-t")
            .arg(self.folder.join("ovs-vswitchd.ctl"))
            .args(arguments.split_whitespace());
        output(command)
    }

    /// Processor time of the switch, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.switch.cpu_seconds()
    }
}

fn daemon(node: &Namespace, name: &str, folder: &Path) -> Result<Command> {
    let mut command = node.command(artifacts::peer_program(name)?);
    command
        .env("OVS_RUNDIR", folder)
        .env("OVS_LOGDIR", folder)
        .env("OVS_DBDIR", folder)
        .env("OVS_SYSCONFDIR", folder)
        .arg("--no-chdir")
        .arg(format!("--unixctl={}", folder.join(format!("{name}.ctl")).display()));
    Ok(command)
}

fn output(mut command: Command) -> Result<String> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failure(format!(
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )))
}
