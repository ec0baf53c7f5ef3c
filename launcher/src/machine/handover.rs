//! A machine whose NICs another process continues to serve.
//!
//! The old process: [`Machine::share`] duplicates what the ports of the other process begin with, while everything runs.
//! [`Machine::hand_over`] then stops all ports where they are. [`Given::take_back`] lets them continue if the other
//! process fails; otherwise this process exits without dropping anything, because dropping undoes.
//!
//! The new process: [`Successor::prepare`] creates the ports, whose workers rest. [`Successor::load`] gives them the
//! state, and [`Successor::begin`] serves them.

use super::peers::{NetworkPeers, PeersRecord};
use super::port::{Life, PreparedPort, ReadyPort, serve};
use super::{Machine, MachineSetup, Nic, Run, ServedPort};
use crate::attachment::{Attached, AttachedRecord};
use crate::failure::Failure;
use crate::machine::Endpoint;
use crate::startup;
use crate::watcher::Watcher;
use hawser_backend::mode::SavedMode;
use hawser_backend::port::{Identity, Port, PortRecord, PortResources, RestingPort};
use hawser_backend::vhost_user::{self, HandedOver, StagedServer, StopHandle};
use hawser_backend::worker::Rest;
use hawser_config::handover::Handover as _;
use hawser_config::payload::{Payload as _, Sealed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

/// The kinds of payloads that this process reads, and writes for some NICs.
pub(crate) fn optional_formats() -> Vec<(&'static str, u32)> {
    vec![(PeersRecord::KIND, PeersRecord::VERSION)]
}

/// What the guest knows about each NIC, by name.
pub(crate) type Identities = BTreeMap<String, Sealed<Identity>>;

/// What the port of another process begins with.
#[derive(Debug)]
pub(crate) struct SharedPort {
    /// Name of the NIC.
    pub name: String,
    /// Descriptors of each worker's mode.
    pub workers: Vec<Vec<OwnedFd>>,
}

/// What a port can pass on before it is stopped.
#[derive(Debug)]
pub(crate) struct PortAhead {
    /// Name of the NIC.
    pub name: String,
    /// States of the workers' modes; `None` for a mode without such a state.
    pub modes: Vec<Option<SavedMode>>,
}

/// A port between two processes.
#[derive(Debug)]
pub(crate) struct GivenPort {
    /// State of the port and its server, without descriptors.
    pub head: GivenHead,
    /// States of the workers' modes.
    pub modes: Vec<SavedMode>,
    /// Descriptors of the server and of the attachment to the segment.
    pub descriptors: Vec<OwnedFd>,
}

/// A port between two processes, apart from the modes of its workers and from descriptors.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GivenHead {
    name: String,
    port: Sealed<PortRecord>,
    server: Sealed<vhost_user::ServerRecord>,
    /// Number of the server's descriptors, which precede those of the attachment.
    of_server: usize,
    attached: Option<Sealed<AttachedRecord>>,
    /// Peers that requests have changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peers: Option<Sealed<PeersRecord>>,
}

/// The ports of a machine, stopped where they are.
pub(crate) struct Given<'a> {
    machine: &'a Machine,
    /// NICs do not change meanwhile.
    _changes: MutexGuard<'a, ()>,
    ports: Vec<StoppedPort>,
}

/// What has happened to ports since they were stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// Nothing.
    Rested,
    /// Another process may have served them for a moment.
    Served,
}

/// A port that is about to be handed over, or has been.
struct StoppedPort {
    port: Arc<Port>,
    option: &'static str,
    stop: StopHandle,
    /// The server's thread, which ends when the server is handed over.
    thread: Option<JoinHandle<()>>,
    /// The server. `None` while its thread runs.
    server: Option<HandedOver>,
    peers: Option<NetworkPeers>,
    /// The attachment to the segment, so that nothing undoes it.
    attached: (Option<Sealed<AttachedRecord>>, Vec<OwnedFd>),
    rests: Vec<Rest>,
}

impl Machine {
    /// The kinds of payloads that the NICs write in addition to those of every NIC.
    pub(crate) fn own_formats(&self) -> Vec<(&'static str, u32)> {
        let state = self.shared.lock();
        let of_ports = state.ports.iter().flat_map(|entry| entry.port.own_formats());
        let lists = state.ports.iter().filter(|entry| entry.peers().is_some());
        of_ports.chain(lists.flat_map(|_| optional_formats())).collect()
    }

    /// What the guest knows about each NIC, by name.
    ///
    /// # Errors
    /// A NIC cannot be handed over.
    pub(crate) fn identities(&self) -> Result<Identities, Failure> {
        let state = self.shared.lock();
        if let Some(device) = state.devices.first() {
            let why = "a VF cannot be handed to another process yet: restart hawser instead";
            return Err(Failure::runtime(why).of(&device.name));
        }
        let named = |entry: &ServedPort| (entry.port.config().name.clone(), Sealed(entry.port.identity()));
        Ok(state.ports.iter().map(named).collect())
    }

    /// Duplicates of the descriptors with which the ports of another process begin.
    ///
    /// # Errors
    /// A mode cannot be handed over.
    pub(crate) fn share(&self) -> Result<Vec<SharedPort>, Failure> {
        let share = |port: Arc<Port>| {
            let name = port.config().name.clone();
            let workers = port.share().map_err(|error| Failure::runtime(error).of(&name))?;
            Ok(SharedPort { name, workers })
        };
        self.ports().into_iter().map(share).collect()
    }

    /// What the ports can pass on in advance, while everything runs.
    ///
    /// # Errors
    /// A mode cannot be handed over.
    pub(crate) fn save_ahead(&self) -> Result<Vec<PortAhead>, Failure> {
        let save = |port: Arc<Port>| {
            let name = port.config().name.clone();
            let modes = port.save_ahead().map_err(|error| Failure::runtime(error).of(&name))?;
            Ok(PortAhead { name, modes })
        };
        self.ports().into_iter().map(save).collect()
    }

    /// Stops all ports where they are, and returns them for another process. Passes the name of each step to `ended` when
    /// it ends.
    ///
    /// # Errors
    /// A port cannot be handed over now. All ports continue.
    pub(crate) fn hand_over(
        &self,
        ended: &mut dyn FnMut(&'static str),
    ) -> Result<(Given<'_>, Vec<GivenPort>), Failure> {
        let Ok(changes) = self.changes.try_lock() else {
            return Err(Failure::runtime("NICs are being changed: try again afterwards"));
        };
        let ports: Vec<_> = {
            let mut state = self.shared.lock();
            if state.run != Run::On {
                return Err(Failure::runtime("hawser is shutting down"));
            }
            state.run = Run::HandingOver;
            let part = |entry: &mut ServedPort| StoppedPort {
                port: Arc::clone(&entry.port),
                option: entry.option,
                stop: entry.stop.clone(),
                thread: entry.thread.take(),
                server: None,
                peers: entry.peers(),
                attached: entry.attached.take().into_handover(),
                rests: Vec::new(),
            };
            state.ports.iter_mut().map(part).collect()
        };
        let mut given = Given {
            machine: self,
            _changes: changes,
            ports,
        };
        let stopped: Result<Vec<_>, _> = given.ports.iter_mut().map(|port| port.stop(ended)).collect();
        match stopped {
            Ok(ports) => Ok((given, ports)),
            Err(why) => {
                given.take_back(Since::Rested);
                Err(why)
            }
        }
    }
}

impl StoppedPort {
    /// Stops the port where it is, and returns what another process needs to continue it.
    fn stop(&mut self, ended: &mut dyn FnMut(&'static str)) -> Result<GivenPort, Failure> {
        let name = self.port.config().name.clone();
        let failed = |error: &dyn std::fmt::Display| Failure::runtime(error).of(&name);
        let server = self.stop.hand_over().map_err(|error| failed(&error))?;
        ended("stopped");
        let server = self.server.insert(server);
        let (attached, of_attached) = &self.attached;
        let all = server.descriptors.iter().chain(of_attached);
        let descriptors: io::Result<Vec<_>> = all.map(OwnedFd::try_clone).collect();
        let descriptors = descriptors.map_err(|error| failed(&error))?;
        let RestingPort { record, modes, rests } = self.port.rest().map_err(|error| failed(&error))?;
        ended("saved");
        self.rests = rests;
        Ok(GivenPort {
            head: GivenHead {
                name,
                port: Sealed(record),
                of_server: server.descriptors.len(),
                server: server.record.clone(),
                attached: attached.clone(),
                peers: self.peers.as_ref().and_then(|peers| Some(Sealed(peers.list()?.save()))),
            },
            modes,
            descriptors,
        })
    }

    /// Continues as if nothing had happened.
    fn go_on(self, machine: &Machine) -> Result<(), Failure> {
        // The workers must execute the commands of the server.
        drop(self.rests);
        let (attached, of_attached) = self.attached;
        let attached = Option::take_over(attached, &mut of_attached.into_iter()).map_err(Failure::runtime)?;
        let (stop, thread) = match self.server {
            None => (self.stop, self.thread),
            Some(server) => {
                if let Some(thread) = self.thread {
                    // It records its end, which must precede a new start. If it panicked, it has printed its message.
                    let _ = thread.join();
                }
                let server = StagedServer::take_over(server, Arc::clone(&self.port), machine.setup.lifetime);
                let failed = |error| Failure::runtime(format_args!("{}: {error}", self.option));
                let server = server.map_err(failed)?.own();
                let stop = server.stop_handle();
                let thread = serve(server, &self.port, self.option, &machine.setup.sandbox, &machine.shared)?;
                (stop, Some(thread))
            }
        };
        let mut state = machine.shared.lock();
        let entry = state
            .ports
            .iter_mut()
            .find(|entry| Arc::ptr_eq(&entry.port, &self.port));
        if let Some(entry) = entry {
            (entry.stop, entry.thread, entry.attached) = (stop, thread, attached);
            entry.life = Life::Served;
        }
        Ok(())
    }
}

impl Given<'_> {
    /// Continues to serve all ports, as if nothing had happened. A port that cannot continue counts as failed.
    pub(crate) fn take_back(self, since: Since) {
        let shared = &self.machine.shared;
        for stopped in self.ports {
            let port = Arc::clone(&stopped.port);
            if since == Since::Served {
                port.end_connections();
            }
            if let Err(failure) = stopped.go_on(self.machine) {
                port.set_failed();
                shared.ended(&port, Err(failure));
            }
        }
        let mut state = shared.lock();
        match state.run {
            Run::HandingOver => state.run = Run::On,
            // A request to stop has arrived meanwhile.
            Run::On | Run::Stopped => state.ports.iter().for_each(ServedPort::stop),
        }
        shared.changed.notify_all();
    }
}

/// A machine that continues one of another process.
pub(crate) struct Successor {
    machine: Machine,
    prepared: Vec<PreparedPort>,
    staged: Vec<StagedPort>,
}

/// A port that has its state, while the other process may still continue. Dropping it leaves the other process's files
/// and devices as they are.
struct StagedPort {
    prepared: PreparedPort,
    server: StagedServer,
    attached: ManuallyDrop<Option<Attached>>,
    links: Option<Watcher>,
}

impl StagedPort {
    /// The port. The other process must have given it up.
    fn own(self) -> ReadyPort {
        let attached = ManuallyDrop::into_inner(self.attached);
        self.prepared.ready(self.server.own(), attached, self.links)
    }
}

impl Successor {
    /// Creates the ports for `nics`. `shared` is what the other process shares, in its order.
    ///
    /// # Errors
    /// A NIC cannot be served. The other process continues.
    pub(crate) fn prepare(setup: MachineSetup, nics: Vec<Nic>, shared: Vec<SharedPort>) -> Result<Self, Failure> {
        startup::raise_limits(nics.iter().filter_map(Nic::mode))?;
        let machine = Machine::without_nics(setup);
        let mut shared = shared.into_iter();
        let mut prepare = |nic: Nic| {
            let name = nic.name().to_owned();
            let found = shared.find(|shared| shared.name == name);
            let shared = found.ok_or_else(|| Failure::runtime("the other process does not serve it").of(&name))?;
            machine
                .prepare_successor(nic, shared)
                .map_err(|failure| machine.shared.named(&name, failure))
        };
        let prepared = nics.into_iter().map(&mut prepare).collect::<Result<_, _>>()?;
        Ok(Self {
            prepared,
            machine,
            staged: Vec::new(),
        })
    }

    /// Gives the ports what the other process has passed on in advance.
    ///
    /// # Errors
    /// It cannot be continued. The other process continues.
    pub(crate) fn load_ahead(&self, ahead: Vec<PortAhead>) -> Result<(), Failure> {
        for PortAhead { name, modes } in ahead {
            if let Some(prepared) = self.prepared.iter().find(|known| known.port.config().name == name) {
                let loaded = prepared.port.load_ahead(modes);
                loaded.map_err(|error| Failure::runtime(error).of(&name))?;
            }
        }
        Ok(())
    }

    /// Gives the ports their state.
    ///
    /// # Errors
    /// The state cannot be continued.
    pub(crate) fn load(&mut self, given: Vec<GivenPort>) -> Result<(), Failure> {
        let mut prepared = std::mem::take(&mut self.prepared);
        for given in given {
            let name = given.head.name.clone();
            let at = prepared.iter().position(|prepared| prepared.port.config().name == name);
            let Some(at) = at else {
                return Err(Failure::runtime("it is served by the other process only").of(&name));
            };
            let loaded = load(prepared.swap_remove(at), given, &self.machine);
            self.staged.push(loaded.map_err(|failure| failure.of(&name))?);
        }
        match prepared.first() {
            Some(left) => Err(Failure::runtime("the other process has not passed it on").of(&left.port.config().name)),
            None => Ok(()),
        }
    }

    /// Serves the ports, which the other process must have given up. Returns the moment at which the guest's traffic has
    /// gone on.
    ///
    /// # Errors
    /// A port cannot be served.
    pub(crate) fn begin(self) -> Result<(Machine, Instant), Failure> {
        // The guest's traffic goes on first.
        let begun = self.staged.iter().map(|staged| staged.prepared.port.begin());
        let begun = begun.max().unwrap_or_else(Instant::now);
        for staged in self.staged {
            self.machine.take(super::Ready::Port(Box::new(staged.own())))?;
        }
        Ok((self.machine, begun))
    }
}

impl Machine {
    fn prepare_successor(&self, nic: Nic, shared: SharedPort) -> Result<PreparedPort, Failure> {
        let (endpoint, found): (Endpoint, _) = match nic {
            Nic::VhostUser { endpoint, found } => (endpoint, found),
            Nic::PassedThrough(_) => {
                return Err(Failure::runtime(
                    "a VF cannot be taken over yet: restart hawser instead",
                ));
            }
        };
        let resources = PortResources::successor(&found.port.mode, shared.workers).map_err(Failure::runtime)?;
        PreparedPort::new(&endpoint, *found, resources, &self.setup.sandbox)
    }
}

fn load(prepared: PreparedPort, given: GivenPort, machine: &Machine) -> Result<StagedPort, Failure> {
    let GivenPort {
        head,
        modes,
        mut descriptors,
    } = given;
    let port = Arc::clone(&prepared.port);
    let Sealed(record) = head.port;
    port.load_modes(modes).map_err(Failure::runtime)?;
    let mut of_attached = descriptors.split_off(head.of_server.min(descriptors.len())).into_iter();
    let handed = HandedOver {
        record: head.server,
        descriptors,
    };
    let server = StagedServer::take_over(handed, Arc::clone(&port), machine.setup.lifetime);
    let server = server.map_err(Failure::runtime)?;
    port.load_record(record).map_err(Failure::runtime)?;
    if let Some(Sealed(peers)) = head.peers {
        prepared.load_peers(peers)?;
    }
    let attached = Option::<Attached>::take_over(head.attached, &mut of_attached).map_err(Failure::runtime)?;
    let attached = ManuallyDrop::new(attached);
    let links = attached
        .as_ref()
        .map(|attached| prepared.watch(attached, &machine.setup.sandbox));
    Ok(StagedPort {
        links: links.transpose()?,
        prepared,
        server,
        attached,
    })
}
