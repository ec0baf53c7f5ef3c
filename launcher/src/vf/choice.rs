//! The virtual function that an interface gets: a lease of a device, in the node's store.

use super::Keeper;
use crate::failure::Failure;
use crate::leases::args::{StoreArgs, StorePlace};
use crate::leases::{self, open};
use crate::vf_pools;
use hawser_host::pci::PciAddress;
use hawser_manifest::plan::{NicPlan, VmPlan};
use hawser_store::sqlite::{Access, DeviceClaim, DeviceError, DeviceLease};
use hawser_store::{Holder, VmName};

/// Chooses the virtual functions of a plan. An interface keeps its function over restarts.
///
/// # Errors
/// No function is left, or the store fails.
pub(crate) fn settle(plan: &mut VmPlan, args: &StoreArgs, keeper: Option<&Keeper>) -> Result<(), Failure> {
    let Some(keeper) = keeper else { return Ok(()) };
    let mut claims = claims(plan, keeper)?;
    if args.store == Some(StorePlace::Off) {
        return Ok(());
    }
    let mut store = open(args, Access::Make)?;
    let may_lack = |name: &str| plan.nics.iter().any(|nic| nic.name == name && nic.lacks_function());
    let given = loop {
        match store.claim_devices(&vm_of(plan), &claims, &plan.absent) {
            Err(DeviceError::None { interface, pool, .. }) if may_lack(&interface) => {
                log::warn!("interface {interface}: no VF of {pool} is left: it gets a macvtap");
                claims.retain(|claim| claim.interface != interface);
            }
            given => break given.map_err(Failure::runtime)?,
        }
    };
    for lease in given {
        log::info!(
            "interface {}: VF {} of {}",
            lease.holder.interface,
            lease.device,
            lease.pool
        );
        write(plan, &lease);
    }
    Ok(())
}

/// Fills in the functions that the interfaces have already, or would get, and changes no lease.
///
/// # Errors
/// The store fails.
pub(crate) fn preview(plan: &mut VmPlan, args: &StoreArgs, keeper: Option<&Keeper>) -> Result<(), Failure> {
    let Some(keeper) = keeper else { return Ok(()) };
    let claims = claims(plan, keeper)?;
    let held = match leases::file(args).filter(|file| file.exists()) {
        Some(_) => open(args, Access::Read)?.device_leases().map_err(Failure::runtime)?,
        None => Vec::new(),
    };
    let vm = vm_of(plan);
    let mut given: Vec<DeviceLease> = Vec::new();
    for claim in claims {
        let holder = Holder {
            vm: vm.clone(),
            interface: claim.interface,
        };
        let mine = held.iter().find(|lease| lease.holder == holder);
        let is_free = |device: &&String| !held.iter().chain(&given).any(|lease| lease.device == **device);
        let device = mine
            .map(|lease| &lease.device)
            .or_else(|| claim.candidates.iter().find(is_free));
        given.extend(device.cloned().map(|device| DeviceLease {
            holder,
            device,
            pool: claim.pool,
        }));
    }
    given.iter().for_each(|lease| write(plan, lease));
    Ok(())
}

fn vm_of(plan: &VmPlan) -> VmName {
    hawser_leases::vm_of(plan)
}

fn write(plan: &mut VmPlan, lease: &DeviceLease) {
    let nic = plan.nics.iter_mut().find(|nic| nic.name == lease.holder.interface);
    if let Some(sriov) = nic.and_then(|nic| nic.mode.sriov_mut()) {
        sriov.device = Some(lease.device.clone());
    }
}

/// The virtual functions of an interface's pool, whether or not they are free.
///
/// # Errors
/// The record of the node, or the choice of the cluster, cannot be read.
pub(super) fn candidates(nic: &NicPlan, keeper: &Keeper) -> Result<Vec<PciAddress>, Failure> {
    let resource = nic.mode.sriov().and_then(|sriov| sriov.network.resource.as_deref());
    match resource {
        Some(resource) => keeper.candidates(resource, &leases::state_folder()?.join(vf_pools::FILE)),
        None => Ok(Vec::new()),
    }
}

fn claims(plan: &VmPlan, keeper: &Keeper) -> Result<Vec<DeviceClaim>, Failure> {
    let mut claims = Vec::new();
    for nic in &plan.nics {
        let Some(sriov) = nic.mode.sriov() else { continue };
        let network = &sriov.network;
        let of_cluster = keeper.cluster.candidates(&nic.name, network.resource.as_deref())?;
        let (pool, candidates) = match (of_cluster, &network.device, &network.resource) {
            (Some(chosen), _, resource) => (resource.clone().unwrap_or_else(|| chosen.join(", ")), chosen),
            (None, Some(device), _) => (device.clone(), vec![device.clone()]),
            (None, None, Some(resource)) => {
                let found = candidates(nic, keeper)?;
                (resource.clone(), found.iter().map(ToString::to_string).collect())
            }
            (None, None, None) => continue,
        };
        claims.push(DeviceClaim {
            interface: nic.name.clone(),
            pool,
            candidates,
        });
    }
    Ok(claims)
}
