//! The endpoint to which front ends of a port connect.

use hawser_backend::vhost_user;
use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

/// How the front end connects.
#[derive(Debug)]
pub(crate) enum Endpoint {
    /// To a socket that hawser creates.
    Listen(PathBuf),
    /// To a path at which the front end listens.
    Connect(PathBuf),
    /// On a descriptor that hawser inherited at its start.
    Inherited(RawFd, OwnedFd),
}

impl Endpoint {
    /// Name of the port, for log messages and its threads.
    pub(crate) fn port_name(&self) -> String {
        match self {
            Self::Listen(path) | Self::Connect(path) => {
                let stem = path.file_stem().unwrap_or(path.as_os_str());
                stem.to_string_lossy().into_owned()
            }
            Self::Inherited(fd, _) => format!("fd{fd}"),
        }
    }

    pub(super) fn option(&self) -> &'static str {
        match self {
            Self::Listen(_) | Self::Connect(_) => "--socket-path",
            Self::Inherited(..) => "--fd",
        }
    }

    /// Path of the socket that hawser creates.
    pub(crate) fn listens_at(&self) -> Option<PathBuf> {
        match self {
            Self::Listen(path) => Some(path.clone()),
            Self::Connect(_) | Self::Inherited(..) => None,
        }
    }

    pub(super) fn into_endpoint(self) -> vhost_user::Endpoint {
        match self {
            Self::Listen(path) => vhost_user::Endpoint::Listen(path),
            Self::Connect(path) => vhost_user::Endpoint::Connect(path),
            Self::Inherited(_, fd) => vhost_user::Endpoint::Fd(fd),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(path) => write!(f, "on {}", path.display()),
            Self::Connect(path) => write!(f, "to the listener on {}", path.display()),
            Self::Inherited(number, _) => write!(f, "on descriptor {number}"),
        }
    }
}
