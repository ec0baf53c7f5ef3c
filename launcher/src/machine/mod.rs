//! The machine: the ports of one VM, which come and go while it runs.
//!
//! ```text
//!  options, manifests, API ── Machine ──┬── port: socket, thread, workers, way to its segment
//!                                       └── port: …
//! ```
//!
//! Each port has a thread of its own that waits for its front ends, workers of its own and
//! sockets of its own: what ends one leaves the others as they are. The list of them is
//! behind a lock that only who changes or reads it takes; the threads that packets go
//! through know nothing of it. Making a port and putting one away is done outside that
//! lock, by one at a time.
//!
//! [`Machine::wait`] comes back when the machine has been told to stop, or when every port
//! has ended of itself (one-off, or a front end on a descriptor that has gone). A machine
//! whose last port was removed goes on: one may be added.

mod endpoint;
mod nic;
mod port;
mod served_nic;
mod summary;

pub(crate) use endpoint::Endpoint;
pub(crate) use nic::Nic;
pub(crate) use served_nic::{NicMetrics, NicStatus, ServedNic};

use crate::failure::Failure;
use crate::resolv::ResolvConf;
use crate::sandbox::Sandbox;
use crate::startup;
use hawser_backend::port::Port;
use hawser_backend::vhost_user::Lifetime;
use port::{Life, ReadyPort, ServedPort, write_report};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How a machine's ports are served.
#[derive(Clone, Debug)]
pub(crate) struct MachineSetup {
    /// What their threads give up.
    pub sandbox: Sandbox,
    /// How long each.
    pub lifetime: Lifetime,
    /// Whether messages say which interface they are of: not where there is but one ever.
    pub names_interfaces: bool,
}

/// The served ports of one VM.
pub(crate) struct Machine {
    setup: MachineSetup,
    shared: Arc<Shared>,
    /// Held by who adds or removes ports.
    changes: Mutex<()>,
}

/// What the ports' threads know of the machine.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    names_interfaces: bool,
}

struct State {
    ports: Vec<ServedPort>,
    run: Run,
    /// resolv.conf as it was last seen, if it is followed.
    resolv: Option<ResolvConf>,
    /// The first failure of a port.
    outcome: Result<(), Failure>,
}

/// Whether the machine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    On,
    /// It has been told to end.
    Stopped,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A port's thread says that it is through.
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
    /// Serves `nics`, all or none.
    ///
    /// # Errors
    /// What keeps one from being served.
    pub(crate) fn start(setup: MachineSetup, nics: Vec<Nic>) -> Result<Self, Failure> {
        startup::raise_limits(nics.iter().filter_map(Nic::mode))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ports: Vec::new(),
                run: Run::On,
                resolv: None,
                outcome: Ok(()),
            }),
            changed: Condvar::new(),
            names_interfaces: setup.names_interfaces,
        });
        let machine = Self {
            setup,
            shared,
            changes: Mutex::default(),
        };
        // Nobody is served before all can be. From here on there may be something to put
        // back: each port does, whichever way we leave.
        let ready: Result<Vec<ReadyPort>, Failure> = nics.into_iter().map(|nic| machine.prepare(nic)).collect();
        for port in ready? {
            machine.take(port)?;
        }
        Ok(machine)
    }

    /// Serves one more NIC. Nothing is left of one that cannot be served.
    ///
    /// # Errors
    /// What keeps it from being served; that there is one of its name.
    pub(crate) fn add(&self, nic: Nic) -> Result<ServedNic, Failure> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let name = nic.name().to_owned();
        match self.life(&name) {
            Some(Life::Served) => return Err(Failure::usage("an interface of this name is served already")),
            Some(Life::Ended) => self.put_away(&name),
            None => {}
        }
        let modes = self.ports();
        let modes = modes.iter().map(|port| &port.config().mode);
        startup::raise_limits(modes.chain(nic.mode()))?;
        let ready = self.prepare(nic)?;
        self.take(ready).map(ServedNic::VhostUser)
    }

    /// Ends a port, whoever uses it, and takes its NIC off its segment. False if there is
    /// none of that name.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.life(name).is_some();
        self.put_away(name);
        known
    }

    /// What its threads give up.
    pub(crate) const fn sandbox(&self) -> &Sandbox {
        &self.setup.sandbox
    }

    /// The NICs, in the order they came.
    pub(crate) fn nics(&self) -> Vec<ServedNic> {
        self.ports().into_iter().map(ServedNic::VhostUser).collect()
    }

    /// The NIC of that name.
    pub(crate) fn nic(&self, name: &str) -> Option<ServedNic> {
        self.nics().into_iter().find(|nic| nic.name() == name)
    }

    fn ports(&self) -> Vec<Arc<Port>> {
        let state = self.shared.lock();
        state.ports.iter().map(|entry| Arc::clone(&entry.port)).collect()
    }

    /// Tells all ports, and who waits, to end.
    pub(crate) fn stop(&self) {
        let mut state = self.shared.lock();
        state.run = Run::Stopped;
        state.ports.iter().for_each(ServedPort::stop);
        self.shared.changed.notify_all();
    }

    /// Waits until the machine has been told to stop, or every port has ended of itself.
    ///
    /// # Errors
    /// What ended the first port that failed.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        let mut state = self.shared.lock();
        while !state.is_over() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::replace(&mut state.outcome, Ok(()))
    }

    /// Stops it and puts every port away, whoever still knows of the machine.
    pub(crate) fn end(&self) {
        self.stop();
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = std::mem::take(&mut self.shared.lock().ports);
        // Their threads need the lock for their last word.
        ports.into_iter().for_each(ServedPort::put_away);
    }

    /// What each port is, for the log.
    pub(crate) fn summaries(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.ports.iter().map(|entry| entry.summary.clone()).collect()
    }

    /// Whether resolv.conf can mean anything to a guest's NIC.
    pub(crate) fn follows_resolv_conf(&self) -> bool {
        let state = self.shared.lock();
        state.ports.iter().any(ServedPort::follows_resolv_conf)
    }

    /// Hands out what resolv.conf says now, on every port that follows it.
    pub(crate) fn change_resolvers(&self, resolv: &ResolvConf) {
        let mut state = self.shared.lock();
        state.ports.iter().for_each(|entry| entry.change_resolvers(resolv));
        state.resolv = Some(resolv.clone());
    }

    /// Writes the counters of every port to standard error.
    pub(crate) fn write_reports(&self) {
        self.ports().iter().for_each(|port| write_report(port));
    }

    fn prepare(&self, nic: Nic) -> Result<ReadyPort, Failure> {
        let name = nic.name().to_owned();
        for notice in nic.notices() {
            if self.setup.names_interfaces {
                log::warn!("interface {name}: {notice}");
            } else {
                log::warn!("{notice}");
            }
        }
        let Nic::VhostUser { endpoint, found } = nic;
        ReadyPort::new(endpoint, *found, &self.setup.sandbox, self.setup.lifetime)
            .map_err(|failure| self.shared.named(&name, failure))
    }

    fn take(&self, ready: ReadyPort) -> Result<Arc<Port>, Failure> {
        // The thread that is started here tells of its end only after it is in the list.
        let mut state = self.shared.lock();
        if state.run == Run::Stopped {
            return Err(Failure::runtime("hawser is shutting down"));
        }
        let served = ready.serve(&self.setup.sandbox, &self.shared)?;
        let port = Arc::clone(&served.port);
        // It may have changed since the NIC was made ready.
        if let Some(resolv) = &state.resolv {
            served.change_resolvers(resolv);
        }
        state.ports.push(served);
        Ok(port)
    }

    fn life(&self, name: &str) -> Option<Life> {
        let state = self.shared.lock();
        state
            .ports
            .iter()
            .find(|entry| entry.name() == name)
            .map(|entry| entry.life)
    }

    fn put_away(&self, name: &str) {
        let entry = {
            let mut state = self.shared.lock();
            let at = state.ports.iter().position(|entry| entry.name() == name);
            at.map(|at| state.ports.remove(at))
        };
        if let Some(entry) = entry {
            entry.put_away();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    fn is_over(&self) -> bool {
        let through = |entry: &ServedPort| entry.life == Life::Ended;
        self.run == Run::Stopped || (!self.ports.is_empty() && self.ports.iter().all(through))
    }
}

#[cfg(test)]
mod tests;
