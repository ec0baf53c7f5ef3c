//! The interface of every store: atomic steps over records.

use crate::error::StoreError;
use crate::holder::{Holder, VmName};
use crate::lease::Lease;
use crate::network::NetworkRecord;
use crate::range::{Number, Span};
use crate::segment::{RangeId, Segment};
use hawser_packet::MacAddr;
use std::net::IpAddr;

/// A store of leases that several processes share.
pub trait Store {
    /// Runs `step` on one state of the records, atomically: if it fails, no record changes.
    ///
    /// A store that locks before a step runs it once. A store that detects conflicts at the end runs it again, on the
    /// newer state. So `step` must change only the ledger. The caller acts on the result after this returns.
    ///
    /// # Errors
    /// The error of `step`, or a [`StoreError`].
    fn step<T, E: From<StoreError>>(&mut self, step: impl FnMut(&mut dyn Ledger) -> Result<T, E>) -> Result<T, E>;

    /// A consistent list of the leases of one VM, or of all VMs, in the order of their holders. Does not block writers.
    ///
    /// # Errors
    /// [`StoreError`]
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError>;
}

/// The records of a store during one [step](Store::step).
///
/// A store that detects conflicts at the end must check two things: that the leases of each VM that was read are
/// unchanged, and that everything added by [`put`](Self::put) is still free. Cursors and held numbers are only hints
/// for the search, because another process may change them in the meantime.
pub trait Ledger {
    /// Leases of one VM, or of all VMs, in the order of their holders.
    ///
    /// # Errors
    /// [`StoreError`]; the same for the methods below.
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError>;
    /// The holder of `mac` on a segment, if there is one.
    fn mac_holder(&self, segment: &Segment, mac: MacAddr) -> Result<Option<Holder>, StoreError>;
    /// The holder of `address` on a segment or, without one, on any segment.
    fn address_holder(&self, segment: Option<&Segment>, address: IpAddr) -> Result<Option<Holder>, StoreError>;
    /// The first `limit` MACs within `span` that are held on any segment, in ascending order and without duplicates.
    fn held_macs(&self, span: Span, limit: usize) -> Result<Vec<Number>, StoreError>;
    /// The first `limit` addresses within `span` that are held on a segment, or on any, in ascending order and without
    /// duplicates.
    fn held_addresses(&self, segment: Option<&Segment>, span: Span, limit: usize) -> Result<Vec<Number>, StoreError>;
    /// The number of a range that was leased last.
    fn cursor(&self, range: &RangeId) -> Result<Option<Number>, StoreError>;
    /// Records the number that was leased last.
    fn set_cursor(&mut self, range: &RangeId, last: Number) -> Result<(), StoreError>;
    /// Adds a lease. Its holder must not have one.
    fn put(&mut self, lease: &Lease) -> Result<(), StoreError>;
    /// Removes the lease of a holder, if there is one.
    fn remove(&mut self, holder: &Holder) -> Result<(), StoreError>;
    /// The networks that all nodes share, in the order of their names.
    fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError>;
    /// Adds a network whose name and identifier are not in use.
    fn put_network(&mut self, network: &NetworkRecord) -> Result<(), StoreError>;
    /// Removes the network with this name, if there is one.
    fn remove_network(&mut self, name: &str) -> Result<(), StoreError>;
}
