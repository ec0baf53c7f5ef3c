//! `hawser plug`, `hawser unplug`, `hawser link`: NICs that come, go and lose their carrier while
//! the VM runs.

use super::args::{LinkArgs, PlugArgs, UnplugArgs};
use super::{Client, Target};
use crate::api::http::Method;
use crate::api::plug::{LINK, Link, PLUG, UNPLUG, Unplug};
use crate::failure::Failure;
use crate::hotplug::{Changes, Plug};
use crate::validate;
use std::io::Write as _;

/// Makes the NICs those of the manifests.
///
/// # Errors
/// If nobody answers, or it is refused.
pub fn plug(args: &PlugArgs) -> Result<(), Failure> {
    let manifests = validate::read_sources(&args.files)?;
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
    tell(&changes, lines)
}

/// Takes one out.
///
/// # Errors
/// If nobody answers, or it is refused.
pub fn unplug(args: &UnplugArgs) -> Result<(), Failure> {
    let interface = args.interface.clone();
    let wanted = Unplug { interface };
    tell_done(&Client::of_process(&args.process).send(Method::Post, &Target::new(UNPLUG), &wanted)?)
}

/// Takes the link of one up or down.
///
/// # Errors
/// If nobody answers, or it is refused.
pub fn link(args: &LinkArgs) -> Result<(), Failure> {
    let wanted = Link {
        interface: args.interface.clone(),
        state: args.state,
    };
    tell_done(&Client::of_process(&args.process).send(Method::Post, &Target::new(LINK), &wanted)?)
}

fn tell_done(changes: &Changes) -> Result<(), Failure> {
    tell(changes, changes.lines())
}

/// Warnings on standard error, the changes on standard output.
fn tell(changes: &Changes, mut lines: Vec<String>) -> Result<(), Failure> {
    for warning in &changes.warnings {
        // Where nobody reads standard error, standard output still tells.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    if lines.is_empty() {
        lines.push("nothing to change".into());
    }
    crate::print(&(lines.join("\n") + "\n"))
}
