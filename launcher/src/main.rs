//! `hawser`: everything that is not a packet.
//!
//! Options become a checked configuration ([`config`]), that becomes a port and a
//! server ([`serve`]); or only the flags for a VMM ([`vmm`]). Whatever is wrong ends as
//! one line and an exit status ([`failure`]).

mod attachment;
mod capabilities;
mod cli;
mod config;
mod failure;
mod forward;
mod host;
mod policy;
mod resolv;
mod serve;
mod startup;
mod values;
mod vmm;

use attachment::Attachment;
use clap::Parser as _;
use cli::{Cli, Command, VmmArgs};
use config::{ConfigError, Plan};
use failure::Failure;
use host::Host;
use serve::Meeting;
use std::io::Write as _;
use std::process::ExitCode;
use vmm::{Vm, VmmError};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run() -> Result<(), Failure> {
    if std::env::args_os().skip(1).any(|arg| arg == capabilities::OPTION) {
        return print(&(capabilities::json().map_err(Failure::runtime)? + "\n"));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version, which clap writes in the way the terminal shows best.
        Err(shown) if !shown.use_stderr() => return shown.print().map_err(Failure::standard_output),
        Err(error) => return Err(Failure::from_clap(&error)),
    };
    match &cli.command {
        Some(Command::QemuArgs(args)) => print_flags(args, vmm::qemu_args),
        Some(Command::CloudHypervisorArgs(args)) => print_flags(args, vmm::cloud_hypervisor_args),
        None => serve_port(&cli),
    }
}

fn serve_port(cli: &Cli) -> Result<(), Failure> {
    let meeting = Meeting::from_args(&cli.endpoint)?;
    let attachment = Attachment::from_args(&cli.port)?;
    let mut plan = plan(&cli.port, &meeting.port_name(), &Host::probe())?;
    if let Some(attachment) = attachment {
        attachment.open(&mut plan, cli.port.mtu)?;
    }
    serve::serve(meeting, plan, &cli.run)
}

fn print_flags(args: &VmmArgs, flags: impl Fn(&Vm<'_>) -> Result<String, VmmError>) -> Result<(), Failure> {
    let plan = plan(&args.port, "vm", &Host::probe())?;
    let vm = Vm {
        memory: &args.memory,
        socket: &args.socket,
        port: &plan.port,
    };
    print(&flags(&vm).map_err(Failure::usage)?)
}

fn plan(args: &cli::PortArgs, name: &str, host: &Host) -> Result<Plan, Failure> {
    config::resolve(args, name.to_owned(), host).map_err(|error: ConfigError| {
        if error.is_usage() {
            Failure::usage(error)
        } else {
            Failure::runtime(error)
        }
    })
}

/// Writes to standard output; a reader that has gone away is a failure, not a panic.
fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::standard_output)
}
