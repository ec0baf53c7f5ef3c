//! MACs and addresses of a plan's NICs.
//!
//! Before a plan is served, the claims of its NICs go to the store ([`settle`]). The resulting
//! leases go into the plan as if the manifest contained them: a `macAddress`, and `static`
//! addresses in place of `host-local` ranges. Later steps do not depend on leases.

pub(crate) mod args;
mod preview;

pub(crate) use preview::preview;

use self::args::{StoreArgs, StorePlace};
use crate::failure::Failure;
use hawser_manifest::nic::AttachmentSpec;
use hawser_manifest::objects::cni::Segment;
use hawser_manifest::objects::ipam::{self, Ipam};
use hawser_manifest::plan::layer2::Layer2Plan;
use hawser_manifest::plan::{LeaseScope, NicPlan, VmPlan};
use hawser_packet::MacRange;
use hawser_store::agreement;
use hawser_store::claim::{self, AddressClaim, Choice, Claim, MacClaim};
use hawser_store::range::AddressRange;
use hawser_store::sqlite::{Access, Sqlite};
use hawser_store::{Lease, NetworkRecord, Segment as LeaseSegment, Store, VmName};
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

/// Assigns permanent MACs and addresses to the NICs of a plan.
///
/// # Errors
/// If the store fails, or cannot satisfy a claim.
pub(crate) fn settle(plan: &mut VmPlan, args: &StoreArgs) -> Result<(), Failure> {
    if args.store == Some(StorePlace::Off) {
        return plan.nics.iter_mut().try_for_each(without_store);
    }
    let mut store = open(args, Access::Make)?;
    for lease in reserve(&mut store, plan, &args.pool(plan.mac_range))? {
        log::info!("interface {}: lease of {}", lease.holder.interface, held(&lease));
        let nic = plan.nics.iter_mut().find(|nic| nic.name == lease.holder.interface);
        nic.into_iter().for_each(|nic| apply(nic, &lease));
    }
    Ok(())
}

/// The leases of a plan's NICs, in their order.
pub(crate) fn reserve(store: &mut impl Store, plan: &VmPlan, pool: &MacRange) -> Result<Vec<Lease>, Failure> {
    let vm = VmName {
        namespace: plan.namespace.clone(),
        name: plan.name.clone(),
    };
    let (claims, networks) = (claims(&vm, plan), networks(plan));
    let leases = store.step(|ledger| {
        agreement::agree(ledger, &vm, &networks)?;
        claim::claim(ledger, &vm, &claims, &plan.absent, pool)
    });
    leases.map_err(Failure::runtime)
}

/// The networks that span nodes, as this plan has them.
fn networks(plan: &VmPlan) -> Vec<NetworkRecord> {
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

fn claims(vm: &VmName, plan: &VmPlan) -> Vec<Claim> {
    plan.nics.iter().filter_map(|nic| claim_of(vm, nic)).collect()
}

/// The claim of a NIC; `None` if it shares the lease of another NIC.
fn claim_of(vm: &VmName, nic: &NicPlan) -> Option<Claim> {
    let (segment, addresses) = match nic.mode.lease_scope()? {
        LeaseScope::Vm => (LeaseSegment::OfVm(vm.clone()), Vec::new()),
        LeaseScope::Segment(segment) => (segment_of(segment), addresses(&segment.ipam)),
        LeaseScope::Network(plan) => (
            LeaseSegment::Network(plan.network.network.clone()),
            addresses(&plan.ipam),
        ),
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

/// Writes a lease into the plan.
fn apply(nic: &mut NicPlan, lease: &Lease) {
    if let Some(ipam) = nic.mode.ipam_mut()
        && let Ipam::HostLocal(ranges) | Ipam::Whereabouts(ranges) = ipam
    {
        *ipam = ranges.given(&lease.addresses);
    }
    nic.mac = nic.mac.or(lease.mac).or_else(|| nic.mode.mac());
}

/// Checks that a NIC does not need the store, which is off.
fn without_store(nic: &mut NicPlan) -> Result<(), Failure> {
    let named = nic.mac.is_some() || !nic.has_own_mac();
    let rules = nic.mode.segment().and_then(|segment| segment.rules.as_ref());
    let checked = rules.is_some_and(|rules| rules.mac_spoof_check);
    let Some(ipam) = nic.mode.ipam_mut() else {
        return Ok(());
    };
    let message = match ipam {
        Ipam::HostLocal(_) => {
            "addresses of ranges are kept in the store: name them in the manifest, or leave out --store=off"
        }
        Ipam::Whereabouts(_) => "addresses of whereabouts ranges are kept in the store: leave out --store=off",
        Ipam::Static { .. } if !named => {
            "its address is given to a MAC, and none is known: give macAddress, or leave out --store=off"
        }
        _ if checked && !named => {
            "its network has macspoofchk, and no MAC is known: give macAddress, or leave out --store=off"
        }
        _ => return Ok(()),
    };
    Err(Failure::usage(message).of(&nic.name))
}

/// MAC and addresses of a lease, as text.
pub(crate) fn held(lease: &Lease) -> String {
    let mac = lease.mac.map_or("-".into(), |mac| mac.to_string());
    let addresses = lease.addresses.iter().map(ToString::to_string);
    std::iter::once(mac).chain(addresses).collect::<Vec<String>>().join(" ")
}

/// Opens the store of the options.
pub(crate) fn open(args: &StoreArgs, access: Access) -> Result<Sqlite, Failure> {
    let path = match &args.store {
        Some(StorePlace::File(path)) => path.clone(),
        Some(StorePlace::Off) => return Err(Failure::usage("--store=off: leases are kept in a store; name its file")),
        None => default_file(access)?,
    };
    Sqlite::open(&path, access).map_err(Failure::runtime)
}

/// The file of the store, if there is one.
pub(crate) fn file(args: &StoreArgs) -> Option<PathBuf> {
    match &args.store {
        Some(StorePlace::Off) => None,
        Some(StorePlace::File(path)) => Some(path.clone()),
        None => default_file(Access::Make).ok(),
    }
}

const FILE: &str = "store.db";

/// The default store, if no option names one. It is in the directory that systemd created for the service
/// (StateDirectory=), else in a directory of root's or of the user's (XDG Base Directory Specification). The directory
/// is created if necessary.
fn default_file(access: Access) -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let folder = if let Some(folders) = set("STATE_DIRECTORY") {
        // Several directories are separated by colons.
        let folders = folders.to_string_lossy().into_owned();
        PathBuf::from(folders.split(':').next().unwrap_or_default())
    } else if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/lib/hawser")
    } else if let Some(state) = set("XDG_STATE_HOME") {
        PathBuf::from(state).join("hawser")
    } else if let Some(home) = set("HOME") {
        PathBuf::from(home).join(".local/state/hawser")
    } else {
        return Err(Failure::usage(
            "there is no known directory of the user for leases (HOME is not set): name a file with \
             --store=PATH, or give --store=off",
        ));
    };
    let file = folder.join(FILE);
    if access == Access::Make {
        // Accessible only to its owner, as the XDG specification requires.
        const OWNER_ONLY: u32 = 0o700;
        let made = DirBuilder::new().recursive(true).mode(OWNER_ONLY).create(&folder);
        made.map_err(|error| {
            let problem = hawser_store::StoreProblem::Folder(error);
            let store = file.display().to_string();
            Failure::runtime(hawser_store::StoreError { store, problem })
        })?;
    }
    Ok(file)
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
