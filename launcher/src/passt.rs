//! `hawser passt`, and hawser under the name `passt`: the arguments of passt(1), and its contract with libvirt and QEMU.
//!
//! The arguments become a NIC and options like those of hawser's own command line. The guest shares the addresses of an
//! interface, as under passt. The command returns when the socket listens and the PID file is written; until then
//! standard error contains nothing but the reason of a failure, and the exit status of a failure is 1.

use crate::background::{self, Background};
use crate::cli::api_socket_beside;
use crate::cli::passt::{PasstArgs, PasstProgram};
use crate::config;
use crate::failure::Failure;
use crate::host::Host;
use crate::inherited::inherited;
use crate::logging::{self, Destination};
use crate::machine::{Endpoint, Nic};
use crate::serve::{self, Order};
use clap::Parser as _;
use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Name under which hawser understands the arguments of passt.
const NAME: &str = "passt";

/// Serves by the arguments of passt if the program was called by that name.
pub(crate) fn by_name(words: &[OsString]) -> Option<Result<(), Failure>> {
    let name = Path::new(words.first()?).file_name()?;
    if name != NAME {
        return None;
    }
    Some(match PasstProgram::try_parse_from(words) {
        Ok(program) => run(&program.args, &words[1..]),
        // Help and version, which clap formats for the terminal.
        Err(shown) if !shown.use_stderr() => shown.print().map_err(Failure::standard_output),
        Err(error) => Err(Failure::from_clap(&error).at_run_time()),
    })
}

/// Serves by `args`, which were parsed from `words`.
///
/// # Errors
/// The reason why the guest cannot be served. Its exit status is 1, as with passt.
pub(crate) fn run(args: &PasstArgs, words: &[OsString]) -> Result<(), Failure> {
    let in_foreground = args.foreground || args.debug || args.trace || args.detached;
    let served = if in_foreground { serve(args) } else { detach(words) };
    served.map_err(Failure::at_run_time)
}

/// Starts this program again in the background, and waits until it serves.
fn detach(words: &[OsString]) -> Result<(), Failure> {
    let mut command = background::this_program().map_err(|e| Failure::runtime(format_args!("{NAME}: {e}")))?;
    command.arg(NAME).args(words).arg("--detached");
    background::start(command, NAME)
}

fn serve(args: &PasstArgs) -> Result<(), Failure> {
    let endpoint = endpoint(args)?;
    let spec = args.nic(endpoint.port_name()).map_err(Failure::usage)?;
    let mut run = args.process();
    if let Endpoint::Listen(path) = &endpoint {
        run.api_socket = Some(api_socket_beside(path));
    }
    logging::start_to(&run.log, destination(args)?);
    let background = Background::prepare(args.pid.as_deref(), args.detached)?;
    for option in args.ignored.given() {
        log::info!("{option} has no effect in hawser");
    }
    if !args.no_map_gw && args.map_host_loopback.is_empty() {
        log::info!(
            "unlike with passt, the gateway's address does not lead to this system's loopback: give \
             --map-host-loopback=ADDR if the guest needs that"
        );
    }
    let site = run.site()?;
    let host = Host::probe_for(std::iter::once(&spec))?;
    let found = config::resolve(spec, &host, None).map_err(Failure::runtime)?;
    serve::serve(Order {
        nics: vec![Nic::vhost_user(endpoint, found)],
        site: &site,
        run: &run,
        vmm: None,
        hotplug: None,
        background: Some(background),
    })
}

/// The socket of the VMM. Call this before the process opens any descriptor.
fn endpoint(args: &PasstArgs) -> Result<Endpoint, Failure> {
    match (&args.socket, args.fd) {
        (Some(path), _) => Ok(Endpoint::Listen(path.clone())),
        (None, Some(fd)) => Ok(Endpoint::Inherited(fd, inherited("--fd", fd)?)),
        (None, None) => Ok(Endpoint::Listen(free_socket())),
    }
}

/// The first path of passt's defaults at which no process listens.
fn free_socket() -> PathBuf {
    let paths = (1..=u16::MAX).map(|n| PathBuf::from(format!("/tmp/passt_{n}.socket")));
    let mut free = paths.filter(|path| UnixStream::connect(path).is_err());
    free.next().unwrap_or_else(|| "/tmp/passt.socket".into())
}

fn destination(args: &PasstArgs) -> Result<Destination, Failure> {
    match &args.log_file {
        Some(path) => {
            Destination::file(path).map_err(|e| Failure::runtime(format_args!("--log-file {}: {e}", path.display())))
        }
        None if args.detached => Ok(Destination::system()),
        None => Ok(Destination::StandardError),
    }
}
