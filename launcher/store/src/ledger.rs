//! What every store does: steps over records.

use crate::error::StoreError;
use crate::holder::{Holder, VmName};
use crate::lease::Lease;
use crate::range::{Number, Span};
use crate::segment::{RangeId, Segment};
use hawser_packet::MacAddr;
use std::net::IpAddr;

/// A place that keeps leases for many processes.
pub trait Store {
    /// Runs `step` on one state of the records. All its changes happen together, or none if it
    /// fails.
    ///
    /// A store that waits for the others before it starts a step runs it once. One that only finds
    /// out at the end that another process has changed what the step read runs it again, on the
    /// newer state. So `step` changes nothing but the ledger, and what follows from its result is
    /// done after this returns.
    ///
    /// # Errors
    /// That of `step`, or a [`StoreError`].
    fn step<T, E: From<StoreError>>(&mut self, step: impl FnMut(&mut dyn Ledger) -> Result<T, E>) -> Result<T, E>;

    /// The leases of one VM, or of all, in the order of their holders, as of one moment. No writer
    /// waits for this.
    ///
    /// # Errors
    /// [`StoreError`]
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError>;
}

/// The records of a store during one [step](Store::step).
///
/// A store that compares at the end needs to compare these: the leases of each VM that was read,
/// and that what [`put`](Self::put) gives out is still free. Cursors and held numbers are hints
/// for the search: another process may change them in between.
pub trait Ledger {
    /// Leases of one VM, or all, in the order of their holders.
    ///
    /// # Errors
    /// [`StoreError`], as of all that follow.
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError>;
    /// The holder of `mac` on a segment.
    fn mac_holder(&self, segment: &Segment, mac: MacAddr) -> Result<Option<Holder>, StoreError>;
    /// The holder of `address` on a segment, or on any.
    fn address_holder(&self, segment: Option<&Segment>, address: IpAddr) -> Result<Option<Holder>, StoreError>;
    /// The first `limit` MACs within `span` that are held on any segment, ascending, each once.
    fn held_macs(&self, span: Span, limit: usize) -> Result<Vec<Number>, StoreError>;
    /// The first `limit` addresses within `span` that are held on a segment, or on any, ascending,
    /// each once.
    fn held_addresses(&self, segment: Option<&Segment>, span: Span, limit: usize) -> Result<Vec<Number>, StoreError>;
    /// The number that was given out last of a range.
    fn cursor(&self, range: &RangeId) -> Result<Option<Number>, StoreError>;
    /// Notes the number that was given out last.
    fn set_cursor(&mut self, range: &RangeId, last: Number) -> Result<(), StoreError>;
    /// Adds a lease whose holder has none.
    fn put(&mut self, lease: &Lease) -> Result<(), StoreError>;
    /// Removes the lease of a holder, if there is one.
    fn remove(&mut self, holder: &Holder) -> Result<(), StoreError>;
}
