//! A bad underlay: a relay that loses, duplicates, delays and marks the datagrams of the tunnel.
//!
//! The kernel of a test machine may lack netem, so the relay is a thread with a packet socket on either side. It takes
//! a node's link out of the underlay's bridge and forwards every frame between the two. Faults hit only datagrams to
//! Geneve's port: addresses are resolved as usual. A fixed seed determines which datagrams are affected.
//!
//! A packet socket sees frames before segmentation and before checksums are computed. The links on both sides therefore
//! have these offloads disabled ([`Nodes::relay`](crate::nodes::Nodes::relay)).

use crate::netns::Namespace;
use crate::{Result, failure};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Geneve's UDP port.
const GENEVE: u16 = 6081;
/// Number of frames that overtake one that is held back.
const OVERTAKEN_BY: u32 = 3;
/// Longest time in milliseconds that a frame is held back if no other arrives.
const HELD_MILLIS: i32 = 5;
/// Size in bytes of the kernel's buffer for each side.
const BUFFER: libc::c_int = 16 << 20;
/// Length of the largest frame of an underlay in bytes.
const LARGEST: usize = 65_536;

/// Faults of the tunnel's datagrams. Shares are in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Share of datagrams that is lost.
    pub lost: u32,
    /// Share of datagrams that arrives twice.
    pub duplicated: u32,
    /// Share of datagrams that arrives after [`OVERTAKEN_BY`] later ones.
    pub overtaken: u32,
    /// Share of datagrams whose last byte gets another value.
    pub corrupted: u32,
    /// ECN field that the outer header gets. `None` leaves it unchanged.
    pub marked: Option<u8>,
}

/// Number of datagrams affected by each fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Number of datagrams of the tunnel.
    pub seen: u64,
    /// Number of datagrams lost on purpose.
    pub lost: u64,
    /// Number of datagrams sent twice.
    pub duplicated: u64,
    /// Number of datagrams held back.
    pub overtaken: u64,
    /// Number of datagrams whose last byte was changed.
    pub corrupted: u64,
    /// Number of frames that the other side's link refused.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Shared {
    faults: Faults,
    counts: Counts,
}

/// A running relay. It stops on drop, and the link stays interrupted.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Mutex<Shared>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _namespace: Namespace,
}

impl Relay {
    /// Forwards frames between two links of `namespace`.
    pub fn start(namespace: Namespace, links: [&str; 2]) -> Result<Self> {
        let sockets = namespace.inside(|| -> io::Result<[OwnedFd; 2]> { Ok([open(links[0])?, open(links[1])?]) })??;
        let (shared, ends) = (
            Arc::new(Mutex::new(Shared::default())),
            Arc::new(AtomicBool::new(false)),
        );
        let mut wire = Wire {
            sides: sockets.map(|socket| Side { socket, held: None }),
            random: 0x2545_f491_4f6c_dd1d,
            shared: Arc::clone(&shared),
        };
        let end = Arc::clone(&ends);
        let thread = thread::Builder::new()
            .name("relay".into())
            .spawn(move || wire.run(&end))?;
        Ok(Self {
            shared,
            ends,
            thread: Some(thread),
            _namespace: namespace,
        })
    }

    /// Sets the faults to apply from now on.
    pub fn set(&self, faults: Faults) {
        lock(&self.shared).faults = faults;
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        lock(&self.shared).counts
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, the panic has been printed.
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A packet socket of one link.
struct Side {
    socket: OwnedFd,
    /// A frame from this side that is held back, and the number of frames that must still overtake it.
    held: Option<(Vec<u8>, u32)>,
}

struct Wire {
    sides: [Side; 2],
    random: u64,
    shared: Arc<Mutex<Shared>>,
}

impl Wire {
    fn run(&mut self, ends: &AtomicBool) {
        let mut frame = vec![0; LARGEST];
        while !ends.load(Ordering::Relaxed) {
            let mut polled = [0, 1].map(|side: usize| libc::pollfd {
                fd: self.sides[side].socket.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            });
            // SAFETY: two valid entries are passed, which live for the call.
            let ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, HELD_MILLIS) };
            for from in 0..2 {
                if ready == 0 {
                    self.release(from);
                }
                while let Some(len) = receive(&self.sides[from].socket, &mut frame) {
                    self.forward(from, &mut frame[..len]);
                }
            }
        }
    }

    fn forward(&mut self, from: usize, frame: &mut [u8]) {
        let Some(ip) = outer_header(frame) else {
            self.send(from, frame);
            return;
        };
        let faults = lock(&self.shared).faults;
        if let Some(ecn) = faults.marked {
            mark(&mut frame[ip..], ecn);
        }
        let [lost, duplicated, overtaken, corrupted] =
            [faults.lost, faults.duplicated, faults.overtaken, faults.corrupted].map(|share| self.happens(share));
        if let Some(last) = frame.last_mut().filter(|_| corrupted) {
            *last ^= 0x40;
        }
        let overtaken = overtaken && self.sides[from].held.is_none();
        {
            let counts = &mut lock(&self.shared).counts;
            counts.seen += 1;
            counts.lost += u64::from(lost);
            counts.duplicated += u64::from(!lost && duplicated);
            counts.overtaken += u64::from(!lost && overtaken);
            counts.corrupted += u64::from(!lost && corrupted);
        }
        if lost {
            return;
        }
        if duplicated {
            self.send(from, frame);
        }
        if overtaken {
            self.sides[from].held = Some((frame.to_vec(), OVERTAKEN_BY));
            return;
        }
        self.send(from, frame);
        if let Some((_, left)) = &mut self.sides[from].held {
            *left -= 1;
            if *left == 0 {
                self.release(from);
            }
        }
    }

    fn release(&mut self, from: usize) {
        if let Some((frame, _)) = self.sides[from].held.take() {
            self.send(from, &frame);
        }
    }

    fn send(&self, from: usize, frame: &[u8]) {
        let to = self.sides[1 - from].socket.as_raw_fd();
        // SAFETY: the bytes live for the call.
        let sent = unsafe { libc::send(to, frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            lock(&self.shared).counts.refused += 1;
        }
    }

    /// True in `share` of 1000 calls. The numbers are Marsaglia's xorshift64.
    fn happens(&mut self, share: u32) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < u64::from(share)
    }
}

/// Offset of the IP header of a tunnel datagram. `None` for any other frame.
fn outer_header(frame: &[u8]) -> Option<usize> {
    const ETHERNET: usize = 14;
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (protocol, transport) = match word(12)? {
        0x0800 => (
            *frame.get(ETHERNET + 9)?,
            ETHERNET + 4 * usize::from(frame[ETHERNET] & 15),
        ),
        0x86dd => (*frame.get(ETHERNET + 6)?, ETHERNET + 40),
        _ => return None,
    };
    (protocol == 17 && word(transport + 2)? == GENEVE).then_some(ETHERNET)
}

/// Sets the ECN field of an IP header.
fn mark(packet: &mut [u8], ecn: u8) {
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & 0xcf | ecn << 4;
        return;
    }
    packet[1] = packet[1] & 0xfc | ecn;
    packet[10..12].fill(0);
    let header = 4 * usize::from(packet[0] & 15);
    let words = packet[..header]
        .chunks_exact(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !(sum + (sum >> 16)) & 0xffff;
    packet[10..12].copy_from_slice(&sum.to_be_bytes()[2..]);
}

fn receive(socket: &OwnedFd, frame: &mut [u8]) -> Option<usize> {
    // SAFETY: the bytes are writable for the call.
    let len = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(len).ok()
}

/// A socket that receives every frame arriving at `link`, and that sends frames to it.
fn open(link: &str) -> io::Result<OwnedFd> {
    let all = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    let name = CString::new(link)?;
    // SAFETY: `name` is a string that ends with NUL. socket(2) takes plain numbers.
    let (index, fd) = unsafe {
        (
            libc::if_nametoindex(name.as_ptr()),
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0),
        )
    };
    if index == 0 || fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER),
        // Without this option, the frames sent here would come back.
        (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
    ] {
        // SAFETY: the option is a plain number of the given size.
        let done = unsafe {
            libc::setsockopt(
                fd,
                level,
                option,
                (&raw const value).cast(),
                libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = all;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the address lives for the call and has the given length.
    match unsafe { libc::bind(fd, (&raw const address).cast(), len) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Creates a namespace for a relay, in which the kernel sends nothing on the links.
pub(crate) fn namespace() -> Result<Namespace> {
    let namespace = Namespace::new()?;
    namespace
        .sysctl("net/ipv6/conf/default/disable_ipv6", "1")
        .map_err(|error| failure(format!("a relay needs links without addresses: {error}")))?;
    Ok(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_ipv4_header_has_the_right_checksum_and_an_ipv6_header_its_class() {
        // RFC 1071: the sum over a header that includes its checksum is zero if the checksum is correct.
        let mut packet = [
            0x45, 0xb8, 0, 84, 0x1c, 0x46, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ];
        mark(&mut packet, 3);
        let sum: u32 = packet
            .chunks_exact(2)
            .map(|p| u32::from(p[0]) << 8 | u32::from(p[1]))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(packet[1], 0xbb);
        let mut packet = [0x6b, 0x8f, 0, 0];
        mark(&mut packet, 1);
        assert_eq!(packet, [0x6b, 0x9f, 0, 0]);
    }

    #[test]
    fn only_datagrams_to_geneves_port_are_the_tunnels() {
        let mut frame = [0; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[14 + 9] = 17;
        frame[36..38].copy_from_slice(&6081_u16.to_be_bytes());
        assert_eq!(outer_header(&frame), Some(14));
        frame[37] += 1;
        assert_eq!(outer_header(&frame), None);
        frame[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(outer_header(&frame), None);
        assert_eq!(outer_header(&frame[..20]), None);
    }
}
