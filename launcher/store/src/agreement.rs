//! Keeps networks apart: one identifier and one set of subnets for each name, and one name for each identifier.
//!
//! The first VM with a lease on a network records the network. The record is binding as long as another VM has a lease
//! on the network. After that it may be replaced, because a network without VMs may be created again.

use crate::error::StoreError;
use crate::holder::{Holder, VmName};
use crate::ledger::Ledger;
use crate::network::NetworkRecord;
use crate::segment::Segment;
use hawser_packet::geneve::Vni;
use std::collections::BTreeSet;

/// A contradiction between two networks, or between two descriptions of one network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The identifier belongs to another network.
    #[error(
        "network {} has the identifier {} in the tunnel, which is that of network {other}, where {holder} has a lease: \
         give one of them another --vni, or release that lease (hawser leases release {}) if it is no longer used",
        asked.name, asked.vni, holder.vm
    )]
    VniTaken {
        /// Network as the VM describes it.
        asked: Box<NetworkRecord>,
        /// Name of the other network.
        other: String,
        /// Holder of a lease on the other network.
        holder: Holder,
    },
    /// The network is known with another identifier or other subnets.
    #[error(
        "network {} has {} here, and {} for {holder}: all VMs of a network must agree; correct one of them, or release \
         that lease (hawser leases release {}) if it is no longer used",
        asked.name, text(asked), text(known), holder.vm
    )]
    Differs {
        /// Network as the VM describes it.
        asked: Box<NetworkRecord>,
        /// Network as it was recorded.
        known: Box<NetworkRecord>,
        /// Holder of a lease on the network.
        holder: Holder,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn text(network: &NetworkRecord) -> String {
    let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
    let subnets = if subnets.is_empty() {
        "no subnet".to_owned()
    } else {
        subnets.join(" and ")
    };
    format!("identifier {} and {subnets}", network.vni)
}

/// Records the networks of a VM's interfaces.
///
/// # Errors
/// [`NetworkError`]. It fails the step, so no record changes.
pub fn agree(ledger: &mut dyn Ledger, vm: &VmName, networks: &[NetworkRecord]) -> Result<(), NetworkError> {
    for asked in networks {
        let known = ledger.networks()?;
        if known.contains(asked) {
            continue;
        }
        let excluded = |known: &&NetworkRecord| known.name == asked.name || known.vni == asked.vni;
        for known in known.iter().filter(excluded) {
            if let Some(holder) = other_holder(ledger, vm, &known.name)? {
                let asked = Box::new(asked.clone());
                return Err(if known.name == asked.name {
                    NetworkError::Differs {
                        asked,
                        known: Box::new(known.clone()),
                        holder,
                    }
                } else {
                    NetworkError::VniTaken {
                        asked,
                        other: known.name.clone(),
                        holder,
                    }
                });
            }
            ledger.remove_network(&known.name)?;
        }
        ledger.put_network(asked)?;
    }
    Ok(())
}

/// The identifier of a network: the recorded one, or else a free one that is derived from the name. If two nodes call
/// this at the same time, they get the same identifier, or one of them loses the race when it records the network.
///
/// # Errors
/// [`StoreError`]
pub fn identifier(ledger: &dyn Ledger, name: &str) -> Result<Vni, StoreError> {
    let known = ledger.networks()?;
    if let Some(network) = known.iter().find(|network| network.name == name) {
        return Ok(network.vni);
    }
    let taken: BTreeSet<Vni> = known.iter().map(|network| network.vni).collect();
    // 0 is excluded, because some programs treat it as "no identifier".
    let first = hash(name) % u32::from(Vni::MAX);
    let candidates = (0..u32::from(Vni::MAX)).map(|n| (first + n) % u32::from(Vni::MAX) + 1);
    let free = candidates.filter_map(Vni::new).find(|vni| !taken.contains(vni));
    // A store cannot contain as many networks as there are identifiers.
    Ok(free.unwrap_or(Vni::MAX))
}

/// FNV-1a, so that all nodes begin the search for a free identifier at the same number.
fn hash(name: &str) -> u32 {
    const BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(PRIME);
    name.bytes().fold(BASIS, mix)
}

/// An interface of another VM that has a lease on a network.
fn other_holder(ledger: &dyn Ledger, vm: &VmName, network: &str) -> Result<Option<Holder>, StoreError> {
    let segment = Segment::Network(network.to_owned());
    let mut leases = ledger.leases(None)?.into_iter();
    let other = leases.find(|lease| lease.segment == segment && lease.holder.vm != *vm);
    Ok(other.map(|lease| lease.holder))
}
