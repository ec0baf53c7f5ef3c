//! Contacts many hosts or ports at once, like monitoring and port scanners.

use crate::{Arguments, Failure, Report};
use serde_json::json;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Identifier of all requests. It is the same as on Windows.
const IDENTIFIER: u16 = 1;
/// Sequence number of all requests.
const SEQUENCE: u16 = 7;
/// Number of requests before a pause, because a link has a finite queue.
const BURST: u32 = 32;
const PAUSE: Duration = Duration::from_millis(2);
/// How long to wait for the last reply.
const TAIL: Duration = Duration::from_secs(3);
const RECEIVE_BUFFER: usize = 4 << 20;

fn add(to: IpAddr, n: u32) -> IpAddr {
    match to {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + n).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + u128::from(n)).into()),
    }
}

fn octets(of: IpAddr) -> Vec<u8> {
    match of {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Computes the checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(0)
}

/// An echo request with its destination address as payload.
fn request(to: IpAddr) -> Vec<u8> {
    let mut bytes = vec![if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    bytes.extend(IDENTIFIER.to_be_bytes());
    bytes.extend(SEQUENCE.to_be_bytes());
    bytes.extend(octets(to));
    // The kernel computes the checksum of ICMPv6, which also covers addresses.
    if to.is_ipv4() {
        let sum = checksum(&bytes).to_be_bytes();
        bytes[2..4].copy_from_slice(&sum);
    }
    bytes
}

/// Replies to requests.
#[derive(Default)]
struct Replies {
    /// Hosts that have answered from their own address.
    hosts: BTreeSet<IpAddr>,
    /// Number of replies from another host, or to another request.
    wrong: u64,
}

impl Replies {
    /// Reads all replies that have arrived.
    fn take(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let mut buffer = [0; 512];
        loop {
            let (len, from) = match socket.recv_from(&mut buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let message = match from {
                SocketAddr::V4(_) => buffer[..len].get(usize::from(buffer[0] & 15) * 4..).unwrap_or_default(),
                SocketAddr::V6(_) => &buffer[..len],
            };
            let kind = if from.is_ipv4() { 0 } else { 129 };
            if message.first() != Some(&kind) {
                continue;
            }
            let expected = request(from.ip());
            if message.get(4..) == Some(&expected[4..]) {
                self.hosts.insert(from.ip());
            } else {
                self.wrong += 1;
            }
        }
    }
}

/// Sends requests with one identifier to many hosts at once. Succeeds if each host answers for itself.
pub(crate) fn sweep(arguments: &Arguments) -> Report {
    let to: IpAddr = arguments.get("to")?;
    let hosts: u32 = arguments.get("hosts")?;
    let (domain, protocol) = if to.is_ipv4() {
        (Domain::IPV4, Protocol::ICMPV4)
    } else {
        (Domain::IPV6, Protocol::ICMPV6)
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // A smaller buffer works if replies are read quickly.
    let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    let socket = UdpSocket::from(socket);
    let mut replies = Replies::default();
    for n in 0..hosts {
        let host = add(to, n);
        socket.send_to(&request(host), SocketAddr::new(host, 0))?;
        if n % BURST == 0 {
            thread::sleep(PAUSE);
            replies.take(&socket)?;
        }
    }
    let sent = Instant::now();
    while replies.hosts.len() < usize::try_from(hosts)? && sent.elapsed() < TAIL {
        thread::sleep(PAUSE);
        replies.take(&socket)?;
    }
    let answered = replies.hosts.len();
    let report = json!({ "asked": hosts, "answered": answered, "wrong": replies.wrong });
    Ok((answered == usize::try_from(hosts)? && replies.wrong == 0, report))
}

/// Opens connections to consecutive ports, reports that, and keeps them until it is killed.
pub(crate) fn scan(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let ports: u16 = arguments.get("ports")?;
    let last = to
        .port()
        .checked_add(ports)
        .ok_or_else(|| Failure::from("ports end at 65535"))?;
    let mut held = Vec::new();
    for port in to.port()..last {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&SocketAddr::new(to.ip(), port).into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        held.push(socket);
    }
    println!("asked {}", held.len());
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_checksum_that_makes_its_sum_zero() {
        let bytes = request("192.0.2.77".parse().unwrap());
        assert_eq!(checksum(&bytes), 0);
        assert_eq!(bytes[8..], [192, 0, 2, 77]);
    }
}
