//! A machine whose ports have no front end, and requests without a socket.

use super::http::{Answer, Document, Method, Request};
use super::{Context, router};
use crate::cli::Cli;
use crate::config;
use crate::host::Host;
use crate::machine::{Endpoint, Machine, MachineSetup, Nic};
use crate::migration::Migrations;
use crate::sandbox::Sandbox;
use clap::Parser as _;
use hawser_backend::vhost_user::Lifetime;
use serde_json::Value;
use std::future::Future;
use std::net::UdpSocket;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// The context of requests and the machine behind it.
pub(super) struct Stage {
    context: Context,
    _folder: tempfile::TempDir,
}

impl Deref for Stage {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

/// A stage with masquerade ports of these names, and with IPv4 in the guest.
pub(super) fn context(names: &[&str]) -> Stage {
    stage(names, &["--ipv4=10.0.2.0/24", "--ipv6=off", "--mac=02:00:00:00:00:09"])
}

/// A stage with the port `net0` on a layer2 network, with these peers.
pub(super) fn layer2(peers: &[&str]) -> Stage {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = format!("--vtep-port={}", free.port());
    let options = [
        "--mode=layer2",
        "--vni=7",
        "--mac=02:00:00:00:00:09",
        "--ipv4=10.100.0.0/24",
        "--vtep=127.0.0.1",
        &port,
    ];
    stage(&["net0"], &[&options[..], peers].concat())
}

fn nic(folder: &Path, name: &str, options: &[&str]) -> Nic {
    let cli = Cli::try_parse_from(["hawser"].iter().chain(options)).unwrap();
    let spec = cli.port.spec(name.into()).unwrap();
    let found = config::resolve(spec, &Host::default(), None).unwrap();
    Nic::vhost_user(Endpoint::Listen(folder.join(name)), found)
}

fn stage(names: &[&str], options: &[&str]) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let setup = MachineSetup {
        sandbox: Sandbox::default(),
        lifetime: Lifetime::Persistent,
        names_interfaces: true,
    };
    let nic = |name: &&str| nic(folder.path(), name, options);
    let machine = Machine::start(setup, names.iter().map(nic).collect());
    let machine = Arc::new(machine.unwrap());
    Stage {
        context: Context {
            migrations: Migrations::new(Arc::clone(&machine)),
            machine,
            agent: None,
            hotplug: None,
        },
        _folder: folder,
    }
}

/// Response to a request.
pub(super) struct Answered {
    pub status: u16,
    body: Vec<u8>,
}

impl From<Document> for Answered {
    fn from(Document { status, body, .. }: Document) -> Self {
        Self { status, body }
    }
}

impl Answered {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Runs a future to completion.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(work)
}

/// Sends a request. `target` may have a query.
pub(super) fn ask(context: &Context, method: &str, target: &str, body: &str) -> Answered {
    let method = match method {
        "GET" => Method::Get,
        "PUT" => Method::Put,
        "POST" => Method::Post,
        _ => Method::Delete,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request {
        method,
        path: path.into(),
        query: query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        body: body.into(),
    };
    match router::answer(context, &request) {
        Answer::Whole(document) => document.into(),
        Answer::Later(document) => block_on(document).into(),
        Answer::Stream { .. } => Answered {
            status: 200,
            body: Vec::new(),
        },
    }
}
