//! What is seen of a migration from outside, each by a thread of its own until the end.

use super::now;
use hawser_testkit::Result;
use hawser_testkit::migrating::Client;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Longest time until a thread notices that it should end.
const LOOK: Duration = Duration::from_millis(100);
/// Time between two samples of a rate.
const SAMPLE: Duration = Duration::from_millis(50);
/// Time between two round trips.
const BEAT: Duration = Duration::from_millis(10);
/// A frame of the guest's beat: Ethernet, IPv4 and UDP headers, and seven numbers.
const FRAME: usize = 14 + 20 + 8 + 56;

/// A datagram of the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Time since 1970.
    pub at: Duration,
}

/// Bytes that the world has received until a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Time since 1970.
    pub at: Duration,
    /// Bytes.
    pub bytes: u64,
}

/// A request to the guest and its reply, on one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    /// Time of the request since 1970.
    pub at: Duration,
    /// Time until the reply.
    pub took: Duration,
}

/// Samples that a thread takes.
#[derive(Debug)]
pub(super) struct Watch<T>(Arc<Mutex<Vec<T>>>);

impl<T: Send + 'static> Watch<T> {
    /// Takes samples until `sample` fails. `sample` may return none within [`LOOK`].
    fn start(mut sample: impl FnMut() -> Result<Option<T>> + Send + 'static) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let weak = Arc::downgrade(&samples);
        thread::spawn(move || {
            while let Ok(taken) = sample() {
                let Some(samples) = weak.upgrade() else { return };
                samples.lock().unwrap_or_else(PoisonError::into_inner).extend(taken);
            }
        });
        Self(samples)
    }

    /// The samples. The thread ends.
    pub(super) fn end(self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Watch<Arrival> {
    /// Datagrams of the beat at a socket of the world.
    pub(super) fn datagrams(socket: &UdpSocket) -> Result<Self> {
        let socket = socket.try_clone()?;
        socket.set_read_timeout(Some(LOOK))?;
        let mut datagram = [0; FRAME];
        Ok(Self::start(move || {
            Ok(socket.recv(&mut datagram).ok().map(|_| Arrival { at: now() }))
        }))
    }

    /// Frames of the beat on the witness.
    pub(super) fn frames(socket: &UnixDatagram) -> Result<Self> {
        let socket = socket.try_clone()?;
        socket.set_read_timeout(Some(LOOK))?;
        let mut frame = [0; 2 * FRAME];
        Ok(Self::start(move || {
            let len = socket.recv(&mut frame).ok();
            Ok(len.filter(|len| *len == FRAME).map(|_| Arrival { at: now() }))
        }))
    }
}

impl Watch<Rate> {
    /// Bytes that have arrived, from the counters of a namespace's links (proc_net_dev(5)).
    pub(super) fn rates(mut counters: File) -> Self {
        let mut text = String::new();
        Self::start(move || {
            thread::sleep(SAMPLE);
            text.clear();
            counters.rewind()?;
            counters.read_to_string(&mut text)?;
            let links = text.lines().filter_map(|line| line.trim_start().split_once(':'));
            let nodes = links.filter(|(name, _)| name.starts_with("node"));
            let received = nodes.filter_map(|(_, numbers)| numbers.split_whitespace().next()?.parse::<u64>().ok());
            let (at, bytes) = (now(), received.sum());
            Ok(Some(Rate { at, bytes }))
        })
    }
}

impl Watch<RoundTrip> {
    /// Round trips of a connection, until it ends.
    pub(super) fn round_trips(mut client: Client) -> Result<Self> {
        client.exchange("first")?;
        Ok(Self::start(move || {
            let at = now();
            client.exchange("again")?;
            let took = now().saturating_sub(at);
            thread::sleep(BEAT.saturating_sub(took));
            Ok(Some(RoundTrip { at, took }))
        }))
    }
}
