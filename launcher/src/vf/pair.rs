//! NICs on the segment of a physical function: standbys of virtual functions, and macvtaps in place of these.
//!
//! A standby reaches the segment of the physical function through the bridge whose port that is, or else through a
//! macvtap on it. Which one a VM has is known once its virtual function is chosen. A NIC for which no function is left
//! reaches the segment in the same way, if its interface asks for that.

use super::{Keeper, choice};
use crate::failure::Failure;
use hawser_host::passthrough::PfSegment;
use hawser_manifest::nic::{AttachmentSpec, BridgePortSpec, MacvtapMode, Stack};
use hawser_manifest::plan::{NicPlan, VmPlan};

/// A change of a plan, with the position of the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortChange {
    /// A standby before its virtual function.
    Added(usize),
    /// A NIC in place of a virtual function.
    Replaced(usize),
}

/// Adds the standbys that a plan lacks, each before its virtual function, and replaces virtual functions of which none is
/// left. Returns the changes in the order of their positions.
///
/// # Errors
/// The physical function has no segment in this network namespace.
pub(crate) fn add_ports(plan: &mut VmPlan, keeper: Option<&Keeper>) -> Result<Vec<PortChange>, Failure> {
    let Some(keeper) = keeper else { return Ok(Vec::new()) };
    let mut changes = Vec::new();
    let mut at = 0;
    while let Some(nic) = plan.nics.get(at) {
        if let Some(port) = replacement(nic, keeper)? {
            plan.nics[at] = port;
            changes.push(PortChange::Replaced(at));
        } else if let Some(standby) = standby_of(nic, &plan.nics, keeper)? {
            plan.nics.insert(at, standby);
            changes.push(PortChange::Added(at));
            at += 1;
        }
        at += 1;
    }
    Ok(changes)
}

fn replacement(nic: &NicPlan, keeper: &Keeper) -> Result<Option<NicPlan>, Failure> {
    if !nic.lacks_function() {
        return Ok(None);
    }
    let Some(function) = choice::candidates(nic, keeper)?.first().copied() else {
        return Err(Failure::runtime(
            "fallback: its pool has no VF on this node, so its PF is not known: apply a SriovNetworkNodePolicy (hawser \
             node apply)",
        )
        .of(&nic.name));
    };
    let segment = keeper.segment(function).map_err(|failure| failure.of(&nic.name))?;
    Ok(nic.in_place_of_function(attachment(segment)))
}

fn standby_of(nic: &NicPlan, all: &[NicPlan], keeper: &Keeper) -> Result<Option<NicPlan>, Failure> {
    let Some(name) = nic.device.teaming.standby() else {
        return Ok(None);
    };
    if all.iter().any(|other| other.name == name) {
        return Ok(None);
    }
    let device = nic.mode.sriov().and_then(|sriov| sriov.device.as_deref());
    // Without a device, the virtual function itself is refused with a reason.
    let Some(device) = device.and_then(|device| device.parse().ok()) else {
        return Ok(None);
    };
    let segment = keeper.segment(device).map_err(|failure| failure.of(&nic.name))?;
    Ok(nic.standby(attachment(segment)))
}

fn attachment(segment: PfSegment) -> AttachmentSpec {
    match segment.bridge {
        Some(bridge) => AttachmentSpec::Bridge(BridgePortSpec {
            bridge,
            ..BridgePortSpec::default()
        }),
        None => AttachmentSpec::Macvtap(Stack {
            lower: segment.link,
            mode: Some(MacvtapMode::Bridge),
        }),
    }
}
