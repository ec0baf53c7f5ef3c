//! Loads saved flows of an untrusted host, for a fuzz target. Flows that load are used, and saved again.
//!
//! The input consists of one byte for the kind, eight bytes that choose what happens to the flows, and the envelope.
//! Sockets are bound to the loopback and connected to themselves, so nothing leaves the host.

use super::{Payload, PayloadError, from_bytes, to_bytes};
use crate::config::Families;
use crate::nat::icmp::{EchoFlows, SavedEchoSocket};
use crate::nat::tcp::rough_play::{Rng, play_saved};
use crate::nat::tcp::{SavedSecret, SavedTcpFlow};
use crate::nat::testing::Surroundings;
use crate::nat::udp::{SavedUdpFlow, UdpConfig, UdpFlows};
use crate::poller::{EventBuffer, Readiness, Token};
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Maximum values that one input loads. Each takes a socket.
const MAX_VALUES: usize = 8;
/// Number of times at which timers run.
const TURNS: usize = 4;
/// Longest time between two such times.
const LONGEST_TURN_MS: u64 = 200_000;

/// Loads and uses the flows that `input` describes. An input may be refused.
///
/// # Errors
/// The system has no descriptor left.
///
/// # Panics
/// A value that this process saved cannot be read. A fuzzer looks for this.
pub fn use_saved(input: &[u8]) -> io::Result<()> {
    let Some((&[kind, ref seed @ ..], bytes)) = input.split_first_chunk::<9>() else {
        return Ok(());
    };
    let seed = seed.first_chunk().map_or(0, |seed| u64::from_be_bytes(*seed));
    let mut around = Surroundings::make(|_| {})?;
    let mut rng = Rng::new(seed);
    match kind % 4 {
        0 => use_tcp(&mut around, &mut rng, &values(bytes)),
        1 => use_udp(&mut around, &mut rng, &values(bytes))?,
        2 => use_echo(&mut around, &mut rng, &values(bytes))?,
        _ => {
            let secrets: Vec<SavedSecret> = values(bytes);
            read_back(&secrets);
        }
    }
    Ok(())
}

fn values<T: Payload + DeserializeOwned>(bytes: &[u8]) -> Vec<T> {
    let mut values: Vec<T> = from_bytes(bytes).unwrap_or_default();
    values.truncate(MAX_VALUES);
    values
}

/// Checks that this process reads what it writes.
fn read_back<T: Payload + Serialize + DeserializeOwned>(values: &[T]) -> Vec<T> {
    let bytes = to_bytes(values);
    let read = from_bytes(&bytes);
    read.unwrap_or_else(|error: PayloadError| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
}

fn use_tcp(around: &mut Surroundings, rng: &mut Rng, flows: &[SavedTcpFlow]) {
    flows.iter().for_each(|flow| play_saved(flow, around, rng));
    read_back(flows);
}

fn use_udp(around: &mut Surroundings, rng: &mut Rng, values: &[SavedUdpFlow]) -> io::Result<()> {
    let new = || {
        let families = Families { ipv4: true, ipv6: true };
        UdpFlows::new(UdpConfig { max_flows: 4, families })
    };
    let mut flows = new();
    for value in values {
        let _ = flows.load(&mut around.context(), value, socket(rng)?);
    }
    for _ in 0..TURNS {
        around.sink.room = rng.index(4);
        for (token, ready) in events(around)? {
            flows.on_event(&mut around.context(), token, ready);
        }
        flows.on_room(&mut around.context());
        around.now = around.now + Duration::from_millis(rng.below(LONGEST_TURN_MS));
        flows.on_timer(&mut around.context());
        let saved: Vec<_> = flows.save(around.now).map(|(value, _)| value).collect();
        let mut next = new();
        for value in read_back(&saved) {
            let loaded = next.load(&mut around.context(), &value, socket(rng)?);
            loaded.unwrap_or_else(|error| panic!("{error}: {value:?}"));
        }
    }
    Ok(())
}

fn use_echo(around: &mut Surroundings, rng: &mut Rng, values: &[SavedEchoSocket]) -> io::Result<()> {
    let mut flows = EchoFlows::new();
    for value in values {
        let _ = flows.load(&around.context(), value, socket(rng)?);
    }
    for _ in 0..TURNS {
        around.sink.room = rng.index(4);
        for (token, ready) in events(around)? {
            flows.on_event(&mut around.context(), token, ready);
        }
        around.now = around.now + Duration::from_millis(rng.below(LONGEST_TURN_MS));
        flows.on_timer(around.now);
        let saved: Vec<_> = flows.save(around.now).map(|(value, _)| value).collect();
        read_back(&saved);
    }
    Ok(())
}

/// A datagram socket of one of the families, connected to itself. A datagram may wait in its queue.
fn socket(rng: &mut Rng) -> io::Result<Socket> {
    let (domain, address): (_, IpAddr) = match rng.index(3) {
        0 => (Domain::IPV6, Ipv6Addr::LOCALHOST.into()),
        _ => (Domain::IPV4, Ipv4Addr::LOCALHOST.into()),
    };
    let socket = Socket::new(domain, Type::DGRAM.cloexec(), None)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    socket.connect(&socket.local_addr()?)?;
    if rng.index(2) == 0 {
        socket.send(&[0; 40])?;
    }
    Ok(socket)
}

fn events(around: &Surroundings) -> io::Result<Vec<(Token, Readiness)>> {
    let mut events = Vec::new();
    let mut buffer = EventBuffer::with_capacity(MAX_VALUES);
    let at_once = Some(Duration::ZERO);
    around
        .poller
        .wait(&mut buffer, at_once, |token, ready| events.push((token, ready)))?;
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::saved::golden;

    fn use_golden<T: Payload + Serialize + DeserializeOwned>(kind: u8) {
        for (name, values) in golden::all::<T>() {
            for seed in 0..20u64 {
                let head = [&[kind][..], &seed.to_be_bytes()].concat();
                use_saved(&[head, to_bytes(&values)].concat()).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }

    #[test]
    fn the_flows_of_all_golden_files_can_be_used() {
        use_golden::<SavedTcpFlow>(0);
        use_golden::<SavedUdpFlow>(1);
        use_golden::<SavedEchoSocket>(2);
    }
}
