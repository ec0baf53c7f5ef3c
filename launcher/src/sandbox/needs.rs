//! The privileges that the process needs after set-up, both for the NICs that it serves and for those that its options
//! allow later.

use super::{Access, Reach, User};
use crate::resolv;
use hawser_backend::sys::tap::TUN_DEVICE;
use hawser_host::tap_node::Detached;
use rustix::process::geteuid;
use std::path::{Path, PathBuf};

/// Directories that are read again for a port that is plugged later, or for metrics.
const READ: [&str; 2] = ["/proc/self", "/proc/sys/net"];
const ETC: &str = "/etc";
/// Directory of resolv.conf's target if systemd-resolved runs.
const SYSTEMD_RESOLVE: &str = "/run/systemd/resolve";
/// Location of device numbers without a private sysfs.
const SYSFS: [&str; 2] = ["/sys/class/net", "/sys/devices"];
const DEVICES: &str = "/dev";

/// The directories in which resolv.conf may be read. Rules apply to existing files, not names: only a rule for the
/// directory covers a file that is renamed over it. `/etc` stays closed to root, who could read all of it.
pub(crate) fn resolv_conf(user: Option<User>) -> Vec<(PathBuf, Access)> {
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

/// The privileges that the process needs.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// True if links are created, changed or restored.
    pub links: bool,
    /// True if device files of links that come back are created.
    pub devices: bool,
    /// True if the guest's echo requests are sent through raw sockets.
    pub raw_sockets: bool,
    /// True if replies to clients of any UDP port of the guest are sent from that port, which may be a privileged one.
    pub low_ports: bool,
    /// Files that may be accessed.
    pub reach: Reach,
    /// Folders of files that are followed, in addition to that of resolv.conf.
    pub followed: Vec<PathBuf>,
}

impl Needs {
    /// Adds the files for these needs. `runtime_folder` contains the journal of network changes.
    pub(crate) fn add_files(&mut self, runtime_folder: &Path) {
        let reach = &mut self.reach;
        reach.paths.extend(READ.map(|path| (path.into(), Access::Read)));
        if self.links {
            // The directory must exist to be accessible later. If it cannot be created, either it is not needed, or the
            // code that needs it reports the error.
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
