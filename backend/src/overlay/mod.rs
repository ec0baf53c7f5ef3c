//! Layer2 mode: a guest on a network that spans nodes. Frames travel between processes as Geneve
//! (RFC 8926) in UDP datagrams; each process is an endpoint of its own.

pub mod forwarding;
