//! What the process still needs once everything is set up: for what it serves, and for what the
//! options say may come later.

use super::{Access, Reach, User};
use crate::resolv;
use hawser_backend::sys::tap::TUN_DEVICE;
use hawser_host::tap_node::Detached;
use rustix::process::geteuid;
use std::path::{Path, PathBuf};

/// Read again for a port that comes later, or for metrics.
const READ: [&str; 2] = ["/proc/self", "/proc/sys/net"];
const ETC: &str = "/etc";
/// Where the target of resolv.conf is, or will be, where systemd-resolved runs.
const SYSTEMD_RESOLVE: &str = "/run/systemd/resolve";
/// Where the numbers of devices are found without a sysfs of our own.
const SYSFS: [&str; 2] = ["/sys/class/net", "/sys/devices"];
const DEVICES: &str = "/dev";

/// Where resolv.conf may be read. Rules are about files there are, not names: what is renamed over
/// the file can be read by a rule about its folder only. `/etc` stays closed to root, which
/// could read all of it.
pub fn resolv_conf(user: Option<User>) -> Vec<(PathBuf, Access)> {
    let file = Path::new(resolv::PATH);
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let stays_root = user.map_or_else(|| geteuid().is_root(), |user| user.uid == 0);
    let folder = target
        .parent()
        .filter(|folder| !(stays_root && *folder == Path::new(ETC)));
    let places = [Some(file), Some(Path::new(SYSTEMD_RESOLVE)), folder];
    places
        .into_iter()
        .flatten()
        .map(|path| (path.to_owned(), Access::Read))
        .collect()
}

/// What is needed.
#[derive(Debug, Default)]
pub struct Needs {
    /// Links are made, changed or put back.
    pub links: bool,
    /// Devices of links that come back are made.
    pub devices: bool,
    /// The guest's pings go out through raw sockets.
    pub raw_sockets: bool,
    /// Clients of any UDP port of the guest are answered from it, low ones too.
    pub low_ports: bool,
    /// Files.
    pub reach: Reach,
}

impl Needs {
    /// Adds the files that what is needed is done with; changes of the network are noted in
    /// `runtime_folder`.
    pub fn add_files(&mut self, runtime_folder: &Path) {
        let reach = &mut self.reach;
        reach.paths.extend(READ.map(|path| (path.into(), Access::Read)));
        if self.links {
            // It must be there to be reached later. Where it cannot be made, none is needed, or
            // who needs it says so.
            let _ = std::fs::create_dir_all(runtime_folder);
            reach.paths.push((runtime_folder.to_owned(), Access::Notes));
            reach.paths.push((TUN_DEVICE.into(), Access::Device));
        }
        if self.devices {
            let Detached { sysfs, tmpfs } = Detached::get();
            reach.detached.extend(sysfs.as_ref().map(|root| (root, Access::Read)));
            reach
                .detached
                .extend(tmpfs.as_ref().map(|root| (root, Access::NewDevices)));
            reach.paths.extend(SYSFS.map(|path| (path.into(), Access::Read)));
            if tmpfs.is_none() {
                reach.paths.push((DEVICES.into(), Access::NewDevices));
            }
        }
    }
}
