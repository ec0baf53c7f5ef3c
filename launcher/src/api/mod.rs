//! The control API of a running process: HTTP on a Unix socket that only the operator can use.
//!
//! Each group of routes has a file with its table, its typed requests and responses, and its handlers. [`router`] finds
//! the route, [`http`] reads requests and bounds their cost, and [`openapi`] describes the whole API. A refused request
//! changes nothing. Its response contains a reason and a remedy ([`Refusal`]).
//!
//! docs/api.md is the user's page.

pub(crate) mod agent;
pub(crate) mod announce;
pub(crate) mod capture;
pub(crate) mod forwards;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod migration;
pub(crate) mod openapi;
pub(crate) mod peers;
pub(crate) mod plug;
pub(crate) mod rate;
pub(crate) mod refusal;
pub(crate) mod router;
pub(crate) mod status;
#[cfg(test)]
mod testing;

pub(crate) use refusal::Refusal;

use crate::failure::Failure;
use crate::hotplug::Hotplug;
use crate::machine::{Machine, ServedNic};
use crate::migration::Migrations;
use crate::sandbox::Sandbox;
use hawser_backend::sys::listening_socket::ListeningSocket;
use http::{Answer, Document, Request, Server};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

/// Only the owner may connect, because the API can read the guest's traffic.
const SOCKET_MODE: u32 = 0o600;
const JSON: &str = "application/json";

/// State that handlers work on.
pub(crate) struct Context {
    /// Ports that are served. The list changes at run time.
    pub machine: Arc<Machine>,
    /// QEMU guest agent, if its socket is known.
    pub agent: Option<Arc<agent::GuestAgent>>,
    /// Handle of the thread that changes NICs. `None` without manifests.
    pub hotplug: Option<Hotplug>,
    /// Migrations of the ports' guests.
    pub migrations: Migrations,
}

/// A running API endpoint. Dropping it ends the thread and then removes the socket.
pub(crate) struct Api {
    /// The server. It is dropped first, so that the thread ends before the socket is removed.
    _server: Server,
    /// The listening socket. The server has a copy of its descriptor.
    _socket: ListeningSocket,
}

impl Api {
    /// Listens at `path`. Clients that connect before [`Api::serve`] wait in the socket's queue.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub(crate) fn listen(path: &Path, sandbox: &Sandbox) -> Result<ListeningSocket, Failure> {
        let failed = |error: &dyn Display| {
            Failure::runtime(format_args!("--api-socket (by default beside --socket-path): {error}"))
        };
        let socket = ListeningSocket::bind(path, SOCKET_MODE).map_err(|error| failed(&error))?;
        sandbox.own(path).map_err(|error| failed(&error))?;
        Ok(socket)
    }

    /// Serves `context` on a socket, which may be one that another process handed over. Sockets that requests open
    /// belong to the network namespace of the caller.
    ///
    /// # Errors
    /// The thread cannot be created. The socket is removed then.
    pub(crate) fn serve(socket: ListeningSocket, context: Context) -> Result<Self, Failure> {
        let listener = socket.listener().try_clone();
        let listener = listener.map_err(|error| Failure::runtime(format_args!("the API cannot be served: {error}")))?;
        let sandbox = context.machine.sandbox().clone();
        let server = Server::start(&sandbox, listener, move |request| router::answer(&context, request))?;
        Ok(Self {
            _server: server,
            _socket: socket,
        })
    }
}

impl Context {
    /// The NIC whose port is named by `port` in the query. The name is optional if there is only one port.
    ///
    /// # Errors
    /// The port does not exist, or the query names none of several ports.
    pub(crate) fn nic(&self, request: &Request) -> Result<ServedNic, Refusal> {
        let mut nics = self.machine.nics();
        let names: Vec<&str> = nics.iter().map(ServedNic::name).collect();
        let remedy = format!("name one with ?port=: {}", names.join(", "));
        let at = match request.query.get("port") {
            None if nics.len() == 1 => 0,
            None => return Err(Refusal::bad_request("there are several ports", remedy)),
            Some(name) => {
                let at = names.iter().position(|known| known == name);
                at.ok_or_else(|| Refusal::not_found(format!("there is no port {name:?}"), remedy))?
            }
        };
        Ok(nics.swap_remove(at))
    }

    /// The NIC named by the query, or all of them.
    ///
    /// # Errors
    /// The port does not exist.
    pub(crate) fn nics(&self, request: &Request) -> Result<Vec<ServedNic>, Refusal> {
        match request.query.get("port") {
            Some(_) => self.nic(request).map(|nic| vec![nic]),
            None => Ok(self.machine.nics()),
        }
    }
}

/// Refusal for a NIC whose packets pass through a device of the host instead of hawser.
fn not_ours(nic: &ServedNic) -> Refusal {
    let error = format!("packets of {} do not pass through hawser", nic.name());
    Refusal::conflict(error, "use the tools of its device")
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
    // This fails only for maps with keys other than text, and there are none.
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    Document {
        status,
        kind: JSON,
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::testing::ask;
    use super::*;
    use crate::machine::{Nic, PassedThrough};
    use hawser_backend::sys::listening_socket::OfferedSocket;
    use hawser_config::handover::Handover as _;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_file_at_the_path_of_the_socket_is_left_alone() {
        let stage = testing::context(&["net0"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "precious").unwrap();
        let listened = Api::listen(&path, stage.machine.sandbox());
        let error = listened.unwrap_err().to_string();
        assert!(error.contains("precious exists and is not a socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_nic_that_passes_hawser_by_is_reported_and_refuses_what_only_a_port_can_do() {
        let stage = testing::context(&["net0"]);
        let nic = Nic::PassedThrough(PassedThrough::new("vf0"));
        let nic = stage.machine.add(nic).unwrap();

        let link_state = || {
            let status = ask(&stage, "GET", "/v1/status", "").json();
            let port = status["interfaces"]
                .as_array()
                .unwrap()
                .iter()
                .find(|port| port["name"] == "vf0");
            port.unwrap()["linkState"].clone()
        };
        assert_eq!(link_state(), "up");
        nic.set_link(false);
        assert_eq!((link_state(), nic.is_link_up()), ("down".into(), false));
        let metrics = ask(&stage, "GET", "/v1/metrics", "");
        assert!(
            metrics.text().contains("hawser_port_link_up{port=\"vf0\"} 0"),
            "{}",
            metrics.text()
        );

        for (method, path) in [("GET", "/v1/rate"), ("PUT", "/v1/rate"), ("GET", "/v1/capture")] {
            let refused = ask(&stage, method, &format!("{path}?port=vf0"), r#"{"in": {}, "out": {}}"#);
            let expected = "packets of vf0 do not pass through hawser";
            assert_eq!(
                (refused.status, &refused.json()["error"]),
                (409, &expected.into()),
                "{path}"
            );
            assert_eq!(refused.json()["remedy"], "use the tools of its device", "{path}");
            let served = ask(&stage, method, &format!("{path}?port=net0"), r#"{"in": {}, "out": {}}"#);
            assert_eq!(served.status, 200, "{path}: {}", served.text());
        }
        let forward = r#"{"forward": "tcp:127.0.0.1:1:1"}"#;
        let refused = ask(&stage, "POST", "/v1/forwards?port=vf0", forward);
        assert!(refused.status >= 400, "{}", refused.text());
    }

    #[test]
    fn a_client_that_connects_during_a_handover_is_answered_by_the_next_server() {
        let stage = testing::context(&["net0"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let context = || Context {
            machine: Arc::clone(&stage.machine),
            agent: None,
            hotplug: None,
            migrations: Migrations::new(Arc::clone(&stage.machine)),
        };
        let socket = Api::listen(&path, stage.machine.sandbox()).unwrap();
        let api = Api::serve(socket, context()).unwrap();
        let Api {
            _server: server,
            _socket: socket,
        } = api;
        drop(server);
        let (record, descriptors) = socket.give_up().into_handover();
        let mut client = UnixStream::connect(&path).unwrap();
        client
            .write_all(b"GET /v1/status HTTP/1.1\r\nHost: hawser\r\nConnection: close\r\n\r\n")
            .unwrap();
        let record = serde_json::from_value(serde_json::to_value(record).unwrap()).unwrap();
        let socket = OfferedSocket::take_over(record, &mut descriptors.into_iter()).unwrap();
        let api = Api::serve(socket.own(), context()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("net0"),
            "{answer}"
        );
        drop(api);
        assert!(!path.exists());
    }
}
