//! Carries out the steps for the links of a node: all of them or none.

use super::check_point::CheckPoint;
use super::plan::{self, BRIDGE, Step, VLAN};
use super::{NetworkPlan, survey};
use crate::cli::node::ApplyPolicies;
use crate::failure::Failure;
use hawser_host::addresses::Address;
use hawser_host::journal::{Journal, Undo};
use hawser_host::link::{Link, NewKind, NewLink};
use hawser_host::link_state::{self, LinkState};
use hawser_host::netlink::Netlink;
use std::collections::HashSet;
use std::io;
use std::path::Path;

/// Makes the changes. Dropping the journal undoes them.
///
/// # Errors
/// The step that failed, or what was lost.
pub(super) fn carry_out(plan: &NetworkPlan, folder: &Path, args: &ApplyPolicies) -> Result<(), Failure> {
    let failure = |error: io::Error| Failure::runtime(format_args!("links of this node: {error}"));
    let mut netlink = Netlink::open().map_err(failure)?;
    let point = CheckPoint::new(&mut netlink, args).map_err(failure)?;
    let mut journal = Journal::begin(folder).map_err(Failure::runtime)?;
    let mut known = HashSet::new();
    let (deletions, changes): (Vec<&Step>, Vec<&Step>) = plan.steps.iter().partition(|step| is_deletion(step));
    for step in changes {
        note(&mut netlink, &mut journal, &mut known, step)
            .and_then(|()| take(&mut netlink, step))
            .map_err(|error| failed(step, &error))?;
    }
    let rest = plan::plan(&plan.policies, &survey::look()?).map_err(Failure::runtime)?;
    if let Some(step) = rest.iter().find(|step| !is_deletion(step)) {
        return Err(Failure::runtime(format_args!(
            "{step}: the kernel accepted this without effect; the links are put back"
        )));
    }
    point.hold(&mut netlink).map_err(Failure::runtime)?;
    // What follows cannot be undone, and has no effect on the rest of the node: the link is off and has no ports.
    journal.keep().map_err(failure)?;
    for step in deletions {
        take(&mut netlink, step).map_err(|error| failed(step, &error))?;
    }
    Ok(())
}

const fn is_deletion(step: &Step) -> bool {
    matches!(step, Step::Delete { .. })
}

fn failed(step: &Step, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run this as root",
        io::ErrorKind::Unsupported => "; the kernel has no links of this kind (for VLANs: modprobe 8021q)",
        _ => "",
    };
    Failure::runtime(format_args!("{step}: {error}{remedy}; the links are put back"))
}

/// Records how to undo a step.
fn note(netlink: &mut Netlink, journal: &mut Journal, known: &mut HashSet<String>, step: &Step) -> io::Result<()> {
    let name = match step {
        Step::Create { name } | Step::CreateVlan { name, .. } => {
            known.insert(name.clone());
            let kind = if matches!(step, Step::CreateVlan { .. }) {
                VLAN
            } else {
                BRIDGE
            };
            return journal.note(Undo::DeleteLink {
                name: name.clone(),
                kind: kind.to_owned(),
                // The kernel chooses it, and chooses again with each port of a bridge.
                mac: None,
            });
        }
        Step::Leave { port: name, .. }
        | Step::Join { port: name, .. }
        | Step::Stp { name, .. }
        | Step::Mtu { name, .. }
        | Step::Mac { name, .. }
        | Step::Ipv6 { name, .. }
        | Step::RemoveAddress { name, .. }
        | Step::AddAddress { name, .. }
        | Step::Switch { name, .. }
        | Step::Delete { name } => name,
    };
    if known.insert(name.clone()) {
        let link = named(netlink, name)?;
        journal.note(Undo::RestoreLink(LinkState::of(netlink, &link)?))?;
    }
    Ok(())
}

fn named(netlink: &mut Netlink, name: &str) -> io::Result<Link> {
    let link = netlink.link_named(name)?;
    link.ok_or_else(|| io::Error::other(format!("the link {name} is gone")))
}

fn take(netlink: &mut Netlink, step: &Step) -> io::Result<()> {
    let mut index = |name: &str| named(netlink, name).map(|link| link.index);
    match step {
        Step::Create { name } => netlink.make_link(&NewLink {
            name,
            kind: NewKind::Bridge,
            mac: None,
            mtu: None,
            lower: None,
        }),
        Step::CreateVlan { name, vlan } => {
            let lower = Some(index(&vlan.base)?);
            netlink.make_link(&NewLink {
                name,
                kind: NewKind::Vlan(vlan.id),
                mac: None,
                mtu: None,
                lower,
            })
        }
        Step::Stp { name, on } => {
            let index = index(name)?;
            netlink.set_stp(index, *on)
        }
        Step::Leave { port, .. } => {
            let index = index(port)?;
            netlink.set_master(index, None)
        }
        Step::Join { port, bridge } => {
            let (port, bridge) = (index(port)?, index(bridge)?);
            netlink.set_master(port, Some(bridge))?;
            netlink.set_up(port, true)
        }
        Step::Mtu { name, to } => {
            let index = index(name)?;
            netlink.set_mtu(index, *to)
        }
        Step::Mac { name, to } => {
            let index = index(name)?;
            netlink.set_mac(index, *to)
        }
        Step::Ipv6 { name, on } => link_state::set_ipv6_disabled(name, !on),
        Step::RemoveAddress { name, net } => {
            let index = index(name)?;
            let found = netlink.addresses(index)?;
            match found.iter().find(|address| address.net == *net) {
                Some(address) => netlink.delete_address(address),
                None => Ok(()),
            }
        }
        Step::AddAddress { name, net } => {
            let index = index(name)?;
            netlink.add_address(&Address::new(*net, index))
        }
        Step::Switch { name, on } => {
            let index = index(name)?;
            netlink.set_up(index, *on)
        }
        Step::Delete { name } => {
            let index = index(name)?;
            netlink.delete_link(index)
        }
    }
}
