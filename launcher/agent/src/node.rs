//! The node: a loop that compares the VMs of the directory with those that run, and the ports of their networks with
//! the peers files.
//!
//! Each turn may fail at any point and is repeated. A VM that runs is stopped only when its file is removed.

use crate::cli::{Failure, ServeArgs};
use crate::desired::{Described, VmDir};
use crate::folder::VmFolder;
use crate::peers::{Ports, replace};
use crate::report::{NodeReport, VmReport};
use crate::store::AgentStore;
use crate::vm::{Site, Vm};
use hawser_store::VmName;
use hawser_store::bindings::{Changes, Revision, Watch as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest time between two turns, and thus until a change of the directory is noticed.
const TURN: Duration = Duration::from_secs(1);
/// Longest time between two turns while a change is in progress.
const BUSY_TURN: Duration = Duration::from_millis(50);
/// Interval at which a store that cannot push is polled for changes.
const POLL: Duration = Duration::from_millis(200);

/// Serves the VMs of the directory until a signal arrives.
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
    let store = AgentStore::open(args, &node)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (wake, woken) = UnixStream::pair().map_err(Failure::runtime)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(Failure::runtime)?;
        let wake = wake.try_clone().map_err(Failure::runtime)?;
        signal_hook::low_level::pipe::register(signal, wake).map_err(Failure::runtime)?;
    }
    let mut agent = Node {
        args,
        node: &node,
        store,
        folder: VmDir::new(&args.vm_dir, &args.shared),
        vms: BTreeMap::new(),
        wrong: BTreeMap::new(),
        networks: BTreeMap::new(),
        problem: None,
        reported: None,
    };
    log::info!("node {node} serves the VMs of {}", args.vm_dir.display());
    // This fails without a service manager, which does no harm.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    while !stop.load(Ordering::Relaxed) {
        let pause = agent.turn(Instant::now());
        agent.pause(&woken, pause);
    }
    Ok(())
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
}

struct Node<'a> {
    args: &'a ServeArgs,
    node: &'a str,
    store: AgentStore,
    folder: VmDir,
    vms: BTreeMap<VmName, Vm>,
    /// Problems of files that describe no VM that can be served.
    wrong: BTreeMap<PathBuf, String>,
    networks: BTreeMap<String, Network>,
    /// The reason why the directory or the store cannot be read.
    problem: Option<String>,
    reported: Option<String>,
}

impl Node<'_> {
    /// Runs one turn, and returns the longest pause before the next.
    fn turn(&mut self, now: Instant) -> Duration {
        match self.folder.changed() {
            Ok(Some(described)) => self.desire(described, now),
            Ok(None) => {}
            Err(problem) => self.note(Some(problem)),
        }
        let ports = self
            .vms
            .values()
            .flat_map(|vm| vm.ports.iter().map(|port| port.binding.vtep.port()));
        let mut site = Site {
            args: self.args,
            node: self.node,
            vtep: self.args.vtep.map_or_else(source_address, Ok),
            ports: ports.collect(),
        };
        let store = &mut self.store;
        self.vms.retain(|_, vm| vm.step(store, &mut site, now));
        let follows = self.follow();
        if follows.is_ok() {
            self.note(None);
        }
        follows.unwrap_or_else(|problem| self.note(Some(problem)));
        self.report();
        let is_busy = self.vms.values().any(Vm::is_busy);
        let polls = self.store.wakes().is_none() && !self.networks.is_empty();
        match (is_busy, polls) {
            (true, _) => BUSY_TURN,
            (false, true) => POLL,
            (false, false) => TURN,
        }
    }

    /// Waits for a signal, a change of the store, the end of a process, or until the time is up.
    fn pause(&self, woken: &UnixStream, pause: Duration) {
        let mut waits = vec![PollFd::new(woken, PollFlags::IN)];
        let wakes = self.store.wakes();
        waits.extend(
            wakes
                .iter()
                .map(|wakes| PollFd::from_borrowed_fd(*wakes, PollFlags::IN)),
        );
        let processes = self.vms.values().filter_map(|vm| vm.process.as_ref());
        waits.extend(processes.map(|process| PollFd::from_borrowed_fd(process.handle().as_fd(), PollFlags::IN)));
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

    fn desire(&mut self, described: BTreeMap<PathBuf, Described>, now: Instant) {
        let mut wanted: BTreeSet<VmName> = BTreeSet::new();
        let mut kept: BTreeSet<PathBuf> = BTreeSet::new();
        self.wrong.clear();
        for (path, described) in described {
            match described {
                Described::Wrong(problem) => {
                    log::warn!("{problem}");
                    self.wrong.insert(path.clone(), problem);
                    kept.insert(path);
                }
                Described::Vm(file) => {
                    let name = hawser_leases::vm_of(&file.plan);
                    if !wanted.insert(name.clone()) {
                        let problem = format!("{}: another file also describes VM {name}", path.display());
                        log::warn!("{problem}");
                        self.wrong.insert(path, problem);
                        continue;
                    }
                    let vm = self.vms.entry(name.clone());
                    vm.or_insert_with(|| Vm::new(self.args, name, now)).describe(*file, now);
                }
            }
        }
        for vm in self.vms.values_mut().filter(|vm| !wanted.contains(&vm.name)) {
            // A VM whose file has become invalid continues as before.
            if !vm.file.as_ref().is_some_and(|file| kept.contains(&file.path)) {
                vm.file = None;
            }
        }
        // These are VMs of an earlier agent whose file was removed in the meantime. A file that cannot be read may
        // describe one of them.
        if self.wrong.is_empty() {
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
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(list(&self.store, name)?),
            };
            match self
                .store
                .changes(name, network.revision)
                .map_err(|error| error.to_string())?
            {
                Changes::Complete { changes, revision } => {
                    network.revision = revision;
                    for change in changes {
                        network.ports.apply(change);
                    }
                }
                Changes::Gap => *network = list(&self.store, name)?,
            }
            let text = network.ports.text();
            let on_it = |vm: &&Vm| vm.ports.iter().any(|port| port.port.network == *name);
            for vm in self.vms.values().filter(on_it) {
                let path = vm.folder.peers(name);
                replace(&path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
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
        };
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
    Ok(Network { ports, revision })
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
