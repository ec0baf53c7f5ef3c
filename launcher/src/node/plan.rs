//! Determines from policies how the physical functions of a node must change. Nothing here changes the node.

use super::survey::{Pf, Survey, Vf};
use crate::vf_pools::{PfRecord, Pool};
use hawser_host::pci::{Function, PciAddress};
use hawser_host::vf_state::PASSING_DRIVER;
use hawser_host::vf_user::VfUser;
use hawser_manifest::objects::node_policy::{DeviceType, NodePolicy};
use std::fmt;
use std::ops::RangeInclusive;

/// PCI vendor of cards whose driver supports fewer functions than their capability says.
const MELLANOX: &str = "15b3";
const MOST_OF_MELLANOX: u32 = 128;

/// The reason why policies cannot be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PolicyError {
    /// A policy selects no physical function.
    #[error("{0}: nicSelector selects no PF of this node; hawser node status lists the PFs")]
    NoPf(String),
    /// The network device of the selected function is not visible.
    #[error(
        "{place}: the PF {pf} (driver {driver}) matches nicSelector, but has no network device in this network namespace; \
         run this where the PF is, or move the PF back (ip link set NAME netns PID)"
    )]
    Elsewhere {
        place: String,
        pf: PciAddress,
        driver: String,
    },
    /// A policy of an earlier command covers the same physical function.
    #[error(
        "{place}: VFs {range} of {pf} belong to the policy {policy}, which was applied before and is not among these \
         objects; give all policies of a PF in one command, or end {policy} first (numVfs: 0)"
    )]
    Earlier {
        place: String,
        pf: String,
        policy: String,
        range: String,
    },
    /// The physical function has fewer virtual functions.
    #[error("{place}: numVfs {asked} is above the {most} VFs of {pf} ({driver}); lower it")]
    TooMany {
        place: String,
        asked: u32,
        most: u32,
        pf: String,
        driver: String,
    },
    /// Two policies with the same priority cover the same virtual functions.
    #[error(
        "{place}: {first} and {second} both cover VFs {range} of {pf}; give ranges that do not overlap (pfNames: \
         [\"{pf}#0-1\"]), or different priorities"
    )]
    Overlap {
        place: String,
        first: String,
        second: String,
        range: String,
        pf: String,
    },
    /// Two policies for a physical function differ in `externallyManaged`.
    #[error(
        "{place}: externallyManaged of {first} and {second} differ, but both select {pf}; give both the same value"
    )]
    Managed {
        place: String,
        first: String,
        second: String,
        pf: String,
    },
    /// The virtual functions do not exist.
    #[error("{place}: externallyManaged, but {pf} has {present} VFs and numVfs is {asked}; create them first")]
    NotThere {
        place: String,
        pf: String,
        present: u32,
        asked: u32,
    },
    /// The MTU is too small.
    #[error("{place}: externallyManaged, but the MTU of {pf} is {present}, below mtu {asked}; raise it first")]
    LowMtu {
        place: String,
        pf: String,
        present: u32,
        asked: u16,
    },
    /// Virtual functions that would be removed are in use.
    #[error(
        "{place}: numVfs {asked} would change the {present} VFs of {pf}, but {user} uses VF {number} ({address}); end \
         that, or give numVfs: {present}"
    )]
    InUse {
        place: String,
        asked: u32,
        present: u32,
        pf: String,
        number: u32,
        address: String,
        user: Box<VfUser>,
    },
}

/// One change of a physical function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Sets whether the kernel binds drivers to new virtual functions.
    Autoprobe { from: bool, to: bool },
    /// Sets the number of virtual functions.
    Present { from: u32, to: u32 },
    /// Switches the physical function on.
    Up,
    /// Sets the MTU of the physical function.
    Mtu { from: u32, to: u32 },
    /// Binds virtual functions that have another driver.
    Bind { pool: Pool },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Autoprobe { from, to } => {
                write!(f, "sriov_drivers_autoprobe {} -> {}", u8::from(*from), u8::from(*to))
            }
            Self::Present { from, to } => write!(f, "sriov_numvfs {from} -> {to}"),
            Self::Up => write!(f, "link down -> up"),
            Self::Mtu { from, to } => write!(f, "mtu {from} -> {to}"),
            Self::Bind { pool } => write!(f, "VFs {}-{} to {}", pool.first, pool.last, pool.device_type),
        }
    }
}

/// The planned state of one physical function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PfPlan {
    /// Record of the physical function.
    pub record: PfRecord,
    /// The changes, in order. There are none if the state is already as planned.
    pub steps: Vec<Step>,
}

/// The part of a policy that concerns one physical function.
struct Part<'a> {
    policy: &'a NodePolicy,
    range: Option<RangeInclusive<u32>>,
}

impl Part<'_> {
    fn range(&self) -> RangeInclusive<u32> {
        self.range.clone().unwrap_or(0..=self.policy.num_vfs.saturating_sub(1))
    }
}

/// Plans all policies.
///
/// # Errors
/// The first contradiction.
pub(super) fn plan<'a>(
    policies: &[NodePolicy],
    survey: &Survey,
    recorded: impl Iterator<Item = &'a PfRecord> + Clone,
) -> Result<Vec<PfPlan>, PolicyError> {
    let mut plans = Vec::new();
    for policy in policies {
        let place = || policy.spot.to_string();
        if survey.here.iter().any(|pf| part(policy, pf).is_some()) {
            continue;
        }
        return Err(match survey.elsewhere.iter().find(|pf| may_select(policy, pf)) {
            None => PolicyError::NoPf(place()),
            Some(pf) => PolicyError::Elsewhere {
                place: place(),
                pf: pf.address,
                driver: pf.driver.clone().unwrap_or_default(),
            },
        });
    }
    for pf in &survey.here {
        let Some(plan) = plan_one(policies, pf)? else { continue };
        let earlier = recorded.clone().filter(|record| record.pf == plan.record.pf);
        check_earlier(policies, pf, earlier.flat_map(|record| &record.pools))?;
        plans.push(plan);
    }
    Ok(plans)
}

/// True if a policy selects a physical function, as far as that is known without its network device.
fn may_select(policy: &NodePolicy, pf: &Function) -> bool {
    let selector = &policy.selector;
    let address = pf.address.to_string();
    let is_root = selector.roots.is_empty() || selector.roots.iter().any(|part| part.of == address);
    // The name is that of a network device which cannot be seen.
    is_root && selector.names.is_empty() && has_ids(policy, pf)
}

/// True if a physical function has the ids that a policy names.
fn has_ids(policy: &NodePolicy, pf: &Function) -> bool {
    let id = |asked: &Option<String>, found: &str| asked.as_deref().is_none_or(|asked| asked == found);
    id(&policy.selector.vendor, &pf.vendor) && id(&policy.selector.device, &pf.device)
}

/// Refuses policies for a physical function that also has pools of a policy which is not among them: its pools would be
/// lost.
fn check_earlier<'a>(
    policies: &[NodePolicy],
    pf: &Pf,
    mut pools: impl Iterator<Item = &'a Pool>,
) -> Result<(), PolicyError> {
    let is_given = |pool: &Pool| policies.iter().any(|policy| policy.name == pool.policy);
    let Some(pool) = pools.find(|pool| !is_given(pool)) else {
        return Ok(());
    };
    let place = policies.iter().find(|policy| part(policy, pf).is_some());
    Err(PolicyError::Earlier {
        place: place.map(|policy| policy.spot.to_string()).unwrap_or_default(),
        pf: pf.link.name.clone(),
        policy: pool.policy.clone(),
        range: format!("{}-{}", pool.first, pool.last),
    })
}

/// The part of a policy for a physical function; `None` if the policy does not select it.
fn part<'a>(policy: &'a NodePolicy, pf: &Pf) -> Option<Part<'a>> {
    let selector = &policy.selector;
    if !has_ids(policy, &pf.function) {
        return None;
    }
    let address = pf.function.address.to_string();
    let mut range = None;
    for (parts, name) in [(&selector.names, &pf.link.name), (&selector.roots, &address)] {
        if !parts.is_empty() {
            let found = parts.iter().find(|part| part.of == *name)?;
            range = range.or_else(|| found.range.clone());
        }
    }
    Some(Part { policy, range })
}

fn plan_one(policies: &[NodePolicy], pf: &Pf) -> Result<Option<PfPlan>, PolicyError> {
    let mut parts: Vec<Part<'_>> = policies.iter().filter_map(|policy| part(policy, pf)).collect();
    // The lower number has priority: a policy for the whole function excludes later policies that overlap with it.
    parts.sort_by_key(|part| part.policy.priority);
    let mut kept: Vec<Part<'_>> = Vec::new();
    for part in parts {
        let overlap = kept.iter().find(|other| overlaps(&other.range(), &part.range()));
        match overlap {
            None => kept.push(part),
            Some(other) if other.policy.priority < part.policy.priority => {}
            Some(other) => {
                let (range, other_range) = (part.range(), other.range());
                let (first, last) = (
                    range.start().max(other_range.start()),
                    range.end().min(other_range.end()),
                );
                return Err(PolicyError::Overlap {
                    place: part.policy.spot.to_string(),
                    first: other.policy.name.clone(),
                    second: part.policy.name.clone(),
                    range: format!("{first}-{last}"),
                    pf: pf.link.name.clone(),
                });
            }
        }
    }
    let Some(first) = kept.first() else { return Ok(None) };
    check(pf, &kept)?;
    let record = PfRecord {
        pf: pf.function.address,
        name: pf.link.name.clone(),
        num_vfs: kept.iter().map(|part| part.policy.num_vfs).max().unwrap_or_default(),
        mtu: kept.iter().filter_map(|part| part.policy.mtu).max(),
        externally_managed: first.policy.externally_managed,
        pools: kept.iter().filter(|part| part.policy.num_vfs > 0).map(pool).collect(),
    };
    let place = first.policy.spot.to_string();
    let steps = steps(pf, &record, &place)?;
    Ok(Some(PfPlan { record, steps }))
}

fn overlaps(one: &RangeInclusive<u32>, other: &RangeInclusive<u32>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

fn pool(part: &Part<'_>) -> Pool {
    let range = part.range();
    Pool {
        resource: part.policy.resource.clone(),
        policy: part.policy.name.clone(),
        device_type: part.policy.device_type.name().to_owned(),
        first: *range.start(),
        last: *range.end(),
    }
}

/// Checks each policy against the physical function, and all policies against the first one.
fn check(pf: &Pf, parts: &[Part<'_>]) -> Result<(), PolicyError> {
    let Some(first) = parts.first() else { return Ok(()) };
    let most = match pf.function.vendor.as_str() {
        MELLANOX => pf.capability.total.min(MOST_OF_MELLANOX),
        _ => pf.capability.total,
    };
    for Part { policy, .. } in parts {
        let (place, name) = (policy.spot.to_string(), pf.link.name.clone());
        if policy.num_vfs > most {
            return Err(PolicyError::TooMany {
                place,
                asked: policy.num_vfs,
                most,
                pf: name,
                driver: pf.function.driver.clone().unwrap_or_default(),
            });
        }
        if policy.externally_managed != first.policy.externally_managed {
            return Err(PolicyError::Managed {
                place,
                first: first.policy.name.clone(),
                second: policy.name.clone(),
                pf: name,
            });
        }
        if policy.externally_managed && policy.num_vfs > pf.capability.present {
            return Err(PolicyError::NotThere {
                place,
                pf: name,
                present: pf.capability.present,
                asked: policy.num_vfs,
            });
        }
        if let Some(asked) = policy
            .mtu
            .filter(|mtu| policy.externally_managed && u32::from(*mtu) > pf.link.mtu)
        {
            return Err(PolicyError::LowMtu {
                place,
                pf: name,
                present: pf.link.mtu,
                asked,
            });
        }
    }
    Ok(())
}

fn steps(pf: &Pf, record: &PfRecord, place: &str) -> Result<Vec<Step>, PolicyError> {
    let mut steps = Vec::new();
    if record.externally_managed {
        return Ok(steps);
    }
    let (from, to) = (pf.capability.present, record.num_vfs);
    let is_new = from != to;
    if is_new {
        if let Some((vf, user)) = pf.vfs.iter().find_map(|vf| Some((vf, vf.user.clone()?))) {
            return Err(PolicyError::InUse {
                place: place.to_owned(),
                asked: to,
                present: from,
                pf: record.name.clone(),
                number: vf.number,
                address: vf.function.address.to_string(),
                user: Box::new(user),
            });
        }
        if pf.capability.autoprobe {
            steps.push(Step::Autoprobe { from: true, to: false });
        }
        // The kernel changes the number only from zero or to zero.
        if from != 0 {
            steps.push(Step::Present { from, to: 0 });
        }
        if to != 0 {
            steps.push(Step::Present { from: 0, to });
        }
    }
    if !pf.link.is_up {
        steps.push(Step::Up);
    }
    if let Some(mtu) = record.mtu.map(u32::from).filter(|mtu| *mtu > pf.link.mtu) {
        steps.push(Step::Mtu {
            from: pf.link.mtu,
            to: mtu,
        });
    }
    for pool in &record.pools {
        let members = pf.vfs.iter().filter(|vf| (pool.first..=pool.last).contains(&vf.number));
        if is_new || members.into_iter().any(|vf| needs_driver(vf, pool)) {
            steps.push(Step::Bind { pool: pool.clone() });
        }
    }
    Ok(steps)
}

/// True if a virtual function does not have the driver of its pool. A function that a VM uses, or that hawser has bound
/// for a VM, stays unchanged.
pub(super) fn needs_driver(vf: &Vf, pool: &Pool) -> bool {
    let is_passed = vf.function.driver_override.as_deref() == Some(PASSING_DRIVER);
    match pool.device_type == DeviceType::VfioPci.name() {
        true => vf.function.driver.as_deref() != Some(PASSING_DRIVER) && vf.user.is_none(),
        false => vf.function.driver.is_none() && !is_passed,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
