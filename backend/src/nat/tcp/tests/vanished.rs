//! Tests of connections from an address that the pod loses. Each test has a network namespace of its own.

use super::sockets::Bench;
use crate::nat::addresses::PodAddresses;
use crate::nat::event_owner;
use crate::nat::test_support::{guest, ip};
use crate::packet::{FlowId, TcpFlags};
use crate::sys::netns::{Network, enter_fresh, run};
use std::net::{SocketAddr, TcpListener, TcpStream};

const POD: &str = "192.0.2.7";

/// Connects the guest's port `port` to `listener` at `address`.
fn connect(bench: &mut Bench, listener: &TcpListener, address: &str, port: u16) -> (FlowId, TcpStream) {
    let remote = SocketAddr::new(ip(address), listener.local_addr().unwrap().port());
    bench.key = FlowId::tcp(guest(remote.ip(), port), remote);
    bench.next = 1000;
    bench.send_syn();
    let (peer, _) = listener.accept().unwrap();
    bench.handle_events();
    bench.take();
    bench.send(TcpFlags::ACK, b"");
    (bench.key, peer)
}

#[test]
fn connections_of_an_address_that_went_are_reset_and_others_go_on() {
    if !enter_fresh() {
        return;
    }
    run(&format!("ip address add {POD}/32 dev lo"));
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let mut bench = Bench::new(0);
    let addresses = PodAddresses::watch(&bench.around.poller).unwrap();
    // A connection to an address of the pod itself also has that address as its source.
    let (lost, _peer) = connect(&mut bench, &listener, POD, 40_000);
    let (kept, _other) = connect(&mut bench, &listener, "10.0.2.9", 40_001);
    run(&format!("ip address del {POD}/32 dev lo"));
    let events = bench.around.events();
    assert!(events.iter().any(|(token, _)| token.owner == event_owner::ADDRESSES));
    assert!(addresses.removed());
    bench.flows.on_addresses_removed(&mut bench.around.context());
    let arrived = bench.take();
    assert_eq!(arrived.len(), 1);
    assert!(arrived[0].header.flags.has(TcpFlags::RST));
    assert_eq!(arrived[0].header.dst_port, lost.guest_port);
    assert!(!bench.flows.has(&lost) && bench.flows.has(&kept));
    assert_eq!(
        bench.flows.deadline(),
        bench.flows.timers.deadline(),
        "nothing is left to check"
    );
}

#[test]
fn a_connection_that_is_being_made_is_forgotten_so_that_the_next_syn_leaves_from_elsewhere() {
    let Some(network) = Network::new(1500) else { return };
    let mut bench = Bench::new(0);
    // No host has this address.
    let remote = SocketAddr::new(ip("192.0.2.99"), 80);
    bench.key = FlowId::tcp(guest(remote.ip(), 40_000), remote);
    bench.send_syn();
    assert_eq!(bench.flows.count(), 1);
    network.pod_run("ip address del 192.0.2.2/24 dev pod0");
    bench.flows.on_addresses_removed(&mut bench.around.context());
    assert_eq!(bench.flows.count(), 0);
    assert_eq!(bench.take().len(), 0);
}
