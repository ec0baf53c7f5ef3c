//! What the whole-program tests stand on: guests, network namespaces, peers and a front end in process.

pub mod frontend;
