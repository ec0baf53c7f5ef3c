//! The agent's API: HTTP on a Unix socket that only the operator can use, and a part of it for reading over TCP.
//!
//! [`routes`] contains the operations, [`http`] the server, and [`openapi`] describes the whole API. A request works on
//! the store through a connection of its own, so it does not wait for the node's loop, and any agent can serve it.
//! [`public`] is the part without the store.

mod http;
mod metrics;
mod openapi;
mod public;
mod routes;
mod traffic;

pub(crate) use routes::{ApplyAnswer, ListAnswer, MoveAnswer, Refusal};

use crate::cli::Failure;
use crate::cluster::Cluster;
use crate::report::NodeReport;
use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Only the owner may connect, because the API changes the cluster.
const SOCKET_MODE: u32 = 0o600;

/// Path of the socket in an agent's directory.
pub(crate) fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("api.sock")
}

/// The newest report of the node, which the node's loop replaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeState(Arc<Mutex<Option<NodeReport>>>);

impl NodeState {
    pub(crate) fn set(&self, report: &NodeReport) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
    }

    fn get(&self) -> Option<NodeReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What requests work on.
#[derive(Debug)]
struct Context {
    cluster: Mutex<Cluster>,
    node: NodeState,
}

/// A running API. Dropping it ends the thread and removes the socket.
pub(crate) struct Api {
    path: PathBuf,
    _server: http::Server,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Api {
    /// Serves the API in the directory of an agent, which no other agent uses.
    ///
    /// # Errors
    /// The socket or the thread cannot be created.
    pub(crate) fn serve(run_dir: &Path, cluster: Cluster, node: NodeState) -> Result<Self, Failure> {
        let path = socket(run_dir);
        let failed = |error: std::io::Error| Failure::runtime(format_args!("{}: {error}", path.display()));
        // This is the socket of an earlier agent.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        let context = Context {
            cluster: Mutex::new(cluster),
            node,
        };
        let listener = http::Listener::Unix(listener);
        let server = http::Server::start(listener, move |request| routes::answer(&context, request)).map_err(failed)?;
        Ok(Self { path, _server: server })
    }
}

/// A running server of the part that anybody may read.
pub(crate) struct Public {
    address: SocketAddr,
    _server: http::Server,
}

impl fmt::Debug for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Public")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Public {
    /// Serves a node's report at an address.
    ///
    /// # Errors
    /// The address or the thread cannot be used.
    pub(crate) fn serve(address: SocketAddr, node: NodeState) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::runtime(format_args!("--http={address}: {error}"));
        let traffic = traffic::Traffic::default();
        let listener = http::Listener::Tcp(TcpListener::bind(address).map_err(failed)?);
        let server =
            http::Server::start(listener, move |request| public::answer(&node, &traffic, request)).map_err(failed)?;
        Ok(Self {
            address,
            _server: server,
        })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // An agent that starts next removes the socket as well.
        let _ = fs::remove_file(&self.path);
    }
}
