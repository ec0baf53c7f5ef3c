//! Requests from a client to a server: one line of JSON at the start of each TCP connection.

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest time that a read or write may block before it counts as a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Reply for a stream that arrived without errors.
pub(crate) const WHOLE: &str = "whole";

/// What the server does for the rest of the connection.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub(crate) enum Request {
    /// Receive `bytes` bytes of the stream of `seed`; answer [`WHOLE`] or a description of the error.
    Sink { bytes: u64, seed: u64 },
    /// Send `bytes` bytes of the stream of `seed`, then [`WHOLE`].
    Source { bytes: u64, seed: u64 },
    /// Send all received bytes back, until the client's direction ends.
    Echo,
    /// Receive the stream of `seed` until the client's direction ends, and only then answer with its length.
    AwaitEnd { seed: u64 },
    /// End the server's direction immediately, receive the stream of `seed` until the client's direction ends, and
    /// store its length under `token`.
    EndFirst { token: u64, seed: u64 },
    /// Abort the connection.
    Abort,
    /// Read until the connection ends, and store the way it ended under `token`.
    Watch { token: u64 },
    /// Answer with the value under `token`.
    Recall { token: u64 },
    /// Answer with the client's address.
    Peer,
    /// Report readiness, read an urgent byte among others, report how they arrived, and send the same bytes.
    Urgent,
    /// Answer with a UDP port, count datagrams of `size` bytes there until the client's direction ends, and answer with
    /// their number.
    Count { size: usize },
    /// Answer with a UDP port, wait there for a datagram, flood its sender with datagrams of `size` bytes for `millis`
    /// milliseconds, and answer with their number.
    Pour { size: usize, millis: u64 },
    /// Answer with a UDP port, wait there for a datagram, and send its sender `count` datagrams of `size` bytes in as
    /// few calls as possible.
    Burst { size: u16, count: u64 },
}

/// Connects, with [`PATIENCE`] as the time limit for every operation.
pub(crate) fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    be_patient(&stream)?;
    Ok(stream)
}

/// Sets a time limit for every read and write of `stream`.
pub(crate) fn be_patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Connects from a given address and port, which may be unusual ones, and sends the request.
pub(crate) fn ask_from(from: SocketAddr, to: SocketAddr, request: &Request) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    // A connection from the same port may still be in TIME-WAIT, also one of the other family.
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = socket.into();
    be_patient(&stream)?;
    put(stream, request)
}

/// Connects and sends the request.
pub(crate) fn ask(to: SocketAddr, request: &Request) -> io::Result<TcpStream> {
    put(open(to)?, request)
}

/// Sends the request on an existing connection.
pub(crate) fn put(mut stream: TcpStream, request: &Request) -> io::Result<TcpStream> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(stream)
}

/// Reads one line, and returns it without its end.
pub(crate) fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
