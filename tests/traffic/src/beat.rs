//! Counts what crosses a network in each direction while something happens to the way: datagrams at a steady beat.
//!
//! Both ends send a numbered datagram at each beat. The end in the guest reports, in its own datagrams, what it got. It
//! measures gaps with its own clock, which stands still while its machine is stopped.
//!
//! A guest that does not run has gaps on each of its NICs. What of a gap is that of one NIC is shown by a second one, the
//! witness, which has nothing to do with what happens.

use crate::{Arguments, Failure, Report, any};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use std::{io, iter};

/// Length of a datagram to the guest: the round, and [`WITNESS`] if it comes by the witness; two numbers are unused.
const LEN: usize = 32;
const WITNESS: u64 = 1;

/// Datagrams of a round.
#[derive(Clone, Copy)]
struct Heard {
    count: u64,
    /// Longest time between two of them, or between the first one and the last one of an earlier round.
    longest: Duration,
    last: Instant,
}

impl Heard {
    fn note(&mut self, now: Instant) {
        self.longest = self.longest.max(now - self.last);
        self.count += 1;
        self.last = now;
    }

    fn begin(&mut self) {
        (self.count, self.longest) = (0, Duration::ZERO);
    }
}

/// What this end has got.
struct Ear {
    /// The round in which the other end is. A new one begins the measurement anew.
    round: u64,
    nic: Heard,
    witness: Heard,
    /// Longest time since the last datagram of the NIC in which the witness got nothing either.
    shared: Duration,
    /// Longest gap of the NIC apart from the part of it that is a gap of the witness.
    beyond: Duration,
}

impl Ear {
    const fn new(now: Instant) -> Self {
        let heard = Heard {
            count: 0,
            longest: Duration::ZERO,
            last: now,
        };
        Self {
            round: 0,
            nic: heard,
            witness: heard,
            shared: Duration::ZERO,
            beyond: Duration::ZERO,
        }
    }

    fn note(&mut self, datagram: &[u8; LEN], now: Instant) {
        let (numbers, _) = datagram.as_chunks();
        let [round, way] = [0, 1].map(|n: usize| u64::from_be_bytes(numbers[n]));
        if round < self.round {
            // It has waited in a queue.
            return;
        }
        if round > self.round {
            self.round = round;
            self.nic.begin();
            self.witness.begin();
            self.beyond = Duration::ZERO;
        }
        self.shared = self.shared.max(now - self.nic.last.max(self.witness.last));
        if way == WITNESS {
            self.witness.note(now);
            return;
        }
        let gap = now - self.nic.last;
        self.beyond = self.beyond.max(gap.saturating_sub(self.shared));
        self.shared = Duration::ZERO;
        self.nic.note(now);
    }
}

/// Sends and receives until it is killed. A datagram contains its number, the round, the number of datagrams of the round
/// and the longest gap between them in microseconds, the same of the witness, and the longest gap apart from the part of it
/// that is a gap of the witness.
pub(crate) fn beat(arguments: &Arguments) -> Report {
    let to: SocketAddr = arguments.to()?;
    let witness: Option<SocketAddr> = arguments.get_if("witness")?;
    let every = Duration::from_millis(arguments.get_or("every", 10)?);
    let socket = UdpSocket::bind(SocketAddr::new(any(to), to.port()))?;
    let mut next = Instant::now();
    let mut ear = Ear::new(next);
    for number in 0_u64.. {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let Ear {
            nic, witness: other, ..
        } = &ear;
        let parts = [
            number,
            ear.round,
            nic.count,
            micros(nic.longest),
            other.count,
            micros(other.longest),
            micros(ear.beyond),
        ];
        let parts = parts.map(u64::to_be_bytes);
        // While there is no way, the datagram is lost, which the other end sees.
        for to in iter::once(to).chain(witness) {
            let _ = socket.send_to(parts.as_flattened(), to);
        }
        next += every;
        listen(&socket, &mut ear, next)?;
    }
    Err("the numbers are used up".into())
}

/// Receives until `until`.
fn listen(socket: &UdpSocket, ear: &mut Ear, until: Instant) -> Result<(), Failure> {
    let mut datagram = [0; LEN];
    loop {
        let now = Instant::now();
        let Some(left) = until.checked_duration_since(now).filter(|left| !left.is_zero()) else {
            return Ok(());
        };
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut datagram) {
            Ok(LEN) => ear.note(&datagram, Instant::now()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(()),
            // An ICMP error for an earlier datagram.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
    }
}
