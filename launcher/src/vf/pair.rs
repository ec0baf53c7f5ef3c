//! Failover pairs: the standbys that belong to the virtual functions of a plan.
//!
//! A standby reaches the segment of the physical function through the bridge whose port that is, or else through a
//! macvtap on it. Which one a VM has is known once its virtual function is chosen.

use super::Keeper;
use crate::failure::Failure;
use hawser_host::passthrough::PfSegment;
use hawser_manifest::nic::{AttachmentSpec, BridgePortSpec, MacvtapMode, Stack};
use hawser_manifest::plan::{NicPlan, VmPlan};

/// Adds the standbys that a plan lacks, each before its virtual function. Returns their positions, in ascending order.
///
/// # Errors
/// The physical function has no segment in this network namespace.
pub(crate) fn add_standbys(plan: &mut VmPlan, keeper: Option<&Keeper>) -> Result<Vec<usize>, Failure> {
    let Some(keeper) = keeper else { return Ok(Vec::new()) };
    let mut added = Vec::new();
    let mut at = 0;
    while let Some(nic) = plan.nics.get(at) {
        if let Some(standby) = standby_of(nic, &plan.nics, keeper)? {
            plan.nics.insert(at, standby);
            added.push(at);
            at += 1;
        }
        at += 1;
    }
    Ok(added)
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
