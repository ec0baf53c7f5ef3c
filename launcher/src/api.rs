//! What a running process can be asked, over HTTP on a Unix socket of the operator's.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/capture?port=NAME&snap-length=N&filter=WORDS` | pcapng of what crosses the port, until the asker goes |
//!
//! `port` may be left out where there is one. Each capture is written by a thread of its
//! own; an asker that does not read keeps that thread waiting and nobody else.

use crate::failure::Failure;
use crate::machine::Machine;
use hawser_backend::port::Port;
use hawser_backend::port::capture::{CaptureFilter, CaptureRules, CaptureStream, PcapngWriter, SNAP_LENGTH_MAX};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};
use tiny_http::{Method, Request, Response, Server};

/// Where captures are asked for.
pub const CAPTURE: &str = "/v1/capture";
/// Only the owner may look into the guest's traffic.
const SOCKET_MODE: u32 = 0o600;
/// How soon it is noticed that the asker has gone while nothing crosses the port.
const IDLE: Duration = Duration::from_secs(1);
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-pcapng\r\nConnection: close\r\n\r\n";

/// The endpoint. Dropping it ends it and removes its socket.
pub struct Api {
    server: Option<Arc<Server>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Api {
    /// Answers for `machine` on a socket at `path`.
    ///
    /// # Errors
    /// If there cannot be a socket.
    pub fn start(path: &Path, machine: Arc<Machine>) -> Result<Self, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::runtime(format_args!("--api-socket={}: {error}", path.display()));
        remove_dead(path).map_err(|e| failed(&e))?;
        let listener = UnixListener::bind(path).map_err(|e| failed(&e))?;
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(|e| failed(&e))?;
        let server = Server::from_listener(listener, None).map_err(|e| failed(&e))?;
        let server = Arc::new(server);
        let requests = Arc::clone(&server);
        let thread = thread::Builder::new()
            .name("api".into())
            .spawn(move || {
                for request in requests.incoming_requests() {
                    answer(request, &machine.ports());
                }
            })
            .map_err(|e| failed(&e))?;
        Ok(Self {
            server: Some(server),
            thread: Some(thread),
            path: path.to_owned(),
        })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.unblock();
        }
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
        // It is gone if somebody else removed it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the socket of a process that is dead.
fn remove_dead(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(_) => Ok(()),
        Ok(_) => Err(io::Error::new(
            ErrorKind::AddrInUse,
            "another process answers there: choose another path",
        )),
    }
}

fn answer(request: Request, ports: &[Arc<Port>]) {
    let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
    let outcome = match (request.method(), path) {
        (Method::Get, CAPTURE) => capture(&parse_query(query), ports),
        (_, CAPTURE) => Err((405, format!("{CAPTURE} is to be read with GET"))),
        _ => Err((404, format!("there is nothing but {CAPTURE}"))),
    };
    match outcome {
        Ok((name, snap_length, stream)) => {
            let writer = request.into_writer();
            let thread = thread::Builder::new().name("capture".into());
            let started = thread.spawn(move || {
                // It ends when the asker goes, which is what ends most captures.
                let _ = write_capture(writer, &name, snap_length, &stream);
            });
            if let Err(error) = started {
                log::warn!("cannot start a thread for a capture: {error}");
            }
        }
        Err((status, message)) => {
            let response = Response::from_string(message + "\n").with_status_code(status);
            // An asker that has gone needs no answer.
            let _ = request.respond(response);
        }
    }
}

type Refusal = (u16, String);

fn capture(query: &BTreeMap<String, String>, ports: &[Arc<Port>]) -> Result<(String, usize, CaptureStream), Refusal> {
    let port = match (query.get("port"), ports) {
        (None, [port]) => port,
        (None, _) => return Err((400, format!("say which port: {}", names(ports)))),
        (Some(name), _) => ports
            .iter()
            .find(|port| port.config().name == *name)
            .ok_or_else(|| (404, format!("there is no port {name:?}, but {}", names(ports))))?,
    };
    let snap_length = match query.get("snap-length").map(|text| text.parse::<usize>()) {
        None => SNAP_LENGTH_MAX,
        Some(Ok(length)) if length > 0 => length.min(SNAP_LENGTH_MAX),
        Some(_) => return Err((400, "snap-length is a number of bytes".into())),
    };
    let filter: CaptureFilter = query
        .get("filter")
        .map_or("", String::as_str)
        .parse()
        .map_err(|error| (400, format!("{error}")))?;
    let rules = CaptureRules { snap_length, filter };
    let stream = port.capture().start(rules).map_err(|error| (409, error.to_string()))?;
    Ok((port.config().name.clone(), snap_length, stream))
}

fn names(ports: &[Arc<Port>]) -> String {
    let names: Vec<&str> = ports.iter().map(|port| port.config().name.as_str()).collect();
    names.join(", ")
}

fn write_capture(
    mut out: Box<dyn Write + Send>,
    name: &str,
    snap_length: usize,
    stream: &CaptureStream,
) -> io::Result<()> {
    out.write_all(HEAD)?;
    let mut writer = PcapngWriter::new(BufWriter::new(out), name, snap_length)?;
    loop {
        writer.flush()?;
        let Ok(packet) = stream.next(IDLE) else { return Ok(()) };
        let Some(packet) = packet else {
            writer.idle(SystemTime::now())?;
            continue;
        };
        writer.packet(&packet)?;
        while let Some(packet) = stream.ready() {
            writer.packet(&packet)?;
        }
    }
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Undoes percent-encoding (RFC 3986 2.1); what is no encoding stays as it is.
fn decode(text: &str) -> String {
    let (bytes, mut decoded) = (text.as_bytes(), Vec::with_capacity(text.len()));
    let mut at = 0;
    while at < bytes.len() {
        let byte = text
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Percent-encodes what a query's value cannot have.
pub fn encode(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~,:=".contains(&byte);
    text.bytes()
        .map(|byte| match byte {
            byte if is_plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_comes_through_whole() {
        let filter = "host=fe80::1,port=53";
        let query = format!("port={}&filter={}&x", encode("vm 1&é%"), encode(filter));
        let parsed = parse_query(&query);
        assert_eq!(
            (parsed["port"].as_str(), parsed["filter"].as_str()),
            ("vm 1&é%", filter)
        );
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
