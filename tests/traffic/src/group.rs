//! Exchanges datagrams with a multicast group: a member counts them, and a sender sends them.

use crate::{Arguments, Report, any};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// TTL that would reach beyond the link, if there were a router.
const TTL: u32 = 8;
const PAYLOAD: &[u8] = b"to the group";

/// Joins a group and receives for some time, or until a number of datagrams have arrived.
pub(crate) fn join(arguments: &Arguments) -> Report {
    let group: SocketAddr = arguments.get("group")?;
    let count: u64 = arguments.get("count")?;
    let socket = UdpSocket::bind(group)?;
    match group.ip() {
        IpAddr::V4(group) => socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?,
        IpAddr::V6(group) => socket.join_multicast_v6(&group, 0)?,
    }
    println!("joined");
    let end = Instant::now() + Duration::from_secs(arguments.get("wait")?);
    let (mut received, mut bytes) = (0, [0; 64]);
    // A member that should receive nothing waits until the time is up.
    while count == 0 || received < count {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        received += u64::from(socket.recv(&mut bytes).is_ok_and(|len| bytes[..len] == *PAYLOAD));
    }
    Ok((received == count, json!({ "received": received })))
}

/// Sends datagrams to a group at intervals of one millisecond.
pub(crate) fn cast(arguments: &Arguments) -> Report {
    let to = arguments.to()?;
    let count: u64 = arguments.get("count")?;
    let socket = UdpSocket::bind(SocketAddr::new(any(to), 0))?;
    socket.set_multicast_ttl_v4(TTL)?;
    for _ in 0..count {
        socket.send_to(PAYLOAD, to)?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok((true, json!({ "sent": count })))
}
