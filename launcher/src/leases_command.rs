//! `hawser leases`: reserve, list and release the MACs and addresses of VMs.

use crate::cli::ManifestArgs;
use crate::cli::leases::{LeasesCommand, ListLeases, ReleaseLeases, ReserveLeases};
use crate::failure::Failure;
use crate::leases::{held, open};
use crate::validate;
use hawser_store::sqlite::{Access, DeviceLease};
use hawser_store::{Lease, Ledger, Store as _, StoreError};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Runs the subcommand.
///
/// # Errors
/// The command cannot be executed.
pub(crate) fn run(command: &LeasesCommand) -> Result<(), Failure> {
    match command {
        LeasesCommand::Allocate(args) => allocate(args),
        LeasesCommand::List(args) => list(args),
        LeasesCommand::Release(args) => release(args),
    }
}

/// Runs `hawser leases allocate`. Prints the leases of each VM as soon as they are stored.
fn allocate(args: &ReserveLeases) -> Result<(), Failure> {
    let manifest = ManifestArgs {
        sources: args.sources.clone(),
        socket_dir: PathBuf::new(),
        plan: args.plan.clone(),
    };
    let plans = validate::check_all(&manifest)?.map_err(validate::tell_rejected)?;
    let mut store = open(&args.store, Access::Make)?;
    for plan in &plans {
        let of_vm = |error| Failure::runtime(format_args!("{}/{}: {error}", plan.namespace, plan.name));
        let leases = hawser_leases::reserve(&mut store, plan, &args.store.pool(plan.mac_range)).map_err(of_vm)?;
        crate::output::print(&text(&leases))?;
    }
    Ok(())
}

/// Runs `hawser leases list`
fn list(args: &ListLeases) -> Result<(), Failure> {
    let store = open(&args.store, Access::Read)?;
    let leases = store.leases(args.vm.as_ref()).map_err(Failure::runtime)?;
    let devices = store.device_leases().map_err(Failure::runtime)?;
    if args.json {
        let leases: Vec<Value> = leases.iter().map(|lease| as_json(lease, &devices)).collect();
        let text = serde_json::to_string_pretty(&leases).map_err(Failure::runtime)?;
        return crate::output::print(&(text + "\n"));
    }
    crate::output::print(&text_with(&leases, &devices))
}

/// Runs `hawser leases release`
fn release(args: &ReleaseLeases) -> Result<(), Failure> {
    let mut store = open(&args.store, Access::Change)?;
    let released = |ledger: &mut dyn Ledger| -> Result<Vec<Lease>, StoreError> {
        let mut leases = ledger.leases(Some(&args.vm))?;
        leases.retain(|lease| {
            let name = &lease.holder.interface;
            args.interface.as_ref().is_none_or(|wanted| wanted == name)
        });
        leases.iter().try_for_each(|lease| ledger.remove(&lease.holder))?;
        Ok(leases)
    };
    let leases = store.step(released).map_err(Failure::runtime)?;
    let devices = store.release_devices(&args.vm, args.interface.as_deref());
    let devices = devices.map_err(Failure::runtime)?;
    if leases.is_empty() {
        let of = args.interface.as_ref().map(|name| format!(" for interface {name}"));
        return Err(Failure::runtime(format_args!(
            "VM {} holds no lease{}: hawser leases list names those that do",
            args.vm,
            of.unwrap_or_default()
        )));
    }
    crate::output::print(&text_with(&leases, &devices))
}

/// One line for each lease: VM, interface, network, MAC, addresses.
fn text(leases: &[Lease]) -> String {
    text_with(leases, &[])
}

/// The same, with the VF of an interface that has one.
fn text_with(leases: &[Lease], devices: &[DeviceLease]) -> String {
    let line = |lease: &Lease| {
        let Lease { holder, network, .. } = lease;
        let device = device_of(lease, devices).map(|device| format!(" VF {device}"));
        let device = device.unwrap_or_default();
        format!("{} {} {network} {}{device}\n", holder.vm, holder.interface, held(lease))
    };
    leases.iter().map(line).collect()
}

fn device_of<'a>(lease: &Lease, devices: &'a [DeviceLease]) -> Option<&'a str> {
    let found = devices.iter().find(|device| device.holder == lease.holder);
    found.map(|found| found.device.as_str())
}

fn as_json(lease: &Lease, devices: &[DeviceLease]) -> Value {
    let mut value = json!({
        "namespace": lease.holder.vm.namespace,
        "vm": lease.holder.vm.name,
        "interface": lease.holder.interface,
        "network": lease.network,
        "segment": lease.segment.to_string(),
        "mac": lease.mac.map(|mac| mac.to_string()),
        "addresses": lease.addresses,
    });
    if let Some(device) = device_of(lease, devices) {
        value["device"] = device.into();
    }
    value
}
