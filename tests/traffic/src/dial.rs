//! Measures connections per second, and keeps many idle ones open.

use crate::wire::{Request, ask};
use crate::{Arguments, Report};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const STACK: usize = 128 * 1024;

/// Connects, exchanges one byte, and closes in an orderly way.
fn once(to: SocketAddr) -> io::Result<()> {
    let mut connection = ask(to, &Request::Echo)?;
    connection.write_all(&[1])?;
    connection.read_exact(&mut [0])?;
    connection.shutdown(Shutdown::Write)?;
    match connection.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more came back than was sent")),
    }
}

/// Connects repeatedly, and returns the duration of each exchange.
fn repeat(to: SocketAddr, until: Instant) -> io::Result<Vec<Duration>> {
    let mut taken = Vec::new();
    let mut start = Instant::now();
    while start < until {
        once(to)?;
        let end = Instant::now();
        taken.push(end - start);
        start = end;
    }
    Ok(taken)
}

/// Connects repeatedly for a while, `at_once` at a time.
pub(crate) fn dial(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let at_once: usize = arguments.get_or("at_once", 1)?;
    let time = Duration::from_millis(arguments.get_or("millis", 1000)?);
    let start = Instant::now();
    let threads: Vec<_> = (0..at_once)
        .map(|_| {
            thread::Builder::new()
                .stack_size(STACK)
                .spawn(move || repeat(to, start + time))
        })
        .collect::<io::Result<_>>()?;
    let (mut taken, mut errors) = (Vec::new(), Vec::new());
    for thread in threads {
        match thread.join() {
            Ok(Ok(more)) => taken.extend(more),
            Ok(Err(error)) => errors.push(error.to_string()),
            Err(_) => errors.push("the thread panicked".to_owned()),
        }
    }
    let elapsed = start.elapsed();
    taken.sort_unstable();
    let median = taken.get(taken.len() / 2).map_or(f64::NAN, Duration::as_secs_f64);
    let report = json!({
        "connections": taken.len(),
        "per_second": taken.len() as f64 / elapsed.as_secs_f64(),
        "per_second_by_median": at_once as f64 / median,
        "errors": errors,
    });
    Ok((errors.is_empty(), report))
}

/// Opens connections, reports that, and keeps them idle until it is killed.
pub(crate) fn hold(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let connections: usize = arguments.get("connections")?;
    let held: Vec<TcpStream> = (0..connections)
        .map(|_| ask(to, &Request::Echo))
        .collect::<io::Result<_>>()?;
    println!("holding {}", held.len());
    loop {
        thread::park();
    }
}
