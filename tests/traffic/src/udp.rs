//! Sends datagrams of any size to a server and back, and compares them byte by byte.

use crate::stream::Stream;
use crate::wire::PATIENCE;
use crate::{Arguments, Failure, Report, any};
use serde_json::json;
use socket2::SockRef;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Sends one datagram of `len` bytes and waits for it to come back.
fn once(socket: &UdpSocket, seed: u64, len: usize) -> Result<(), String> {
    let sent = Stream::bytes(seed, len);
    socket.send(&sent).map_err(|error| format!("send: {error}"))?;
    let mut got = vec![0; 65536];
    let start = Instant::now();
    loop {
        let len = socket.recv(&mut got).map_err(|error| format!("receive: {error}"))?;
        if got[..len] == sent[..] {
            return Ok(());
        }
        // A late answer to an earlier datagram is not a failure of this datagram.
        if start.elapsed() > PATIENCE {
            return Err("other bytes came back".to_owned());
        }
    }
}

fn sizes(arguments: &Arguments) -> Result<Vec<usize>, Failure> {
    let sizes = arguments.text("sizes")?.split(',').map(str::parse);
    sizes.collect::<Result<_, _>>().map_err(Failure::from)
}

/// Exchanges one datagram of each size with a traffic class.
pub(crate) fn send(arguments: &Arguments) -> Report {
    let (to, sizes) = (arguments.to()?, sizes(arguments)?);
    let socket = UdpSocket::bind(SocketAddr::new(any(to), 0))?;
    let (reference, class) = (SockRef::from(&socket), arguments.get_or("class", 0)?);
    match to {
        SocketAddr::V4(_) => reference.set_tos_v4(class)?,
        SocketAddr::V6(_) => reference.set_tclass_v6(class)?,
    }
    for &len in &sizes {
        socket.send_to(&Stream::bytes(0, len), to)?;
    }
    Ok((true, json!({ "sent": sizes.len() })))
}

/// Exchanges `count` datagrams of each size, one after another.
pub(crate) fn exchange(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let count: u64 = arguments.get_or("count", 1)?;
    let sizes = sizes(arguments)?;
    let socket = UdpSocket::bind(SocketAddr::new(any(to), 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(arguments.get_or("wait", 5)?)))?;
    socket
        .connect(to)
        .map_err(|error| io::Error::new(error.kind(), format!("connect: {error}")))?;
    let (mut good, mut errors) = (0_u64, Vec::new());
    for (n, &len) in sizes.iter().enumerate() {
        for round in 0..count {
            match once(&socket, (n as u64) << 32 | round, len) {
                Ok(()) => good += 1,
                Err(error) => errors.push(format!("{len} bytes: {error}")),
            }
        }
    }
    let report = json!({ "good": good, "errors": errors, "local": socket.local_addr()?.to_string() });
    Ok((errors.is_empty(), report))
}
