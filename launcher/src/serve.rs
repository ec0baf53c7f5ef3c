//! Serving: from checked configurations to ports that packets go through, until a
//! signal or the front ends end them.
//!
//! Order matters: the inherited descriptor is taken before anything else is opened (or
//! its number could be somebody else's), signals are caught before there is something to
//! clean up, ports are bound before the socket is there to be met, and only then is
//! anybody told that we are ready.

use crate::api::Api;
use crate::attachment::{Attached, Site, Survey, Watch};
use crate::cli::{EndpointArgs, RunArgs};
use crate::companion::{Companion, SignalSink};
use crate::config::Plan;
use crate::failure::Failure;
use crate::startup;
use hawser_backend::config::{MasqueradeConfig, ModeConfig, PortConfig};
use hawser_backend::port::Port;
use hawser_backend::vhost_user::{Endpoint, Lifetime, Server, StopHandle};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};
use std::ffi::OsString;
use std::fmt;
use std::io::Write as _;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

/// Where the front end is met, as the options say it.
#[derive(Debug)]
pub enum Meeting {
    /// It connects to a socket made here.
    Listen(PathBuf),
    /// It listens here.
    Connect(PathBuf),
    /// On a descriptor somebody made for us.
    Inherited(RawFd, OwnedFd),
}

impl Meeting {
    /// Reads the options. To be called before the process opens anything.
    ///
    /// # Errors
    /// If there is no option, or no such descriptor.
    pub fn from_args(args: &EndpointArgs) -> Result<Self, Failure> {
        match (&args.socket_path, args.fd) {
            (Some(path), _) if args.connect => Ok(Self::Connect(path.clone())),
            (Some(path), _) => Ok(Self::Listen(path.clone())),
            (None, Some(fd)) => Ok(Self::Inherited(fd, inherited("--fd", fd)?)),
            (None, None) => Err(Failure::usage(
                "give --socket-path=PATH or --fd=N, where the VMM is met; see hawser --help",
            )),
        }
    }

    /// A name for the port, in logs and of threads.
    pub fn port_name(&self) -> String {
        match self {
            Self::Listen(path) | Self::Connect(path) => {
                let stem = path.file_stem().unwrap_or(path.as_os_str());
                stem.to_string_lossy().into_owned()
            }
            Self::Inherited(fd, _) => format!("fd{fd}"),
        }
    }

    fn option(&self) -> &'static str {
        match self {
            Self::Listen(_) | Self::Connect(_) => "--socket-path",
            Self::Inherited(..) => "--fd",
        }
    }

    fn into_endpoint(self) -> Endpoint {
        match self {
            Self::Listen(path) => Endpoint::Listen(path),
            Self::Connect(path) => Endpoint::Connect(path),
            Self::Inherited(_, fd) => Endpoint::Fd(fd),
        }
    }
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(path) => write!(f, "on {}", path.display()),
            Self::Connect(path) => write!(f, "to who listens on {}", path.display()),
            Self::Inherited(number, _) => write!(f, "on descriptor {number}"),
        }
    }
}

/// Takes over a descriptor that was open when the process started, named by `option`. To be
/// called before the process opens anything, once for each number.
///
/// # Errors
/// If it is not open.
pub fn inherited(option: &str, number: RawFd) -> Result<OwnedFd, Failure> {
    // SAFETY: asking for the flags of a descriptor touches no memory; a number that
    // names none gives EBADF.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(Failure::runtime(format_args!(
            "{option}={number}: no such descriptor is open: start hawser with it under that number"
        )));
    }
    // SAFETY: the descriptor is open (just seen), not one of the standard three (the
    // option's parser), and nothing in this process has opened one before: it was
    // inherited, and nobody else here knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A NIC to be served.
#[derive(Debug)]
pub struct Nic {
    /// Where its front end is met.
    pub meeting: Meeting,
    /// What it is.
    pub plan: Plan,
    /// What it is attached to, in bridge mode.
    pub survey: Option<Survey>,
}

/// Serves the NICs until told to stop, or until for none of them anybody will come any
/// more. Each has a thread of its own that waits for its front ends, workers of its own
/// and sockets of its own: what ends one leaves the others as they are. Nothing is served
/// unless all can be.
///
/// # Errors
/// What keeps one from starting, or ended one.
pub fn serve(nics: Vec<Nic>, site: &Site, run: &RunArgs, vmm: &[OsString]) -> Result<(), Failure> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGUSR1])
        .map_err(|e| Failure::runtime(format_args!("cannot catch signals: {e}")))?;
    let modes: Vec<&ModeConfig> = nics.iter().map(|nic| &nic.plan.port.mode).collect();
    startup::raise_limits(&modes)?;
    let lifetime = if run.one_off {
        Lifetime::OneOff
    } else {
        Lifetime::Persistent
    };
    let alone = nics.len() == 1;
    // From here on there may be something to put back: each port does, whichever way we leave.
    let mut ports: Vec<ServedPort> = Vec::new();
    for nic in nics {
        let name = nic.plan.port.name.clone();
        let whose = if alone {
            String::new()
        } else {
            format!("interface {name}: ")
        };
        for notice in &nic.plan.notices {
            log::warn!("{whose}{notice}");
        }
        let port = ServedPort::start(nic, site, lifetime);
        ports.push(port.map_err(|failure| if alone { failure } else { failure.of(&name) })?);
    }
    let watch = SignalWatch::start(signals, ports.iter().map(ServedPort::handle).collect())?;
    let all = || ports.iter().map(|port| Arc::clone(&port.port)).collect();
    let _api = run
        .api_socket
        .as_deref()
        .map(|path| Api::start(path, all()))
        .transpose()?;
    for port in &ports {
        log::info!("{}", port.started);
    }
    let vmm = accompany(vmm, &watch, &ports)?;
    tell_service_manager(NotifyState::Ready);
    let served = serve_all(&mut ports);
    tell_service_manager(NotifyState::Stopping);
    let served = served.and(ended(vmm));
    watch.end();
    for port in &mut ports {
        port.links = None;
        if log::log_enabled!(log::Level::Info) {
            write_report(&port.port);
        }
    }
    served
}

type VmmThread = JoinHandle<Result<ExitStatus, Failure>>;

/// Starts the VMM, if there is one, and a thread that waits for its end, which ends the
/// ports too. From now on signals are the VMM's.
fn accompany(words: &[OsString], watch: &SignalWatch, ports: &[ServedPort]) -> Result<Option<VmmThread>, Failure> {
    if words.is_empty() {
        return Ok(None);
    }
    let stops: Vec<StopHandle> = ports.iter().map(|port| port.stop.clone()).collect();
    let companion = Companion::start(words)?;
    // Set once, here.
    let _ = watch.vmm.set(companion.signals());
    let wait = move || {
        let status = companion.wait();
        stops.iter().for_each(StopHandle::stop);
        status
    };
    let thread = thread::Builder::new().name("vmm".into()).spawn(wait);
    let failed = |e| Failure::runtime(format_args!("cannot start a thread: {e}"));
    Ok(Some(thread.map_err(failed)?))
}

/// Waits for the VMM, and ends as it did.
fn ended(vmm: Option<VmmThread>) -> Result<(), Failure> {
    /// What shells add to the number of the signal that ended a program.
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

/// A port with its socket.
struct ServedPort {
    /// Until it is served.
    server: Option<Server>,
    stop: StopHandle,
    port: Arc<Port>,
    /// Ends before the segment goes.
    links: Option<Watch>,
    _attached: Option<Attached>,
    /// The option that names its socket, for messages.
    option: &'static str,
    started: String,
}

impl ServedPort {
    fn start(nic: Nic, site: &Site, lifetime: Lifetime) -> Result<Self, Failure> {
        let Nic {
            meeting,
            mut plan,
            survey,
        } = nic;
        if let ModeConfig::Masquerade(masquerade) = &plan.port.mode {
            startup::warn_of_restrictions(masquerade);
        }
        let attached = attach(&mut plan, survey)?;
        let started = format!("serving {meeting}: {}", Summary(&plan.port));
        let option = meeting.option();
        // The workers' threads, and so their sockets, are of the namespace this one is in.
        let port = site.namespace.run(|| Port::new(plan.port)).map_err(Failure::runtime)?;
        let port = Arc::new(port.map_err(Failure::runtime)?);
        let server = Server::bind(meeting.into_endpoint(), Arc::clone(&port), lifetime)
            .map_err(|e| Failure::runtime(format_args!("{option}: {e}")))?;
        let links = attached
            .as_ref()
            .map(|attached| Watch::start(attached.keeper(), Arc::clone(&port)));
        Ok(Self {
            stop: server.stop_handle(),
            server: Some(server),
            links: links.transpose()?,
            port,
            _attached: attached,
            option,
            started,
        })
    }

    fn handle(&self) -> PortHandle {
        PortHandle {
            stop: self.stop.clone(),
            port: Arc::clone(&self.port),
        }
    }

    /// Serves until the end, on this thread.
    fn serve(option: &str, server: Server) -> Result<(), Failure> {
        server
            .run()
            .map_err(|e| Failure::runtime(format_args!("{option}: {e}")))
    }
}

/// Serves every port, and comes back when the last has ended.
fn serve_all(ports: &mut [ServedPort]) -> Result<(), Failure> {
    if let [port] = ports {
        return port
            .server
            .take()
            .map_or(Ok(()), |server| ServedPort::serve(port.option, server));
    }
    let mut threads = Vec::new();
    let mut outcome = Ok(());
    for port in ports.iter_mut() {
        let (name, option) = (port.port.config().name.clone(), port.option);
        let Some(server) = port.server.take() else { continue };
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            ServedPort::serve(option, server).map_err(|failure| {
                let failure = failure.of(&name);
                log::error!("{failure}; other NICs go on");
                failure
            })
        });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                outcome = Err(Failure::runtime(format_args!("cannot start a thread: {error}")));
                break;
            }
        }
    }
    if outcome.is_err() {
        ports.iter().for_each(|port| port.stop.stop());
    }
    for thread in threads {
        let ended = thread
            .join()
            .unwrap_or_else(|_| Err(Failure::runtime("a thread that waits for front ends panicked")));
        outcome = outcome.and(ended);
    }
    outcome
}

/// Opens the way to the segment, in bridge mode.
fn attach(plan: &mut Plan, survey: Option<Survey>) -> Result<Option<Attached>, Failure> {
    let (Some(survey), ModeConfig::Bridge(bridge)) = (survey, &mut plan.port.mode) else {
        return Ok(None);
    };
    let opened = survey.open(plan.port.queue_pairs.get().into())?;
    bridge.queues = opened.queues.into_iter().map(Arc::new).collect();
    Ok(Some(opened.attached))
}

fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        log::warn!("cannot tell the service manager (NOTIFY_SOCKET): {e}");
    }
}

/// Counters on standard error, in one piece, whatever the log level.
fn write_report(port: &Port) {
    // A standard error nobody reads any more is no reason to stop serving.
    let _ = std::io::stderr().lock().write_all(port.report().as_bytes());
}

/// What a signal does something to.
struct PortHandle {
    stop: StopHandle,
    port: Arc<Port>,
}

/// The thread that turns signals into calls.
struct SignalWatch {
    handle: Handle,
    /// Who is sent the signals that would end hawser, where there is a VMM.
    vmm: Arc<OnceLock<SignalSink>>,
    thread: JoinHandle<()>,
}

impl SignalWatch {
    fn start(mut signals: Signals, ports: Vec<PortHandle>) -> Result<Self, Failure> {
        let handle = signals.handle();
        let vmm: Arc<OnceLock<SignalSink>> = Arc::default();
        let sink = Arc::clone(&vmm);
        let thread = thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in &mut signals {
                    if let (Some(vmm), true) = (sink.get(), signal != SIGUSR1) {
                        vmm.send(signal);
                        continue;
                    }
                    for handle in &ports {
                        if signal == SIGUSR1 {
                            write_report(&handle.port);
                        } else {
                            handle.stop.stop();
                        }
                    }
                }
            })
            .map_err(|e| Failure::runtime(format_args!("cannot start a thread: {e}")))?;
        Ok(Self { handle, vmm, thread })
    }

    fn end(self) {
        self.handle.close();
        // It has panicked only if standard error did; there is nothing to add to that.
        let _ = self.thread.join();
    }
}

/// One line that says what is served.
struct Summary<'a>(&'a PortConfig);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.mode {
            ModeConfig::Masquerade(config) => {
                write!(f, "masquerade, guest ")?;
                write_addresses(f, config)?;
            }
            ModeConfig::Bridge(config) => {
                let device = config.queues.first().map(|queue| queue.name());
                write!(f, "bridge, device {}", device.unwrap_or_default())?;
            }
        }
        write!(f, ", MTU {}", self.0.mtu)?;
        if let Some(mac) = self.0.mac {
            write!(f, ", MAC {mac}")?;
        }
        match self.0.queue_pairs.get() {
            1 => {}
            n => write!(f, ", {n} queue pairs")?,
        }
        let ModeConfig::Masquerade(config) = &self.0.mode else {
            return write!(f, ", {}", self.0.policy.vlan);
        };
        let mut separator = ", ports ";
        for forward in &config.forwards {
            write!(f, "{separator}{forward}")?;
            separator = " ";
        }
        Ok(())
    }
}

fn write_addresses(f: &mut fmt::Formatter<'_>, config: &MasqueradeConfig) -> fmt::Result {
    let v4 = config.ipv4.map(|l| format!("{}/{}", l.guest, l.network.prefix_len()));
    let v6 = config.ipv6.map(|l| format!("{}/{}", l.guest, l.network.prefix_len()));
    let addresses: Vec<String> = [v4, v6].into_iter().flatten().collect();
    f.write_str(&addresses.join(" and "))
}
