//! Measures connections per second, and keeps many idle ones open.

use crate::wire::{Request, ask};
use crate::{Arguments, Report};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const STACK: usize = 128 * 1024;
/// Longest time that the server takes to answer.
const ANSWER: Duration = Duration::from_secs(20);

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

/// Opens connections, says so, and exchanges a numbered message on one after the other. Reports those that failed, and
/// the longest time that an exchange took.
pub(crate) fn keep(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let connections: usize = arguments.get("connections")?;
    let time = Duration::from_millis(arguments.get("millis")?);
    let mut kept: Vec<Option<TcpStream>> = (0..connections)
        .map(|_| {
            let connection = ask(to, &Request::Echo)?;
            connection.set_nodelay(true)?;
            connection.set_read_timeout(Some(ANSWER))?;
            Ok(Some(connection))
        })
        .collect::<io::Result<_>>()?;
    println!("keeping {connections}");
    let start = Instant::now();
    let (mut exchanges, mut longest, mut errors) = (0_u64, Duration::ZERO, Vec::new());
    while start.elapsed() < time {
        for place in &mut kept {
            let Some(connection) = place else { continue };
            let (message, mut answer) = (exchanges.to_be_bytes(), [0; 8]);
            let before = Instant::now();
            let exchanged = connection
                .write_all(&message)
                .and_then(|()| connection.read_exact(&mut answer));
            let failed = match exchanged {
                Ok(()) if answer == message => None,
                Ok(()) => Some("other bytes came back".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = failed {
                errors.push(error);
                *place = None;
            }
            exchanges += 1;
            longest = longest.max(before.elapsed());
        }
    }
    errors.truncate(10);
    let lost = kept.iter().filter(|place| place.is_none()).count();
    let report = json!({
        "kept": connections - lost,
        "lost": lost,
        "exchanges": exchanges,
        "longest_ms": longest.as_secs_f64() * 1e3,
        "errors": errors,
    });
    Ok((lost == 0, report))
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
