//! Tests of clients of forwarded ports.

use super::*;
use crate::mode::{ForwardSocket, GuestPort};

#[test]
fn clients_reach_the_guest_and_are_answered_from_the_port_they_asked() {
    for address in BOTH {
        let host_port = free_port();
        let mut bench = listening(&[forward(host_port, 5353, None)]);
        let gateway = if ip(address).is_ipv4() {
            "10.0.2.1"
        } else {
            "fd10:0:2::1"
        };
        let clients = [peer(address), peer(address), peer(address)];
        let to = SocketAddr::new(ip(address), host_port);
        for (client, port) in &clients {
            client.send_to(b"one", to).unwrap();
            let seen = SocketAddr::new(ip(gateway), *port);
            let server = guest(ip(address), 5353);
            assert_eq!(bench.receive(1), [(seen, server, b"one".to_vec())]);
            bench.send(server, seen, b"answer");
            assert_eq!(take(client), (b"answer".to_vec(), to));
            client.send_to(b"two", to).unwrap();
            assert_eq!(bench.receive(1), [(seen, server, b"two".to_vec())]);
        }
        assert_eq!(bench.flows.len(), 3);
    }
}

#[test]
fn a_client_of_any_port_reaches_that_port_and_the_guest_may_use_it_towards_others() {
    for address in BOTH {
        let mut bench = Bench::new();
        let socket = socket::listening_at_any_port(SocketAddr::new(ip(address), 0)).unwrap();
        let asked = socket.local_addr().unwrap().as_socket().unwrap();
        let listening = ForwardSocket {
            socket,
            at: asked,
            guest_port: GuestPort::AsAsked,
        };
        bench.flows.adopt(listening, &bench.around.poller).unwrap();
        let (client, _) = peer(address);
        client.send_to(b"one", asked).unwrap();
        let (seen, server, body) = bench.receive(1).remove(0);
        assert_eq!((server, body), (guest(ip(address), asked.port()), b"one".to_vec()));
        bench.send(server, seen, b"answer");
        assert_eq!(take(&client), (b"answer".to_vec(), asked));
        // Datagrams from the same guest port to another peer keep the port.
        let (other, port) = peer(address);
        bench.send(server, host_seen(ip(address), port), b"hello");
        assert_eq!(take(&other).1.port(), asked.port());
        assert_eq!(bench.flows.len(), 2);
    }
}

#[test]
fn a_burst_of_many_new_clients_is_delivered_whole() {
    let host_port = free_port();
    let mut bench = listening(&[forward(host_port, 7, Some(ip("127.0.0.1")))]);
    let clients: Vec<_> = (0..10).map(|_| peer("127.0.0.1")).collect();
    for n in 0..3u8 {
        for (client, _) in &clients {
            client.send_to(&[n], ("127.0.0.1", host_port)).unwrap();
        }
    }
    let mut got = bench.receive(30);
    got.sort();
    let mut want: Vec<_> = clients
        .iter()
        .flat_map(|(_, port)| (0..3u8).map(|n| (*port, n)))
        .map(|(port, n)| {
            (
                SocketAddr::new(ip("10.0.2.1"), port),
                guest(ip("127.0.0.1"), 7),
                vec![n],
            )
        })
        .collect();
    want.sort();
    assert_eq!(got, want);
}

#[test]
fn a_flood_of_clients_does_not_push_out_what_the_guest_began() {
    let host_port = free_port();
    let mut bench = listening(&[forward(host_port, 7, None)]);
    let (server, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    bench.send(src, dst, b"x");
    let (_, from) = take(&server);
    for _ in 0..100 {
        let (client, _) = peer("127.0.0.1");
        client.send_to(b"flood", ("127.0.0.1", host_port)).unwrap();
        bench.receive(1);
    }
    assert_eq!(bench.flows.len(), 1 + 64 / 4);
    server.send_to(b"still here", from).unwrap();
    assert_eq!(bench.receive(1)[0].2, b"still here");
}

#[test]
fn a_busy_port_is_an_error_that_names_it() {
    let (_busy, port) = peer("127.0.0.1");
    let mut bench = Bench::new();
    let error = bench.flows.listen(&[forward(port, port, None)], &bench.around.poller);
    let text = error.unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("--port udp:{port}: port {port} is in use")),
        "{text}"
    );
    // Two processes that would both share the port still detect each other.
    let port = free_port();
    let _first = listening(&[forward(port, port, None)]);
    let mut second = Bench::new();
    assert!(
        second
            .flows
            .listen(&[forward(port, port, None)], &second.around.poller)
            .is_err()
    );
}

#[test]
fn an_address_of_a_family_the_guest_has_not_is_an_error() {
    let mut bench = Bench::with(
        Surroundings::new(),
        UdpConfig {
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            ..config()
        },
    );
    let forwards = [forward(free_port(), 1, Some(ip("::1")))];
    let error = bench.flows.listen(&forwards, &bench.around.poller).unwrap_err();
    assert!(
        matches!(error, crate::nat::listen::ListenError::FamilyOff { .. }),
        "{error}"
    );
}
