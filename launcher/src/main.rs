//! `hawser`: everything that is not a packet.

fn main() {}
