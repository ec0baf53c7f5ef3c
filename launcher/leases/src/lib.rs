//! What a plan claims from the store, and the plan with the leases that it got.
//!
//! [`reserve`] runs one step over a store: it checks that the networks of the plan are those that other VMs use, then
//! leases each NIC the MAC and addresses that its manifest leaves open. [`apply`] writes a lease into the plan as if
//! the manifest contained it: a `macAddress`, and `static` addresses in place of ranges. Later steps do not depend on
//! leases.
//!
//! The process that serves a VM does this itself on one node; the node agent does it for the processes of several.

#![forbid(unsafe_code)]

use hawser_manifest::nic::{AttachmentSpec, Teaming};
use hawser_manifest::objects::cni::Segment;
use hawser_manifest::objects::ipam::{self, Ipam};
use hawser_manifest::objects::sriov::SriovNetwork;
use hawser_manifest::plan::layer2::Layer2Plan;
use hawser_manifest::plan::{LeaseScope, NicPlan, VmPlan};
use hawser_packet::MacRange;
use hawser_store::agreement;
use hawser_store::claim::{self, AddressClaim, Choice, Claim, ClaimError, MacClaim};
use hawser_store::range::AddressRange;
use hawser_store::{Lease, NetworkRecord, Segment as LeaseSegment, Store, VmName};

/// The VM of a plan.
pub fn vm_of(plan: &VmPlan) -> VmName {
    VmName {
        namespace: plan.namespace.clone(),
        name: plan.name.clone(),
    }
}

/// Leases each NIC of a plan the MAC and addresses that it needs, and returns the leases in the order of the NICs.
/// `pool` contains the MACs for NICs whose manifest names none.
///
/// # Errors
/// [`ClaimError`]; no lease changes.
pub fn reserve(store: &mut impl Store, plan: &VmPlan, pool: &MacRange) -> Result<Vec<Lease>, ClaimError> {
    let vm = vm_of(plan);
    let (claims, networks) = (claims(plan), networks(plan));
    store.step(|ledger| {
        agreement::agree(ledger, &vm, &networks)?;
        claim::claim(ledger, &vm, &claims, &plan.absent, pool)
    })
}

/// Does the same for a plan whose networks may have no identifier. Such a network gets the recorded identifier, or a
/// free one.
///
/// # Errors
/// [`ClaimError`]; no lease changes.
pub fn reserve_with_identifiers(
    store: &mut impl Store,
    plan: &VmPlan,
    pool: &MacRange,
) -> Result<(VmPlan, Vec<Lease>), ClaimError> {
    let vm = vm_of(plan);
    store.step(|ledger| {
        let mut plan = plan.clone();
        for nic in 0..plan.nics.len() {
            let Some(layer2) = plan.nics[nic].mode.layer2_mut() else {
                continue;
            };
            if layer2.tunnel.vni.is_none() {
                layer2.tunnel.vni = Some(agreement::identifier(ledger, &layer2.network.network)?);
            }
            // The network is recorded immediately, so that the next network of the plan gets another identifier.
            agreement::agree(ledger, &vm, &networks(&plan))?;
        }
        let leases = claim::claim(ledger, &vm, &claims(&plan), &plan.absent, pool)?;
        Ok((plan, leases))
    })
}

/// The networks that span nodes, as this plan has them.
pub fn networks(plan: &VmPlan) -> Vec<NetworkRecord> {
    let plans = plan.nics.iter().filter_map(|nic| nic.mode.layer2());
    let record = |plan: &Layer2Plan| {
        Some(NetworkRecord {
            name: plan.network.network.clone(),
            vni: plan.tunnel.vni?,
            subnets: plan.network.subnets().collect(),
        })
    };
    plans.filter_map(record).collect()
}

/// What the NICs of a plan claim, in their order.
pub fn claims(plan: &VmPlan) -> Vec<Claim> {
    let vm = vm_of(plan);
    plan.nics.iter().filter_map(|nic| claim_of(&vm, nic)).collect()
}

/// The claim of a NIC; `None` if it shares the lease of another NIC, as the standby of a failover pair does.
fn claim_of(vm: &VmName, nic: &NicPlan) -> Option<Claim> {
    if nic.device.teaming == Teaming::Persistent {
        return None;
    }
    let (segment, addresses) = match nic.mode.lease_scope()? {
        LeaseScope::Vm => (LeaseSegment::OfVm(vm.clone()), Vec::new()),
        LeaseScope::Segment(segment) => (segment_of(segment), addresses(&segment.ipam)),
        LeaseScope::Network(plan) => (
            LeaseSegment::Network(plan.network.network.clone()),
            addresses(&plan.ipam),
        ),
        LeaseScope::Pool(network) => (pool_of(network), Vec::new()),
    };
    Some(Claim {
        interface: nic.name.clone(),
        network: nic.network.clone(),
        segment,
        mac: match nic.mac {
            Some(mac) => MacClaim::Explicit(mac),
            None if nic.mode.derives_mac() => MacClaim::OfAddress,
            None if nic.has_own_mac() => MacClaim::Pool,
            None => MacClaim::Segment,
        },
        addresses,
    })
}

/// The L2 segment of a NIC. Several networks of the manifests can be on the same segment.
fn segment_of(segment: &Segment) -> LeaseSegment {
    let kind = match segment.attachment {
        AttachmentSpec::Bridge(_) => "bridge",
        _ => "link",
    };
    let vlan = segment.rules.as_ref().and_then(|rules| rules.vlan);
    let vlan = vlan.map(|vlan| format!(" VLAN {vlan}")).unwrap_or_default();
    LeaseSegment::ThisNode(format!("{kind} {}{vlan}", segment.attachment.way().link))
}

/// The L2 segment behind the physical functions of a pool.
fn pool_of(network: &SriovNetwork) -> LeaseSegment {
    let pool = network.resource.as_ref().or(network.device.as_ref());
    let vlan = network.vlan.filter(|vlan| *vlan != 0);
    let vlan = vlan.map(|vlan| format!(" VLAN {vlan}")).unwrap_or_default();
    LeaseSegment::ThisNode(format!("sriov {}{vlan}", pool.map_or("", String::as_str)))
}

fn addresses(ipam: &Ipam) -> Vec<AddressClaim> {
    match ipam {
        Ipam::None | Ipam::Dhcp => Vec::new(),
        Ipam::Static { addresses, .. } => addresses.iter().map(|a| AddressClaim::Fixed(a.address)).collect(),
        Ipam::HostLocal(ranges) | Ipam::Whereabouts(ranges) => {
            let one_of =
                |set: &Vec<ipam::Range>| AddressClaim::OneOf(set.iter().map(range).collect(), choice(ranges.choice));
            let named = ranges.addresses.iter().map(|a| AddressClaim::Fixed(a.address));
            ranges.ranges.iter().map(one_of).chain(named).collect()
        }
    }
}

fn range(range: &ipam::Range) -> AddressRange {
    let ipam::Range {
        subnet,
        first,
        last,
        gateway,
    } = *range;
    AddressRange {
        subnet,
        first,
        last,
        gateway,
    }
}

const fn choice(choice: ipam::Choice) -> Choice {
    match choice {
        ipam::Choice::Next => Choice::Next,
        ipam::Choice::Lowest => Choice::Lowest,
        ipam::Choice::LowestAnywhere => Choice::LowestAnywhere,
    }
}

/// Writes a lease into the plan of its NIC.
pub fn apply(nic: &mut NicPlan, lease: &Lease) {
    if let Some(ipam) = nic.mode.ipam_mut()
        && let Ipam::HostLocal(ranges) | Ipam::Whereabouts(ranges) = ipam
    {
        *ipam = ranges.given(&lease.addresses);
    }
    nic.mac = nic.mac.or(lease.mac).or_else(|| nic.mode.mac());
}
