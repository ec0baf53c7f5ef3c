//! The error queue of a datagram socket (recvmsg(2) with MSG_ERRQUEUE): ICMP errors from the
//! network and errors of the local IP stack, each with the start of the packet that caused it.
//! [`super::datagram::watch_errors`] enables it.

use super::datagram::{Control, for_each_control, socket_address};
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

/// Room for a socket address in bytes (`sockaddr_in6`, rounded up).
const NAME: usize = 32;
#[allow(clippy::cast_possible_truncation, reason = "32")]
const NAME_LEN: libc::socklen_t = NAME as libc::socklen_t;

/// The source of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The local IP stack.
    Local,
    /// An ICMP message of this type and code.
    Icmp(u8, u8),
    /// An ICMPv6 message of this type and code.
    Icmpv6(u8, u8),
}

/// An entry of an error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedError {
    /// Error number that the socket would return.
    pub errno: i32,
    /// Source of the error.
    pub origin: Origin,
    /// MTU in bytes, for "too big" errors.
    pub info: u32,
    /// Address of the sender of the ICMP message.
    pub offender: Option<IpAddr>,
    /// Destination of the packet that caused the error.
    pub destination: Option<SocketAddr>,
    /// Number of bytes written to the buffer. They are the quoted part of the packet's payload after the transport
    /// header, or including that header for ping and raw sockets.
    pub len: usize,
}

/// Takes the oldest entry and writes the quoted bytes to `quoted`. `None` if the queue is empty.
///
/// # Errors
/// The error of recvmsg(2).
pub fn take(socket: &impl AsRawFd, quoted: &mut [u8]) -> io::Result<Option<QueuedError>> {
    // Control header (16), sock_extended_err (16) and the offender's address (28). A packet info may follow.
    let mut control = Control([0u8; 256]);
    let mut iov = libc::iovec {
        iov_base: quoted.as_mut_ptr().cast(),
        iov_len: quoted.len(),
    };
    // SAFETY: an all-zero msghdr is a valid, empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut name = Control([0u8; NAME]);
    message.msg_name = name.0.as_mut_ptr().cast();
    message.msg_namelen = NAME_LEN;
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: every buffer of `message` is borrowed for the call.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(len) = usize::try_from(n) else {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock => Ok(None),
            _ => Err(error),
        };
    };
    let destination = socket_address(&name.0[..(message.msg_namelen as usize).min(NAME)]);
    let mut found = None;
    // SAFETY: `message` is as recvmsg left it, and `control` is alive.
    unsafe {
        for_each_control(&message, |level, kind, data| {
            if matches!(
                (level, kind),
                (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
            ) {
                found = parse(data, destination, len);
            }
        });
    }
    // An entry without an extended error (a timestamp, for example) is ignored.
    Ok(Some(found.unwrap_or(QueuedError {
        errno: 0,
        origin: Origin::Local,
        info: 0,
        offender: None,
        destination,
        len,
    })))
}

/// Parses `struct sock_extended_err`, which is followed by the offender's address.
fn parse(data: &[u8], destination: Option<SocketAddr>, len: usize) -> Option<QueuedError> {
    const LEN: usize = size_of::<libc::sock_extended_err>();
    let fixed: &[u8; LEN] = data.first_chunk()?;
    let word = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let (origin, kind, code) = (fixed[4], fixed[5], fixed[6]);
    let origin = match origin {
        libc::SO_EE_ORIGIN_ICMP => Origin::Icmp(kind, code),
        libc::SO_EE_ORIGIN_ICMP6 => Origin::Icmpv6(kind, code),
        _ => Origin::Local,
    };
    Some(QueuedError {
        errno: i32::try_from(word(0)).unwrap_or(0),
        origin,
        info: word(8),
        offender: socket_address(&data[LEN..]).map(|a| a.ip()),
        destination,
        len,
    })
}
