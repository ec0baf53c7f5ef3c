//! Where a port meets its front ends, as the options say it.

use crate::cli::EndpointArgs;
use crate::failure::Failure;
use hawser_backend::vhost_user::Endpoint;
use std::fmt;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;

/// Where the front end is met, as the options say it.
#[derive(Debug)]
pub enum Meeting {
    /// It connects to a socket made here.
    Listen(PathBuf),
    /// It listens here.
    Connect(PathBuf),
    /// On a descriptor somebody made for us.
    Inherited(RawFd, OwnedFd),
}

impl Meeting {
    /// Reads the options. To be called before the process opens anything.
    ///
    /// # Errors
    /// If there is no option, or no such descriptor.
    pub fn from_args(args: &EndpointArgs) -> Result<Self, Failure> {
        match (&args.socket_path, args.fd) {
            (Some(path), _) if args.connect => Ok(Self::Connect(path.clone())),
            (Some(path), _) => Ok(Self::Listen(path.clone())),
            (None, Some(fd)) => Ok(Self::Inherited(fd, inherited("--fd", fd)?)),
            (None, None) => Err(Failure::usage(
                "give --socket-path=PATH or --fd=N, where the VMM is met; see hawser --help",
            )),
        }
    }

    /// A name for the port, in logs and of threads.
    pub fn port_name(&self) -> String {
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

    /// The socket that is made here.
    pub fn listens_at(&self) -> Option<PathBuf> {
        match self {
            Self::Listen(path) => Some(path.clone()),
            Self::Connect(_) | Self::Inherited(..) => None,
        }
    }

    pub(super) fn into_endpoint(self) -> Endpoint {
        match self {
            Self::Listen(path) => Endpoint::Listen(path),
            Self::Connect(path) => Endpoint::Connect(path),
            Self::Inherited(_, fd) => Endpoint::Fd(fd),
        }
    }
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(path) => write!(f, "on {}", path.display()),
            Self::Connect(path) => write!(f, "to who listens on {}", path.display()),
            Self::Inherited(number, _) => write!(f, "on descriptor {number}"),
        }
    }
}

/// Takes over a descriptor that was open when the process started, named by `option`. To be
/// called before the process opens anything, once for each number.
///
/// # Errors
/// If it is not open.
pub fn inherited(option: &str, number: RawFd) -> Result<OwnedFd, Failure> {
    // SAFETY: asking for the flags of a descriptor touches no memory; a number that
    // names none gives EBADF.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(Failure::runtime(format_args!(
            "{option}={number}: no such descriptor is open: start hawser with it under that number"
        )));
    }
    // SAFETY: the descriptor is open (just seen), not one of the standard three (the
    // option's parser), and nothing in this process has opened one before: it was
    // inherited, and nobody else here knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
