//! `hawser cloud-init`: prints cloud-init network data that matches a VM's manifests.

use crate::cli::CloudInitArgs;
use crate::failure::Failure;
use crate::leases;
use crate::validate;
use hawser_manifest::check::Checked;
use hawser_manifest::cloud_init;

/// Runs `hawser cloud-init`: prints the network data for the VM's NICs.
///
/// # Errors
/// The manifests cannot be served, or a NIC's MAC is not known.
pub(crate) fn run(args: &CloudInitArgs) -> Result<(), Failure> {
    let Checked { plan, warnings } = validate::check(&args.manifest)?.map_err(validate::tell_rejected)?;
    validate::tell(&warnings);
    let mut settled = plan.clone();
    if cloud_init::leaves_open(&plan) {
        leases::settle(&mut settled, &args.store)?;
    }
    // The addresses remain those of the manifest, because DHCP hands out leased addresses.
    let macs: Vec<_> = settled.nics.iter().map(|nic| nic.mac).collect();
    crate::output::print(&cloud_init::network_data(&plan, &macs).map_err(Failure::usage)?)
}
