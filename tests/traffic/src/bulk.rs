//! Bulk transfers over one or many connections, in which every byte is compared.

use crate::lasting::Lasting;
use crate::wire::{Request, WHOLE, ask, read_line};
use crate::{Arguments, Report, stream};
use serde_json::json;
use std::io::{self, BufReader};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::Instant;

fn send_one(to: SocketAddr, bytes: u64, seed: u64) -> io::Result<()> {
    let mut connection = ask(to, &Request::Sink { bytes, seed })?;
    stream::send(&mut connection, seed, bytes)?;
    match read_line(&mut BufReader::new(connection))? {
        line if line == WHOLE => Ok(()),
        line => Err(io::Error::other(line)),
    }
}

fn receive_one(to: SocketAddr, bytes: u64, seed: u64) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(256 * 1024, ask(to, &Request::Source { bytes, seed })?);
    stream::receive(&mut reader, seed, bytes)?;
    match read_line(&mut reader)? {
        line if line == WHOLE => Ok(()),
        line => Err(io::Error::other(format!("after the stream came: {line}"))),
    }
}

fn send_while(to: SocketAddr, lasting: &mut Lasting, seed: u64) -> io::Result<u64> {
    let mut connection = ask(to, &Request::AwaitEnd { seed })?;
    let bytes = stream::send_while(&mut connection, seed, || lasting.lasts())?;
    connection.shutdown(Shutdown::Write)?;
    match read_line(&mut BufReader::new(connection))? {
        line if line == bytes.to_string() => Ok(bytes),
        line => Err(io::Error::other(format!("of {bytes} bytes: {line}"))),
    }
}

fn receive_while(to: SocketAddr, lasting: &mut Lasting, seed: u64) -> io::Result<u64> {
    let bytes = u64::MAX;
    let mut reader = ask(to, &Request::Source { bytes, seed })?;
    stream::receive_while(&mut reader, seed, || lasting.lasts())
}

/// A transfer over one connection that lasts as long as the argument `while` says.
fn last(
    arguments: &Arguments,
    mut lasting: Lasting,
    one: fn(SocketAddr, &mut Lasting, u64) -> io::Result<u64>,
) -> Report {
    let start = Instant::now();
    let bytes = one(arguments.to()?, &mut lasting, arguments.get_or("seed", 1)?)?;
    Ok((
        true,
        json!({ "bytes": bytes, "seconds": start.elapsed().as_secs_f64() }),
    ))
}

fn transfer(arguments: &Arguments, one: fn(SocketAddr, u64, u64) -> io::Result<()>) -> Report {
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
    let errors: Vec<_> = outcomes
        .iter()
        .filter_map(|o| o.as_ref().err())
        .map(ToString::to_string)
        .collect();
    let good = errors.is_empty();
    let report = json!({
        "bytes": bytes * connections,
        "connections": connections,
        "equal": outcomes.len() - errors.len(),
        "errors": errors,
        "seconds": seconds,
    });
    Ok((good, report))
}

/// Sends from the client to the server.
pub(crate) fn send(arguments: &Arguments) -> Report {
    match Lasting::of(arguments)? {
        Some(lasting) => last(arguments, lasting, send_while),
        None => transfer(arguments, send_one),
    }
}

/// Receives from the server.
pub(crate) fn receive(arguments: &Arguments) -> Report {
    match Lasting::of(arguments)? {
        Some(lasting) => last(arguments, lasting, receive_while),
        None => transfer(arguments, receive_one),
    }
}
