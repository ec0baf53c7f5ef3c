//! Bulk transfers over one or many connections, compared by SHA-256.

use crate::wire::{Request, ask, read_line};
use crate::{Arguments, Report, stream};
use serde_json::json;
use std::io::{self, BufReader};
use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

/// The guest's clients and servers each make their own stream: the digest compared is
/// of what was sent by one side with what was received by the other.
struct Outcome {
    sent: String,
    received: String,
}

fn send_one(to: SocketAddr, bytes: u64, seed: u64) -> io::Result<Outcome> {
    let mut connection = ask(to, &Request::Sink { bytes })?;
    let sent = stream::send(&mut connection, seed, bytes)?;
    let received = read_line(&mut BufReader::new(connection))?;
    Ok(Outcome { sent, received })
}

fn receive_one(to: SocketAddr, bytes: u64, seed: u64) -> io::Result<Outcome> {
    let mut reader = BufReader::with_capacity(256 * 1024, ask(to, &Request::Source { bytes, seed })?);
    let received = stream::receive(&mut reader, bytes)?;
    let sent = read_line(&mut reader)?;
    Ok(Outcome { sent, received })
}

fn transfer(arguments: &Arguments, one: fn(SocketAddr, u64, u64) -> io::Result<Outcome>) -> Report {
    let to = arguments.to()?;
    let total: u64 = arguments.get("bytes")?;
    let connections: u64 = arguments.get_or("connections", 1)?;
    let seed: u64 = arguments.get_or("seed", 1)?;
    let bytes = total / connections.max(1);
    let start = Instant::now();
    let threads: Vec<_> = (0..connections)
        .map(|n| thread::spawn(move || one(to, bytes, seed + n)))
        .collect();
    let outcomes: Vec<_> = threads
        .into_iter()
        .map(|t| {
            t.join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
        .collect();
    let seconds = start.elapsed().as_secs_f64();
    let equal = outcomes
        .iter()
        .flatten()
        .filter(|outcome| outcome.sent == outcome.received)
        .count();
    let errors: Vec<_> = outcomes
        .iter()
        .filter_map(|o| o.as_ref().err())
        .map(ToString::to_string)
        .collect();
    let good = equal == outcomes.len();
    let report = json!({
        "bytes": bytes * connections,
        "connections": connections,
        "equal": equal,
        "errors": errors,
        "seconds": seconds,
        "sha256": outcomes.first().and_then(|o| o.as_ref().ok()).map(|o| o.received.clone()),
    });
    Ok((good, report))
}

/// Client to server.
pub fn send(arguments: &Arguments) -> Report {
    transfer(arguments, send_one)
}

/// Server to client.
pub fn receive(arguments: &Arguments) -> Report {
    transfer(arguments, receive_one)
}
