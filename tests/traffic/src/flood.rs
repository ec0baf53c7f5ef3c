//! As many datagrams as the sender can send, and how many of them arrive.

use crate::batch::Batch;
use crate::wire::{Request, ask, read_line};
use crate::{Arguments, Failure, Report};
use serde_json::json;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// How long what is under way may still take to arrive.
const TAIL: Duration = Duration::from_millis(300);
/// How long the server's own count is waited for.
const ANSWER: Duration = Duration::from_secs(3);
/// Enough for the datagrams of a few milliseconds; the kernel gives what it allows.
const RECEIVE_BUFFER: usize = 4 << 20;

fn bind(at: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(at, 0))?;
    // A smaller buffer measures as well, with more loss.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    Ok(socket)
}

const fn any(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Sends for `time`; how many datagrams went.
fn send_for(socket: &UdpSocket, size: usize, time: Duration) -> io::Result<u64> {
    let (mut batch, start, mut sent) = (Batch::new(size), Instant::now(), 0);
    while start.elapsed() < time {
        match batch.send(socket) {
            Ok(n) => sent += n,
            // The way there is full, or somebody said that nobody listens: that is what a
            // flood is for.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Counts datagrams until `is_over` and the way is empty.
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

/// Server: tells a port, counts what comes to it until the client's direction ends.
pub fn count(connection: &TcpStream, size: usize) -> io::Result<()> {
    let socket = bind(connection.local_addr()?.ip())?;
    writeln!(&*connection, "{}", socket.local_addr()?.port())?;
    let mut control = connection.try_clone()?;
    let end = thread::spawn(move || control.read(&mut [0]).unwrap_or(0));
    let got = count_until(&socket, size, || end.is_finished())?;
    writeln!(&*connection, "{got}")
}

/// Server: tells a port, waits there for a first datagram and floods its sender.
pub fn pour(connection: &TcpStream, size: usize, time: Duration) -> io::Result<()> {
    let socket = bind(connection.local_addr()?.ip())?;
    writeln!(&*connection, "{}", socket.local_addr()?.port())?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (_, from) = socket.recv_from(&mut [0; 16])?;
    socket.connect(from)?;
    let sent = send_for(&socket, size, time)?;
    writeln!(&*connection, "{sent}")
}

fn number(reader: &mut impl io::BufRead) -> Result<u64, Failure> {
    Ok(read_line(reader)?.parse()?)
}

/// Client: floods the server, or has it flood us (`from=server`; `sent` is 0 if the server
/// could not tell).
pub fn flood(arguments: &Arguments) -> Report {
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
            // What arrived is known, even if the flood did this connection harm.
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
