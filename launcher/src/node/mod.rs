//! `hawser node`: the virtual functions and the links of this node, by policies.
//!
//! ```text
//!  policies ──┐
//!             ├── plan: what each PF should be ── steps ── apply ── record of the pools
//!  survey  ───┘
//! ```
//!
//! [`network`] does the same for the links. An administrator or a node agent runs this; a VM's process never changes the number of virtual functions.

mod apply;
mod network;
mod plan;
mod status;
mod survey;

use crate::cli::node::{ApplyPolicies, NodeCommand, ShowNode};
use crate::failure::Failure;
use crate::leases;
use crate::output;
use crate::startup;
use crate::validate;
use crate::vf_pools::{self, Pools};
use hawser_host::pci::Pci;
use hawser_host::system;
use hawser_manifest::check;
use network::NetworkPlan;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Filter of the log.
const LOG: &str = "info";
/// Namespace of policies without one. It has no meaning here.
const NAMESPACE: &str = "default";

/// Runs a subcommand.
///
/// # Errors
/// The reason why nothing was changed, or the step that failed.
pub(crate) fn run(command: &NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::Apply(args) => apply(args),
        NodeCommand::Status(args) => show(args),
    }
}

fn apply(args: &ApplyPolicies) -> Result<(), Failure> {
    startup::start_log(LOG);
    let files = validate::read_sources(&args.sources.files())?;
    let objects = check::node_objects(&files, NAMESPACE).map_err(validate::tell_rejected)?;
    for warning in &objects.warnings {
        log::warn!("{}", warning.without_severity());
    }
    let pci = Pci::default();
    let recorded = match objects.policies.is_empty() {
        true => None,
        false => {
            let path = pools_file(args.pools.as_ref())?;
            Some((Pools::read(&path)?, path))
        }
    };
    let known = recorded.iter().flat_map(|(pools, _)| &pools.functions);
    let plans = plan::plan(&objects.policies, &survey::look(&pci)?, known).map_err(Failure::usage)?;
    let network = NetworkPlan::new(objects.networks, args)?;
    let mut text = String::new();
    for plan in &plans {
        let title = format!("{} ({})", plan.record.name, plan.record.pf);
        let mut line = |what: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{title}: {what}");
        };
        if plan.steps.is_empty() {
            line(&"nothing to change");
        }
        plan.steps.iter().for_each(|step| line(step));
    }
    network.describe(&mut text);
    if !args.dry_run
        && let Some((pools, path)) = recorded
    {
        for plan in &plans {
            apply::carry_out(&pci, plan)?;
        }
        pools.record(&path, plans.into_iter().map(|plan| plan.record).collect())?;
    }
    if !args.dry_run {
        network.carry_out(args)?;
    }
    output::print(&text)
}

fn show(args: &ShowNode) -> Result<(), Failure> {
    let node = system::node_name();
    let state = if args.links {
        network::state(&node)?
    } else {
        let pools = Pools::read(&pools_file(args.pools.as_ref())?)?;
        status::state(&node, &pools, &survey::look(&Pci::default())?.here)
    };
    output::print(&match args.json {
        true => format!("{state:#}\n"),
        false => status::yaml(&state),
    })
}

/// The file of the pools: the one that the option names, or the one beside the lease store.
fn pools_file(option: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    match option {
        Some(path) => Ok(path.clone()),
        None => Ok(leases::state_folder()?.join(vf_pools::FILE)),
    }
}
