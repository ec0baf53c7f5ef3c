//! Times requests and replies, one at a time, over one connection or over a new connection for each.

use crate::lasting::Lasting;
use crate::stream::Stream;
use crate::wire::{Request, ask};
use crate::{Arguments, Report};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn round(connection: &mut TcpStream, request: &[u8], reply: &mut [u8]) -> io::Result<()> {
    connection.write_all(request)?;
    connection.read_exact(reply)?;
    if reply == request {
        Ok(())
    } else {
        Err(io::Error::other("other bytes came back"))
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Reports the median, 99th percentile and rate of `count` rounds of `bytes` bytes in each direction, or of as many as
/// `while` lasts.
pub(crate) fn rounds(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let mut lasting = Lasting::of(arguments)?;
    let wanted: usize = arguments.get_or("count", 1000)?;
    let mut lasts = |done| match &mut lasting {
        Some(lasting) => lasting.lasts(),
        None => done < wanted,
    };
    let request = Stream::bytes(3, arguments.get_or("bytes", 1)?);
    let mut reply = vec![0; request.len()];
    let reuse = match arguments.get_or("each", "reuse".to_owned())?.as_str() {
        "reuse" => true,
        "connect" => false,
        other => return Err(format!("each={other}: reuse or connect").into()),
    };
    let mut times = Vec::with_capacity(wanted);
    let mut connection = ask(to, &Request::Echo)?;
    connection.set_nodelay(true)?;
    let start = Instant::now();
    while lasts(times.len()) {
        let before = Instant::now();
        if !reuse {
            connection = ask(to, &Request::Echo)?;
        }
        round(&mut connection, &request, &mut reply)?;
        times.push(before.elapsed());
    }
    let (count, seconds) = (times.len(), start.elapsed().as_secs_f64());
    times.sort_unstable();
    let at = |percent: usize| {
        times
            .get((times.len().saturating_sub(1)) * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    let report = json!({
        "count": count,
        "per_second": count as f64 / seconds,
        "p50_us": microseconds(at(50)),
        "p99_us": microseconds(at(99)),
    });
    Ok((true, report))
}
