//! `hawser`: everything except the handling of packets.
//!
//! Options become a checked configuration ([`config`]), which becomes a port and a server ([`machine`], [`serve`]) or
//! the flags for a VMM ([`vmm`]). Manifests become a plan ([`manifest`], [`plan`]), which receives MACs and addresses
//! ([`leases`], [`hawser_store`]). Its NICs are then handled like those of options ([`run`]). Every failure results in
//! one line and an exit status ([`failure`]).

mod api;
mod attachment;
mod background;
mod capabilities;
mod cli;
mod client;
mod cloud_init;
mod completion;
mod config;
mod events;
mod failure;
mod host;
mod hotplug;
mod http_client;
mod inherited;
mod leases;
mod leases_command;
mod logging;
mod machine;
mod man;
mod memory;
mod migration;
mod mode;
mod names;
mod node;
mod notification;
mod output;
mod passt;
mod resolv;
mod resolv_watch;
mod run;
mod sandbox;
mod serve;
mod service_manager;
mod signals;
mod startup;
mod takeover;
mod validate;
mod vf;
mod vf_pools;
mod vmm;
mod vmm_flags;
mod vmm_process;
mod watcher;
mod wire;

use clap::Parser as _;
use cli::{Cli, Command, api_socket_beside};
use failure::Failure;
use machine::Nic;
use serve::Order;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run() -> Result<(), Failure> {
    memory::map_large_blocks();
    if std::env::args_os().skip(1).any(|arg| arg == capabilities::OPTION) {
        return output::print(&(capabilities::json().map_err(Failure::runtime)? + "\n"));
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(served) = passt::by_name(&words) {
        return served;
    }
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        // Help and version, which clap formats for the terminal.
        Err(shown) if !shown.use_stderr() => return shown.print().map_err(Failure::standard_output),
        Err(error) => return Err(Failure::from_clap(&error)),
    };
    let process = match &cli.command {
        Some(Command::Run(args)) => &args.run,
        _ => &cli.run,
    };
    if process.takeover.detach {
        return takeover::detach();
    }
    match &cli.command {
        Some(Command::QemuArgs(args)) => vmm_flags::print(args, vmm::qemu_args),
        Some(Command::CloudHypervisorArgs(args)) => vmm_flags::print(args, vmm::cloud_hypervisor_args),
        Some(Command::LibvirtXml(args)) => vmm_flags::print(args, vmm::libvirt::xml),
        Some(Command::Validate(args)) => validate::run(args),
        Some(Command::CloudInit(args)) => cloud_init::run(args),
        Some(Command::Run(args)) => run::run(args),
        // The words before them are the program's and the subcommand's name.
        Some(Command::Passt(args)) => passt::run(args, &words[2..]),
        Some(Command::Forward(args)) => client::forward::run(args),
        Some(Command::Top(args)) => client::top::run(args),
        Some(Command::Rate(args)) => client::rate::run(args),
        Some(Command::Announce(args)) => client::announce::run(args),
        Some(Command::Loglevel(args)) => client::loglevel::run(args),
        Some(Command::Status(args)) => client::status::run(args),
        Some(Command::Peers(args)) => client::peers::run(args),
        Some(Command::Plug(args)) => client::plug::plug(args),
        Some(Command::Unplug(args)) => client::plug::unplug(args),
        Some(Command::Link(args)) => client::plug::link(args),
        Some(Command::Migrate(command)) => client::migrate::run(command),
        Some(Command::Capture(args)) => client::capture::run(args),
        Some(Command::Leases(args)) => leases_command::run(&args.command),
        Some(Command::VfKeeper(args)) => vf::keeper::run(&args.folder),
        Some(Command::Node(args)) => node::run(&args.command),
        Some(Command::Completion(args)) => completion::run(args.shell),
        Some(Command::ManualPages(args)) => man::run(&args.folder),
        None => serve_port(&cli),
    }
}

fn serve_port(cli: &Cli) -> Result<(), Failure> {
    let endpoint = cli.endpoint.endpoint()?;
    let queues = cli.port.queues()?;
    startup::start_log(&cli.run.log);
    let mut run = cli.run.clone();
    let beside = || endpoint.listens_at().as_deref().map(api_socket_beside);
    run.api_socket = run.api_socket.or_else(beside);
    let site = run.site()?;
    site.recover();
    let spec = cli.port.spec(endpoint.port_name()).map_err(Failure::usage)?;
    let nic = Nic::of_options(spec, endpoint, queues, &site)?;
    serve::serve(Order {
        nics: vec![nic],
        site: &site,
        run: &run,
        vmm: None,
        hotplug: None,
        background: None,
    })
}
