//! One VM of this node: its desired state, its current state, and the steps from one to the other.

mod files;
mod ports;

use crate::cli::ServeArgs;
use crate::desired::VmFile;
use crate::exchange::{Message, exchange};
use crate::folder::VmFolder;
use crate::history::{EventKind, History};
use crate::netns::{Netns, Progress};
use crate::process::{Process, socket_dir};
use crate::store::AgentStore;
use crate::unit::{Arguments, Unit};
use hawser_manifest::plan::VmPlan;
use hawser_packet::MacRange;
use hawser_store::{Lease, StoreError, VmName};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use ports::OwnPort;

/// First and longest pause before another attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Pause before another attempt to bind a port that another node still has.
const HANDOVER_PAUSE: Duration = Duration::from_millis(200);
/// A process that has run for this time is restarted immediately.
const STABLE: Duration = Duration::from_secs(60);
/// Shortest time between two steps.
const BUSY_TURN: Duration = Duration::from_millis(50);
/// Time for which the process of a VM that has moved passes on late frames (`moved`, docs/layer2.md).
const LATE: Duration = Duration::from_secs(10);
/// Interval at which a process is asked whether its guest has arrived.
const ARRIVAL_TURN: Duration = Duration::from_millis(20);
/// Longest wait for its answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Time for a process to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// State of a VM, for people and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub(crate) enum Phase {
    /// It cannot be started yet. The message gives the reason.
    Waiting,
    /// Its process has been started, but does not serve it yet.
    Starting,
    /// It is served.
    Running,
    /// Its process has been requested to end.
    Stopping,
}

impl Phase {
    /// All phases.
    pub(crate) const ALL: [Self; 4] = [Self::Waiting, Self::Starting, Self::Running, Self::Stopping];
}

/// A VM.
#[derive(Debug)]
pub(crate) struct Vm {
    pub name: VmName,
    pub folder: VmFolder,
    /// File that describes the VM. `None` once it was removed.
    pub file: Option<Arc<VmFile>>,
    pub leases: Vec<Lease>,
    pub ports: Vec<OwnPort>,
    pub process: Option<Process>,
    unit: Unit,
    netns: Netns,
    pub phase: Phase,
    /// The reason why the VM waits, or the problem of its newest manifest.
    pub message: String,
    /// What has happened to it on this node.
    pub history: History,
    /// The plan of the process, once the store has the VM's records.
    accepted: Option<VmPlan>,
    /// True if the NICs in the file have changed since the process was started or adopted them.
    changed: bool,
    /// A running `hawser plug` that applies changed NICs.
    plug: Option<Child>,
    next: Instant,
    pause: Duration,
    since: Instant,
    /// Another node has taken over the ports, and late frames are passed on until then.
    late_until: Option<Instant>,
}

/// The reason why a VM cannot be started yet.
#[derive(Debug)]
enum Obstacle {
    /// Another node has one of its ports, and is about to give it up if the VM moves.
    Elsewhere(String),
    /// The operator's program connects the namespace.
    Connecting,
    /// Anything else.
    Failed(String),
}

impl From<String> for Obstacle {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

/// The properties that all VMs of the node share.
pub(crate) struct Site<'a> {
    pub args: &'a ServeArgs,
    pub node: &'a str,
    /// True if systemd runs the processes.
    pub has_units: bool,
    pub vtep: Result<IpAddr, String>,
    /// UDP ports in use by VMs of this node.
    pub ports: BTreeSet<u16>,
}

impl Vm {
    pub(crate) fn new(args: &ServeArgs, name: VmName, now: Instant) -> Self {
        let folder = VmFolder::of(&args.run_dir, &name);
        let unit = Unit::of(&name, &folder);
        Self {
            process: Process::find(&folder, unit.clone()),
            unit,
            netns: Netns::of(&name, &folder),
            name,
            folder,
            file: None,
            leases: Vec::new(),
            ports: Vec::new(),
            phase: Phase::Waiting,
            message: String::new(),
            history: History::default(),
            accepted: None,
            changed: false,
            plug: None,
            next: now,
            pause: FIRST_PAUSE,
            since: now,
            late_until: None,
        }
    }

    /// Adopts the current description in the file.
    pub(crate) fn describe(&mut self, file: Arc<VmFile>, now: Instant) {
        if self.file.as_ref().is_some_and(|known| Arc::ptr_eq(known, &file)) {
            return;
        }
        let is_new = self
            .file
            .as_ref()
            .is_some_and(|known| known.plan.nics != file.plan.nics);
        self.changed |= is_new && self.process.is_some();
        self.file = Some(file);
        self.next = now;
    }

    /// Time until the VM may take its next step. `None` if it waits for nothing.
    pub(crate) fn due(&self, now: Instant) -> Option<Duration> {
        if matches!(self.phase, Phase::Starting | Phase::Stopping) || self.plug.is_some() {
            return Some(BUSY_TURN);
        }
        if self.arrives() && self.phase == Phase::Running {
            return Some(ARRIVAL_TURN);
        }
        let waits = self.phase == Phase::Waiting && self.process.is_none();
        waits.then(|| self.next.saturating_duration_since(now).max(BUSY_TURN))
    }

    /// Does what needs no store: ends the process of a VM that is no longer described, and starts one that has ended
    /// again as it was. The ports are those of this node until another one binds them, so nothing is decided by that.
    pub(crate) fn watch(&mut self, site: &Site<'_>, may_start: bool, now: Instant) {
        self.notice_end(now);
        if self.file.is_none() {
            if self.late_until.is_none_or(|until| now >= until) {
                self.end_process(now);
            }
            return;
        }
        self.notice_ready();
        let is_due = self.process.is_none() && self.phase == Phase::Waiting && now >= self.next;
        if !is_due || !may_start {
            return;
        }
        let Some(plan) = self.accepted.clone().filter(|plan| self.has_ports_of(plan)) else {
            return;
        };
        let started = match self.netns.prepare(site.args, now) {
            Ok(Progress::Done(namespace)) => self.start(&plan, namespace.as_deref(), site, now),
            Ok(Progress::Pending) => return,
            Err(problem) => Err(problem),
        };
        match started {
            Ok(()) => self.message.clear(),
            Err(problem) => self.wait(problem.into(), now),
        }
    }

    /// True while the VM runs on another node, from which its guest is to arrive.
    fn arrives(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.terms.arrives_from.is_some())
    }

    /// True if the VM's guest was to arrive from another node and runs here: a driver runs each NIC.
    pub(crate) fn has_arrived(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct Status {
            interfaces: Vec<Interface>,
        }
        #[derive(serde::Deserialize)]
        struct Interface {
            driver: String,
        }
        if !self.arrives() || self.phase != Phase::Running {
            return false;
        }
        let answer = exchange(&self.folder.api(), Message::get("/v1/status"), ANSWER);
        // A process that does not answer is asked again.
        let status = answer
            .ok()
            .and_then(|(_, body)| serde_json::from_slice::<Status>(&body).ok());
        status.is_some_and(|status| {
            !status.interfaces.is_empty() && status.interfaces.iter().all(|nic| nic.driver == "running")
        })
    }

    /// True while the process of a VM that has moved passes on late frames. Its node learns of the move together with the
    /// end of the VM's description.
    fn is_late(&mut self, store: &AgentStore, node: &str, now: Instant) -> Result<bool, StoreError> {
        if self.late_until.is_none() && self.process.is_some() && self.phase == Phase::Running {
            let Some(other) = self.taken_by(store, node)? else {
                return Ok(false);
            };
            self.message = format!("its guest runs on node {other}: late frames are passed on");
            self.late_until = Some(now + LATE);
        }
        Ok(self.process.is_some() && self.late_until.is_some_and(|until| now < until))
    }

    /// Notices that the process serves the VM.
    fn notice_ready(&mut self) {
        let Some(process) = self.process.as_mut().filter(|_| self.phase != Phase::Stopping) else {
            return;
        };
        let phase = if process.is_ready() {
            Phase::Running
        } else {
            Phase::Starting
        };
        if phase == Phase::Running && self.phase == Phase::Starting {
            self.history.record(EventKind::Running, "");
        }
        self.phase = phase;
    }

    /// Takes one step towards the desired state. False once the VM is neither desired nor running.
    pub(crate) fn step(&mut self, store: &mut AgentStore, site: &mut Site<'_>, now: Instant) -> bool {
        self.notice_end(now);
        if self.file.is_none() {
            return self.step_to_end(store, site, now);
        }
        if self.late_until.take().is_some() {
            // The VM comes back: its process has left the network, and another one enters it.
            return self.end_process(now) || self.step_to_end(store, site, now);
        }
        if self.phase == Phase::Stopping && self.process.is_some() {
            // The file is back before the process has ended.
            return self.step_to_end(store, site, now);
        }
        if self.process.is_some() && self.has_ports() {
            self.notice_ready();
            if self.phase == Phase::Running && (self.changed || self.plug.is_some()) {
                self.step_to_change(store, site, now);
            }
            return true;
        }
        if now < self.next {
            return true;
        }
        let done = match self.process {
            // An earlier agent started this process.
            Some(_) => self.prepare(store, site).map(|_| ()),
            None => self.begin(store, site, now),
        };
        match done {
            Ok(()) => {
                self.message.clear();
                self.changed = false;
            }
            Err(obstacle) => self.wait(obstacle, now),
        }
        true
    }

    /// Prepares the network namespace and the records of the VM, and starts its process.
    fn begin(&mut self, store: &mut AgentStore, site: &mut Site<'_>, now: Instant) -> Result<(), Obstacle> {
        fs::create_dir_all(self.folder.path()).map_err(|error| unwritable(self.folder.path(), &error))?;
        let Progress::Done(namespace) = self.netns.prepare(site.args, now)? else {
            return Err(Obstacle::Connecting);
        };
        let plan = self.prepare(store, site)?;
        Ok(self.start(&plan, namespace.as_deref(), site, now)?)
    }

    /// Applies changed NICs to the running process.
    fn step_to_change(&mut self, store: &mut AgentStore, site: &mut Site<'_>, now: Instant) {
        match self.plug.as_mut().map(Child::try_wait) {
            None if now < self.next => {}
            None => match self.prepare(store, site).and_then(|_| Ok(self.start_plug(site)?)) {
                Ok(()) => self.changed = false,
                Err(obstacle) => self.wait(obstacle, now),
            },
            Some(Ok(None)) => {}
            Some(Ok(Some(status))) if status.success() => {
                self.plug = None;
                self.message.clear();
                self.history.record(EventKind::Changed, "");
            }
            Some(_) => {
                self.plug = None;
                let message = fs::read_to_string(self.folder.plug_log()).unwrap_or_default();
                // The next version of the file causes another attempt.
                self.wait(message.trim_end().to_owned().into(), now);
            }
        }
    }

    fn start_plug(&mut self, site: &Site<'_>) -> Result<(), String> {
        let path = self.folder.plug_log();
        let log = fs::File::create(&path).map_err(|error| unwritable(&path, &error))?;
        let mut command = Command::new(&site.args.hawser);
        command.arg("plug");
        command.arg("-f").arg(self.folder.manifests());
        command.arg("--socket-dir").arg(self.folder.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log));
        let child = command.spawn();
        self.plug = Some(child.map_err(|error| format!("--hawser={}: {error}", site.args.hawser.display()))?);
        Ok(())
    }

    /// True if the VM's records in the store are known, and its file requires no other ports.
    fn has_ports(&self) -> bool {
        let Some(file) = &self.file else { return true };
        self.has_ports_of(&file.plan)
    }

    fn wait(&mut self, obstacle: Obstacle, now: Instant) {
        let (message, is_brief) = match obstacle {
            Obstacle::Elsewhere(message) => (message, true),
            Obstacle::Connecting => ("its network namespace is being connected".to_owned(), true),
            Obstacle::Failed(message) => (message, false),
        };
        if self.message != message {
            log::warn!("VM {}: {message}", self.name);
            self.history.record(EventKind::Waiting, message.as_str());
        }
        self.message = message;
        if self.process.is_none() {
            self.phase = Phase::Waiting;
        }
        if is_brief {
            self.next = now + HANDOVER_PAUSE;
            return;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Handles the end of the process, if it has ended.
    fn notice_end(&mut self, now: Instant) {
        let Some(process) = self.process.as_mut() else { return };
        if !process.has_ended(&self.folder) {
            return;
        }
        let reason = process.reap(&self.folder);
        self.process = None;
        if self.phase == Phase::Stopping {
            return;
        }
        if now.duration_since(self.since) >= STABLE {
            self.pause = FIRST_PAUSE;
        }
        self.history.record(EventKind::Ended, reason.as_str());
        self.wait(reason.into(), now);
    }

    /// Stops the process, then unbinds the ports. Leases stay until they are released.
    fn step_to_end(&mut self, store: &mut AgentStore, site: &Site<'_>, now: Instant) -> bool {
        match self.is_late(store, site.node, now) {
            Ok(false) => {}
            Ok(true) => return true,
            Err(error) => {
                self.wait(error.to_string().into(), now);
                return true;
            }
        }
        if self.end_process(now) {
            return true;
        }
        if let Err(error) = self.give_back(store) {
            self.wait(error.to_string().into(), now);
            return true;
        }
        if self.file.is_some() {
            self.phase = Phase::Waiting;
            self.next = now;
            return true;
        }
        match self.netns.remove(site.args, now) {
            Ok(Progress::Done(())) => {}
            Ok(Progress::Pending) => return true,
            Err(problem) => {
                self.wait(problem.into(), now);
                return true;
            }
        }
        // If this fails, a later agent finds a directory without a running process, and removes it.
        let _ = fs::remove_dir_all(self.folder.path());
        false
    }

    /// Requests the end of the process, and later enforces it. False if there is none.
    fn end_process(&mut self, now: Instant) -> bool {
        let Some(process) = &self.process else {
            // systemd may be about to start it again.
            self.unit.settle();
            return false;
        };
        if self.phase != Phase::Stopping {
            self.phase = Phase::Stopping;
            self.message.clear();
            self.next = now + PATIENCE;
            process.stop();
            self.history.record(EventKind::Stopping, "");
        } else if now >= self.next {
            process.kill();
        }
        true
    }

    /// Leases MACs and addresses to the VM, claims its ports, and writes the files of its process.
    fn prepare(&mut self, store: &mut AgentStore, site: &mut Site<'_>) -> Result<VmPlan, Obstacle> {
        let Some(file) = &self.file else {
            return Err("its file was removed".to_owned().into());
        };
        let pool = file.plan.mac_range.unwrap_or(MacRange::DEFAULT);
        let reserved = hawser_leases::reserve_with_identifiers(store, &file.plan, &pool);
        let (plan, leases) = reserved.map_err(|error| error.to_string())?;
        self.write_manifests(file)
            .map_err(|error| unwritable(self.folder.path(), &error))?;
        self.leases = leases;
        self.seed(&plan).map_err(|error| error.to_string())?;
        self.claim_ports(&plan, store, site)?;
        self.accepted = Some(plan.clone());
        Ok(plan)
    }

    fn start(&mut self, plan: &VmPlan, namespace: Option<&Path>, site: &Site<'_>, now: Instant) -> Result<(), String> {
        let mut arguments = self.arguments(plan, site);
        for port in &self.ports {
            let path = self.folder.peers(&port.port.network);
            // The process needs the file to exist. The node writes its content.
            if !path.exists() {
                fs::write(&path, "").map_err(|error| unwritable(&path, &error))?;
            }
        }
        let (process, started) = if site.has_units {
            if let Some(path) = namespace {
                arguments.node.extend(["--netns".into(), path.into()]);
            }
            let process = Process::start_unit(self.unit.clone(), &arguments, &self.folder);
            (process.map_err(|error| error.to_string())?, self.unit.name())
        } else {
            let process = Process::start(&site.args.hawser, &arguments, &self.folder, namespace);
            let process = process.map_err(|error| format!("--hawser={}: {error}", site.args.hawser.display()))?;
            let started = format!("process {}", process.id().unwrap_or_default());
            (process, started)
        };
        log::info!("VM {}: {started} started", self.name);
        self.history.record(EventKind::Started, started);
        self.process = Some(process);
        self.phase = Phase::Starting;
        self.since = now;
        Ok(())
    }

    fn arguments(&self, plan: &VmPlan, site: &Site<'_>) -> Arguments {
        let vm = vec!["-f".into(), self.folder.manifests().into(), socket_dir(&self.folder)];
        let mut arguments: Vec<OsString> = Vec::new();
        let mut option = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            let mut argument = OsString::from(format!("--{name}="));
            argument.push(value.as_ref());
            arguments.push(argument);
        };
        option("vm", &self.name.name);
        option("runtime-dir", &self.folder.path().join("journal"));
        option("store", &self.folder.store());
        if let Some(port) = self.ports.first() {
            option("vtep", &port.binding.vtep.ip().to_string());
        }
        for OwnPort { port, binding, .. } in &self.ports {
            let network = &port.network;
            let layer2 = plan.nics.iter().filter_map(|nic| nic.mode.layer2());
            let vni = layer2
                .filter(|plan| plan.network.network == *network)
                .find_map(|plan| plan.tunnel.vni);
            if let Some(vni) = vni {
                option("vni", &format!("{network}={vni}"));
            }
            option("vtep-port", &format!("{network}={}", binding.vtep.port()));
            let mut peers = OsString::from(format!("{network}="));
            peers.push(self.folder.peers(network));
            option("peers", &peers);
        }
        arguments.extend(site.args.hawser_options.iter().map(OsString::from));
        Arguments { vm, node: arguments }
    }
}

impl Site<'_> {
    /// A UDP port that no VM of this node uses.
    fn free_port(&self) -> Result<u16, String> {
        let free = (self.args.vtep_port..=u16::MAX).find(|port| !self.ports.contains(port));
        free.ok_or_else(|| format!("no UDP port from --vtep-port={} on is free", self.args.vtep_port))
    }
}

/// Number of NICs on networks that span nodes.
fn shared(plan: &VmPlan) -> usize {
    plan.nics.iter().filter(|nic| nic.mode.layer2().is_some()).count()
}

fn unwritable(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
