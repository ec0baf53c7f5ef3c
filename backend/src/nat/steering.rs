//! Passes frames and flows from one worker to another, for ports with several queue pairs.
//!
//! A flow belongs to the worker that created it. The guest chooses the transmit ring of each frame, usually by the CPU
//! on which the program runs, so a frame may arrive at a worker that does not own its flow. That worker looks up the
//! owner ([`flow_owners`](super::flow_owners)) and passes it a copy. With one queue pair, none of this is used.
//!
//! A flow moves to another worker when the guest has disabled its owner's queue pair, or permanently sends it on
//! another pair ([`moving`](super::moving)). The flow is put into the new owner's mailbox before the owner is recorded.
//! So if a recorded owner does not have the flow in its table, it finds the flow in its mailbox.

use super::event_owner;
use super::flow_owners::Owners;
use super::{tcp, udp};
use crate::frame::{GuestFrame, Offload};
use crate::packet::{FlowId, Head, MacAddr};
use crate::poller::{Interest, Poller, Token};
use ipnet::Ipv6Net;
use std::io;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Maximum bytes of frames that may wait for one worker.
const MAILBOX: usize = 4 << 20;

/// A frame passed from one worker to another.
pub struct Handed {
    /// The whole frame, beginning with the Ethernet header.
    pub bytes: Vec<u8>,
    /// Parsed head of the frame.
    pub parsed: Head,
    /// Offload metadata of the frame.
    pub offload: Offload,
    /// The worker on whose ring it arrived.
    pub from: usize,
}

debug_fields!(Handed { from });

/// A flow on its way to another worker.
#[derive(Debug)]
pub enum MovedFlow {
    /// A TCP connection.
    Tcp(tcp::MovedFlow),
    /// A UDP flow.
    Udp(udp::MovedFlow),
}

#[derive(Default)]
struct Contents {
    flows: Vec<MovedFlow>,
    frames: Vec<Handed>,
    bytes: usize,
}

struct Mailbox {
    contents: Mutex<Contents>,
    wake: EventFd,
    /// True if the worker's queue pair is enabled.
    is_up: AtomicBool,
}

impl Mailbox {
    fn ring(&self) {
        // The write fails only if the counter is at its maximum, and then the owner wakes up anyway.
        let _ = self.wake.write(1);
    }
}

/// State shared by the workers of a port.
pub struct Directory {
    /// The guest's MAC as a number, 0 until a frame of the guest has arrived.
    guest_mac: AtomicU64,
    /// The interface identifier of the address that the guest formed and used last, 0 for none.
    guest_identifier: AtomicU64,
    owners: Vec<Owners>,
    mailboxes: Vec<Mailbox>,
}

debug_fields!(Directory { guest_mac });

impl Directory {
    /// Creates a directory for `workers` workers. `None` for a single worker, which owns all flows.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(workers: usize) -> io::Result<Option<Arc<Self>>> {
        if workers < 2 {
            return Ok(None);
        }
        let mailboxes = (0..workers)
            .map(|_| {
                Ok(Mailbox {
                    contents: Mutex::default(),
                    wake: EventFd::new(EFD_NONBLOCK)?,
                    is_up: AtomicBool::new(false),
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Some(Arc::new(Self {
            guest_mac: AtomicU64::new(0),
            guest_identifier: AtomicU64::new(0),
            owners: Owners::of_workers(workers),
            mailboxes,
        })))
    }
}

/// One worker's access to the shared state.
#[derive(Clone)]
pub struct Steering {
    me: usize,
    owners: Owners,
    directory: Arc<Directory>,
}

debug_fields!(Steering { me });

impl Steering {
    /// Access for worker `me`, whose poller reports frames passed to it.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn new(directory: Arc<Directory>, me: usize, poller: &Poller) -> io::Result<Self> {
        let token = Token::new(event_owner::HANDOVER, 0);
        poller.add(&directory.mailboxes[me].wake, token, Interest::ReadLevel)?;
        let owners = directory.owners[me].clone();
        Ok(Self { me, owners, directory })
    }

    /// The directory of flows.
    pub const fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Publishes the guest's MAC to the other workers.
    pub fn tell_guest_mac(&self, mac: MacAddr) {
        let [a, b, c, d, e, f] = mac.0;
        let number = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        self.directory.guest_mac.store(number, Ordering::Relaxed);
    }

    /// The guest's MAC, once a worker has seen it.
    pub fn guest_mac(&self) -> Option<MacAddr> {
        let number = self.directory.guest_mac.load(Ordering::Relaxed);
        let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
        (number != 0).then_some(MacAddr([a, b, c, d, e, f]))
    }

    /// Publishes the guest's address in its 64-bit prefix to the other workers.
    pub fn tell_guest_address(&self, address: Ipv6Addr) {
        let [.., a, b, c, d, e, f, g, h] = address.octets();
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        self.directory.guest_identifier.store(number, Ordering::Relaxed);
    }

    /// The guest's address in `prefix`, once a worker has seen one that the guest formed.
    pub fn guest_address(&self, prefix: Ipv6Net) -> Option<Ipv6Addr> {
        let number = self.directory.guest_identifier.load(Ordering::Relaxed);
        (number != 0).then(|| Ipv6Addr::from_bits(prefix.network().to_bits() | u128::from(number)))
    }

    /// Sets whether this worker's queue pair is enabled. Enabling a pair wakes the workers whose pairs are disabled,
    /// because it may take their flows.
    pub fn set_up(&self, up: bool) {
        let was = self.directory.mailboxes[self.me].is_up.swap(up, Ordering::AcqRel);
        if up && !was {
            self.others(false)
                .for_each(|other| self.directory.mailboxes[other].ring());
        }
    }

    /// True if this worker's queue pair is enabled.
    pub fn is_up(&self) -> bool {
        self.directory.mailboxes[self.me].is_up.load(Ordering::Acquire)
    }

    /// The other workers whose queue pairs are enabled (`up`) or disabled.
    pub fn others(&self, up: bool) -> impl Iterator<Item = usize> {
        let all = self.directory.mailboxes.iter().enumerate();
        all.filter(move |&(worker, mailbox)| worker != self.me && mailbox.is_up.load(Ordering::Acquire) == up)
            .map(|(worker, _)| worker)
    }

    /// Passes a copy of `frame` to worker `owner`. False if the mailbox of that worker is full.
    pub fn hand_over(&self, owner: usize, frame: &GuestFrame<'_>) -> bool {
        let mailbox = &self.directory.mailboxes[owner];
        let mut contents = lock(&mailbox.contents);
        if contents.bytes + frame.len > MAILBOX {
            return false;
        }
        let mut bytes = vec![0; frame.len];
        frame.copy_to(0, &mut bytes);
        contents.bytes += frame.len;
        contents.frames.push(Handed {
            bytes,
            parsed: frame.parsed,
            offload: frame.offload,
            from: self.me,
        });
        let is_first = contents.frames.len() == 1;
        drop(contents);
        if is_first {
            mailbox.ring();
        }
        true
    }

    /// Hands a flow to worker `owner`.
    pub fn give(&self, owner: usize, key: FlowId, flow: MovedFlow) {
        let mailbox = &self.directory.mailboxes[owner];
        let mut contents = lock(&mailbox.contents);
        contents.flows.push(flow);
        // The owner must be assigned first: once it has the flow, it may end it or move it again.
        self.owners.assign(key, owner);
        drop(contents);
        mailbox.ring();
    }

    /// Takes the frames that were passed to this worker.
    pub fn take(&self) -> Vec<Handed> {
        let mailbox = &self.directory.mailboxes[self.me];
        // If there is nothing to read, two wake-ups have been merged.
        let _ = mailbox.wake.read();
        let mut contents = lock(&mailbox.contents);
        contents.bytes = 0;
        std::mem::take(&mut contents.frames)
    }

    /// Takes the flows that were moved to this worker.
    pub fn take_flows(&self) -> Vec<MovedFlow> {
        std::mem::take(&mut lock(&self.directory.mailboxes[self.me].contents).flows)
    }
}

fn lock(contents: &Mutex<Contents>) -> MutexGuard<'_, Contents> {
    contents.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::testing::OwnedFrame;
    use crate::nat::flow_owners;
    use std::net::SocketAddr;

    fn key(port: u16) -> FlowId {
        let (guest, remote) = ([10, 0, 2, 2], [192, 0, 2, 1]);
        FlowId::tcp(SocketAddr::new(guest.into(), port), SocketAddr::new(remote.into(), 80))
    }

    fn pair() -> (Steering, Steering) {
        let directory = Directory::new(2).unwrap().unwrap();
        let poller = Poller::new().unwrap();
        let other = Poller::new().unwrap();
        let first = Steering::new(Arc::clone(&directory), 0, &poller).unwrap();
        (first, Steering::new(directory, 1, &other).unwrap())
    }

    #[test]
    fn one_worker_needs_no_directory() {
        assert!(Directory::new(1).unwrap().is_none());
    }

    #[test]
    fn a_flow_belongs_to_its_creator_until_it_ends() {
        let (a, b) = pair();
        let (a, b) = (a.owners(), b.owners());
        let claim = a.claim(key(1));
        assert_eq!(
            (a.owner(&key(1)), b.owner(&key(1))),
            (Some(flow_owners::Owner::Me), Some(flow_owners::Owner::Worker(0)))
        );
        assert_eq!(b.owner(&key(2)), None);
        let anew = b.claim(key(1));
        drop(claim);
        assert_eq!(
            a.owner(&key(1)),
            Some(flow_owners::Owner::Worker(1)),
            "the later claim stands"
        );
        drop(anew);
        assert_eq!(a.owner(&key(1)), None);
    }

    #[test]
    fn a_worker_that_comes_up_wakes_those_with_unused_pairs() {
        let (a, b) = pair();
        assert!(!a.is_up());
        a.set_up(true);
        assert_eq!(b.others(true).collect::<Vec<_>>(), [0]);
        let wakes = |of: &Steering| of.directory.mailboxes[of.me].wake.read().is_ok();
        assert!(wakes(&b));
        b.set_up(true);
        a.set_up(true);
        assert!(!wakes(&a) && !wakes(&b), "no flows are without a pair");
    }

    #[test]
    fn what_is_handed_over_is_what_was_classified() {
        let (a, b) = pair();
        let bytes: Vec<u8> = (0..200).collect();
        assert!(OwnedFrame::new(bytes.clone()).with_head_overwritten(|frame| b.hand_over(0, frame)));
        assert_eq!(a.take()[0].bytes, bytes);
    }

    #[test]
    fn a_frame_is_handed_over_whole_and_in_order_until_the_box_is_full() {
        let (a, b) = pair();
        for n in 0..3 {
            assert!(OwnedFrame::new(vec![n; 100]).with(|frame| b.hand_over(0, frame)));
        }
        let got: Vec<_> = a.take().into_iter().map(|h| h.bytes).collect();
        assert_eq!(got, [vec![0; 100], vec![1; 100], vec![2; 100]]);
        assert!(a.take().is_empty());
        let big = OwnedFrame::new(vec![7; 60_000]);
        let taken = (0..1000)
            .take_while(|_| big.with(|frame| b.hand_over(0, frame)))
            .count();
        assert_eq!(taken, MAILBOX / 60_000);
    }
}
