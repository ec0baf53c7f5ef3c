//! Opens many connections at once. Each exchanges data while all are open, then all are closed.

use crate::stream::Stream;
use crate::wire::{Request, ask};
use crate::{Arguments, Report};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

const STACK: usize = 128 * 1024;

/// Sends the stream of `seed` and reads it back, then closes in order.
fn exchange(mut connection: &TcpStream, seed: u64, bytes: usize) -> io::Result<()> {
    let sent = Stream::bytes(seed, bytes);
    connection.write_all(&sent)?;
    let mut got = vec![0; bytes];
    connection.read_exact(&mut got)?;
    if got != sent {
        return Err(io::Error::other("other bytes came back"));
    }
    connection.shutdown(Shutdown::Write)?;
    if connection.read(&mut [0])? != 0 {
        return Err(io::Error::other("more bytes came back than were sent"));
    }
    Ok(())
}

fn one(to: SocketAddr, seed: u64, bytes: usize, all_open: &Barrier) -> io::Result<()> {
    let connection = ask(to, &Request::Echo);
    // The thread waits even after a failure, because the others wait for this connection.
    all_open.wait();
    exchange(&connection?, seed, bytes)
}

/// Opens `connections` connections. No data is exchanged before the last one is open.
pub(crate) fn storm(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let connections: usize = arguments.get("connections")?;
    let bytes: usize = arguments.get_or("bytes", 1024)?;
    let all_open = Arc::new(Barrier::new(connections));
    let start = Instant::now();
    let mut threads = Vec::new();
    for n in 0..connections {
        let all_open = Arc::clone(&all_open);
        threads.push(
            thread::Builder::new()
                .stack_size(STACK)
                .spawn(move || one(to, n as u64, bytes, &all_open))?,
        );
    }
    let mut errors = BTreeMap::<String, usize>::new();
    for thread in threads {
        let outcome = thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
        if let Err(error) = outcome {
            *errors.entry(error.to_string()).or_default() += 1;
        }
    }
    let failed: usize = errors.values().sum();
    let report = json!({
        "connections": connections,
        "good": connections - failed,
        "errors": errors,
        "seconds": start.elapsed().as_secs_f64(),
    });
    Ok((failed == 0, report))
}
