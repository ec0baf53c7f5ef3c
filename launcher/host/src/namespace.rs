//! Network namespaces. The process enters the namespace from which it serves before it starts threads. A VMM that
//! hawser starts stays in the original namespace.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// Directory in which `ip netns` keeps named namespaces.
const NAMED: &str = "/run/netns";
/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// The network namespace from which this process serves.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// The namespace in which the process was started; `None` if it serves from the same one.
    outside: Option<Arc<File>>,
}

/// A namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The namespace's file cannot be opened.
    #[error("--netns={}: {source}; name one of `ip netns list`, or the path of one, such as /proc/PID/ns/net", path.display())]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// The error of open(2).
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error("--netns={}: cannot enter it: {source}; {}", path.display(), enter_remedy(source))]
    Enter {
        /// Path of the file.
        path: PathBuf,
        /// The error of setns(2).
        source: io::Error,
    },
    /// The original namespace cannot be re-entered.
    #[error("cannot return to the network namespace that hawser was started in: {0}")]
    Return(#[source] io::Error),
    /// The thread that would enter the original namespace cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

impl Namespace {
    /// Enters the namespace that an option names, either by a path or by a name known to `ip netns`. The calling thread
    /// and the threads it starts stay in it, so no thread needs permission to enter it later. Call this on the main
    /// thread, before other threads start.
    ///
    /// # Errors
    /// [`NamespaceError`]
    pub fn enter(option: &Path) -> Result<Self, NamespaceError> {
        let path = if option.components().count() == 1 && !option.starts_with("/") {
            Path::new(NAMED).join(option)
        } else {
            option.to_owned()
        };
        let open = |path: &Path| {
            File::open(path).map_err(|source| NamespaceError::Open {
                path: path.to_owned(),
                source,
            })
        };
        let outside = open(Path::new(OWN))?;
        let file = open(&path)?;
        enter(&file).map_err(|source| NamespaceError::Enter { path, source })?;
        Ok(Self {
            outside: Some(Arc::new(outside)),
        })
    }

    /// Runs `work` in the namespace in which the process was started.
    ///
    /// # Errors
    /// [`NamespaceError`]
    pub fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let Some(file) = &self.outside else {
            return Ok(work());
        };
        thread::scope(|scope| {
            let inside = move || -> io::Result<T> {
                enter(file)?;
                Ok(work())
            };
            let thread = thread::Builder::new()
                .name("outside".into())
                .spawn_scoped(scope, inside)
                .map_err(NamespaceError::Thread)?;
            match thread.join() {
                Ok(done) => done.map_err(NamespaceError::Return),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

fn enter_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL) => "it is not a network namespace: name one of `ip netns list`",
        Some(libc::EPERM) => "it needs CAP_SYS_ADMIN: start hawser with it, or in the namespace (ip netns exec)",
        _ => "check that it is a network namespace, and that this process has CAP_SYS_ADMIN",
    }
}

fn enter(file: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(
        file.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

/// A number for the calling thread's network namespace. No other namespace has had it since the system was started.
///
/// # Errors
/// The error of getsockopt(2): ENOPROTOOPT before Linux 5.14.
#[allow(unsafe_code, reason = "neither rustix nor socket2 knows this option")]
pub fn cookie() -> io::Result<u64> {
    /// The libc crate lacks this constant.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
