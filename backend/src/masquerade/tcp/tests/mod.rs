//! Connections against an independent TCP (smoltcp) over a bad link, in virtual time.

mod pair;
mod properties;
mod states;
