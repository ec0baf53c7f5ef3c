//! Tests how connections begin and end: refused, half-closed, aborted.

use crate::wire::{PATIENCE, Request, ask, ask_from, read_line};
use crate::{Arguments, Failure, Report, any, stream};
use serde_json::json;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io::{self, BufReader, Read};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A number that no other client of the server uses.
fn token() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() ^ (u64::from(since.subsec_nanos()) << 32) ^ u64::from(std::process::id())
}

fn recall(to: SocketAddr, token: u64) -> io::Result<String> {
    read_line(&mut BufReader::new(ask(to, &Request::Recall { token })?))
}

/// Ends one direction of a connection. The other direction must still carry everything.
pub(crate) fn half_close(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let bytes: u64 = arguments.get("bytes")?;
    let seed = token();
    let expected = bytes.to_string();
    let got = match arguments.get_or("first", "client".to_owned())?.as_str() {
        "client" => {
            let mut connection = ask(to, &Request::AwaitEnd { seed })?;
            stream::send(&mut connection, seed, bytes)?;
            connection.shutdown(Shutdown::Write)?;
            read_line(&mut BufReader::new(connection))?
        }
        "server" => {
            let token = token();
            let mut connection = ask(to, &Request::EndFirst { token, seed })?;
            let early = connection.read(&mut [0; 16])?;
            if early != 0 {
                return Ok((false, json!({ "error": "data where the server's end was due" })));
            }
            stream::send(&mut connection, seed, bytes)?;
            drop(connection);
            recall(to, token)?
        }
        other => return Err(format!("first={other}: client or server").into()),
    };
    Ok((got == expected, json!({ "sent": expected, "received": got })))
}

/// Aborts one side of a connection. The other side must see a reset instead of an orderly end.
pub(crate) fn reset(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let seen = match arguments.text("by")? {
        // The reset may arrive before the request is sent.
        "server" => match ask(to, &Request::Abort).and_then(|mut connection| connection.read(&mut [0; 16])) {
            Ok(0) => "end".to_owned(),
            Ok(_) => "data".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        },
        "client" => {
            let token = token();
            let connection = ask(to, &Request::Watch { token })?;
            read_line(&mut BufReader::new(&connection))?;
            SockRef::from(&connection).set_linger(Some(Duration::ZERO))?;
            drop(connection);
            recall(to, token)?
        }
        other => return Err(format!("by={other}: client or server").into()),
    };
    Ok((seen == "ConnectionReset", json!({ "seen": seen })))
}

/// Reports the result of an attempt to connect. No result counts as a failure, because only the caller knows which
/// one to expect.
pub(crate) fn connect(arguments: &Arguments) -> Report {
    let (to, wait) = (
        arguments.to()?,
        Duration::from_secs(arguments.get_or("wait", PATIENCE.as_secs())?),
    );
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    match arguments.get_or("ttl", 0)? {
        0 => {}
        ttl if to.is_ipv4() => socket.set_ttl_v4(ttl)?,
        ttl => socket.set_unicast_hops_v6(ttl)?,
    }
    let start = Instant::now();
    let outcome = match socket.connect_timeout(&to.into(), wait) {
        Ok(()) => "connected".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    Ok((
        true,
        json!({ "outcome": outcome, "seconds": start.elapsed().as_secs_f64() }),
    ))
}

/// Reports how an idle connection whose server is probed ends. No result counts as a failure, because only the caller
/// knows which one to expect.
pub(crate) fn keepalive(arguments: &Arguments) -> Report {
    let seconds = |name| arguments.get(name).map(Duration::from_secs);
    let mut connection = ask(arguments.to()?, &Request::Echo)?;
    let probes = TcpKeepalive::new()
        .with_time(seconds("idle")?)
        .with_interval(seconds("interval")?)
        .with_retries(arguments.get("count")?);
    SockRef::from(&connection).set_tcp_keepalive(&probes)?;
    let wait = Duration::from_secs(arguments.get_or("wait", PATIENCE.as_secs())?);
    connection.set_read_timeout(Some(wait))?;
    let start = Instant::now();
    let outcome = match connection.read(&mut [0]) {
        Ok(0) => "end".to_owned(),
        Ok(_) => "data".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => "idle".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    Ok((
        true,
        json!({ "outcome": outcome, "seconds": start.elapsed().as_secs_f64() }),
    ))
}

/// Reports the client's address as the server sees it.
pub(crate) fn peer(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let from = SocketAddr::new(arguments.get_or("from", any(to))?, arguments.get_or("port", 0)?);
    let connection = ask_from(from, to, &Request::Peer)?;
    let local = connection.local_addr()?;
    let seen: SocketAddr = read_line(&mut BufReader::new(connection))?
        .parse()
        .map_err(|_| Failure::from("no address came back"))?;
    let report = json!({
        "seen": seen.to_string(), "seen_ip": seen.ip().to_string(), "seen_port": seen.port(),
        "local_ip": local.ip().to_string(), "local_port": local.port(),
    });
    Ok((true, report))
}
