//! `hawser`: everything that is not a packet.
//!
//! Options become a checked configuration ([`config`]), that becomes a port and a
//! server ([`machine`], [`serve`]); or only the flags for a VMM ([`vmm`]). Manifests become a plan
//! ([`manifest`], [`plan`]), are given MACs and addresses ([`leases`], [`hawser_store`]), and their NICs
//! go the same way ([`run`]). Whatever is wrong ends
//! as one line and an exit status ([`failure`]).

mod api;
mod attachment;
mod capabilities;
mod cli;
mod client;
mod cloud_init;
mod companion;
mod completion;
mod config;
mod events;
mod failure;
mod host;
mod hotplug;
mod http_client;
mod leases;
mod logging;
mod machine;
mod man;
mod memory;
mod names;
mod pace;
mod plan_args;
mod policy;
mod resolv;
mod run;
mod sandbox;
mod serve;
mod service_manager;
mod startup;
mod validate;
mod vmm;
mod watcher;

use attachment::{Attachment, Site, Survey};
use clap::Parser as _;
use cli::{Cli, Command, VmmArgs};
use config::{ConfigError, Plan};
use failure::Failure;
use hawser_manifest::objects::interface::DeviceHints;
use host::Host;
use machine::{Meeting, Nic};
use serve::Order;
use std::io::Write as _;
use std::process::ExitCode;
use vmm::{Card, Vm, VmmError};

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
        Some(Command::Validate(args)) => validate::run(args),
        Some(Command::CloudInit(args)) => cloud_init::run(args),
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Forward(args)) => client::forward::run(args),
        Some(Command::Top(args)) => client::top::run(args),
        Some(Command::Rate(args)) => client::rate::run(args),
        Some(Command::Loglevel(args)) => client::loglevel::run(args),
        Some(Command::Status(args)) => client::status::run(args),
        Some(Command::Plug(args)) => client::plug::plug(args),
        Some(Command::Unplug(args)) => client::plug::unplug(args),
        Some(Command::Link(args)) => client::plug::link(args),
        Some(Command::Capture(args)) => client::capture::run(args),
        Some(Command::Leases(args)) => leases::run(&args.command),
        Some(Command::Completion(args)) => completion::run(args.shell),
        Some(Command::ManualPages(args)) => man::run(&args.folder),
        None => serve_port(&cli),
    }
}

fn serve_port(cli: &Cli) -> Result<(), Failure> {
    let meeting = Meeting::from_args(&cli.endpoint)?;
    let attachment = Attachment::from_args(&cli.port)?;
    startup::start_log(&cli.run.log);
    let site = Site::from_args(&cli.run)?;
    site.recover();
    let (plan, survey) = plan(&cli.port, &meeting.port_name(), attachment, &site)?;
    let nic = Nic {
        meeting,
        plan,
        survey,
        link_up: true,
    };
    serve::serve(Order {
        nics: vec![nic],
        site: &site,
        run: &cli.run,
        vmm: &[],
        hotplug: None,
    })
}

fn print_flags(args: &VmmArgs, flags: impl Fn(&Vm<'_>) -> Result<String, VmmError>) -> Result<(), Failure> {
    let attachment = Attachment::from_args(&args.port)?;
    let (plan, _) = plan(&args.port, "vm", attachment, &Site::from_args(&args.run)?)?;
    let vm = Vm {
        memory: &args.memory,
        cards: &[Card {
            socket: &args.socket.socket_path,
            vmm_listens: args.socket.connect,
            port: &plan.port,
            device: DeviceHints::default(),
            bus: None,
        }],
    };
    print(&flags(&vm).map_err(Failure::usage)?)
}

/// The checked configuration, and what there is to attach the guest to.
fn plan(
    args: &cli::PortArgs,
    name: &str,
    attachment: Option<Attachment>,
    site: &Site,
) -> Result<(Plan, Option<Survey>), Failure> {
    let host = Host::probe();
    let mut plan = config::resolve(args, name.to_owned(), &host).map_err(|error: ConfigError| {
        if error.is_usage() {
            Failure::usage(error)
        } else {
            Failure::runtime(error)
        }
    })?;
    let survey = attachment.map(|attachment| attachment.survey(args, site)).transpose()?;
    if let Some(survey) = &survey {
        survey.complete(&mut plan, args, &host);
    }
    Ok((plan, survey))
}

/// Writes to standard output; a reader that has gone away is a failure, not a panic.
fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::standard_output)
}
