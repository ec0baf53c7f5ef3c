//! `hawser plug`, `hawser unplug`, `hawser link`: changes to the NICs of a running VM.

use super::{Client, Target};
use crate::api::http::Method;
use crate::api::plug::{LINK, Link, PLUG, UNPLUG, Unplug};
use crate::api::status;
use crate::cli::client::{LinkArgs, LinkState, PlugArgs, UnplugArgs};
use crate::failure::Failure;
use crate::hotplug::{Changes, Plug};
use crate::validate;
use std::io::Write as _;

/// Plugs and unplugs NICs until they match the manifests.
///
/// # Errors
/// No process answers, or it refuses.
pub(crate) fn plug(args: &PlugArgs) -> Result<(), Failure> {
    let manifests = validate::read_sources(&args.sources.files())?;
    let interface = args.interface.clone();
    let dry_run = args.dry_run;
    let wanted = Plug {
        manifests,
        interface,
        dry_run,
    };
    let changes: Changes = Client::of_process(&args.process).send(Method::Post, &Target::new(PLUG), &wanted)?;
    let lines = if dry_run {
        changes.lines_to_be()
    } else {
        changes.lines()
    };
    report(&changes, lines)
}

/// Unplugs one NIC.
///
/// # Errors
/// No process answers, or it refuses.
pub(crate) fn unplug(args: &UnplugArgs) -> Result<(), Failure> {
    let interface = args.interface.clone();
    let wanted = Unplug { interface };
    report_done(&Client::of_process(&args.process).send(Method::Post, &Target::new(UNPLUG), &wanted)?)
}

/// Sets the link of one NIC up or down.
///
/// # Errors
/// No process answers, or it refuses.
pub(crate) fn link(args: &LinkArgs) -> Result<(), Failure> {
    let wanted = Link {
        interface: args.interface.clone(),
        state: match args.state {
            LinkState::Up => status::LinkState::Up,
            LinkState::Down => status::LinkState::Down,
        },
    };
    report_done(&Client::of_process(&args.process).send(Method::Post, &Target::new(LINK), &wanted)?)
}

fn report_done(changes: &Changes) -> Result<(), Failure> {
    report(changes, changes.lines())
}

/// Prints warnings to standard error and changes to standard output.
fn report(changes: &Changes, mut lines: Vec<String>) -> Result<(), Failure> {
    for warning in &changes.warnings {
        // A closed standard error must not hide the changes on standard output.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    if lines.is_empty() {
        lines.push("nothing to change".into());
    }
    crate::output::print(&(lines.join("\n") + "\n"))
}
