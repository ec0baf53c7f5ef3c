//! MACs and addresses of a plan's NICs.
//!
//! Before a plan is served, the claims of its NICs go to the store ([`settle`]), and the resulting leases go into the
//! plan. The crate `hawser_leases` decides both; here the store is found and opened.

pub(crate) mod args;
mod preview;

pub(crate) use preview::preview;

use self::args::{StoreArgs, StorePlace};
use crate::failure::Failure;
use hawser_leases::apply;
use hawser_manifest::objects::ipam::Ipam;
use hawser_manifest::plan::{NicPlan, VmPlan};
use hawser_store::Lease;
use hawser_store::sqlite::{Access, Sqlite};
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Assigns permanent MACs and addresses to the NICs of a plan.
///
/// # Errors
/// The store fails, or cannot satisfy a claim.
pub(crate) fn settle(plan: &mut VmPlan, args: &StoreArgs) -> Result<(), Failure> {
    if args.store == Some(StorePlace::Off) {
        return plan.nics.iter_mut().try_for_each(without_store);
    }
    let mut store = open(args, Access::Make)?;
    let leases = hawser_leases::reserve(&mut store, plan, &args.pool(plan.mac_range));
    for lease in leases.map_err(Failure::runtime)? {
        log::info!("interface {}: lease of {}", lease.holder.interface, held(&lease));
        let nic = plan.nics.iter_mut().find(|nic| nic.name == lease.holder.interface);
        nic.into_iter().for_each(|nic| apply(nic, &lease));
    }
    Ok(())
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

/// The MAC and addresses of a lease, as text.
pub(crate) fn held(lease: &Lease) -> String {
    let mac = lease.mac.map_or("-".into(), |mac| mac.to_string());
    let addresses = lease.addresses.iter().map(ToString::to_string);
    std::iter::once(mac).chain(addresses).collect::<Vec<String>>().join(" ")
}

/// Opens the store that the options select.
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
/// (StateDirectory=), or else in a directory of root's or of the user's (XDG Base Directory Specification). The
/// directory is created if necessary.
fn default_file(access: Access) -> Result<PathBuf, Failure> {
    let folder = state_folder_name()?;
    let file = folder.join(FILE);
    if access == Access::Make {
        make_state_folder(&folder).map_err(|error| {
            let problem = hawser_store::StoreProblem::Folder(error);
            let store = file.display().to_string();
            Failure::runtime(hawser_store::StoreError { store, problem })
        })?;
    }
    Ok(file)
}

/// The directory of the default store, which is created if necessary.
///
/// # Errors
/// There is none, or it cannot be created.
pub(crate) fn state_folder() -> Result<PathBuf, Failure> {
    let folder = state_folder_name()?;
    make_state_folder(&folder).map_err(|error| Failure::runtime(format_args!("{}: {error}", folder.display())))?;
    Ok(folder)
}

/// Creates the directory, accessible only to its owner, as the XDG specification requires.
fn make_state_folder(folder: &Path) -> io::Result<()> {
    const OWNER_ONLY: u32 = 0o700;
    DirBuilder::new().recursive(true).mode(OWNER_ONLY).create(folder)
}

fn state_folder_name() -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    if let Some(folders) = set("STATE_DIRECTORY") {
        // Several directories are separated by colons.
        let folders = folders.to_string_lossy().into_owned();
        Ok(PathBuf::from(folders.split(':').next().unwrap_or_default()))
    } else if rustix::process::geteuid().is_root() {
        Ok(PathBuf::from("/var/lib/hawser"))
    } else if let Some(state) = set("XDG_STATE_HOME") {
        Ok(PathBuf::from(state).join("hawser"))
    } else if let Some(home) = set("HOME") {
        Ok(PathBuf::from(home).join(".local/state/hawser"))
    } else {
        Err(Failure::usage(
            "there is no known directory of the user for leases (HOME is not set): name a file with \
             --store=PATH, or give --store=off",
        ))
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
