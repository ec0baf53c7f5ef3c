//! Tests of connections against an independent TCP (smoltcp) over a bad link, in virtual time, and of the table of
//! connections with loopback sockets.

mod closing;
mod driver;
mod following;
mod keepalive;
mod opening;
mod own_port;
mod pair;
mod pressure;
mod prohibited;
mod properties;
mod saved;
mod saved_damage;
mod saved_sockets;
mod saved_states;
mod sockets;
mod states;
mod timestamps;
mod trace;
mod urgent;
mod vanished;
