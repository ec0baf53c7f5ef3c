//! Counts what crosses a network in each direction while something happens to the way: datagrams at a steady beat.
//!
//! Both ends send a numbered datagram at each beat. The end in the guest reports, in its own datagrams, what it got. It
//! measures gaps with its own clock, which stands still while its machine is stopped.

use crate::{Arguments, Failure, Report, any};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use std::{io, iter};

/// Length of a datagram: four numbers.
const LEN: usize = 32;

/// What this end has got.
struct Heard {
    /// The round in which the other end is. A new one begins the measurement anew.
    round: u64,
    /// Datagrams of the round.
    count: u64,
    /// Longest time between two of them.
    longest: Duration,
    last: Instant,
}

impl Heard {
    fn note(&mut self, datagram: &[u8; LEN], now: Instant) {
        let [round, ..] = numbers(datagram);
        if round != self.round {
            (self.round, self.count, self.longest) = (round, 0, Duration::ZERO);
        } else {
            self.longest = self.longest.max(now - self.last);
        }
        self.count += 1;
        self.last = now;
    }
}

fn numbers(datagram: &[u8; LEN]) -> [u64; 4] {
    let (numbers, _) = datagram.as_chunks();
    [0, 1, 2, 3].map(|n| u64::from_be_bytes(numbers[n]))
}

/// Sends and receives until it is killed. A datagram contains its number, the round, and the number of datagrams of the
/// round and the longest gap between them in microseconds.
pub(crate) fn beat(arguments: &Arguments) -> Report {
    let to: SocketAddr = arguments.to()?;
    // A second NIC of the guest, which shows what of a gap is not that of the first one.
    let witness: Option<SocketAddr> = arguments.get_if("witness")?;
    let every = Duration::from_millis(arguments.get_or("every", 10)?);
    let socket = UdpSocket::bind(SocketAddr::new(any(to), to.port()))?;
    let mut heard = Heard {
        round: 0,
        count: 0,
        longest: Duration::ZERO,
        last: Instant::now(),
    };
    let mut next = Instant::now();
    for number in 0_u64.. {
        let micros = u64::try_from(heard.longest.as_micros()).unwrap_or(u64::MAX);
        let parts = [number, heard.round, heard.count, micros].map(u64::to_be_bytes);
        // While there is no way, the datagram is lost, which the other end sees.
        for to in iter::once(to).chain(witness) {
            let _ = socket.send_to(parts.as_flattened(), to);
        }
        next += every;
        listen(&socket, &mut heard, next)?;
    }
    Err("the numbers are used up".into())
}

/// Receives until `until`.
fn listen(socket: &UdpSocket, heard: &mut Heard, until: Instant) -> Result<(), Failure> {
    let mut datagram = [0; LEN];
    loop {
        let now = Instant::now();
        let Some(left) = until.checked_duration_since(now).filter(|left| !left.is_zero()) else {
            return Ok(());
        };
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut datagram) {
            Ok(LEN) => heard.note(&datagram, Instant::now()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(()),
            // An ICMP error for an earlier datagram.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
    }
}
