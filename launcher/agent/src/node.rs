//! The node: a loop that compares the desired VMs with those that run, and the ports of their networks with the peers
//! files.
//!
//! VMs are desired by the files of a directory and by objects in the store. Each turn may fail at any point and is
//! repeated. A VM that runs is stopped only when its description is removed, and only if the source was read. While the
//! store does not answer, turns leave it alone for [`REST`].

mod links;
mod membership;

use crate::api::{Api, NodeState, Public};
use crate::cli::{Failure, ServeArgs, Supervisor};
use crate::cluster::Cluster;
use crate::desired::{Described, Descriptions, Origin, VmDir};
use crate::folder::VmFolder;
use crate::peers::{Ports, replace};
use crate::placed::Placed;
use crate::report::{Counts, NodeReport, VmReport};
use crate::store::AgentStore;
use crate::unit;
use crate::vm::{Site, Vm};
use hawser_store::VmName;
use hawser_store::bindings::{Changes, PortId, Revision, Watch as _};
use links::Links;
use membership::Membership;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest time between two turns, and thus until a change of the directory is noticed.
const TURN: Duration = Duration::from_secs(1);
/// Interval at which a store that cannot push is polled for changes.
const POLL: Duration = Duration::from_millis(200);

/// Time for which a store that does not answer is left alone.
const REST: Duration = Duration::from_secs(2);

/// Serves the VMs of this node until a signal arrives.
///
/// # Errors
/// The reason why the agent cannot start.
pub(crate) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Info)
        .parse_default_env()
        .init();
    let node = args.node.clone().map_or_else(host_name, Ok)?;
    let run_dir = &args.run_dir;
    fs::create_dir_all(run_dir.join("vms"))
        .map_err(|error| Failure::usage(format_args!("--run-dir={}: {error}", run_dir.display())))?;
    let _lock = lock(args)?;
    let has_units = has_units(args)?;
    let cluster = Cluster::new(AgentStore::open(args, &node)?, node.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let (wake, woken) = UnixStream::pair().map_err(Failure::runtime)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(Failure::runtime)?;
        let wake = wake.try_clone().map_err(Failure::runtime)?;
        signal_hook::low_level::pipe::register(signal, wake).map_err(Failure::runtime)?;
    }
    let state = NodeState::default();
    let own = Cluster::new(cluster.store.share()?, node.clone());
    let mut agent = Node {
        args,
        node: &node,
        has_units,
        cluster,
        folder: VmDir::new(args.vm_dir.as_deref(), &args.shared),
        described: BTreeMap::new(),
        placed: Placed::new(node.clone()),
        membership: Membership::join(args)?,
        links: Links::default(),
        vms: BTreeMap::new(),
        wrong: BTreeMap::new(),
        networks: BTreeMap::new(),
        problem: None,
        rests_until: None,
        counts: Counts::default(),
        reported: None,
        state: state.clone(),
    };
    agent.enter(Instant::now())?;
    // Whoever asks from the beginning gets the node's report.
    agent.turn(Instant::now());
    let _api = Api::serve(&args.run_dir, own, state.clone())?;
    let _public = args.http.map(|address| Public::serve(address, state)).transpose()?;
    log::info!("node {node} serves its VMs");
    // This fails without a service manager, which does no harm.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    while !stop.load(Ordering::Relaxed) {
        let pause = agent.turn(Instant::now());
        agent.pause(&woken, pause);
    }
    Ok(())
}

/// True if systemd is to run the processes of VMs.
fn has_units(args: &ServeArgs) -> Result<bool, Failure> {
    let obstacle = match args.supervisor {
        Supervisor::Agent => return Ok(false),
        Supervisor::Auto | Supervisor::Systemd => unit::obstacle(&args.run_dir, &args.hawser),
    };
    match obstacle {
        Some(problem) if args.supervisor == Supervisor::Systemd => {
            Err(Failure::usage(format_args!("--supervisor=systemd: {problem}")))
        }
        Some(problem) => {
            log::info!("the processes of VMs are children of the agent: {problem}");
            Ok(false)
        }
        None => Ok(true),
    }
}

/// The host name in the kernel.
fn host_name() -> Result<String, Failure> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() || name == "(none)" {
        return Err(Failure::usage("this host has no name: give --node=NAME"));
    }
    Ok(name)
}

/// Keeps a second agent from using the same directory.
fn lock(args: &ServeArgs) -> Result<fs::File, Failure> {
    let path = args.run_dir.join("lock");
    let file =
        fs::File::create(&path).map_err(|error| Failure::runtime(format_args!("{}: {error}", path.display())))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let folder = args.run_dir.display();
        Failure::runtime(format_args!(
            "another agent uses --run-dir={folder}: end it, or name another directory"
        ))
    })?;
    Ok(file)
}

/// A network with ports of this node.
#[derive(Debug)]
struct Network {
    ports: Ports,
    revision: Revision,
    /// Ports of this node whose processes have the current peers.
    written: BTreeSet<PortId>,
}

struct Node<'a> {
    args: &'a ServeArgs,
    node: &'a str,
    /// True if systemd runs the processes of VMs.
    has_units: bool,
    cluster: Cluster,
    folder: VmDir,
    /// The descriptions of both sources, as they were read last.
    described: Descriptions,
    placed: Placed,
    membership: Membership,
    links: Links,
    vms: BTreeMap<VmName, Vm>,
    /// Problems of descriptions that can not be served.
    wrong: BTreeMap<Origin, String>,
    networks: BTreeMap<String, Network>,
    /// The reason why the directory or the store cannot be read.
    problem: Option<String>,
    /// The store did not answer, and is left alone until then.
    rests_until: Option<Instant>,
    counts: Counts,
    reported: Option<String>,
    state: NodeState,
}

impl<'a> Node<'a> {
    /// Runs one turn, and returns the longest pause before the next.
    fn turn(&mut self, now: Instant) -> Duration {
        let unreadable = self.read_files(now).err();
        let mut problem = None;
        if self.rests_until.is_some_and(|until| now < until) {
            let site = self.site();
            let may_start = !self.membership.is_taken();
            let vms = self.vms.values_mut();
            vms.for_each(|vm| vm.watch(&site, may_start, now));
            problem.clone_from(&self.problem);
        } else {
            let turned = self.turn_with_store(now);
            self.counts.store_failures += u64::from(turned.is_err());
            // The time has passed while the store did not answer.
            self.rests_until = turned.is_err().then(|| Instant::now() + REST);
            problem = turned.err().or(problem);
        }
        self.note(problem.or(unreadable));
        for kind in self.vms.values_mut().flat_map(|vm| vm.history.take_new()) {
            *self.counts.events.entry(kind).or_default() += 1;
        }
        self.report();
        let longest = if self.cluster.store.wakes().is_none() {
            POLL
        } else {
            TURN
        };
        let due = self.vms.values().filter_map(|vm| vm.due(now));
        due.fold(longest, Duration::min)
    }

    /// Reads the descriptions in files again, if they have changed.
    fn read_files(&mut self, now: Instant) -> Result<(), String> {
        if let Some(descriptions) = self.folder.changed()? {
            self.described.retain(|origin, _| matches!(origin, Origin::Store(_)));
            self.described.extend(descriptions);
            self.desire(now);
        }
        Ok(())
    }

    /// Does what needs the store.
    fn turn_with_store(&mut self, now: Instant) -> Result<(), String> {
        self.attend(now)?;
        if let Some(descriptions) = self.placed.changed(&self.cluster.store)? {
            self.described.retain(|origin, _| matches!(origin, Origin::File(_)));
            self.described.extend(descriptions);
            self.desire(now);
        }
        let mut site = self.site();
        let store = &mut self.cluster.store;
        self.vms.retain(|_, vm| vm.step(store, &mut site, now));
        self.receive()?;
        self.follow()?;
        self.tell()?;
        self.serve_links(now)
    }

    /// Takes over the ports of VMs whose guests have arrived from other nodes.
    fn receive(&mut self) -> Result<(), String> {
        for vm in self.vms.values_mut().filter(|vm| vm.has_arrived()) {
            let failed = |error: crate::cluster::Refused| error.to_string();
            if !self.cluster.flip_move(&vm.name).map_err(failed)? {
                // The move was cancelled. The next list of VMs ends this one.
                continue;
            }
            vm.take_ports(&mut self.cluster.store)?;
            self.cluster.finish_move(&vm.name).map_err(failed)?;
            log::info!("VM {}: its guest has arrived", vm.name);
            vm.history.record(crate::history::EventKind::Arrived, "");
        }
        Ok(())
    }

    /// The properties that the VMs share.
    fn site(&self) -> Site<'a> {
        let ports = self.vms.values().flat_map(|vm| &vm.ports);
        Site {
            args: self.args,
            node: self.node,
            has_units: self.has_units,
            vtep: self.args.vtep.map_or_else(source_address, Ok),
            ports: ports.map(|port| port.binding.vtep.port()).collect(),
        }
    }

    /// Waits for a signal, a change of the store, the end of a process, or until the time is up.
    fn pause(&self, woken: &UnixStream, pause: Duration) {
        let mut waits = vec![PollFd::new(woken, PollFlags::IN)];
        let wakes = self.cluster.store.wakes();
        waits.extend(
            wakes
                .iter()
                .map(|wakes| PollFd::from_borrowed_fd(*wakes, PollFlags::IN)),
        );
        let processes = self.vms.values().filter_map(|vm| vm.process.as_ref());
        let handles = processes.filter_map(|process| process.handle());
        waits.extend(handles.map(|handle| PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)));
        let timeout = Timespec::try_from(pause).ok();
        // A signal ends the wait early. The effect is the same as when the time is up.
        let _ = poll(&mut waits, timeout.as_ref());
        if let Some(wakes) = wakes {
            let mut count = [0; 8];
            // The socket has no data if something else ended the wait.
            let _ = rustix::io::read(wakes, &mut count);
        }
    }

    /// Records a problem, and logs it if it is new.
    fn note(&mut self, problem: Option<String>) {
        if let Some(text) = problem.as_ref().filter(|_| self.problem != problem) {
            log::warn!("{text}");
        }
        self.problem = problem;
    }

    /// Compares the descriptions with the known VMs.
    fn desire(&mut self, now: Instant) {
        let mut wanted: BTreeSet<VmName> = BTreeSet::new();
        let mut kept: BTreeSet<Origin> = BTreeSet::new();
        let known = std::mem::take(&mut self.wrong);
        for (origin, described) in &self.described {
            let problem = match described {
                Described::Wrong(problem) => {
                    kept.insert(origin.clone());
                    problem.clone()
                }
                Described::Vm(file) => {
                    let name = hawser_leases::vm_of(&file.plan);
                    if wanted.insert(name.clone()) {
                        let vm = self.vms.entry(name.clone());
                        let vm = vm.or_insert_with(|| Vm::new(self.args, name, now));
                        vm.describe(Arc::clone(file), now);
                        continue;
                    }
                    format!("{origin}: another file also describes VM {name}")
                }
            };
            if known.get(origin) != Some(&problem) {
                log::warn!("{problem}");
            }
            self.wrong.insert(origin.clone(), problem);
        }
        for vm in self.vms.values_mut().filter(|vm| !wanted.contains(&vm.name)) {
            // A VM whose description has become invalid continues as before.
            if !vm.file.as_ref().is_some_and(|file| kept.contains(&file.origin)) {
                vm.file = None;
            }
        }
        // These are VMs of an earlier agent whose description was removed in the meantime. A description that cannot be
        // read may be that of one of them.
        if self.wrong.is_empty() && self.placed.is_known() {
            for name in VmFolder::all(&self.args.run_dir) {
                let vm = self.vms.entry(name.clone());
                vm.or_insert_with(|| Vm::new(self.args, name, now));
            }
        }
    }

    /// Updates the peers files.
    fn follow(&mut self) -> Result<(), String> {
        let own = self
            .vms
            .values()
            .flat_map(|vm| vm.ports.iter().map(|port| port.port.network.clone()));
        let own: BTreeSet<String> = own.collect();
        self.networks.retain(|name, _| own.contains(name));
        for name in &own {
            let network = match self.networks.entry(name.clone()) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(list(&self.cluster.store, name)?),
            };
            let store = &self.cluster.store;
            match store
                .changes(name, network.revision)
                .map_err(|error| error.to_string())?
            {
                Changes::Complete { changes, revision } => {
                    network.revision = revision;
                    for change in changes {
                        network.ports.apply(change);
                        network.written.clear();
                    }
                }
                Changes::Gap => *network = list(store, name)?,
            }
            let here = self.vms.values().filter_map(|vm| {
                let own = vm.ports.iter().find(|port| port.port.network == *name)?;
                Some((&own.port, vm))
            });
            let here: BTreeMap<&PortId, &Vm> = here.collect();
            network.written.retain(|port| here.contains_key(port));
            for (own, vm) in here {
                if network.written.contains(own) {
                    continue;
                }
                let path = vm.folder.peers(name);
                let text = network.ports.text(self.node, own);
                replace(&path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
                network.written.insert(own.clone());
            }
        }
        Ok(())
    }

    /// Writes the report that `hawser-agent get` shows.
    fn report(&mut self) {
        let report = NodeReport {
            node: self.node.to_owned(),
            problem: self.problem.clone(),
            vms: self.vms.values().map(VmReport::of).collect(),
            wrong: self.wrong.values().cloned().collect(),
            networks: self
                .networks
                .iter()
                .map(|(name, network)| (name.clone(), network.ports.len()))
                .collect(),
            counts: self.counts.clone(),
        };
        self.state.set(&report);
        let Ok(text) = serde_json::to_string_pretty(&report) else {
            return;
        };
        if self.reported.as_ref() != Some(&text) && replace(&crate::report::path(&self.args.run_dir), &text).is_ok() {
            self.reported = Some(text);
        }
    }
}

fn list(store: &AgentStore, name: &str) -> Result<Network, String> {
    let (bound, revision) = store.bindings(name).map_err(|error| error.to_string())?;
    let ports = Ports::listed(bound);
    let written = BTreeSet::new();
    Ok(Network {
        ports,
        revision,
        written,
    })
}

/// The source address of the default route, IPv4 first.
fn source_address() -> Result<IpAddr, String> {
    // Connecting a datagram socket sends nothing. The addresses are reserved for documentation.
    let by = |local: IpAddr, remote: IpAddr| {
        let socket = UdpSocket::bind((local, 0)).ok()?;
        socket.connect((remote, 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let four = || by(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let six = || {
        by(
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        )
    };
    four()
        .or_else(six)
        .ok_or_else(|| "this node has no default route: give --vtep=ADDR".to_owned())
}
