//! The end of the beat outside the guest, on two ways: that of the failover pair, and that of a NIC of QEMU's own, the
//! witness. hawser has no part in the witness, so its gaps are those of the machine, of QEMU and of the guest.

use hawser_backend::packet::{MacAddr, checksum};
use hawser_testkit::segment::{HOST4, Segment};
use hawser_testkit::{Result, until};
use std::fmt;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Port of both ends, and the time between two datagrams.
pub(crate) const BEAT: u16 = 7100;
const EVERY: Duration = Duration::from_millis(10);
/// Length of a datagram of the guest: seven numbers.
const REPORT: usize = 56;
/// The guest on the way of the pair.
const GUEST4: &str = "192.0.2.50";
/// The guest on the way of the witness.
pub(crate) const WITNESS4: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
pub(crate) const WITNESS_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0x16, 2]);
/// The other end of that way.
pub(crate) const FAR4: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
pub(crate) const FAR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0x16, 3]);

/// Socket at which the QEMU called `name` gets the frames of the witness.
pub(crate) fn near(segment: &Segment, name: &str) -> PathBuf {
    segment.path(&format!("{name}-witness"))
}

/// Socket at which frames of the witness arrive.
pub(crate) fn far(segment: &Segment) -> PathBuf {
    segment.path("witness")
}

/// What crosses in each direction.
#[derive(Debug, Default)]
pub(crate) struct Crossed {
    round: u64,
    sent: u64,
    /// Longest time between two datagrams that this end sent, which the machine's load determines.
    longest_send: Duration,
    /// First and last number of the guest's datagrams, and how many came.
    out: Option<(u64, u64, u64)>,
    longest_out: Duration,
    last_out: Option<Instant>,
    /// Datagrams that the guest has got on each way, and the longest time between two of them, by its own clock.
    inward: [(u64, Duration); 2],
    /// Longest gap of the first way apart from the part of it that is a gap of the witness too.
    beyond: Duration,
}

impl Crossed {
    fn note(&mut self, datagram: &[u8; REPORT]) {
        let (numbers, _) = datagram.as_chunks();
        let [number, round, count, micros, others, other_micros, beyond] =
            [0, 1, 2, 3, 4, 5, 6].map(|n: usize| u64::from_be_bytes(numbers[n]));
        let (first, _, seen) = self.out.unwrap_or((number, number, 0));
        self.out = Some((first, number, seen + 1));
        let now = Instant::now();
        if let Some(last) = self.last_out.replace(now) {
            self.longest_out = self.longest_out.max(now - last);
        }
        if round == self.round {
            let way = |count, micros| (count, Duration::from_micros(micros));
            self.inward = [way(count, micros), way(others, other_micros)];
            self.beyond = Duration::from_micros(beyond);
        }
    }

    /// Longest gap of the first way that is neither one of the witness nor one of this end.
    pub(crate) fn beyond(&self) -> Duration {
        self.beyond.saturating_sub(self.longest_send.saturating_sub(EVERY))
    }

    /// Datagrams of the guest that did not come.
    pub(crate) fn lost_out(&self) -> u64 {
        self.out
            .map_or(0, |(first, last, count)| (last + 1 - first).saturating_sub(count))
    }
}

impl fmt::Display for Crossed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(count, longest), (_, witness)] = self.inward;
        write!(
            f,
            "in {count} of {}, longest gap {longest:?} by the guest's clock, {witness:?} of the witness, {:?} beyond it; \
             out {} lost, longest gap {:?}; this end sent with gaps up to {:?}",
            self.sent,
            self.beyond,
            self.lost_out(),
            self.longest_out,
            self.longest_send
        )
    }
}

/// The beat.
pub(crate) struct Beat(Arc<Mutex<Crossed>>);

impl Beat {
    /// Starts it with the witnesses of these QEMUs, of which those that do not exist yet get nothing.
    pub(crate) fn start(segment: &Segment, names: &[&str]) -> Result<Self> {
        let socket = segment.host.inside(|| UdpSocket::bind((HOST4, BEAT)))??;
        let receiver = socket.try_clone()?;
        let witness = UnixDatagram::bind(far(segment))?;
        witness.set_nonblocking(true)?;
        let witnesses: Vec<PathBuf> = names.iter().map(|name| near(segment, name)).collect();
        let crossed = Arc::new(Mutex::new(Crossed::default()));
        let (sent, got) = (Arc::downgrade(&crossed), Arc::clone(&crossed));
        thread::spawn(move || {
            let mut last = Instant::now();
            while let Some(crossed) = sent.upgrade() {
                let mut crossed = crossed.lock().unwrap_or_else(PoisonError::into_inner);
                let numbers = |way| [crossed.round, way, 0, 0].map(u64::to_be_bytes);
                // Before the guest has an address, nobody takes it.
                let _ = socket.send_to(numbers(0).as_flattened(), (GUEST4, BEAT));
                let frame = frame(numbers(1).as_flattened());
                for at in &witnesses {
                    let _ = witness.send_to(&frame, at);
                }
                // What the witness sends is not looked at, and would fill the queue.
                while witness.recv(&mut [0; 64]).is_ok() {}
                crossed.sent += 1;
                crossed.longest_send = crossed.longest_send.max(last.elapsed());
                drop(crossed);
                last = Instant::now();
                thread::sleep(EVERY);
            }
        });
        thread::spawn(move || {
            let mut datagram = [0; REPORT];
            loop {
                // An error is one of an earlier datagram.
                if receiver.recv(&mut datagram).is_err() {
                    continue;
                }
                got.lock().unwrap_or_else(PoisonError::into_inner).note(&datagram);
            }
        });
        Ok(Self(crossed))
    }

    /// Begins to count anew. Returns what has crossed until now.
    pub(crate) fn begin(&self) -> Crossed {
        let mut crossed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let round = crossed.round + 1;
        std::mem::replace(
            &mut *crossed,
            Crossed {
                round,
                ..Crossed::default()
            },
        )
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Crossed) -> T) -> T {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until frames have crossed in both directions for a while.
    pub(crate) fn wait_for_traffic(&self) -> Result<()> {
        const SOME: u64 = 50;
        let counts = || {
            self.read(|crossed| {
                let [(nic, _), (witness, _)] = crossed.inward;
                [nic, witness, crossed.out.map_or(0, |(_, _, count)| count)]
            })
        };
        let before = counts();
        until("frames cross in both directions", || {
            let now = counts();
            Ok(now.iter().zip(before).all(|(now, before)| *now >= before + SOME))
        })
    }
}

/// The frame of a datagram to the guest's witness.
fn frame(payload: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    // Without a checksum, which UDP on IPv4 allows.
    let ports = [BEAT.to_be_bytes(), BEAT.to_be_bytes()].concat();
    let udp = [&ports[..], &length(8 + payload.len()), &[0, 0], payload].concat();
    let mut ip = [&[0x45, 0][..], &length(20 + udp.len()), &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
    ip.extend(FAR4.octets());
    ip.extend(WITNESS4.octets());
    let sum = checksum::of(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    [&WITNESS_MAC.0[..], &FAR_MAC.0, &[8, 0], &ip, &udp].concat()
}
