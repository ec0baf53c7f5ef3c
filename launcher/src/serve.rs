//! Serves ports from checked configurations, until a signal arrives or no front end can connect any more.
//!
//! Order matters. Inherited descriptors are taken before anything else is opened, because another
//! descriptor could get their numbers. Signals are caught before there is something to clean up.
//! The API's socket exists before the sockets of the NICs, so a client that finds one of these can
//! connect to the API. The ports of a NIC are bound before its socket exists. The VMM is started before
//! the process drops privileges. Readiness is reported last. A process that takes over from another one gets the sockets
//! of the API and of the NICs from it, and opens its other files first.

use crate::api::agent::GuestAgent;
use crate::api::{Api, Context};
use crate::attachment::Site;
use crate::background::{self, Background};
use crate::cli::RunArgs;
use crate::events::{EventFile, EventLog};
use crate::failure::Failure;
use crate::hotplug::{Hotplug, HotplugSetup};
use crate::machine::{Machine, MachineSetup, Nic};
use crate::migration::Migrations;
use crate::mode::Mode;
use crate::resolv_watch;
use crate::sandbox::{Access, Needs, Reach, Sandbox, ThreadKind, resolv_conf};
use crate::service_manager;
use crate::signals::SignalWatch;
use crate::startup;
use crate::takeover::{Giver, GiverSetup, Obstacle, Taken, Taker};
use crate::vmm_process::VmmProcess;
use hawser_backend::sys::listening_socket::ListeningSocket;
use hawser_backend::vhost_user::Lifetime;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// What to serve, and how.
pub(crate) struct Order<'a> {
    /// NICs to serve from the start.
    pub nics: Vec<Nic>,
    /// Namespace and settings of the attachments.
    pub site: &'a Site,
    /// Options of the process.
    pub run: &'a RunArgs,
    /// The VMM to start, with its arguments. Empty if hawser starts none.
    pub vmm: &'a [OsString],
    /// Hot-plug of NICs. `None` if the NICs never change.
    pub hotplug: Option<HotplugSetup>,
    /// What else the process does when it serves.
    pub background: Option<Background>,
}

/// Serves the NICs until a request to stop, until no front end can connect to any of them, or until
/// the VMM that hawser started has ended.
///
/// # Errors
/// The failure that kept a NIC from starting or ended it.
pub(crate) fn serve(order: Order<'_>) -> Result<(), Failure> {
    let Order {
        nics,
        site,
        run,
        vmm,
        hotplug,
        background,
    } = order;
    let signals = Signals::new([SIGTERM, SIGINT, SIGUSR1])
        .map_err(|e| Failure::runtime(format_args!("cannot catch signals: {e}")))?;
    let needs = needs(&nics, site, run, !vmm.is_empty());
    let sandbox = Sandbox::new(run.sandbox, needs)?;
    let setup = MachineSetup {
        sandbox: sandbox.clone(),
        lifetime: if run.one_off {
            Lifetime::OneOff
        } else {
            Lifetime::Persistent
        },
        names_interfaces: nics.len() > 1,
    };
    let arrivals = run.migration_socket.as_deref();
    let arrivals = arrivals.map(|path| Migrations::listen(path, &sandbox)).transpose()?;
    let events = run.event_log.as_deref();
    let events = events.map(|path| EventFile::open(path, &sandbox)).transpose()?;
    let Begun {
        machine,
        api_socket,
        takeover,
    } = begin(run, setup, nics)?;
    let machine = Arc::new(machine);
    let migrations = Migrations::new(Arc::clone(&machine));
    let watch = SignalWatch::start(signals, Arc::clone(&machine), &sandbox)?;
    // A NIC that is plugged later may follow resolv.conf.
    let follows = hotplug.is_some() || machine.follows_resolv_conf();
    let resolv = follows.then(|| resolv_watch::follow(&machine, &sandbox)).transpose()?;
    for summary in machine.summaries() {
        log::info!("{summary}");
    }
    let vmm_process = match vmm {
        [] => None,
        words => Some(
            site.namespace
                .outside(|| VmmProcess::start(words))
                .map_err(Failure::runtime)??,
        ),
    };
    if let Some(vmm) = &vmm_process {
        watch.hand_to(vmm.signals());
    }
    sandbox.enter(ThreadKind::Launcher).map_err(Failure::runtime)?;
    let events = events.map(|file| EventLog::start(file, &machine)).transpose()?;
    let hotplug = hotplug
        .map(|setup| Hotplug::start(setup, Arc::clone(&machine)))
        .transpose()?;
    if let (Some(hotplug), Some(_)) = (&hotplug, &vmm_process) {
        hotplug.show_links();
        watch.ask_first(hotplug.clone());
    }
    let arrivals = arrivals.map(|socket| migrations.accept(socket)).transpose()?;
    let context = Context {
        migrations: migrations.clone(),
        hotplug,
        machine: Arc::clone(&machine),
        agent: run.guest_agent.clone().map(GuestAgent::new).map(Arc::new),
    };
    let offered = api_socket.as_ref().map(ListeningSocket::offer).transpose();
    let api = api_socket.map(|socket| Api::serve(socket, context)).transpose()?;
    let giver = GiverSetup {
        api: offered.map_err(Failure::runtime)?,
        obstacle: obstacle(!vmm.is_empty(), arrivals.is_some(), migrations.clone()),
    };
    let start = |socket| Giver::start(socket, giver, Arc::clone(&machine));
    let giver = takeover.map(start).transpose()?;
    let vmm = vmm_process.map(|vmm| accompany(vmm, &machine)).transpose()?;
    service_manager::ready(&machine);
    background.map_or(Ok(()), Background::ready)?;
    let served = machine.wait();
    service_manager::stopping();
    let served = served.and(ended(vmm));
    drop(giver);
    drop(watch);
    drop(api);
    drop(arrivals);
    migrations.end();
    drop(events);
    drop(resolv);
    machine.end();
    served
}

/// What serves the NICs from now on.
struct Begun {
    machine: Machine,
    api_socket: Option<ListeningSocket>,
    takeover: Option<ListeningSocket>,
}

/// Serves the NICs: as new ones, or in the place of another process.
fn begin(run: &RunArgs, setup: MachineSetup, nics: Vec<Nic>) -> Result<Begun, Failure> {
    let sandbox = setup.sandbox.clone();
    let path = run.takeover.socket.as_deref();
    if run.takeover.takeover {
        let path = path.ok_or_else(|| {
            Failure::usage("--takeover: name the socket of the running process with --takeover-socket")
        })?;
        let Taken { machine, api, takeover } = Taker::connect(path)?.take(setup, nics)?;
        if run.takeover.detached {
            background::report();
        }
        return Ok(Begun {
            machine,
            api_socket: api,
            takeover: Some(takeover),
        });
    }
    let api_socket = run.api_socket.as_deref();
    let api_socket = api_socket.map(|path| Api::listen(path, &sandbox)).transpose()?;
    let takeover = path.map(|path| Giver::listen(path, &sandbox)).transpose()?;
    Ok(Begun {
        machine: Machine::start(setup, nics)?,
        api_socket,
        takeover,
    })
}

/// Tells why this process cannot be replaced by another one.
fn obstacle(has_vmm: bool, has_arrivals: bool, channels: Migrations) -> Obstacle {
    Box::new(move || {
        let all = [
            (
                has_vmm,
                "it has started the VMM, which ends with it: start the VMM apart from hawser",
            ),
            (
                has_arrivals,
                "it waits for a guest that migrates here: start it without --migration-socket",
            ),
            (
                channels.is_open(),
                "it carries connections of a guest that migrated: try again when hawser migrate status shows none",
            ),
        ];
        all.into_iter().find_map(|(is_so, why)| is_so.then_some(why))
    })
}

type VmmThread = JoinHandle<Result<ExitStatus, Failure>>;

/// Starts a thread that waits for the VMM's end. The machine ends with the VMM.
fn accompany(process: VmmProcess, machine: &Arc<Machine>) -> Result<VmmThread, Failure> {
    let machine = Arc::clone(machine);
    let wait = move || {
        let status = process.wait();
        machine.stop();
        status
    };
    let thread = thread::Builder::new().name("vmm".into()).spawn(wait);
    let failed = |e| Failure::runtime(format_args!("cannot start a thread: {e}"));
    thread.map_err(failed)
}

/// Waits for the VMM, and returns its exit status.
fn ended(vmm: Option<VmmThread>) -> Result<(), Failure> {
    /// Number that shells add to the signal that ended a program.
    const SIGNALLED: i32 = 128;
    let Some(thread) = vmm else { return Ok(()) };
    let status = thread
        .join()
        .unwrap_or_else(|_| Err(Failure::runtime("the thread that waits for the VMM panicked")))?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| SIGNALLED + signal));
    match u8::try_from(code.unwrap_or(1)) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Vmm(code)),
        Err(_) => Err(Failure::Vmm(1)),
    }
}

/// The privileges that the process needs once everything is set up: for `nics`, for NICs that may be plugged later, and
/// for the VMM that it starts, if any.
fn needs(nics: &[Nic], site: &Site, run: &RunArgs, has_vmm: bool) -> Needs {
    let later = |has: fn(Mode) -> bool| run.plug_mode.iter().any(|mode| has(*mode));
    let mut needs = Needs {
        links: later(Mode::uses_links),
        devices: later(Mode::uses_links),
        raw_sockets: later(Mode::sends_echo) && startup::echo_takes_raw_sockets(),
        // Ports are bound at the start, or not at all.
        low_ports: false,
        followed: Vec::new(),
        reach: Reach {
            signals: has_vmm,
            // systemd's notification socket may be abstract.
            abstract_sockets: std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| path.as_bytes().starts_with(b"@")),
            ..Reach::default()
        },
    };
    nics.iter().for_each(|nic| nic.add_needs(&mut needs));
    let sockets = [&run.api_socket, &run.migration_socket, &run.takeover.socket];
    for path in sockets.into_iter().flatten() {
        needs.reach.folder_of(path, Access::Sockets);
    }
    if let Some(path) = run.event_log.as_ref().filter(|path| *path != Path::new("-")) {
        needs.reach.folder_of(path, Access::Log);
    }
    if let Some(path) = &run.store {
        needs.reach.folder_of(path, Access::Notes);
    }
    needs.reach.paths.extend(resolv_conf(run.sandbox.user));
    needs.add_files(&site.runtime_folder);
    needs
}
