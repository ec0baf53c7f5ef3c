//! The machine: the ports of one VM. Ports can be added and removed while the VM runs.
//!
//! ```text
//!  options, manifests, API ── Machine ──┬── port: socket, thread, workers, way to its segment
//!                                       └── port: …
//! ```
//!
//! Each port has its own sockets, its own workers and a thread that waits for its front ends, so the end of one port
//! does not affect the others. A lock protects the list of ports. Threads on the packet path never take it. Ports are
//! created and stopped outside that lock, one at a time.
//!
//! [`Machine::wait`] returns after a request to stop, or when every port has ended without one
//! (a one-off port, or a front end on a descriptor that has closed). A machine whose last port
//! was removed keeps running, because a port may be added.

mod endpoint;
mod followed;
mod handover;
mod nic;
mod passed_through;
mod peers;
mod port;
mod served_nic;
mod services;
mod summary;

pub(crate) use endpoint::Endpoint;
pub(crate) use followed::FileState;
pub(crate) use handover::{
    GivenHead, GivenPort, Identities, PortAhead, SharedPort, Since, Successor, optional_formats,
};
pub(crate) use nic::Nic;
pub(crate) use passed_through::PassedThrough;
pub(crate) use peers::{ChangeError, PeersChange};
pub(crate) use served_nic::{CapturePlace, NicMetrics, NicStatus, ServedNic, VfStatus};

use crate::failure::Failure;
use crate::resolv::ResolvConf;
use crate::sandbox::Sandbox;
use crate::startup;
use hawser_backend::port::Port;
use hawser_backend::vhost_user::Lifetime;
use port::{Life, ReadyPort, ServedPort, write_report};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Settings with which a machine's ports are served.
#[derive(Clone, Debug)]
pub(crate) struct MachineSetup {
    /// Privileges that the ports' threads drop.
    pub sandbox: Sandbox,
    /// How long each port is served.
    pub lifetime: Lifetime,
    /// True if messages name their interface. False if the process can have only one.
    pub names_interfaces: bool,
}

/// The served ports of one VM.
pub(crate) struct Machine {
    setup: MachineSetup,
    shared: Arc<Shared>,
    /// Serialises the addition and removal of ports.
    changes: Mutex<()>,
}

/// State that the machine shares with the ports' threads.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    names_interfaces: bool,
}

struct State {
    ports: Vec<ServedPort>,
    /// NICs without a port.
    devices: Vec<Arc<PassedThrough>>,
    run: Run,
    /// Latest content of resolv.conf, if its changes are followed.
    resolv: Option<ResolvConf>,
    /// The first failure of a port, if there was one.
    outcome: Result<(), Failure>,
}

/// A NIC that can be served; dropping it undoes all changes to the host.
enum Ready {
    Port(Box<ReadyPort>),
    PassedThrough(PassedThrough),
}

/// Whether the machine keeps running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    On,
    /// A stop was requested.
    Stopped,
    /// Another process is about to continue with the ports. Their threads end meanwhile.
    HandingOver,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a port's thread has finished.
    fn ended(&self, port: &Arc<Port>, served: Result<(), Failure>) {
        let mut state = self.lock();
        if let Some(entry) = state.ports.iter_mut().find(|entry| Arc::ptr_eq(&entry.port, port)) {
            entry.life = Life::Ended;
        }
        if let Err(failure) = served {
            let failure = self.named(&port.config().name, failure);
            if state.ports.iter().any(|entry| entry.life == Life::Served) {
                log::error!("{failure}; other NICs go on");
            }
            if state.outcome.is_ok() {
                state.outcome = Err(failure);
            }
        }
        self.changed.notify_all();
    }

    fn named(&self, name: &str, failure: Failure) -> Failure {
        if self.names_interfaces {
            failure.of(name)
        } else {
            failure
        }
    }
}

impl Machine {
    /// Serves all of `nics`, or none.
    ///
    /// # Errors
    /// The reason why a NIC cannot be served.
    pub(crate) fn start(setup: MachineSetup, nics: Vec<Nic>) -> Result<Self, Failure> {
        startup::raise_limits(nics.iter().filter_map(Nic::mode))?;
        let machine = Self::without_nics(setup);
        // No port is served until all of them can be. From here on, dropping a port undoes its
        // changes to the host, on every return path.
        let ready: Result<Vec<Ready>, Failure> = nics.into_iter().map(|nic| machine.prepare(nic)).collect();
        for nic in ready? {
            machine.take(nic)?;
        }
        Ok(machine)
    }

    fn without_nics(setup: MachineSetup) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ports: Vec::new(),
                devices: Vec::new(),
                run: Run::On,
                resolv: None,
                outcome: Ok(()),
            }),
            changed: Condvar::new(),
            names_interfaces: setup.names_interfaces,
        });
        Self {
            setup,
            shared,
            changes: Mutex::default(),
        }
    }

    /// Serves an additional NIC. If that fails, all changes to the host are undone.
    ///
    /// # Errors
    /// The reason why the NIC cannot be served, such as a name that is in use.
    pub(crate) fn add(&self, nic: Nic) -> Result<ServedNic, Failure> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let name = nic.name().to_owned();
        match self.life(&name) {
            Some(Life::Served) => return Err(Failure::usage("an interface of this name is served already")),
            Some(Life::Ended) => self.remove_port(&name),
            None => {}
        }
        let modes = self.ports();
        let modes = modes.iter().map(|port| &port.config().mode);
        startup::raise_limits(modes.chain(nic.mode()))?;
        let ready = self.prepare(nic)?;
        self.take(ready)
    }

    /// Stops a port, even if it is in use, and detaches its NIC from the segment. False if no port has this name.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.nic(name).is_some();
        self.remove_port(name);
        self.shared.lock().devices.retain(|device| device.name != name);
        known
    }

    /// The sandbox of the machine's threads.
    pub(crate) const fn sandbox(&self) -> &Sandbox {
        &self.setup.sandbox
    }

    /// The NICs, in the order in which they were added.
    pub(crate) fn nics(&self) -> Vec<ServedNic> {
        self.shared.lock().nics()
    }

    /// The NIC of that name.
    pub(crate) fn nic(&self, name: &str) -> Option<ServedNic> {
        self.nics().into_iter().find(|nic| nic.name() == name)
    }

    fn ports(&self) -> Vec<Arc<Port>> {
        let state = self.shared.lock();
        state.ports.iter().map(|entry| Arc::clone(&entry.port)).collect()
    }

    /// Stops all ports and ends [`Self::wait`].
    pub(crate) fn stop(&self) {
        let mut state = self.shared.lock();
        state.run = Run::Stopped;
        state.ports.iter().for_each(ServedPort::stop);
        self.shared.changed.notify_all();
    }

    /// Waits for a request to stop, or until every port has ended without one.
    ///
    /// # Errors
    /// The error that ended the port that failed first.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        let mut state = self.shared.lock();
        while !state.is_over() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::replace(&mut state.outcome, Ok(()))
    }

    /// Stops the machine and all its ports, even while other handles to it exist.
    pub(crate) fn end(&self) {
        self.stop();
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = std::mem::take(&mut self.shared.lock().ports);
        // The ports' threads need the lock to record that they have finished.
        ports.into_iter().for_each(ServedPort::shut_down);
        let devices = std::mem::take(&mut self.shared.lock().devices);
        drop(devices);
    }

    /// A description of each port in one line, for the log.
    pub(crate) fn summaries(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.ports.iter().map(|entry| entry.summary.clone()).collect()
    }

    /// True if any NIC uses the content of resolv.conf.
    pub(crate) fn follows_resolv_conf(&self) -> bool {
        let state = self.shared.lock();
        state.ports.iter().any(ServedPort::follows_resolv_conf)
    }

    /// Passes the current content of resolv.conf to every port that follows it.
    pub(crate) fn change_resolvers(&self, resolv: &ResolvConf) {
        let mut state = self.shared.lock();
        state.ports.iter().for_each(|entry| entry.change_resolvers(resolv));
        state.resolv = Some(resolv.clone());
    }

    /// Writes the counters of every port to standard error.
    pub(crate) fn write_reports(&self) {
        self.ports().iter().for_each(|port| write_report(port));
    }

    fn prepare(&self, nic: Nic) -> Result<Ready, Failure> {
        let name = nic.name().to_owned();
        for notice in nic.notices() {
            if self.setup.names_interfaces {
                log::warn!("interface {name}: {notice}");
            } else {
                log::warn!("{notice}");
            }
        }
        match nic {
            Nic::VhostUser { endpoint, found } => {
                let ready = ReadyPort::new(endpoint, *found, &self.setup.sandbox, self.setup.lifetime);
                let ready = ready.map_err(|failure| self.shared.named(&name, failure))?;
                Ok(Ready::Port(Box::new(ready)))
            }
            Nic::PassedThrough(device) => match device.pass() {
                Ok(()) => Ok(Ready::PassedThrough(device)),
                Err(failure) => Err(self.shared.named(&name, failure)),
            },
        }
    }

    fn take(&self, ready: Ready) -> Result<ServedNic, Failure> {
        // The new thread can record its end only after the port is in the list.
        let mut state = self.shared.lock();
        if state.run == Run::Stopped {
            return Err(Failure::runtime("hawser is shutting down"));
        }
        match ready {
            Ready::Port(ready) => {
                let served = ready.serve(&self.setup.sandbox, &self.shared)?;
                let nic = served.nic();
                // resolv.conf may have changed since the NIC was prepared.
                if let Some(resolv) = &state.resolv {
                    served.change_resolvers(resolv);
                }
                state.ports.push(served);
                Ok(nic)
            }
            Ready::PassedThrough(device) => {
                let device = Arc::new(device);
                state.devices.push(Arc::clone(&device));
                Ok(ServedNic::PassedThrough(device))
            }
        }
    }

    fn life(&self, name: &str) -> Option<Life> {
        let state = self.shared.lock();
        state
            .ports
            .iter()
            .find(|entry| entry.name() == name)
            .map(|entry| entry.life)
    }

    fn remove_port(&self, name: &str) {
        let entry = {
            let mut state = self.shared.lock();
            let at = state.ports.iter().position(|entry| entry.name() == name);
            at.map(|at| state.ports.remove(at))
        };
        if let Some(entry) = entry {
            entry.shut_down();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    fn nics(&self) -> Vec<ServedNic> {
        let nics = self.ports.iter().map(ServedPort::nic);
        let nics = nics.chain(self.devices.iter().cloned().map(ServedNic::PassedThrough));
        nics.collect()
    }

    fn is_over(&self) -> bool {
        let through = |entry: &ServedPort| entry.life == Life::Ended;
        let is_done = !self.ports.is_empty() && self.ports.iter().all(through);
        self.run == Run::Stopped || (self.run == Run::On && is_done)
    }
}

#[cfg(test)]
mod tests;
