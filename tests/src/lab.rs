//! The environment of one test: a share of the machine, a pod and a world, and a directory for its files.

use crate::guest::{Guest, Kind, Plan};
use crate::hawser::Hawser;
use crate::netns::Networks;
use crate::process::Background;
use crate::{Result, peers};
use std::env;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Port of the traffic servers of a lab.
pub const PORT: u16 = 7000;

/// A share of the machine, or all of it, until it is dropped.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "open is all it has to be")] File);

/// Waits until no lab has exclusive use of the machine. Other labs may share it.
pub fn share_machine() -> Result<Turn> {
    take_turn(libc::LOCK_SH)
}

/// Waits for exclusive use of the machine, for tests that measure time or throughput.
pub fn have_machine() -> Result<Turn> {
    take_turn(libc::LOCK_EX)
}

fn take_turn(operation: i32) -> Result<Turn> {
    // The lock is held only while waiting, so that labs that share the machine do not overtake one that waits for
    // exclusive use.
    let _queue = locked("hawser-tests.queue", libc::LOCK_EX)?;
    locked("hawser-tests.lock", operation).map(Turn)
}

fn locked(name: &str, operation: i32) -> Result<File> {
    let file = File::create(env::temp_dir().join(name))?;
    // SAFETY: the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), operation) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(file)
}

/// Environment of a test. Fields are dropped in order: servers, then networks, then the machine.
#[derive(Debug)]
pub struct Lab {
    /// Servers that live as long as the lab.
    servers: Vec<Background>,
    /// Networks of the pod and the world.
    pub networks: Networks,
    folder: TempDir,
    _machine: Turn,
}

impl Lab {
    /// Waits for a share of the machine, and creates the networks.
    pub fn new() -> Result<Self> {
        Self::with_link_mtu(1500)
    }

    /// Does the same with another MTU between pod and world.
    pub fn with_link_mtu(mtu: u32) -> Result<Self> {
        Self::on(share_machine()?, mtu)
    }

    /// Does the same as [`Self::new`], but no other lab shares the machine.
    pub fn alone() -> Result<Self> {
        Self::on(have_machine()?, 1500)
    }

    fn on(machine: Turn, mtu: u32) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hawser-lab-").tempdir()?;
        Ok(Self {
            servers: Vec::new(),
            networks: Networks::new(mtu)?,
            folder,
            _machine: machine,
        })
    }

    /// The lab's directory, which is removed with the lab.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the lab's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Starts hawser in the pod, on a socket named `hawser`.
    pub fn hawser(&self, arguments: &[&str]) -> Result<Hawser> {
        self.hawser_named("hawser", arguments)
    }

    /// Starts hawser in the pod with a limit on descriptors.
    pub fn hawser_with_descriptors(&self, descriptors: u32, arguments: &[&str]) -> Result<Hawser> {
        let socket = self.path("hawser.sock");
        Hawser::start_with_descriptors(&self.networks.pod, &socket, arguments, descriptors)
    }

    /// Starts another hawser in the pod.
    pub fn hawser_named(&self, name: &str, arguments: &[&str]) -> Result<Hawser> {
        Hawser::start(&self.networks.pod, &self.path(name).with_extension("sock"), arguments)
    }

    /// Starts hawser with `arguments` in the pod, and a guest of `kind` with a configured NIC on
    /// it.
    pub fn up(&self, kind: Kind, arguments: &[&str]) -> Result<(Hawser, Guest)> {
        let hawser = self.hawser(arguments)?;
        let guest = self.guest(kind, &hawser)?;
        Ok((hawser, guest))
    }

    /// Boots a guest with default options on `hawser` and configures its NIC.
    pub fn guest(&self, kind: Kind, hawser: &Hawser) -> Result<Guest> {
        let guest = Plan::new(kind, hawser.socket()).boot()?;
        guest.net_up()?;
        Ok(guest)
    }

    /// Serves traffic in the world, at `address` and [`PORT`].
    pub fn serve_world(&mut self, address: &str) -> Result<SocketAddr> {
        let at = SocketAddr::new(address.parse::<IpAddr>()?, PORT);
        self.servers
            .push(peers::serve(&self.networks.world, self.folder.path(), at)?);
        Ok(at)
    }

    /// Serves traffic in the pod itself, at `address` and `port`.
    pub fn serve_pod(&mut self, address: &str, port: u16) -> Result<SocketAddr> {
        let at = SocketAddr::new(address.parse::<IpAddr>()?, port);
        self.servers
            .push(peers::serve(&self.networks.pod, self.folder.path(), at)?);
        Ok(at)
    }
}
