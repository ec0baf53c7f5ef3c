//! One connection of a front end, from its first message to its last.

use super::device::Device;
use super::quirks::Quirks;
use super::relay::{End, Relay};
use super::vring::born_with;
use crate::port::Port;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// Serves one front end until it goes, or `stop` becomes readable. The error says why
/// it could not be served any longer.
pub fn serve(port: &Arc<Port>, front: UnixStream, stop: RawFd) -> Result<Ended, SessionError> {
    let device = Arc::new(Device::new(Arc::clone(port)));
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let name = format!("{}-vhost", port.config().name);
    let (daemon, rings) = born_with(device.ring_hosts(), || {
        VhostUserDaemon::new(name, Arc::clone(&device), memory)
    });
    let mut daemon = daemon?;
    let quirks = Quirks::new(port.config().queue_pairs.get(), rings.len());
    device.set_rings(rings);

    let (ours, listener) = private_rendezvous()?;
    daemon.start(&mut Listener::from(listener))?;
    let end = Relay::new(front, ours, quirks)?.run(stop, device.as_ref());
    // The relay has closed its end of the socket: the daemon ends too.
    let daemon_end = daemon.wait();
    device.detach();
    match end {
        End::Stopped => Ok(Ended::Stopped),
        End::Closed => Ok(Ended::Closed),
        End::Silent => Ok(Ended::Silent),
        End::Refused(why) => Err(why.into()),
        End::Socket(why) => Err(why.into()),
        End::DaemonClosed => match daemon_end {
            Ok(()) | Err(DaemonError::HandleRequest(VhostUserError::Disconnected)) => Ok(Ended::Closed),
            Err(why) => Err(why.into()),
        },
    }
}

/// An ordinary end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The front end has gone.
    Closed,
    /// Somebody connected and left without a word: no front end.
    Silent,
    /// We were told to stop.
    Stopped,
}

/// Why a front end could not be served any longer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A descriptor, thread or socket could not be had.
    #[error("{0}")]
    System(#[from] io::Error),
    /// The front end asked for something that does not exist.
    #[error(transparent)]
    Refused(#[from] super::quirks::Refused),
    /// Its socket failed, or carries another protocol.
    #[error(transparent)]
    Socket(#[from] super::socket::SocketError),
    /// The daemon could not go on.
    #[error("{0}")]
    Daemon(DaemonError),
}

impl From<DaemonError> for SessionError {
    fn from(why: DaemonError) -> Self {
        Self::Daemon(why)
    }
}

/// A connected socket and the listener it waits at.
///
/// The daemon accepts its connection itself, so there must be a listening socket. It
/// has a random name in the abstract namespace, which is nobody's file system, and a
/// queue for exactly one connection: once ours is in it, nobody else's can be.
fn private_rendezvous() -> io::Result<(UnixStream, UnixListener)> {
    let mut name = *b"\0hawser-................";
    let random: [u8; 8] = getrandom_bytes()?;
    let hex = random.iter().flat_map(|b| [b >> 4, b & 15]);
    for (place, digit) in name[8..].iter_mut().zip(hex) {
        *place = b"0123456789abcdef"[usize::from(digit)];
    }
    let name = std::str::from_utf8(&name).map_err(io::Error::other)?;
    let address = SockAddr::unix(name)?;
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    listener.bind(&address)?;
    // The kernel takes one connection more than the number given here.
    listener.listen(0)?;
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Not to wait for room in the queue: if somebody was faster it is an error.
    stream.set_nonblocking(true)?;
    stream.connect(&address)?;
    Ok((OwnedFd::from(stream).into(), OwnedFd::from(listener).into()))
}

fn getrandom_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn nobody_else_can_stand_in_the_queue_of_the_rendezvous() {
        let (mut ours, listener) = private_rendezvous().unwrap();
        let address = listener.local_addr().unwrap();
        let intruder = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        intruder.set_nonblocking(true).unwrap();
        let name = std::os::linux::net::SocketAddrExt::as_abstract_name(&address).unwrap();
        let name = format!("\0{}", std::str::from_utf8(name).unwrap());
        let refused = intruder.connect(&SockAddr::unix(name).unwrap()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);

        let (mut accepted, _) = listener.accept().unwrap();
        ours.write_all(b"us").unwrap();
        let mut got = [0; 2];
        io::Read::read_exact(&mut accepted, &mut got).unwrap();
        assert_eq!(&got, b"us");
    }
}
