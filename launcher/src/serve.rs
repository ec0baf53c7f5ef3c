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
use crate::notification;
use crate::resolv_watch;
use crate::sandbox::{Access, Needs, Reach, Sandbox, ThreadKind, resolv_conf};
use crate::service_manager::ServiceManager;
use crate::signals::{Receivers, SignalWatch};
use crate::startup;
use crate::takeover::{Giver, GiverSetup, Obstacle, Taken, Taker};
use crate::vmm_process::{ParentLine, VmmProcess, VmmWatch};
use hawser_backend::sys::listening_socket::ListeningSocket;
use hawser_backend::vhost_user::Lifetime;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// What to serve, and how.
pub(crate) struct Order<'a> {
    /// NICs to serve from the start.
    pub nics: Vec<Nic>,
    /// Namespace and settings of the attachments.
    pub site: &'a Site,
    /// Options of the process.
    pub run: &'a RunArgs,
    /// The VMM to start.
    pub vmm: Option<VmmOrder<'a>>,
    /// Hot-plug of NICs. `None` if the NICs never change.
    pub hotplug: Option<HotplugSetup>,
    /// What else the process does when it serves.
    pub background: Option<Background>,
}

/// A VMM to start.
pub(crate) struct VmmOrder<'a> {
    /// The line to the process that starts it.
    pub line: OwnedFd,
    /// The program and its arguments.
    pub words: &'a [OsString],
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
    let needs = needs(&nics, site, run);
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
        taken,
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
    let starts = vmm.is_some();
    let (vmm, parent) = vmm_of(taken, vmm, &watch)?;
    let manager = ServiceManager::of(parent.clone());
    sandbox.enter(ThreadKind::Launcher).map_err(Failure::runtime)?;
    let events = events.map(|file| EventLog::start(file, &machine)).transpose()?;
    let hotplug = hotplug
        .map(|setup| Hotplug::start(setup, Arc::clone(&machine), manager.clone()))
        .transpose()?;
    if let (Some(hotplug), Some(_)) = (&hotplug, &parent) {
        if starts {
            hotplug.show_links();
        }
        watch.ask_first(hotplug.clone());
    }
    let listen = |process| VmmWatch::start(process, watch.receivers(), &sandbox).map(Arc::new);
    let vmm = vmm.map(listen).transpose()?;
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
        obstacle: obstacle(watch.receivers(), arrivals.is_some(), migrations.clone()),
        vmm: vmm.clone(),
        manager: manager.clone(),
    };
    let start = |socket| Giver::start(socket, giver, Arc::clone(&machine));
    let giver = takeover.map(start).transpose()?;
    manager.ready(&machine);
    background.map_or(Ok(()), Background::ready)?;
    let served = machine.wait();
    manager.stopping();
    let served = served.and(vmm.as_ref().map_or(Ok(()), |vmm| vmm.wait()));
    drop(giver);
    drop(vmm);
    drop(watch);
    drop(api);
    drop(arrivals);
    migrations.end();
    drop(events);
    drop(resolv);
    machine.end();
    served
}

/// The VMM that another process has started in whose place this one serves, or that is started now, and its parent.
fn vmm_of(
    taken: Option<VmmProcess>,
    order: Option<VmmOrder<'_>>,
    watch: &SignalWatch,
) -> Result<(Option<VmmProcess>, Option<ParentLine>), Failure> {
    let start = |VmmOrder { line, words }| VmmProcess::start(line, words);
    let vmm = taken.map_or_else(|| order.map(start).transpose(), |vmm| Ok(Some(vmm)))?;
    let parent = vmm.as_ref().map(VmmProcess::parent).transpose()?;
    if let Some(parent) = &parent {
        watch.hand_to(parent.clone());
    }
    Ok((vmm, parent))
}

/// What serves the NICs from now on.
struct Begun {
    machine: Machine,
    api_socket: Option<ListeningSocket>,
    takeover: Option<ListeningSocket>,
    /// The VMM that the process has started in whose place this one serves.
    taken: Option<VmmProcess>,
}

/// Serves the NICs: as new ones, or in the place of another process.
fn begin(run: &RunArgs, setup: MachineSetup, nics: Vec<Nic>) -> Result<Begun, Failure> {
    let sandbox = setup.sandbox.clone();
    let path = run.takeover.socket.as_deref();
    if run.takeover.takeover {
        let path = path.ok_or_else(|| {
            Failure::usage("--takeover: name the socket of the running process with --takeover-socket")
        })?;
        let Taken {
            machine,
            api,
            takeover,
            vmm,
        } = Taker::connect(path)?.take(setup, nics)?;
        if run.takeover.detached {
            background::report();
        }
        return Ok(Begun {
            machine,
            api_socket: api,
            takeover: Some(takeover),
            taken: vmm,
        });
    }
    let api_socket = run.api_socket.as_deref();
    let api_socket = api_socket.map(|path| Api::listen(path, &sandbox)).transpose()?;
    let takeover = path.map(|path| Giver::listen(path, &sandbox)).transpose()?;
    Ok(Begun {
        machine: Machine::start(setup, nics)?,
        api_socket,
        takeover,
        taken: None,
    })
}

/// Tells why this process cannot be replaced by another one.
fn obstacle(receivers: Receivers, has_arrivals: bool, channels: Migrations) -> Obstacle {
    Box::new(move || {
        let all = [
            (receivers.is_ending(), "the guest is shutting down"),
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

/// The privileges that the process needs once everything is set up: for `nics`, and for NICs that may be plugged later.
fn needs(nics: &[Nic], site: &Site, run: &RunArgs) -> Needs {
    let later = |has: fn(Mode) -> bool| run.plug_mode.iter().any(|mode| has(*mode));
    let mut needs = Needs {
        links: later(Mode::uses_links),
        devices: later(Mode::uses_links),
        raw_sockets: later(Mode::sends_echo) && startup::echo_takes_raw_sockets(),
        // Ports are bound at the start, or not at all.
        low_ports: false,
        followed: Vec::new(),
        reach: Reach {
            // systemd's notification socket may be abstract.
            abstract_sockets: notification::is_abstract(),
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
