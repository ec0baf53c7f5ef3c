//! Tests of guest ports outside the kernel's range.

use super::sockets::Bench;
use crate::nat::test_support::{guest, host_seen, ip};
use crate::packet::FlowId;
use crate::packet::TcpFlags;
use crate::sys::netns::enter_fresh;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::net::{TcpListener, TcpStream};

/// A port for an NFS server that requires clients below 1024.
const PRIVILEGED: u16 = 700;
/// An unprivileged port outside net.ipv4.ip_local_port_range.
const UNUSUAL: u16 = 20_000;

/// The port `listener` sees when the guest connects to it from `from`.
fn seen(bench: &mut Bench, listener: &TcpListener, from: u16) -> (u16, TcpStream) {
    let at = listener.local_addr().unwrap();
    let like = if at.is_ipv4() { "10.0.2.9" } else { "fd10:0:2::9" };
    let remote = host_seen(ip(like), at.port());
    bench.key = FlowId::tcp(guest(remote.ip(), from), remote);
    bench.next = 1000;
    bench.send_syn();
    let (peer, address) = listener.accept().unwrap();
    bench.handle_events();
    let answers = bench.take();
    assert_eq!(answers[0].header.flags, TcpFlags::SYN | TcpFlags::ACK);
    (address.port(), peer)
}

#[test]
fn a_port_the_kernel_does_not_give_out_is_kept_towards_several_peers() {
    if !enter_fresh() {
        return;
    }
    let mut bench = Bench::new(0);
    let mut peers = Vec::new();
    // Both families are in use at once and do not interfere with each other.
    for address in ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        for from in [PRIVILEGED, UNUSUAL] {
            let (port, peer) = seen(&mut bench, &listener, from);
            assert_eq!(port, from, "{address}");
            peers.push((peer, listener.try_clone().unwrap()));
        }
    }
}

#[test]
fn a_port_that_is_taken_is_replaced() {
    if !enter_fresh() {
        return;
    }
    let mut bench = Bench::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Another program listens there.
    let other = TcpListener::bind(("127.0.0.1", UNUSUAL)).unwrap();
    assert_ne!(seen(&mut bench, &listener, UNUSUAL).0, UNUSUAL);
    drop(other);
    assert_eq!(seen(&mut bench, &listener, UNUSUAL + 1).0, UNUSUAL + 1);
    // Both ends are already in use, but the guest's first connection has been forgotten.
    let mut another = Bench::new(0);
    assert_ne!(seen(&mut another, &listener, UNUSUAL + 1).0, UNUSUAL + 1);
}

#[test]
fn a_privileged_port_is_kept_if_the_system_lets_all_users_bind_it() {
    if !enter_fresh() {
        return;
    }
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::NET_BIND_SERVICE);
    set_capabilities(None, sets).unwrap();
    let mut bench = Bench::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_ne!(seen(&mut bench, &listener, PRIVILEGED).0, PRIVILEGED);
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").unwrap();
    assert_eq!(seen(&mut bench, &listener, PRIVILEGED + 1).0, PRIVILEGED + 1);
}
