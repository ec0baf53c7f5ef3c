//! Least privilege: the process drops everything that it does not need after set-up.
//!
//! Each thread drops its own privileges, in the only possible order: user and capabilities ([`privilege`]), files
//! ([`files`]), system calls ([`filter`], [`calls`]). The threads it starts inherit that. The main thread therefore
//! confines itself after all privileged work is done and the VMM, if there is one, has started. Threads that start
//! later drop more if their kind needs less. Workers start earlier, with the port that binds their sockets, and confine
//! themselves before anything else.
//!
//! The sandbox protects the rest of the system from a fault that the guest or the network could exploit. It does not
//! separate threads from each other, because they share memory.

mod calls;
mod files;
mod filter;
mod names;
mod needs;
mod privilege;

pub(crate) use files::{Access, Reach};
pub(crate) use needs::{Needs, resolv_conf};
pub(crate) use privilege::{User, parse_group, parse_user};

use crate::failure::Failure;
use clap::ValueEnum;
use filter::FilterError;
use hawser_backend::worker::ThreadStart;
use hawser_manifest::values;
use rustix::fs::{AtFlags, CWD, chownat};
use rustix::process::{Gid, getegid, geteuid};
use rustix::thread::CapabilitySet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

/// Which privileges are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Everything that is not needed. A forbidden system call ends the process.
    #[default]
    Strict,
    /// Capabilities only. System calls that would be forbidden are executed, and the kernel logs them.
    Log,
    /// No privileges are dropped.
    Off,
}

/// The purpose of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadKind {
    /// Moves packets.
    Worker,
    /// Serves the front ends of one port, one at a time.
    FrontEnd,
    /// Watches links, and restores them.
    Links,
    /// Waits for changes of resolv.conf, or of a peers file.
    Names,
    /// Waits for signals.
    Signals,
    /// Answers requests on the API socket.
    Api,
    /// Writes a capture to the client that requested it.
    Capture,
    /// Carries the connections of a guest that migrates.
    Migration,
    /// Waits for a VMM and for the process that serves it.
    VmmParent,
    /// The main thread, and every thread that has no other kind.
    Launcher,
}

/// The reason why a thread cannot be confined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The user cannot be changed, or capabilities cannot be dropped.
    #[error("cannot drop privileges: {0}; --user needs root (CAP_SETUID and CAP_SETGID)")]
    Privilege(#[source] io::Error),
    /// The Landlock rules cannot be enforced.
    #[error("cannot restrict files: {0}; --sandbox=off runs without the restriction")]
    Files(#[from] landlock::RulesetError),
    /// The filters cannot be installed.
    #[error("cannot restrict system calls: {0}; --sandbox=off runs without the restriction")]
    Filter(#[from] FilterError),
}

/// Options of the sandbox.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(skip)]
pub(crate) struct SandboxArgs {
    /// Privileges to drop after set-up: strict, all that are not needed; log, the same, but the
    /// kernel only logs forbidden system calls; off, none
    #[arg(
        long,
        value_name = "LEVEL",
        help_heading = "Process",
        value_enum,
        default_value = "strict"
    )]
    pub sandbox: Level,
    /// User to switch to after set-up when started as root: NAME or UID [default group: the
    /// user's]
    #[arg(
        long,
        value_name = "USER[:GROUP]",
        help_heading = "Process",
        value_parser = parse_user
    )]
    pub user: Option<User>,
    /// Access to the sockets of VMMs.
    #[command(flatten)]
    pub sockets: SocketAccess,
}

/// Who may connect to the sockets of VMMs, apart from root. The sockets of the API and of other processes of hawser are
/// not among them, because they control the process.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct SocketAccess {
    /// Group of the vhost-user sockets, for a VMM that runs as another user: NAME or GID [default: that of --user]
    #[arg(long, value_name = "GROUP", help_heading = "Front end", value_parser = parse_group)]
    pub socket_group: Option<u32>,
    /// Permissions of the vhost-user sockets, in octal
    #[arg(long, value_name = "MODE", help_heading = "Front end", default_value = "0660", value_parser = values::socket_mode)]
    pub socket_mode: u32,
}

impl Default for SocketAccess {
    fn default() -> Self {
        Self {
            socket_group: None,
            socket_mode: 0o660,
        }
    }
}

/// The privileges that each kind of thread drops.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    args: SandboxArgs,
    needs: Needs,
}

impl Default for Sandbox {
    /// A sandbox that drops nothing.
    fn default() -> Self {
        Self(Arc::new(Rules {
            args: SandboxArgs {
                sandbox: Level::Off,
                ..SandboxArgs::default()
            },
            needs: Needs::default(),
        }))
    }
}

impl Sandbox {
    /// Prepares the sandbox. Nothing is dropped yet.
    ///
    /// # Errors
    /// [`SandboxError`]
    pub(crate) fn new(args: SandboxArgs, needs: Needs) -> Result<Self, Failure> {
        if args.sandbox == Level::Strict {
            filter::catch_violations()
                .map_err(|error| Failure::runtime(SandboxError::from(FilterError::from(error))))?;
        }
        Ok(Self(Arc::new(Rules { args, needs })))
    }

    /// Drops everything that the calling thread does not need.
    ///
    /// # Errors
    /// [`SandboxError`]. The thread must then end.
    pub(crate) fn enter(&self, kind: ThreadKind) -> Result<(), SandboxError> {
        let args = self.0.args;
        if args.sandbox == Level::Off && args.user.is_none() {
            return Ok(());
        }
        privilege::give_up(args.user, &self.groups(), self.capabilities(kind)).map_err(SandboxError::Privilege)?;
        if args.sandbox == Level::Strict {
            let enforced = files::restrict(&self.reach(kind))?;
            if !enforced && kind == ThreadKind::Launcher {
                log::warn!(
                    "this kernel has no Landlock: hawser may open every file that its user \
                    may open"
                );
            }
        }
        filter::install(kind, args.sandbox)?;
        Ok(())
    }

    /// Starts a thread that is confined before it does its work.
    ///
    /// # Errors
    /// The system has no thread left, or [`SandboxError`].
    pub(crate) fn spawn(
        &self,
        kind: ThreadKind,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<JoinHandle<()>, Failure> {
        let (tell, told) = mpsc::sync_channel(1);
        let sandbox = self.clone();
        let confined = move || {
            let entered = sandbox.enter(kind);
            let is_confined = entered.is_ok();
            // The parent waits for this.
            let _ = tell.send(entered);
            if is_confined {
                work();
            }
        };
        let failed = |e: &dyn std::fmt::Display| Failure::runtime(format_args!("cannot start a thread: {e}"));
        let thread = thread::Builder::new().name(name.to_owned()).spawn(confined);
        let thread = thread.map_err(|e| failed(&e))?;
        told.recv().map_err(|e| failed(&e))?.map_err(Failure::runtime)?;
        Ok(thread)
    }

    /// The action that workers run first.
    pub(crate) fn workers(&self) -> ThreadStart {
        let sandbox = self.clone();
        ThreadStart::new(move || sandbox.enter(ThreadKind::Worker).map_err(io::Error::other))
    }

    /// Changes the owner of a file that was created before the switch of users, so that the user
    /// can use and remove it.
    ///
    /// # Errors
    /// The error of chown(2).
    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        match self.0.args.user {
            // A file that is created after the switch belongs to the user.
            Some(User { uid, gid }) if geteuid().as_raw() != uid || getegid().as_raw() != gid => {
                std::os::unix::fs::lchown(path, Some(uid), Some(gid))
            }
            _ => Ok(()),
        }
    }

    /// Gives the socket of a VMM to the user and the group that may connect.
    ///
    /// # Errors
    /// The error of chown(2). EPERM: this user is not a member of the group.
    pub(crate) fn share(&self, socket: &Path) -> io::Result<()> {
        self.own(socket)?;
        let SocketAccess {
            socket_group,
            socket_mode,
        } = self.0.args.sockets;
        if let Some(group) = socket_group {
            let group = Some(Gid::from_raw(group));
            chownat(CWD, socket, None, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        fs::set_permissions(socket, Permissions::from_mode(socket_mode))
    }

    /// The groups of a thread apart from its user's. A member of a group can give a socket to it.
    fn groups(&self) -> Vec<Gid> {
        self.0
            .args
            .sockets
            .socket_group
            .map(Gid::from_raw)
            .into_iter()
            .collect()
    }

    /// The files that a kind of thread may access.
    fn reach(&self, kind: ThreadKind) -> Reach {
        let whole = &self.0.needs.reach;
        match kind {
            ThreadKind::Launcher | ThreadKind::Links | ThreadKind::FrontEnd => whole.clone(),
            ThreadKind::Signals | ThreadKind::VmmParent => Reach {
                signals: whole.signals,
                abstract_sockets: kind == ThreadKind::VmmParent && whole.abstract_sockets,
                ..Reach::default()
            },
            ThreadKind::Names => Reach {
                paths: self.followed(),
                ..Reach::default()
            },
            ThreadKind::Worker | ThreadKind::Api | ThreadKind::Capture | ThreadKind::Migration => Reach::default(),
        }
    }

    /// The folders of files that are followed.
    fn followed(&self) -> Vec<(PathBuf, Access)> {
        let others = self.0.needs.followed.iter();
        let others = others.map(|folder| (folder.clone(), Access::Read));
        resolv_conf(self.0.args.user).into_iter().chain(others).collect()
    }

    /// The capabilities that a kind of thread keeps.
    fn capabilities(&self, kind: ThreadKind) -> CapabilitySet {
        let needs = &self.0.needs;
        let mut kept = CapabilitySet::empty();
        let restores = matches!(kind, ThreadKind::Launcher | ThreadKind::Links);
        if restores && needs.links {
            kept |= CapabilitySet::NET_ADMIN;
        }
        if restores && needs.devices {
            kept |= CapabilitySet::MKNOD;
        }
        // The launcher keeps the capability for the workers of later ports.
        if needs.raw_sockets && matches!(kind, ThreadKind::Launcher | ThreadKind::Worker) {
            kept |= CapabilitySet::NET_RAW;
        }
        // The VMM keeps the user with which hawser was started.
        if kind == ThreadKind::VmmParent {
            kept |= CapabilitySet::KILL;
        }
        if needs.low_ports && kind == ThreadKind::Worker {
            kept |= CapabilitySet::NET_BIND_SERVICE;
        }
        kept
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod traces;
