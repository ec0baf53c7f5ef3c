//! What a running process can be asked and told, over HTTP on a Unix socket of the
//! operator's.
//!
//! A file for each group of routes holds its table, what is asked and answered as typed
//! structs, and who answers. [`router`] finds the route, [`http`] reads requests and bounds
//! what they can cost, [`openapi`] describes all of it. What is refused says why and what
//! to do ([`Refusal`]), and has changed nothing.
//!
//! docs/api.md is for those who use it.

pub mod agent;
pub mod capture;
pub mod forwards;
pub mod http;
pub mod log;
pub mod metrics;
pub mod openapi;
pub mod plug;
pub mod rate;
pub mod refusal;
pub mod router;
pub mod status;
#[cfg(test)]
mod testing;

pub use refusal::Refusal;

use crate::failure::Failure;
use crate::hotplug::Hotplug;
use crate::machine::Machine;
use hawser_backend::port::Port;
use http::{Answer, Document, Request, Server};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Only the owner may look into the guest's traffic.
const SOCKET_MODE: u32 = 0o600;
const JSON: &str = "application/json";

/// What requests are about.
pub struct Context {
    /// The ports that are served, while they come and go.
    pub machine: Arc<Machine>,
    /// The agent in the guest, if there is a way to it.
    pub agent: Option<Arc<agent::GuestAgent>>,
    /// Who changes them; `None` if there are no manifests to change.
    pub hotplug: Option<Hotplug>,
}

/// The endpoint. Dropping it ends it and removes its socket.
pub struct Api {
    server: Option<Server>,
    path: PathBuf,
}

impl Api {
    /// Answers for what `context` has on a socket at `path`. What requests open is opened in
    /// the network namespace this is called in.
    ///
    /// # Errors
    /// If there cannot be a socket.
    pub fn start(path: &Path, context: Context) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::runtime(format_args!("--api-socket={}: {error}", path.display()));
        remove_dead(path).map_err(failed)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        let sandbox = context.machine.sandbox().clone();
        let server = Server::start(&sandbox, listener, move |request| router::answer(&context, request));
        Ok(Self {
            server: Some(server?),
            path: path.to_owned(),
        })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.server = None;
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

impl Context {
    /// The port a request names with `port`; it need not where there is only one.
    ///
    /// # Errors
    /// There is no such port, or there are several.
    pub fn port(&self, request: &Request) -> Result<Arc<Port>, Refusal> {
        let ports = self.machine.ports();
        let names = || {
            let names: Vec<&str> = ports.iter().map(|port| port.config().name.as_str()).collect();
            format!("name one with ?port=: {}", names.join(", "))
        };
        match (request.query.get("port"), ports.as_slice()) {
            (None, [port]) => Ok(Arc::clone(port)),
            (None, _) => Err(Refusal::bad_request("there is not just one port", names())),
            (Some(name), _) => ports
                .iter()
                .find(|port| port.config().name == *name)
                .map(Arc::clone)
                .ok_or_else(|| Refusal::not_found(format!("there is no port {name:?}"), names())),
        }
    }
}

/// What came with a request.
fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    let remedy = "send JSON as /v1/openapi.json describes it, with Content-Length";
    serde_json::from_slice(&request.body).map_err(|error| Refusal::bad_request(error, remedy))
}

/// An answer in JSON.
fn json(status: u16, value: &impl Serialize) -> Answer {
    Answer::Whole(document(status, value))
}

/// A document in JSON.
fn document(status: u16, value: &impl Serialize) -> Document {
    // Fails for maps whose keys are no text, and there are none.
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    Document {
        status,
        kind: JSON,
        body,
    }
}
