//! What the process goes on to need once everything is set up: from what it serves, and from
//! what it was told may come later.

use super::{Access, Reach, User};
use crate::attachment::Site;
use crate::cli::{Mode, RunArgs};
use crate::machine::Nic;
use crate::resolv;
use crate::startup;
use hawser_backend::config::ModeConfig;
use hawser_backend::sys::tap::TUN_DEVICE;
use hawser_host::tap_node::Detached;
use rustix::process::geteuid;
use std::os::unix::ffi::OsStrExt as _;
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
/// the file can be read by a rule about its folder only. `/etc` is not opened up to root, to whom
/// all of it is readable.
pub(super) fn resolv_conf(user: Option<User>) -> Vec<(PathBuf, Access)> {
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
    /// Of a process that serves `nics`, beside the VMM it starts if there is one.
    pub fn of(nics: &[Nic], site: &Site, run: &RunArgs, has_vmm: bool) -> Self {
        let later = |mode: Mode| run.plug_mode.contains(&mode);
        let pings = || startup::echo_takes_raw_sockets();
        let mut needs = Self {
            links: later(Mode::Bridge),
            devices: later(Mode::Bridge),
            raw_sockets: later(Mode::Masquerade) && pings(),
            // Every port is had at the start, or not at all.
            low_ports: false,
            reach: Reach {
                signals: has_vmm,
                // systemd's own may be one.
                abstract_sockets: std::env::var_os("NOTIFY_SOCKET")
                    .is_some_and(|path| path.as_bytes().starts_with(b"@")),
                ..Reach::default()
            },
        };
        for nic in nics {
            if let Some(path) = nic.meeting.listens_at() {
                needs.reach.folder_of(&path, Access::Sockets);
            }
            match (&nic.survey, &nic.plan.port.mode) {
                (Some(survey), _) => survey.add_needs(&mut needs),
                (None, ModeConfig::Masquerade(masquerade)) => {
                    needs.raw_sockets |= pings();
                    needs.low_ports |= masquerade.every_port.is_some();
                }
                (None, ModeConfig::Bridge(_)) => {}
            }
        }
        if let Some(path) = &run.api_socket {
            needs.reach.folder_of(path, Access::Sockets);
        }
        if let Some(path) = run.event_log.as_ref().filter(|path| *path != Path::new("-")) {
            needs.reach.folder_of(path, Access::Log);
        }
        if let Some(path) = &run.store {
            needs.reach.folder_of(path, Access::Notes);
        }
        needs.reach.paths.extend(resolv_conf(run.sandbox.user));
        needs.add_files(site);
        needs
    }

    fn add_files(&mut self, site: &Site) {
        let reach = &mut self.reach;
        reach.paths.extend(READ.map(|path| (path.into(), Access::Read)));
        if self.links {
            // It must be there to be reached later. Where it cannot be made, none is needed, or
            // who needs it says so.
            let _ = std::fs::create_dir_all(&site.runtime_folder);
            reach.paths.push((site.runtime_folder.clone(), Access::Notes));
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
