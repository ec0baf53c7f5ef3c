//! Reads the leases for a plan without changing the store, for `--dry-run` and `--print-args`.

use super::args::{StoreArgs, StorePlace};
use super::{default_file, without_store};
use crate::failure::Failure;
use hawser_leases::{apply, claims, networks, vm_of};
use hawser_manifest::plan::VmPlan;
use hawser_store::claim::{self, AddressClaim, Claim, MacClaim};
use hawser_store::memory::Memory;
use hawser_store::sqlite::{Access, Sqlite};
use hawser_store::{Lease, Ledger as _, NetworkRecord, Store as _, agreement};
use std::path::Path;

/// The leases with which a plan would be served.
#[derive(Debug, Default)]
pub(crate) struct Preview {
    /// Leases that already exist, or that leave nothing to choose.
    kept: Vec<Lease>,
    /// Leases that would be created. Their free choices may be different then.
    new: Vec<Lease>,
    /// Interfaces whose lease does not exist yet, whether or not it leaves a choice.
    holders: Vec<String>,
    /// Interfaces whose MAC would be chosen.
    without_mac: Vec<String>,
}

/// Finds the leases with which a plan would be served.
///
/// # Errors
/// As [`super::settle`], except that a missing store is not an error.
pub(crate) fn preview(plan: &VmPlan, args: &StoreArgs) -> Result<Preview, Failure> {
    let file = match &args.store {
        Some(StorePlace::Off) => {
            let mut nics = plan.nics.clone();
            nics.iter_mut().try_for_each(without_store)?;
            return Ok(Preview::default());
        }
        Some(StorePlace::File(path)) => path.clone(),
        None => default_file(Access::Read)?,
    };
    let (stored, known) = read(&file)?;
    let (vm, claims) = (vm_of(plan), claims(plan));
    let mut copy = Memory::new(stored.clone());
    for network in &known {
        copy.put_network(network).map_err(Failure::runtime)?;
    }
    agreement::agree(&mut copy, &vm, &networks(plan)).map_err(Failure::runtime)?;
    let pool = args.pool(plan.mac_range);
    let leases = claim::claim(&mut copy, &vm, &claims, &plan.absent, &pool).map_err(Failure::runtime)?;
    let mut preview = Preview::default();
    for lease in leases {
        let claim = claims.iter().find(|claim| claim.interface == lease.holder.interface);
        let held = stored.iter().find(|held| held.holder == lease.holder);
        let is_same = |held: &Lease| held.mac == lease.mac && held.addresses == lease.addresses;
        let is_held = held.is_some_and(is_same);
        if !is_held {
            preview.holders.push(lease.holder.interface.clone());
        }
        if is_held || claim.is_some_and(leaves_nothing_to_choose) {
            preview.kept.push(lease);
            continue;
        }
        let chosen = claim.is_some_and(|claim| matches!(claim.mac, MacClaim::Pool | MacClaim::OfAddress));
        if chosen && held.is_none_or(|held| held.mac != lease.mac) {
            preview.without_mac.push(lease.holder.interface.clone());
        }
        preview.new.push(lease);
    }
    Ok(preview)
}

/// The leases and the networks in the store.
fn read(file: &Path) -> Result<(Vec<Lease>, Vec<NetworkRecord>), Failure> {
    if !file.exists() {
        return Ok((Vec::new(), Vec::new()));
    }
    let store = Sqlite::open(file, Access::Read).map_err(Failure::runtime)?;
    let leases = store.leases(None).map_err(Failure::runtime)?;
    Ok((leases, store.networks().map_err(Failure::runtime)?))
}

fn leaves_nothing_to_choose(claim: &Claim) -> bool {
    let fixed = |claim: &AddressClaim| matches!(claim, AddressClaim::Fixed(_));
    claim.mac != MacClaim::Pool && claim.addresses.iter().all(fixed)
}

impl Preview {
    /// Writes the leases that are certain into the plan.
    pub(crate) fn apply_kept(&self, plan: &mut VmPlan) {
        write(&self.kept, plan);
    }

    /// Also writes the leases that would be chosen now into the plan.
    pub(crate) fn apply_all(&self, plan: &mut VmPlan) {
        write(&self.kept, plan);
        write(&self.new, plan);
    }

    /// Interfaces that would get a lease.
    pub(crate) fn new_holders(&self) -> impl Iterator<Item = &str> {
        self.holders.iter().map(String::as_str)
    }

    /// Fails if the MAC of an interface is not known yet, because the flags of its NIC must contain it.
    ///
    /// # Errors
    /// The next step for the operator.
    pub(crate) fn need_macs(&self) -> Result<(), Failure> {
        match &self.without_mac[..] {
            [] => Ok(()),
            [interface, ..] => Err(Failure::usage(
                "no MAC is reserved for it yet, and --print-args does not reserve one: use hawser leases \
                    allocate -f FILE or hawser run, or give macAddress",
            )
            .of(interface)),
        }
    }
}

fn write(leases: &[Lease], plan: &mut VmPlan) {
    for lease in leases {
        let nic = plan.nics.iter_mut().find(|nic| nic.name == lease.holder.interface);
        nic.into_iter().for_each(|nic| apply(nic, lease));
    }
}
