//! TCP host sockets: sends from guest memory, peeks into guest memory, and queries how much more the kernel accepts.
//!
//! The kernel's receive queue is the only buffer towards the guest. Bytes are peeked, and removed from the queue when
//! the guest has acknowledged them. SO_PEEK_OFF (TCP: Linux 6.9, over IPv6 6.12) lets a peek start where the last one
//! ended. On an older kernel [`peek`] rereads the bytes before the offset into a scratch area.

use super::option::IntOption;
use crate::frame::{GuestSlice, GuestSliceMut, ScatterList};
use socket2::{Domain, Socket, Type};
use std::cell::RefCell;
use std::io;
use std::mem::size_of;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

const LOW_WATER: IntOption = IntOption(libc::SOL_SOCKET, libc::SO_RCVLOWAT);
const KEEP_COUNT: IntOption = IntOption(libc::IPPROTO_TCP, libc::TCP_KEEPCNT);
const KEEP_IDLE: IntOption = IntOption(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE);
const PEEK_OFF: IntOption = IntOption(libc::SOL_SOCKET, libc::SO_PEEK_OFF);
/// The option IP_LOCAL_PORT_RANGE, which also applies to IPv6 (ip(7)).
const LOCAL_PORT_RANGE: IntOption = IntOption(libc::IPPROTO_IP, 51);

/// Request that returns whether the next byte is the urgent byte (include/uapi/asm-generic/sockios.h).
pub const SIOCATMARK: libc::c_ulong = 0x8905;

/// Maximum slices per call (the kernel's UIO_MAXIOV).
pub const MAX_SLICES: usize = 1024;

/// True if this kernel supports a port range per socket (Linux 6.3).
pub fn has_port_range() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| on_every_family(|socket| set_port_range(socket, 0..=0).is_ok()))
}

/// Limits the kernel's choice of a local port on connect to a range. A bound outside net.ipv4.ip_local_port_range is
/// ignored.
///
/// # Errors
/// The error of setsockopt(2): the option does not exist where [`has_port_range`] is false.
pub fn set_port_range(socket: &impl AsRawFd, ports: RangeInclusive<u16>) -> io::Result<()> {
    let value = u32::from(*ports.end()) << 16 | u32::from(*ports.start());
    LOCAL_PORT_RANGE.set(socket, value.cast_signed())
}

/// Sends `slices`, without waiting and without SIGPIPE. Returns how many bytes the kernel accepted.
///
/// # Errors
/// The error of sendmsg(2): `WouldBlock` if the kernel accepts nothing now.
pub fn send(socket: &impl AsRawFd, slices: &[GuestSlice<'_>]) -> io::Result<usize> {
    let mut taken = 0;
    let (mut now, mut later) = slices.split_at(slices.len().min(MAX_SLICES));
    loop {
        match send_at_once(socket, now) {
            Ok(n) => taken += n,
            Err(e) if taken == 0 => return Err(e),
            // If the connection has an error, the next call returns it.
            Err(_) => return Ok(taken),
        }
        let sent = slices.len() - later.len();
        if later.is_empty() || taken < slices[..sent].iter().map(GuestSlice::len).sum() {
            return Ok(taken);
        }
        (now, later) = later.split_at(later.len().min(MAX_SLICES));
    }
}

/// Sends at most [`MAX_SLICES`] slices.
fn send_at_once(socket: &impl AsRawFd, slices: &[GuestSlice<'_>]) -> io::Result<usize> {
    // SAFETY: an all-zero msghdr is a valid, empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    // SAFETY: GuestSlice has the layout of iovec and its memory stays readable while
    // borrowed; the kernel does not write through msg_iov in sendmsg.
    let n = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Start of a peek, and whether more bytes can arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeekAt {
    /// Bytes of the receive queue to skip. The socket's peek offset must be the same if [`has_peek_offset`] is true.
    pub offset: usize,
    /// True if the peer has closed its side, so that no more bytes will arrive. Used only on a kernel without a peek
    /// offset.
    pub peer_closed: bool,
}

/// Peeks bytes into `slices`, which must not be empty. Returns how many there were, or 0 at the end of the stream.
///
/// # Errors
/// The error of recvmsg(2): `WouldBlock` if no bytes have arrived yet.
pub fn peek(socket: &impl AsRawFd, at: PeekAt, slices: &mut [GuestSliceMut<'_>]) -> io::Result<usize> {
    let skip = if has_peek_offset() { 0 } else { at.offset };
    if skip == 0 {
        return receive(socket.as_raw_fd(), slices);
    }
    peek_past(socket.as_raw_fd(), skip, at.peer_closed, slices)
}

fn receive(fd: RawFd, slices: &mut [GuestSliceMut<'_>]) -> io::Result<usize> {
    // SAFETY: an all-zero msghdr is a valid, empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_mut_ptr().cast();
    message.msg_iovlen = slices.len().min(MAX_SLICES) as _;
    // SAFETY: GuestSliceMut has the layout of iovec, and its memory stays writable while
    // borrowed.
    let n = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT | libc::MSG_PEEK) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn peek_past(fd: RawFd, skip: usize, peer_closed: bool, slices: &mut [GuestSliceMut<'_>]) -> io::Result<usize> {
    thread_local! {
        static SCRATCH: RefCell<(Vec<u8>, ScatterList)> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(|(scratch, list)| {
        scratch.resize(scratch.len().max(skip), 0);
        let mut room = list.start();
        room.push(&mut scratch[..skip]);
        room.extend(slices);
        let n = receive(fd, room.slices())?;
        match n.checked_sub(skip) {
            Some(0) if peer_closed => Ok(0),
            None | Some(0) => Err(io::ErrorKind::WouldBlock.into()),
            Some(rest) => Ok(rest),
        }
    })
}

/// Sends one byte as urgent data, without waiting.
///
/// # Errors
/// The error of send(2).
pub fn send_urgent(socket: &Socket, byte: u8) -> io::Result<()> {
    let flags = libc::MSG_OOB | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    socket.send_with_flags(&[byte], flags).map(drop)
}

/// Number of bytes in the receive queue before the urgent byte, if the queue contains that byte. The socket must keep
/// urgent bytes in the stream (SO_OOBINLINE).
///
/// The kernel returns the number of bytes up to the mark only while the option is off (SIOCINQ, net/ipv4/tcp.c,
/// `tcp_inq`), so the option is switched off for that query. If the mark is next, the option stays on: without it, a
/// second urgent pointer would make the kernel discard the byte (`tcp_check_urg`).
///
/// # Errors
/// The error of ioctl(2) or setsockopt(2).
pub fn urgent_at(socket: &Socket) -> io::Result<Option<u32>> {
    let all = rustix::io::ioctl_fionread(socket)?;
    if is_at_mark(socket)? {
        return Ok((all > 0).then_some(0));
    }
    socket.set_out_of_band_inline(false)?;
    let before = rustix::io::ioctl_fionread(socket);
    socket.set_out_of_band_inline(true)?;
    let before = before?;
    Ok(u32::try_from(before).ok().filter(|_| before < all))
}

fn is_at_mark(socket: &Socket) -> io::Result<bool> {
    let mut answer: libc::c_int = 0;
    // SAFETY: the kernel writes one C int into `answer`.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCATMARK as _, &raw mut answer) } {
        0 => Ok(answer != 0),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops the first `n` bytes of the receive queue without copying them. Returns how many were dropped, which is less
/// than `n` only at the end of the queue. Moves the peek offset back by the same number.
///
/// # Errors
/// The error of recv(2).
pub fn discard(socket: &impl AsRawFd, n: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    let mut done = 0;
    // A single call stops at the mark of an urgent byte.
    while done < n {
        // SAFETY: with MSG_TRUNC a TCP socket writes nothing, so a null buffer is allowed (tcp(7)).
        let dropped = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), n - done, flags) };
        match usize::try_from(dropped) {
            Ok(0) => break,
            Ok(dropped) => done += dropped,
            Err(_) if done > 0 => break,
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(done)
}

/// True if this kernel peeks TCP at an offset in both families: Linux 6.9 to 6.11 support it only
/// over IPv4.
pub fn has_peek_offset() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| on_every_family(|socket| PEEK_OFF.set(socket, 0).is_ok()))
}

/// True if `can` returns true for TCP sockets of every family.
fn on_every_family(can: impl Fn(&Socket) -> bool) -> bool {
    let sockets = [Domain::IPV4, Domain::IPV6].map(|domain| Socket::new(domain, Type::STREAM, None));
    // A host may lack one of the families.
    let mut there = sockets.iter().flatten().peekable();
    there.peek().is_some() && there.all(can)
}

/// Sets where the next peek starts. Does nothing on a kernel without peek offsets.
///
/// # Errors
/// The error of setsockopt(2).
pub fn set_peek_offset(socket: &impl AsRawFd, offset: usize) -> io::Result<()> {
    if !has_peek_offset() {
        return Ok(());
    }
    let offset = libc::c_int::try_from(offset).unwrap_or(libc::c_int::MAX);
    PEEK_OFF.set(socket, offset)
}

/// Offset of the next peek. `None` if the kernel always peeks from the front of the queue.
///
/// # Errors
/// The error of getsockopt(2).
pub fn peek_offset(socket: &impl AsRawFd) -> io::Result<Option<usize>> {
    Ok(usize::try_from(PEEK_OFF.get(socket)?).ok())
}

fn socklen(n: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(n).unwrap_or(libc::socklen_t::MAX)
}

/// Lets the receive queue grow until it can hold `bytes` at once, up to half of the maximum in net.ipv4.tcp_rmem. It
/// never shrinks the queue.
///
/// The kernel sizes the queue by how fast bytes leave it. These bytes stay until the guest has acknowledged them, so
/// the kernel considers hawser a slow reader. A low-water mark enlarges the queue and keeps the kernel's own sizing,
/// which SO_RCVBUF would turn off. A kernel before 4.17 does not enlarge the queue, which only costs speed.
///
/// # Errors
/// The error of setsockopt(2).
pub fn widen_receive_queue(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    LOW_WATER.set(socket, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))?;
    LOW_WATER.set(socket, 1)
}

/// Time since the last bytes or acknowledgment from the peer.
///
/// # Errors
/// The error of getsockopt(2).
pub fn silence(socket: &impl AsRawFd) -> io::Result<Duration> {
    // SAFETY: a tcp_info consists of numbers, all of which may be zero.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = socklen(size_of::<libc::tcp_info>());
    // SAFETY: the kernel writes at most `length` bytes into `info`; an older kernel writes fewer.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    let millis = info.tcpi_last_data_recv.min(info.tcpi_last_ack_recv);
    Ok(Duration::from_millis(millis.into()))
}

/// Makes the kernel probe the peer after this period of silence, in whole seconds. If the peer has already been silent
/// for that long, it is probed immediately (net/ipv4/tcp.c, `tcp_sock_set_keepidle_locked`). Unanswered probes end the
/// connection as late as the kernel allows.
///
/// # Errors
/// The error of setsockopt(2).
pub fn probe_after(socket: &impl AsRawFd, silence: Duration) -> io::Result<()> {
    /// Values of MAX_TCP_KEEPIDLE and MAX_TCP_KEEPCNT.
    const LONGEST: libc::c_int = 32_767;
    const MOST: libc::c_int = 127;
    let seconds = libc::c_int::try_from(silence.as_secs()).unwrap_or(LONGEST);
    KEEP_COUNT.set(socket, MOST)?;
    KEEP_IDLE.set(socket, seconds.clamp(1, LONGEST))
}

/// Use and limit of a socket's send queue, in bytes of kernel memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendMemory {
    /// Bytes in use, including overhead (sk_wmem_queued).
    pub queued: u32,
    /// The limit, which the kernel raises as a connection speeds up (sk_sndbuf).
    pub limit: u32,
}

/// Reads the send side of SO_MEMINFO (Linux 4.12, older than any kernel supported here).
///
/// # Errors
/// The error of getsockopt(2).
pub fn send_memory(socket: &impl AsRawFd) -> io::Result<SendMemory> {
    // Indices SK_MEMINFO_* from include/uapi/linux/sock_diag.h.
    const SNDBUF: usize = 3;
    const WMEM_QUEUED: usize = 5;
    const VARS: usize = 9;
    let mut info = [0u32; VARS];
    let mut length = socklen(size_of::<[u32; VARS]>());
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(SendMemory {
        queued: info[WMEM_QUEUED],
        limit: info[SNDBUF],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn more_slices_than_one_call_takes_are_sent_all_the_same() {
        let (near, mut far) = pair();
        let bytes: Vec<u8> = (0..=255).cycle().take(2 * MAX_SLICES + 1).collect();
        let slices: Vec<_> = bytes.chunks(1).map(GuestSlice::from_bytes).collect();
        assert_eq!(send(&near, &slices).unwrap(), bytes.len());
        let mut got = vec![0; bytes.len()];
        far.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes);
    }

    #[test]
    fn what_a_full_queue_takes_is_a_beginning_of_what_it_was_given() {
        const LONG: usize = 8192;
        let (near, mut far) = pair();
        // This is far more than any queue holds.
        let bytes: Vec<u8> = (0..=250).cycle().take(4 * MAX_SLICES * LONG).collect();
        let slices: Vec<_> = bytes.chunks(LONG).map(GuestSlice::from_bytes).collect();
        let taken = send(&near, &slices).unwrap();
        assert!((1..bytes.len()).contains(&taken));
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        assert!(got == bytes[..taken]);
    }

    #[test]
    fn a_peek_past_bytes_leaves_them_out() {
        let (near, far) = pair();
        assert_eq!(send(&near, &[GuestSlice::from_bytes(b"abcdef")]).unwrap(), 6);
        // This waits until the bytes have arrived.
        assert_eq!(far.peek(&mut [0; 6]).unwrap(), 6);
        let mut room = [0; 4];
        let mut past = |skip: usize, closed: bool| {
            let n = peek_past(
                far.as_raw_fd(),
                skip,
                closed,
                &mut [GuestSliceMut::from_bytes(&mut room)],
            )?;
            Ok::<_, io::Error>(room[..n].to_vec())
        };
        assert_eq!(past(1, false).unwrap(), b"bcde");
        assert_eq!(past(4, false).unwrap(), b"ef");
        assert_eq!(past(6, false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(past(6, true).unwrap(), b"");
    }
}
