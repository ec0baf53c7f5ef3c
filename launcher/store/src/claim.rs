//! Turns the claims of a VM into leases.
//!
//! An interface keeps its lease as long as its claim allows: an address while it is in the ranges, and a MAC even after
//! the manifest no longer names it (as with KubeMacPool). A MAC or address that the manifest names is leased to the
//! interface unless another interface holds it on the same segment. MACs of the pool are unique across segments.

use crate::agreement::NetworkError;
use crate::error::StoreError;
use crate::holder::{Holder, VmName};
use crate::lease::Lease;
use crate::ledger::Ledger;
use crate::range::{self, AddressRange, Number, Span};
use crate::segment::{RangeId, Segment};
use hawser_config::mac_of_address;
use hawser_packet::{MacAddr, MacRange};
use ipnet::IpNet;
use std::net::IpAddr;

/// The MAC and addresses that an interface needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Name of the interface.
    pub interface: String,
    /// Network of the interface: "pod", or namespace/name.
    pub network: String,
    /// L2 segment of the interface.
    pub segment: Segment,
    /// MAC to lease.
    pub mac: MacClaim,
    /// Addresses to lease.
    pub addresses: Vec<AddressClaim>,
}

/// The MAC that an interface requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacClaim {
    /// This MAC, which the manifest names.
    Explicit(MacAddr),
    /// A free MAC of the pool.
    Pool,
    /// The MAC that follows from the interface's IPv4 address, or else from its IPv6 address, by the rule of
    /// OVN-Kubernetes.
    OfAddress,
    /// No MAC is leased, because the segment assigns it.
    Segment,
}

/// An address that an interface requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressClaim {
    /// This address, which the manifest names.
    Fixed(IpNet),
    /// A free address of these ranges.
    OneOf(Vec<AddressRange>, Choice),
}

/// Order in which free addresses are leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The next free address after the one that was leased last (host-local).
    Next,
    /// The lowest free address (whereabouts).
    Lowest,
    /// The lowest address that is free on all segments (whereabouts, which has one pool for all).
    LowestAnywhere,
}

/// The reason why a claim cannot be satisfied.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another interface holds the MAC.
    #[error(
        "MAC {mac} is held by {holder} on the same segment ({segment}): give another macAddress, or release that one \
         (hawser leases release {}) if it is no longer used", holder.vm
    )]
    MacTaken {
        /// MAC that was requested.
        mac: MacAddr,
        /// Interface that holds it.
        holder: Holder,
        /// Segment of both interfaces.
        segment: Box<Segment>,
    },
    /// Another interface holds the address.
    #[error(
        "address {address} is held by {holder} on the same segment ({segment}): give another, or release that one \
         (hawser leases release {}) if it is no longer used", holder.vm
    )]
    AddressTaken {
        /// Address that was requested.
        address: IpAddr,
        /// Interface that holds it.
        holder: Holder,
        /// Segment of both interfaces.
        segment: Box<Segment>,
    },
    /// No MAC is left.
    #[error(
        "every MAC of {0} is in use: widen --mac-range (or KubeMacPool's RANGE_END), or release VMs that are gone (hawser leases list)"
    )]
    NoMac(MacRange),
    /// No address is left.
    #[error("every address of {0} is in use: widen the ranges, or release VMs that are gone (hawser leases list)")]
    NoAddress(String),
    /// The random number generator failed.
    #[error("the system provides no random numbers: {0}")]
    Random(String),
    /// The network of the interface contradicts another network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Leases the claimed MACs and addresses to `vm`, in the order of `claims`. Releases leases of interfaces that are
/// neither claimed nor in `kept`.
///
/// # Errors
/// [`ClaimError`]. It fails the step, so no lease changes.
pub fn claim(
    ledger: &mut dyn Ledger,
    vm: &VmName,
    claims: &[Claim],
    kept: &[String],
    pool: &MacRange,
) -> Result<Vec<Lease>, ClaimError> {
    let held = ledger.leases(Some(vm))?;
    let of = |interface: &str| held.iter().find(|lease| lease.holder.interface == interface);
    if are_met(&held, claims, kept) {
        return Ok(claims
            .iter()
            .filter_map(|claim| of(&claim.interface))
            .cloned()
            .collect());
    }
    for lease in &held {
        if !kept.contains(&lease.holder.interface) {
            ledger.remove(&lease.holder)?;
        }
    }
    // Fixed values come first, then leases already held, then free choices, so that a free choice
    // cannot take a fixed value.
    let mut order: Vec<&Claim> = claims.iter().collect();
    order.sort_by_key(|claim| {
        let explicit = matches!(claim.mac, MacClaim::Explicit(_));
        (!explicit, of(&claim.interface).is_none())
    });
    let mut leases = Vec::new();
    for claim in order {
        let holder = Holder {
            vm: vm.clone(),
            interface: claim.interface.clone(),
        };
        let giver = Giver {
            ledger,
            claim,
            held: of(&claim.interface),
            pool,
        };
        let lease = giver.lease(holder)?;
        ledger.put(&lease)?;
        leases.push(lease);
    }
    let place = |lease: &Lease| {
        claims
            .iter()
            .position(|claim| claim.interface == lease.holder.interface)
    };
    leases.sort_by_key(place);
    Ok(leases)
}

/// True if the VM's leases already satisfy its claims, so that nothing has to change.
fn are_met(held: &[Lease], claims: &[Claim], kept: &[String]) -> bool {
    let known = |lease: &Lease| {
        let name = &lease.holder.interface;
        kept.contains(name) || claims.iter().any(|claim| claim.interface == *name)
    };
    let met = |claim: &Claim| {
        let lease = held.iter().find(|lease| lease.holder.interface == claim.interface);
        lease.is_some_and(|lease| is_met(lease, claim))
    };
    held.iter().all(known) && claims.iter().all(met)
}

fn is_met(lease: &Lease, claim: &Claim) -> bool {
    let mac = match claim.mac {
        MacClaim::Explicit(mac) => lease.mac == Some(mac),
        MacClaim::Pool => lease.mac.is_some(),
        MacClaim::OfAddress => lease.mac.is_some() && mac_of(&lease.addresses).is_none_or(|mac| lease.mac == Some(mac)),
        MacClaim::Segment => lease.mac.is_none(),
    };
    let address = |(claim, address): (&AddressClaim, &IpNet)| match claim {
        AddressClaim::Fixed(fixed) => fixed == address,
        AddressClaim::OneOf(set, _) => width_in(set, address.addr()) == Some(address.prefix_len()),
    };
    mac && lease.network == claim.network
        && lease.segment == claim.segment
        && lease.addresses.len() == claim.addresses.len()
        && claim.addresses.iter().zip(&lease.addresses).all(address)
}

/// Prefix length of the network that contains `address`. `None` if `set` does not allow the address.
fn width_in(set: &[AddressRange], address: IpAddr) -> Option<u8> {
    let is_gateway = set.iter().any(|range| range.gateway == Some(address));
    let range = set
        .iter()
        .find(|range| range.contains(address))
        .filter(|_| !is_gateway)?;
    Some(range.subnet.prefix_len())
}

/// The MAC that follows from addresses. `None` if there is no address.
fn mac_of(addresses: &[IpNet]) -> Option<MacAddr> {
    let mut all = addresses.iter().map(IpNet::addr);
    let first = all.clone().find(IpAddr::is_ipv4).or_else(|| all.next());
    first.map(mac_of_address)
}

/// Creates or updates the lease of one interface.
struct Giver<'a> {
    ledger: &'a mut dyn Ledger,
    claim: &'a Claim,
    held: Option<&'a Lease>,
    pool: &'a MacRange,
}

impl Giver<'_> {
    fn lease(mut self, holder: Holder) -> Result<Lease, ClaimError> {
        let mut addresses: Vec<IpNet> = Vec::new();
        for claim in &self.claim.addresses {
            addresses.push(match claim {
                AddressClaim::Fixed(address) => self.fixed_address(*address)?,
                AddressClaim::OneOf(set, choice) => self.free_address(set, *choice, &addresses)?,
            });
        }
        let mac = match self.claim.mac {
            MacClaim::Explicit(mac) => Some(self.explicit_mac(mac)?),
            MacClaim::OfAddress => match mac_of(&addresses) {
                Some(mac) => Some(self.explicit_mac(mac)?),
                None => Some(self.pool_mac()?),
            },
            MacClaim::Pool => Some(self.pool_mac()?),
            MacClaim::Segment => None,
        };
        Ok(Lease {
            holder,
            network: self.claim.network.clone(),
            segment: self.claim.segment.clone(),
            mac,
            addresses,
        })
    }

    fn explicit_mac(&self, mac: MacAddr) -> Result<MacAddr, ClaimError> {
        match self.ledger.mac_holder(&self.claim.segment, mac)? {
            None => Ok(mac),
            Some(holder) => Err(ClaimError::MacTaken {
                mac,
                holder,
                segment: Box::new(self.claim.segment.clone()),
            }),
        }
    }

    fn pool_mac(&mut self) -> Result<MacAddr, ClaimError> {
        if let Some(mac) = self.held.and_then(|lease| lease.mac)
            && self.ledger.mac_holder(&self.claim.segment, mac)?.is_none()
        {
            return Ok(mac);
        }
        let name = RangeId::Macs(*self.pool);
        let cursor = match self.ledger.cursor(&name)? {
            Some(cursor) => cursor,
            None => {
                let random = getrandom::u64().map_err(|e| ClaimError::Random(e.to_string()))?;
                range::begin(self.pool, random)
            }
        };
        let held = |span: Span, limit| self.ledger.held_macs(span, limit);
        let found = range::next_free(&range::mac_spans(self.pool), Some(cursor), |_| false, held)?;
        let number = found.ok_or(ClaimError::NoMac(*self.pool))?;
        self.ledger.set_cursor(&name, number)?;
        Ok(range::mac(number))
    }

    fn fixed_address(&self, address: IpNet) -> Result<IpNet, ClaimError> {
        match self.ledger.address_holder(Some(&self.claim.segment), address.addr())? {
            None => Ok(address),
            Some(holder) => Err(ClaimError::AddressTaken {
                address: address.addr(),
                holder,
                segment: Box::new(self.claim.segment.clone()),
            }),
        }
    }

    fn free_address(&mut self, set: &[AddressRange], choice: Choice, given: &[IpNet]) -> Result<IpNet, ClaimError> {
        let full = || ClaimError::NoAddress(text(set));
        let network = set.first().ok_or_else(full)?.subnet;
        // Segment on which the address must be free. `None` means all segments.
        let among = (choice != Choice::LowestAnywhere).then_some(&self.claim.segment);
        let net = |address| {
            let width = width_in(set, address)?;
            IpNet::new(address, width).ok()
        };
        let held = self.held.map_or(&[][..], |lease| &lease.addresses);
        for address in held.iter().filter_map(|held| net(held.addr())) {
            if !given.contains(&address) && self.ledger.address_holder(among, address.addr())?.is_none() {
                return Ok(address);
            }
        }
        let name = RangeId::Addresses(self.claim.segment.clone(), network);
        let cursor = match choice {
            Choice::Next => self.ledger.cursor(&name)?,
            Choice::Lowest | Choice::LowestAnywhere => None,
        };
        // The address of a router is never leased.
        let is_excluded = |number: Number| net(range::address(number)).is_none_or(|net| given.contains(&net));
        let held = |span: Span, limit| self.ledger.held_addresses(among, span, limit);
        let found = range::next_free(&range::spans(set), cursor, is_excluded, held)?;
        let number = found.ok_or_else(full)?;
        if choice == Choice::Next {
            self.ledger.set_cursor(&name, number)?;
        }
        net(range::address(number)).ok_or_else(full)
    }
}

/// Formats a set of ranges as FIRST-LAST,FIRST-LAST.
fn text(set: &[AddressRange]) -> String {
    let ranges: Vec<String> = set.iter().map(|r| format!("{}-{}", r.first, r.last)).collect();
    ranges.join(",")
}
