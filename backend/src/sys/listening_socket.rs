//! A listening Unix socket and its file, which is removed when the process ends.
//!
//! The file has one owner, apart from the descriptors: a [`ListeningSocket`] removes it on drop, an [`OfferedSocket`],
//! which may pass to another process, never does. The process that continues with an offered socket takes its file
//! ([`OfferedSocket::own`]) once the other process has given it up.

use crate::config::handover::{Descriptors, Handover, HandoverError, next_of};
use crate::config::payload::{Payload, Sealed};
use serde::{Deserialize, Serialize};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The reason why a socket cannot be created at a path.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens at the path.
    #[error("socket {0} is in use by another process: choose another path, or end that process")]
    InUse(PathBuf),
    /// A file that is not a socket exists at the path.
    #[error("{0} exists and is not a socket: choose another path, or remove it")]
    NotASocket(PathBuf),
    /// The socket cannot be created.
    #[error(
        "cannot create the socket {path}: {source}; the directory must exist and be writable, and the path shorter than 108 bytes"
    )]
    Bind {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
}

/// A listening socket that never blocks.
#[derive(Debug)]
pub struct ListeningSocket {
    listener: UnixListener,
    file: Option<SocketFile>,
}

/// A listening socket between two processes. It leaves its file alone.
#[derive(Debug)]
pub struct OfferedSocket {
    listener: UnixListener,
    /// The file that its owner removes.
    made: Option<MadeFile>,
}

/// A socket file that this process removes. Dropping it removes the file, unless another file has taken its place.
#[derive(Debug)]
struct SocketFile {
    /// The file; `None` once it is given up.
    made: Option<MadeFile>,
}

/// A file and its identity, which distinguishes it from a later file at the same path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MadeFile {
    path: PathBuf,
    /// Device and inode of the file.
    identity: (u64, u64),
}

/// The data of a listening socket apart from its descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRecord {
    /// The file that this process created; `None` if another process created it.
    file: Option<MadeFile>,
}

impl ListeningSocket {
    /// Listens at `path` on a socket file with these permissions. A file left by a process that has ended is replaced.
    ///
    /// # Errors
    /// [`BindError`]. In that case no file is left behind.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, BindError> {
        let failed = |source| BindError::Bind {
            path: path.to_owned(),
            source,
        };
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        let file = SocketFile::claim(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let file = Some(file);
        Ok(Self { listener, file })
    }

    /// Adopts a listening socket whose file belongs to the process that created it.
    ///
    /// # Errors
    /// The error of fcntl(2).
    pub fn adopt(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, file: None })
    }

    /// The same socket for another process. This one keeps the file.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn offer(&self) -> io::Result<OfferedSocket> {
        Ok(OfferedSocket {
            listener: self.listener.try_clone()?,
            made: self.file.as_ref().and_then(|file| file.made.clone()),
        })
    }

    /// Gives the file up, which stays until a process owns it again.
    pub fn give_up(self) -> OfferedSocket {
        OfferedSocket {
            listener: self.listener,
            made: self.file.and_then(|mut file| file.made.take()),
        }
    }

    /// The listening socket itself.
    pub const fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Payload for SocketRecord {
    const KIND: &'static str = "listening-socket";
    const VERSION: u32 = 1;
}

impl OfferedSocket {
    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            listener: self.listener.try_clone()?,
            made: self.made.clone(),
        })
    }

    /// Listens, and removes the file on drop. The process that offered the socket must have given it up.
    pub fn own(self) -> ListeningSocket {
        ListeningSocket {
            listener: self.listener,
            file: self.made.map(|made| SocketFile { made: Some(made) }),
        }
    }
}

impl Handover for OfferedSocket {
    type Record = Sealed<SocketRecord>;

    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
        (Sealed(SocketRecord { file: self.made }), vec![self.listener.into()])
    }

    fn take_over(Sealed(record): Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        Ok(Self {
            listener: next_of("a listening socket", descriptors)?.into(),
            made: record.file,
        })
    }
}

impl SocketFile {
    fn claim(path: &Path) -> io::Result<Self> {
        let made = MadeFile {
            path: path.to_owned(),
            identity: identity(path)?,
        };
        Ok(Self { made: Some(made) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Some(made) = &self.made else { return };
        if identity(&made.path).is_ok_and(|found| found == made.identity) {
            // The file stays if the directory has become unwritable.
            let _ = fs::remove_file(&made.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes the socket file of a process that has ended.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Bind {
        path: path.to_owned(),
        source,
    };
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    if !kind.is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
        Ok(_) => Err(BindError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    /// The socket as another process gets it.
    fn pass_on(socket: OfferedSocket) -> OfferedSocket {
        let (record, descriptors) = socket.into_handover();
        let record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        OfferedSocket::take_over(record, &mut descriptors.into_iter()).unwrap()
    }

    #[test]
    fn a_socket_that_is_handed_over_takes_clients_until_the_last_owner_drops_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let offered = ListeningSocket::bind(&path, 0o600).unwrap().give_up();
        let mut client = UnixStream::connect(&path).unwrap();
        let socket = pass_on(offered).own();
        let (mut served, _) = socket.listener().accept().unwrap();
        served.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn an_offered_socket_that_is_dropped_leaves_the_file_to_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = ListeningSocket::bind(&path, 0o600).unwrap();
        drop(socket.offer().unwrap());
        drop(pass_on(socket.offer().unwrap()));
        UnixStream::connect(&path).unwrap();
        socket.listener().accept().unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_of_another_process_keeps_its_file_after_a_handover_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = ListeningSocket::adopt(UnixListener::bind(&path).unwrap()).unwrap();
        drop(pass_on(socket.give_up()).own());
        assert!(path.exists());
    }
}
