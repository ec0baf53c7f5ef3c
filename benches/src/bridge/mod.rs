//! A real guest on a Linux bridge: hawser in bridge mode, the plain reference on the same kind of
//! device, and a bare loop that moves frames of 64 KiB.

pub mod large_frames;
pub mod results;
pub mod setup;
