//! One port of the machine: prepared, served by a thread of its own, and stopped.

use super::followed::FollowedFile;
use super::peers::{NetworkPeers, PeersRecord};
use super::summary::Summary;
use super::{Endpoint, ServedNic, Shared};
use crate::attachment::{Attached, Survey, watch};
use crate::config::{Found, PeerSource, ServiceSource};
use crate::failure::Failure;
use crate::names::NameSource;
use crate::resolv::{self, ResolvConf};
use crate::sandbox::{Sandbox, ThreadKind};
use crate::startup;
use crate::watcher::Watcher;
use hawser_backend::port::{Port, PortResources};
use hawser_backend::vhost_user::{Lifetime, Server, StopHandle};
use hawser_config::PortConfig;
use std::io::Write as _;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A port to which front ends can connect, but which no thread serves yet. Dropping it undoes all changes to the host.
pub(super) struct ReadyPort {
    server: Server,
    port: Arc<Port>,
    names: NameSource,
    network: Network,
    /// Dropped before the attachment to the segment.
    links: Option<Watcher>,
    attached: Option<Attached>,
    /// Option that names the socket, for messages.
    option: &'static str,
    summary: String,
}

/// A port that a thread serves.
pub(super) struct ServedPort {
    pub port: Arc<Port>,
    pub life: Life,
    /// Description of the port in one line, for the log.
    pub summary: String,
    /// Option that names the socket, for messages.
    pub(super) option: &'static str,
    pub(super) stop: StopHandle,
    /// `None` while the port is handed over to another process.
    pub(super) thread: Option<JoinHandle<()>>,
    names: NameSource,
    network: Network,
    links: Option<Watcher>,
    pub(super) attached: Option<Attached>,
}

/// Starts the thread of a server.
pub(super) fn serve(
    server: Server,
    port: &Arc<Port>,
    option: &'static str,
    sandbox: &Sandbox,
    shared: &Arc<Shared>,
) -> Result<JoinHandle<()>, Failure> {
    let name = port.config().name.clone();
    let (port, shared) = (Arc::clone(port), Arc::clone(shared));
    let serve = move || {
        let served = server.run();
        shared.ended(
            &port,
            served.map_err(|e| Failure::runtime(format_args!("{option}: {e}"))),
        );
    };
    sandbox.spawn(ThreadKind::FrontEnd, &name, serve)
}

/// The parts of a layer2 port that change while it is served, and the threads that follow their files.
#[derive(Default)]
struct Network {
    peers: Option<NetworkPeers>,
    services: Option<Arc<FollowedFile>>,
    watchers: Vec<Watcher>,
}

impl Network {
    fn start(
        peers: Option<PeerSource>,
        services: Option<ServiceSource>,
        port: &Arc<Port>,
        sandbox: &Sandbox,
    ) -> Result<Self, Failure> {
        let mut network = Self::default();
        if let Some(source) = peers {
            let (peers, watcher) = NetworkPeers::start(source, port, sandbox)?;
            network.peers = Some(peers);
            network.watchers.extend(watcher);
        }
        if let Some(source) = services
            && let Some(file) = FollowedFile::of(&source).map(Arc::new)
        {
            network.watchers.push(file.follow(source, port, sandbox)?);
            network.services = Some(file);
        }
        Ok(network)
    }
}

/// Whether a port's front ends are still served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Served,
    /// No more front ends can connect, or serving failed.
    Ended,
}

/// A port without a server and without an attachment to a segment.
pub(super) struct PreparedPort {
    pub port: Arc<Port>,
    names: NameSource,
    network: Network,
    option: &'static str,
    summary: String,
}

impl PreparedPort {
    /// Creates the port.
    pub(super) fn new(
        endpoint: &Endpoint,
        found: Found,
        resources: PortResources,
        sandbox: &Sandbox,
    ) -> Result<Self, Failure> {
        let Found {
            port: config,
            names,
            peers,
            services,
            ..
        } = found;
        let summary = Summary {
            config: &config,
            resources: &resources,
        };
        let summary = format!("serving {endpoint}: {summary}");
        let port = Port::with_start(config, resources, &sandbox.workers()).map_err(Failure::runtime)?;
        let port = Arc::new(port);
        Ok(Self {
            network: Network::start(peers, services, &port, sandbox)?,
            port,
            names,
            option: endpoint.option(),
            summary,
        })
    }

    /// Continues with the peers of another process, if requests change them.
    pub(super) fn load_peers(&self, record: PeersRecord) -> Result<(), Failure> {
        let list = self.network.peers.as_ref().and_then(NetworkPeers::list);
        let loaded = list.map_or(Ok(()), |list| list.load(&self.port, record));
        loaded.map_err(Failure::runtime)
    }

    /// Watches the device of an attachment.
    pub(super) fn watch(&self, attached: &Attached, sandbox: &Sandbox) -> Result<Watcher, Failure> {
        watch::start(attached.keeper(), Arc::clone(&self.port), sandbox)
    }

    /// Adds the server and the attachment.
    pub(super) fn ready(self, server: Server, attached: Option<Attached>, links: Option<Watcher>) -> ReadyPort {
        ReadyPort {
            network: self.network,
            links,
            server,
            port: self.port,
            names: self.names,
            attached,
            option: self.option,
            summary: self.summary,
        }
    }
}

impl ReadyPort {
    /// Creates the port and its socket.
    pub(super) fn new(
        endpoint: Endpoint,
        mut found: Found,
        sandbox: &Sandbox,
        lifetime: Lifetime,
    ) -> Result<Self, Failure> {
        startup::warn_of_restrictions(found.port.mode.properties().echo_families());
        let is_up = found.spec.link_up;
        let (resources, attached) = attach(&found.port, found.segment.take())?;
        let prepared = PreparedPort::new(&endpoint, found, resources, sandbox)?;
        if !is_up {
            prepared.port.set_link(false);
        }
        let socket = endpoint.listens_at();
        let option = prepared.option;
        let server = Server::bind(endpoint.into_endpoint(), Arc::clone(&prepared.port), lifetime)
            .map_err(|e| Failure::runtime(format_args!("{option}: {e}")))?;
        if let Some(path) = &socket {
            let shared = sandbox.share(path);
            shared.map_err(|e| {
                Failure::runtime(format_args!(
                    "{option}: cannot give it to --user and --socket-group: {e}; start as root, or as a member of the group"
                ))
            })?;
        }
        let links = attached.as_ref().map(|attached| prepared.watch(attached, sandbox));
        let links = links.transpose()?;
        Ok(prepared.ready(server, attached, links))
    }

    /// Serves the port on a thread with the same name. The thread records its end in `shared`.
    pub(super) fn serve(self, sandbox: &Sandbox, shared: &Arc<Shared>) -> Result<ServedPort, Failure> {
        let stop = self.server.stop_handle();
        Ok(ServedPort {
            thread: Some(serve(self.server, &self.port, self.option, sandbox, shared)?),
            life: Life::Served,
            summary: self.summary,
            option: self.option,
            port: self.port,
            stop,
            names: self.names,
            network: self.network,
            links: self.links,
            attached: self.attached,
        })
    }
}

impl ServedPort {
    /// A handle to the NIC.
    pub(super) fn nic(&self) -> ServedNic {
        ServedNic::VhostUser {
            port: Arc::clone(&self.port),
            peers: self.network.peers.clone(),
            services: self.network.services.clone(),
        }
    }

    /// The peers of the network, if it spans nodes.
    pub(super) fn peers(&self) -> Option<NetworkPeers> {
        self.network.peers.clone()
    }

    /// Name of the port.
    pub(super) fn name(&self) -> &str {
        &self.port.config().name
    }

    /// True if the guest gets the names in resolv.conf.
    pub(super) fn follows_resolv_conf(&self) -> bool {
        self.port.config().mode.properties().resolvers().is_some() && self.names.follows_system()
    }

    /// Passes the current content of resolv.conf to the guest, except for values that the configuration sets.
    pub(super) fn change_resolvers(&self, resolv: &ResolvConf) {
        let resolvers = self.names.resolve(resolv);
        if !self.port.change_resolvers(resolvers) {
            return;
        }
        log::info!(
            "port {}: the guest gets new name servers because {} has changed",
            self.name(),
            resolv::PATH
        );
        for notice in self.names.notices(resolv) {
            log::warn!("port {}: {notice}", self.name());
        }
    }

    /// Stops the port's thread without waiting for it.
    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    /// Ends the port and detaches it from its segment. At log level info it also prints the counters.
    pub(super) fn shut_down(self) {
        self.stop.stop();
        if let Some(thread) = self.thread {
            // A thread that panicked has already printed its message.
            let _ = thread.join();
        }
        drop(self.network);
        drop(self.links);
        drop(self.attached);
        if log::log_enabled!(log::Level::Info) {
            write_report(&self.port);
        }
    }
}

/// Attaches a NIC to its segment, if it has one.
fn attach(config: &PortConfig, survey: Option<Survey>) -> Result<(PortResources, Option<Attached>), Failure> {
    let Some(survey) = survey else {
        return Ok((PortResources::default(), None));
    };
    let opened = survey.open(config.queue_pairs.get().into())?;
    let resources = PortResources {
        queues: opened.queues.into_iter().map(Arc::new).collect(),
        ..PortResources::default()
    };
    Ok((resources, Some(opened.attached)))
}

/// Writes the counters to standard error in one piece, whatever the log level.
pub(super) fn write_report(port: &Port) {
    // A standard error without a reader is no reason to stop serving.
    let _ = std::io::stderr().lock().write_all(port.report().as_bytes());
}
