//! Tests of the program in a network namespace of its own. They need root and `ip`.

use super::*;
use crate::config::{PortSet, Transport};
use crate::sys::datagram::{watch_local_address, watch_local_port};
use crate::sys::netns;
use crate::sys::receive_batch::ReceiveBatch;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use socket2::Domain;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

/// One socket of each kind and family.
struct Sockets {
    tcp: Vec<Socket>,
    udp: Vec<Socket>,
}

impl Sockets {
    fn new() -> Self {
        let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 0);
        let tcp = LOOPBACK.map(|a| TcpListener::bind(at(a)).unwrap().into());
        let udp = LOOPBACK.map(|a| {
            let socket: Socket = UdpSocket::bind(at(a)).unwrap().into();
            let domain = domain(&socket);
            watch_local_address(&socket, domain).unwrap();
            watch_local_port(&socket, domain).unwrap();
            socket
        });
        Self {
            tcp: tcp.into(),
            udp: udp.into(),
        }
    }

    fn attach(&self, ports: &PortSet) -> Result<SocketLookup, LookupError> {
        let taker = |is_udp| {
            move |socket| Taker {
                is_udp,
                is_ipv6: domain(socket) == Domain::IPV6,
                socket,
            }
        };
        let tcp = self.tcp.iter().map(taker(false));
        let udp = self.udp.iter().map(taker(true));
        SocketLookup::attach(&tcp.chain(udp).collect::<Vec<_>>(), ports.words())
    }
}

fn domain(socket: &Socket) -> Domain {
    socket.local_addr().unwrap().domain()
}

fn every_port_but(kept: u16) -> PortSet {
    let mut ports = PortSet::default();
    for transport in [Transport::Tcp, Transport::Udp] {
        ports.insert(transport, 1..=u16::MAX);
        ports.remove(transport, kept..=kept);
    }
    ports
}

fn connect(address: &str, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::new(address.parse().unwrap(), port), Duration::from_secs(5))
}

/// The local address and port of the next datagram.
fn asked(socket: &Socket) -> Option<SocketAddr> {
    let mut batch = ReceiveBatch::with_capacity(1);
    for _ in 0..100 {
        if batch.receive_to_spill(socket, 1).unwrap() == 1 {
            let message = batch.message(0);
            return Some(SocketAddr::new(message.local?, message.local_port?));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

#[test]
fn every_port_leads_to_its_socket_and_a_kept_one_to_its_own() {
    const KEPT: u16 = 2222;
    if !netns::enter_fresh() {
        return;
    }
    let sockets = Sockets::new();
    let lookup = sockets.attach(&every_port_but(KEPT)).unwrap();
    for (n, address) in LOOPBACK.into_iter().enumerate() {
        let own = TcpListener::bind((address, KEPT)).unwrap();
        for port in [1, 80, 2221, 2223, 32_768, u16::MAX] {
            let client = connect(address, port).unwrap();
            let (accepted, from) = sockets.tcp[n].accept().unwrap();
            let local = accepted.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(
                (local, from.as_socket()),
                (client.peer_addr().unwrap(), client.local_addr().ok())
            );

            let client = UdpSocket::bind((address, 0)).unwrap();
            client.send_to(b"?", (address, port)).unwrap();
            assert_eq!(
                asked(&sockets.udp[n]),
                Some(SocketAddr::new(address.parse().unwrap(), port))
            );
        }
        let client = connect(address, KEPT).unwrap();
        assert_eq!(own.accept().unwrap().1, client.local_addr().unwrap());
        // A connected socket has priority over every assigned port.
        let (one, other) = (
            UdpSocket::bind((address, 0)).unwrap(),
            UdpSocket::bind((address, 0)).unwrap(),
        );
        one.connect(other.local_addr().unwrap()).unwrap();
        other.send_to(b"!", one.local_addr().unwrap()).unwrap();
        assert_eq!(one.recv(&mut [0; 8]).unwrap(), 1);
    }
    assert!(matches!(
        Sockets::new().attach(&every_port_but(KEPT)),
        Err(LookupError::Taken)
    ));
    drop(lookup);
    for address in LOOPBACK {
        assert_eq!(
            connect(address, 80).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
    drop(sockets.attach(&PortSet::default()).unwrap());
}

#[test]
fn a_program_that_is_handed_over_leads_to_the_sockets_until_its_new_owner_drops_it() {
    if !netns::enter_fresh() {
        return;
    }
    let sockets = Sockets::new();
    let lookup = sockets.attach(&every_port_but(22)).unwrap();
    let (record, descriptors) = lookup.into_handover();
    connect(LOOPBACK[0], 80).unwrap();
    let record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    let lookup = SocketLookup::take_over(record, &mut descriptors.into_iter()).unwrap();
    connect(LOOPBACK[1], 80).unwrap();
    drop(lookup);
    for address in LOOPBACK {
        let refused = connect(address, 80).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}

/// The result of attaching the program with only these capabilities.
fn attach_with(effective: CapabilitySet) -> Option<Result<(), LookupError>> {
    let thread = std::thread::spawn(move || {
        if !netns::enter_fresh() {
            return None;
        }
        let sockets = Sockets::new();
        let mut sets = capabilities(None).unwrap();
        sets.effective = effective;
        // This affects the calling thread only.
        set_capabilities(None, sets).unwrap();
        Some(sockets.attach(&every_port_but(22)).map(drop))
    });
    thread.join().unwrap()
}

#[test]
fn two_capabilities_are_enough_and_without_them_the_answer_says_so() {
    let Some(enough) = attach_with(CapabilitySet::NET_ADMIN | CapabilitySet::BPF) else {
        return;
    };
    enough.unwrap();
    let error = attach_with(CapabilitySet::empty()).unwrap().unwrap_err();
    assert!(matches!(error, LookupError::NotPermitted), "{error:?}");
    assert!(error.to_string().contains("CAP_NET_ADMIN and CAP_BPF"));
}
