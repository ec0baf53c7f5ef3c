//! Two real guests on two nodes, on each network between them in turn.
//!
//! The nodes are namespaces on a bridge with MTU 1500. Between the guests is hawser's tunnel, that of Open vSwitch's
//! user-space datapath with a TAP device for each guest, or no tunnel: TAP devices and bridges of the kernel.

pub mod results;
pub mod setup;
