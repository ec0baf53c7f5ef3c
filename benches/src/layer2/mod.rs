//! Measures two real guests on two nodes, on each network between them in turn.
//!
//! The nodes are namespaces on a bridge with MTU 1500. The guests are connected by hawser's tunnel, by the tunnel of
//! Open vSwitch's user-space datapath with a TAP device for each guest, or without a tunnel by TAP devices and bridges
//! of the kernel.

pub mod footprint;
pub mod results;
pub mod setup;
