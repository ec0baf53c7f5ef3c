//! Sends as many datagrams as possible, and counts those that arrive.

use crate::batch::Batch;
use crate::wire::{Request, ask, read_line};
use crate::{Arguments, Failure, Report, any};
use serde_json::json;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

/// How long datagrams in flight may still take to arrive.
const TAIL: Duration = Duration::from_millis(300);
/// How long to wait for the server's own count.
const ANSWER: Duration = Duration::from_secs(3);
/// Maximum segments in one call with UDP_SEGMENT (UDP_MAX_SEGMENTS of older kernels).
const SEGMENTS: u64 = 64;
/// Enough for the datagrams of a few milliseconds; the kernel may grant less.
const RECEIVE_BUFFER: usize = 4 << 20;

fn bind(at: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(at, 0))?;
    // A smaller buffer works too, with more loss.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    Ok(socket)
}

/// Sends for `time`. Returns the number of datagrams sent.
fn send_for(socket: &UdpSocket, size: usize, time: Duration) -> io::Result<u64> {
    let (mut batch, start, mut sent) = (Batch::new(size), Instant::now(), 0);
    while start.elapsed() < time {
        match batch.send(socket) {
            Ok(n) => sent += n,
            // The queue is full, or an error reported that no program listens: a flood ignores both.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Counts datagrams until `is_over` is true and no more arrive.
fn count_until(socket: &UdpSocket, size: usize, mut is_over: impl FnMut() -> bool) -> io::Result<u64> {
    socket.set_read_timeout(Some(TAIL))?;
    let (mut batch, mut got) = (Batch::new(size), 0);
    loop {
        match batch.receive(socket) {
            Ok(n) => got += n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if is_over() {
                    return Ok(got);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Server: reports a port, and counts datagrams on it until the client ends its direction.
pub(crate) fn count(connection: &TcpStream, size: usize) -> io::Result<()> {
    let socket = bind(connection.local_addr()?.ip())?;
    writeln!(&*connection, "{}", socket.local_addr()?.port())?;
    let mut control = connection.try_clone()?;
    let end = thread::spawn(move || control.read(&mut [0]).unwrap_or(0));
    let got = count_until(&socket, size, || end.is_finished())?;
    writeln!(&*connection, "{got}")
}

/// Server: reports a port, waits for a first datagram there, and floods its sender.
pub(crate) fn pour(connection: &TcpStream, size: usize, time: Duration) -> io::Result<()> {
    let socket = bind(connection.local_addr()?.ip())?;
    writeln!(&*connection, "{}", socket.local_addr()?.port())?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (_, from) = socket.recv_from(&mut [0; 16])?;
    socket.connect(from)?;
    let sent = send_for(&socket, size, time)?;
    writeln!(&*connection, "{sent}")
}

/// Server: reports a UDP port, waits for a datagram there, and sends `count` datagrams back.
pub(crate) fn send_burst(connection: &TcpStream, size: u16, count: u64) -> io::Result<()> {
    let socket = bind(connection.local_addr()?.ip())?;
    writeln!(&*connection, "{}", socket.local_addr()?.port())?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (_, from) = socket.recv_from(&mut [0; 16])?;
    socket.connect(from)?;
    let segment = i32::from(size);
    // SAFETY: UDP_SEGMENT takes an int, which lives for the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const segment).cast(),
            libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(0),
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut left = count;
    while left > 0 {
        let now = left.min(SEGMENTS).min(u64::from(u16::MAX - 100) / u64::from(size));
        let bytes = vec![0x5a; usize::try_from(now).unwrap_or(0) * usize::from(size)];
        socket.send(&bytes)?;
        left -= now;
    }
    Ok(())
}

/// Client: requests a burst from the server. Succeeds if all of it arrives.
pub(crate) fn burst(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let (size, count) = (arguments.get("size")?, arguments.get("count")?);
    let socket = bind(any(to))?;
    let connection = ask(to, &Request::Burst { size, count })?;
    let port = number(&mut BufReader::new(&connection))?;
    socket.connect(SocketAddr::new(to.ip(), u16::try_from(port)?))?;
    socket.send(b"here")?;
    let start = Instant::now();
    let received = count_until(&socket, usize::from(size), || start.elapsed() >= ANSWER)?;
    Ok((received == count, json!({ "sent": count, "received": received })))
}

fn number(reader: &mut impl io::BufRead) -> Result<u64, Failure> {
    Ok(read_line(reader)?.parse()?)
}

/// Client: floods the server, or requests a flood (`from=server`). `sent` is 0 if the server could not report it.
pub(crate) fn flood(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let size: usize = arguments.get("size")?;
    let time = Duration::from_millis(arguments.get_or("millis", 1000)?);
    let socket = bind(any(to))?;
    let from = arguments.get_or("from", "client".to_owned())?;
    let (sent, received) = match from.as_str() {
        "client" => {
            let connection = ask(to, &Request::Count { size })?;
            let mut reader = BufReader::new(&connection);
            socket.connect(SocketAddr::new(to.ip(), u16::try_from(number(&mut reader)?)?))?;
            let sent = send_for(&socket, size, time)?;
            connection.shutdown(Shutdown::Write)?;
            (sent, number(&mut reader)?)
        }
        "server" => {
            let millis = u64::try_from(time.as_millis())?;
            let connection = ask(to, &Request::Pour { size, millis })?;
            let mut reader = BufReader::new(&connection);
            socket.connect(SocketAddr::new(to.ip(), u16::try_from(number(&mut reader)?)?))?;
            let start = Instant::now();
            socket.send(b"here")?;
            let received = count_until(&socket, size, || start.elapsed() >= time)?;
            // The number of arrivals is known, even if the flood harmed this connection.
            connection.set_read_timeout(Some(ANSWER))?;
            (number(&mut reader).unwrap_or(0), received)
        }
        other => return Err(format!("from={other}: client or server").into()),
    };
    let per_second = |n: u64| n as f64 / time.as_secs_f64();
    let report = json!({
        "sent": sent, "received": received,
        "sent_per_second": per_second(sent), "received_per_second": per_second(received),
    });
    Ok((received > 0, report))
}
