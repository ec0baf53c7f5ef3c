//! The control API of a running process: HTTP on a Unix socket that only the operator can use.
//!
//! Each group of routes has a file with its table, its typed requests and responses, and its
//! handlers. [`router`] finds the route, [`http`] reads requests and bounds their cost, [`openapi`]
//! describes the whole API. A refused request changes nothing; its response has a reason and a
//! remedy ([`Refusal`]).
//!
//! docs/api.md is the user's page.

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

/// Only the owner may read the guest's traffic.
const SOCKET_MODE: u32 = 0o600;
const JSON: &str = "application/json";

/// State that handlers work on.
pub struct Context {
    /// The ports being served; the list changes at run time.
    pub machine: Arc<Machine>,
    /// The guest's agent, if its socket is known.
    pub agent: Option<Arc<agent::GuestAgent>>,
    /// Handle of the thread that changes NICs; `None` without manifests.
    pub hotplug: Option<Hotplug>,
}

/// A running API endpoint. Dropping it ends the thread and removes the socket.
pub struct Api {
    server: Option<Server>,
    path: PathBuf,
}

impl Api {
    /// Serves `context` on a socket at `path`. Sockets that requests open belong to the network
    /// namespace of the caller.
    ///
    /// # Errors
    /// If the socket cannot be created.
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
        // Another process may have removed it already.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the socket that a dead process left.
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
    /// The port that the query names with `port`; optional if there is only one port.
    ///
    /// # Errors
    /// If the port does not exist, or the query names none of several.
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

/// Parses the body of a request as JSON.
fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    let remedy = "send JSON as /v1/openapi.json describes it, with Content-Length";
    serde_json::from_slice(&request.body).map_err(|error| Refusal::bad_request(error, remedy))
}

/// A JSON response.
fn json(status: u16, value: &impl Serialize) -> Answer {
    Answer::Whole(document(status, value))
}

/// A JSON document.
fn document(status: u16, value: &impl Serialize) -> Document {
    // Fails only for maps with non-text keys, and there are none.
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    Document {
        status,
        kind: JSON,
        body,
    }
}
