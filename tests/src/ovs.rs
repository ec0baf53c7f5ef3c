//! Runs Open vSwitch with its user-space datapath, as a peer of layer2 mode.
//!
//! Both daemons run in a node's namespace, with a database, sockets and logs in their own directory. The node's address
//! moves from `eth0` to the bridge `br-phy`, because the user-space datapath sends tunnelled packets only through one
//! of its own bridges. Behind the tunnel is the bridge `br-int`. Its local port (a TAP) carries the address of the far
//! host.
//!
//! The datapath reads `eth0` through a packet socket and does not complete checksums, so the links of the underlay must
//! not leave segmentation or checksums to the receiver.

use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, artifacts, failure, until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// The running daemons. The switch is dropped before its database.
#[derive(Debug)]
pub struct Ovs {
    switch: Background,
    _database: Background,
    folder: PathBuf,
}

impl Ovs {
    /// Starts both daemons in `node`, with their files in `folder`, which must exist. `settings` are columns of the
    /// table `Open_vSwitch`, such as `other_config:userspace-tso-enable=true`.
    pub fn start(node: &Namespace, folder: &Path, settings: &str) -> Result<Self> {
        let database = folder.join("conf.db");
        let mut create = Command::new(artifacts::peer_program("ovsdb-tool")?);
        create
            .arg("create")
            .arg(&database)
            .arg(artifacts::peer_file("ovs/vswitch.ovsschema")?);
        output(create)?;
        let socket = folder.join("db.sock");
        let mut command = daemon(node, "ovsdb-server", folder)?;
        command
            .arg(&database)
            .arg(format!("--remote=punix:{}", socket.display()));
        let mut server = Background::start(command, "ovsdb-server", folder.join("ovsdb-server.log"))?;
        server.wait_for_socket(&socket, PATIENCE)?;
        // A switch reads some settings only when it starts.
        vsctl(folder, "--no-wait init")?;
        if !settings.is_empty() {
            vsctl(folder, &format!("--no-wait set Open_vSwitch . {settings}"))?;
        }
        let mut command = daemon(node, "ovs-vswitchd", folder)?;
        command.arg(format!("unix:{}", socket.display()));
        let mut switch = Background::start(command, "ovs-vswitchd", folder.join("ovs-vswitchd.log"))?;
        switch.assert_alive()?;
        Ok(Self {
            switch,
            _database: server,
            folder: folder.to_owned(),
        })
    }

    /// Starts both daemons in `node` and makes its address that of an endpoint. `br-phy` takes `eth0` and the address,
    /// and `br-int` gets the port `tunnel`. Creates `folder` for their files.
    pub fn endpoint(node: &Namespace, folder: &Path, tunnel: &Tunnel<'_>, settings: &str) -> Result<Self> {
        let Tunnel { own, remote, key } = tunnel;
        fs::create_dir(folder)?;
        let ovs = Self::start(node, folder, settings)?;
        ovs.add_bridge("br-phy")?;
        ovs.vsctl("add-port br-phy eth0")?;
        ovs.add_bridge("br-int")?;
        node.run("ip addr flush dev eth0 scope global")?;
        node.run("ip link set br-phy up")?;
        node.run(&if own.contains(':') {
            format!("ip -6 addr add {own}/64 dev br-phy nodad")
        } else {
            format!("ip addr add {own}/24 dev br-phy")
        })?;
        ovs.vsctl(&format!(
            "add-port br-int tunnel -- set interface tunnel type=geneve options:remote_ip={remote} options:key={key} \
             options:csum=true"
        ))?;
        until("OVS knows the route to the other node", || {
            Ok(ovs.appctl(&format!("ovs/route/lookup {remote}"))?.contains("br-phy"))
        })?;
        Ok(ovs)
    }

    /// Runs `ovs-vsctl` with the words of `arguments`, and waits until the switch has applied them.
    pub fn vsctl(&self, arguments: &str) -> Result<String> {
        vsctl(&self.folder, arguments)
    }

    /// Adds a bridge of the user-space datapath.
    pub fn add_bridge(&self, name: &str) -> Result<()> {
        self.vsctl(&format!("add-br {name} -- set bridge {name} datapath_type=netdev"))
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

/// The two ends of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel<'a> {
    /// Address of the node.
    pub own: &'a str,
    /// Address of the other end.
    pub remote: &'a str,
    /// Identifier of the network.
    pub key: u32,
}

fn vsctl(folder: &Path, arguments: &str) -> Result<String> {
    let mut command = Command::new(artifacts::peer_program("ovs-vsctl")?);
    command
        .arg(format!("--db=unix:{}", folder.join("db.sock").display()))
        .arg(format!("--timeout={}", PATIENCE.as_secs()))
        .args(arguments.split_whitespace());
    output(command)
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
