//! `hawser plug`, `hawser unplug`, `hawser link`: NICs that come, go and lose their carrier while
//! the VM runs.

use super::args::{LinkArgs, PlugArgs, UnplugArgs};
use super::{Client, Target};
use crate::api::http::Method;
use crate::api::plug::{LINK, Link, PLUG, Plug, UNPLUG, Unplug};
use crate::failure::Failure;
use crate::hotplug::Changes;
use crate::validate;
use std::io::Write as _;

/// Makes the NICs those of the manifests.
///
/// # Errors
/// If nobody answers, or it is refused.
pub fn plug(args: &PlugArgs) -> Result<(), Failure> {
    let manifests = validate::read_sources(&args.files)?;
    let interface = args.interface.clone();
    let wanted = Plug { manifests, interface };
    tell(&Client::of_process(&args.process).send(Method::Post, &Target::new(PLUG), &wanted)?)
}

/// Takes one out.
///
/// # Errors
/// If nobody answers, or it is refused.
pub fn unplug(args: &UnplugArgs) -> Result<(), Failure> {
    let interface = args.interface.clone();
    let wanted = Unplug { interface };
    tell(&Client::of_process(&args.process).send(Method::Post, &Target::new(UNPLUG), &wanted)?)
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
    tell(&Client::of_process(&args.process).send(Method::Post, &Target::new(LINK), &wanted)?)
}

/// Warnings on standard error, what was done on standard output.
fn tell(changes: &Changes) -> Result<(), Failure> {
    for warning in &changes.warnings {
        // Where nobody reads standard error, standard output still tells.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    let mut lines = changes.lines();
    if lines.is_empty() {
        lines.push("nothing to change".into());
    }
    crate::print(&(lines.join("\n") + "\n"))
}
