//! Signals in addition to the bytes: urgent pointers, and marks in the network header.

use crate::wire::{PATIENCE, Request, ask, put, read_line};
use crate::{Arguments, Report};
use serde_json::json;
use socket2::{Domain, SockRef, Socket};
use std::io::{self, BufReader, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

/// Bytes before the urgent byte, the urgent byte, and the bytes after it.
const BEFORE: &[u8] = b"12";
const URGENT: u8 = b'U';
const AFTER: &[u8] = b"34";

/// Sends a few bytes, one of them urgent.
pub(crate) fn send_urgent(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(BEFORE)?;
    SockRef::from(stream).send_out_of_band(&[URGENT])?;
    stream.write_all(AFTER)
}

/// Reads the urgent byte once it has arrived.
fn take_urgent(stream: &TcpStream) -> io::Result<u8> {
    let start = Instant::now();
    loop {
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(stream).recv_out_of_band(&mut byte) {
            // SAFETY: one byte was received.
            Ok(1) => return Ok(unsafe { byte[0].assume_init() }),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // The byte is announced but has not arrived, or it is not announced yet.
            Err(_) if start.elapsed() < PATIENCE => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
}

/// Reads the bytes of [`send_urgent`]. Returns the position of the urgent byte.
pub(crate) fn receive_urgent(mut stream: &TcpStream) -> io::Result<String> {
    let mut before = [0; BEFORE.len()];
    stream.read_exact(&mut before)?;
    let urgent = take_urgent(stream)?;
    let mut after = [0; AFTER.len()];
    stream.read_exact(&mut after)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(format!("{} {} {}", text(&before), text(&[urgent]), text(&after)))
}

/// Sends one urgent byte among others, and expects the same back.
pub(crate) fn urgent(arguments: &Arguments) -> Report {
    let connection = ask(arguments.to()?, &Request::Urgent)?;
    // The server reads without a buffer from here on.
    let ready = read_line(&mut BufReader::with_capacity(1, &connection))?;
    send_urgent(&connection)?;
    let there = read_line(&mut BufReader::with_capacity(1, &connection))?;
    let back = receive_urgent(&connection)?;
    let good = there == back && back == "12 U 34";
    Ok((good, json!({ "ready": ready, "there": there, "back": back })))
}

/// Exchanges data once over TCP and once over UDP, marked with a traffic class from the first packet.
pub(crate) fn marked(arguments: &Arguments) -> Report {
    let (to, class) = (arguments.to()?, arguments.get("class")?);
    let mark = |socket: &Socket| match to {
        SocketAddr::V4(_) => socket.set_tos_v4(class),
        SocketAddr::V6(_) => socket.set_tclass_v6(class),
    };
    let stream = Socket::new(Domain::for_address(to), socket2::Type::STREAM, None)?;
    mark(&stream)?;
    stream.connect_timeout(&to.into(), PATIENCE)?;
    let mut seen = String::new();
    let connection = put(stream.into(), &Request::Peer)?;
    (&connection).read_to_string(&mut seen)?;
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let datagrams = UdpSocket::bind(any)?;
    mark(&SockRef::from(&datagrams))?;
    datagrams.set_read_timeout(Some(PATIENCE))?;
    datagrams.send_to(b"marked", to)?;
    let (len, _) = datagrams.recv_from(&mut [0; 16])?;
    Ok((len == 6 && !seen.is_empty(), json!({ "seen": seen.trim() })))
}
