//! Several queue pairs: one worker owns a flow, whichever ring its frames come on.
//!
//! A flow belongs to the worker that made it. The guest chooses the transmit ring of
//! each frame anew, as a rule by the CPU the program runs on, so a frame may come to
//! another worker than its flow's. That worker looks the owner up and hands it a copy.
//! With one queue pair none of this exists.
//!
//! A flow is given to another worker when the guest has switched its owner's queue pair off,
//! or sends it on another pair for good. The flow is put into the
//! other's mailbox before that one is entered as its owner: whoever finds himself entered and
//! does not have the flow finds it there.

use crate::frame::{GuestFrame, Offload};
use crate::nat::owner;
use crate::nat::{tcp, udp};
use crate::packet::MacAddr;
use crate::poller::{Interest, Poller, Token};
use ipnet::Ipv6Net;
use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// No worker has this number.
const NOBODY: usize = usize::MAX;
/// Bytes of frames that may wait for one worker.
const MAILBOX: usize = 4 << 20;

/// A flow of any protocol, by its ends as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SteeringKey {
    /// IP protocol number.
    pub protocol: u8,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// A frame handed from one worker to another.
pub struct Handed {
    /// The frame, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Its offload metadata.
    pub offload: Offload,
    /// The worker whose ring it came on.
    pub from: usize,
}

/// Whose a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This worker's.
    Me,
    /// Another one's.
    Worker(usize),
}

/// A flow on its way to another worker.
pub enum MovedFlow {
    /// A TCP connection.
    Tcp(tcp::MovedFlow),
    /// A UDP flow.
    Udp(udp::MovedFlow),
}

#[derive(Default)]
struct Letters {
    flows: Vec<MovedFlow>,
    frames: Vec<Handed>,
    bytes: usize,
}

struct Mailbox {
    letters: Mutex<Letters>,
    wake: EventFd,
    /// Whether the worker's queue pair is in use.
    is_up: AtomicBool,
}

impl Mailbox {
    fn ring(&self) {
        // Fails only if the counter is at its highest, and then the owner is told anyway.
        let _ = self.wake.write(1);
    }
}

/// What the workers of a port share.
pub struct Directory {
    /// The guest's MAC as a number, 0 while no frame of the guest has come.
    guest_mac: AtomicU64,
    /// The interface identifier of the address the guest made up and used last, 0 for none.
    guest_identifier: AtomicU64,
    owners: RwLock<HashMap<SteeringKey, usize>>,
    mailboxes: Vec<Mailbox>,
}

impl Directory {
    /// A directory for `workers` workers; `None` for one, who owns everything.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(workers: usize) -> io::Result<Option<Arc<Self>>> {
        if workers < 2 {
            return Ok(None);
        }
        let mailboxes = (0..workers)
            .map(|_| {
                Ok(Mailbox {
                    letters: Mutex::default(),
                    wake: EventFd::new(EFD_NONBLOCK)?,
                    is_up: AtomicBool::new(false),
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Some(Arc::new(Self {
            guest_mac: AtomicU64::new(0),
            guest_identifier: AtomicU64::new(0),
            owners: RwLock::default(),
            mailboxes,
        })))
    }
}

/// One worker's part in it.
#[derive(Clone)]
pub struct Steering {
    me: usize,
    directory: Arc<Directory>,
}

/// A flow entered in the directory, until dropped. Behind a pointer: every flow has room
/// for one, few ports have several workers.
pub struct Claim(Box<Entry>);

struct Entry {
    key: SteeringKey,
    steering: Steering,
}

impl Claim {
    /// Lets go of the flow without taking it out: another worker is about to be its owner.
    pub fn pass_on(mut self) -> SteeringKey {
        let key = self.0.key;
        self.0.steering.me = NOBODY;
        key
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Claim({:?})", self.0.key)
    }
}

impl Steering {
    /// The part of worker `me`, whose poller tells when frames were handed to it.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn new(directory: Arc<Directory>, me: usize, poller: &Poller) -> io::Result<Self> {
        let token = Token::new(owner::HANDOVER, 0);
        poller.add(&directory.mailboxes[me].wake, token, Interest::ReadLevel)?;
        Ok(Self { me, directory })
    }

    /// Tells the other workers which MAC the guest uses.
    pub fn tell_guest_mac(&self, mac: MacAddr) {
        let [a, b, c, d, e, f] = mac.0;
        let number = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        self.directory.guest_mac.store(number, Ordering::Relaxed);
    }

    /// The MAC the guest uses, once a worker has seen it.
    pub fn guest_mac(&self) -> Option<MacAddr> {
        let number = self.directory.guest_mac.load(Ordering::Relaxed);
        let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
        (number != 0).then_some(MacAddr([a, b, c, d, e, f]))
    }

    /// Tells the other workers which address of its prefix, which has 64 bits, the guest uses.
    pub fn tell_guest_address(&self, address: Ipv6Addr) {
        let [.., a, b, c, d, e, f, g, h] = address.octets();
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        self.directory.guest_identifier.store(number, Ordering::Relaxed);
    }

    /// The address of `prefix` the guest uses, once a worker has seen one it made up.
    pub fn guest_address(&self, prefix: Ipv6Net) -> Option<Ipv6Addr> {
        let number = self.directory.guest_identifier.load(Ordering::Relaxed);
        (number != 0).then(|| Ipv6Addr::from_bits(prefix.network().to_bits() | u128::from(number)))
    }

    /// Notes that a flow made now is ours.
    pub fn claim(&self, key: SteeringKey) -> Claim {
        let mut owners = self.directory.owners.write().unwrap_or_else(PoisonError::into_inner);
        owners.insert(key, self.me);
        Claim(Box::new(Entry {
            key,
            steering: self.clone(),
        }))
    }

    /// Who owns the flow, if somebody does.
    pub fn owner(&self, key: &SteeringKey) -> Option<Owner> {
        let owners = self.directory.owners.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(key).map(|&owner| match owner {
            me if me == self.me => Owner::Me,
            other => Owner::Worker(other),
        })
    }

    /// Says whether this worker's queue pair is in use. Those whose pairs are not are woken by
    /// one that is from now on: it may take their flows.
    pub fn set_up(&self, up: bool) {
        let was = self.directory.mailboxes[self.me].is_up.swap(up, Ordering::AcqRel);
        if up && !was {
            self.others(false)
                .for_each(|other| self.directory.mailboxes[other].ring());
        }
    }

    /// Whether this worker's queue pair is in use.
    pub fn is_up(&self) -> bool {
        self.directory.mailboxes[self.me].is_up.load(Ordering::Acquire)
    }

    /// The other workers whose queue pairs are in use, or are not.
    pub fn others(&self, up: bool) -> impl Iterator<Item = usize> {
        let all = self.directory.mailboxes.iter().enumerate();
        all.filter(move |&(worker, mailbox)| worker != self.me && mailbox.is_up.load(Ordering::Acquire) == up)
            .map(|(worker, _)| worker)
    }

    /// Hands a copy of `frame` to worker `owner`; false if its mailbox is full.
    pub fn hand_over(&self, owner: usize, frame: &GuestFrame<'_>) -> bool {
        let mailbox = &self.directory.mailboxes[owner];
        let mut letters = lock(&mailbox.letters);
        if letters.bytes + frame.len > MAILBOX {
            return false;
        }
        let mut bytes = vec![0; frame.len];
        frame.copy_to(0, &mut bytes);
        letters.bytes += frame.len;
        letters.frames.push(Handed {
            bytes,
            offload: frame.offload,
            from: self.me,
        });
        let is_first = letters.frames.len() == 1;
        drop(letters);
        if is_first {
            mailbox.ring();
        }
        true
    }

    /// Gives a flow to worker `owner`.
    pub fn give(&self, owner: usize, key: SteeringKey, flow: MovedFlow) {
        let mailbox = &self.directory.mailboxes[owner];
        let mut letters = lock(&mailbox.letters);
        letters.flows.push(flow);
        // Before the new owner can take the flow, and end it or pass it on.
        let mut owners = self.directory.owners.write().unwrap_or_else(PoisonError::into_inner);
        owners.insert(key, owner);
        drop((owners, letters));
        mailbox.ring();
    }

    /// Takes the frames handed to us.
    pub fn take(&self) -> Vec<Handed> {
        let mailbox = &self.directory.mailboxes[self.me];
        // Nothing to read means only that somebody else's wake-up came with ours.
        let _ = mailbox.wake.read();
        let mut letters = lock(&mailbox.letters);
        letters.bytes = 0;
        std::mem::take(&mut letters.frames)
    }

    /// Takes the flows given to us.
    pub fn take_flows(&self) -> Vec<MovedFlow> {
        std::mem::take(&mut lock(&self.directory.mailboxes[self.me].letters).flows)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Entry { key, steering } = &*self.0;
        let mut owners = steering
            .directory
            .owners
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Another worker may have made the flow anew meanwhile.
        if owners.get(key) == Some(&steering.me) {
            owners.remove(key);
        }
    }
}

fn lock(letters: &Mutex<Letters>) -> MutexGuard<'_, Letters> {
    letters.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::testing::OwnedFrame;

    fn key(port: u16) -> SteeringKey {
        SteeringKey {
            protocol: 6,
            guest: SocketAddr::new([10, 0, 2, 2].into(), port),
            remote: SocketAddr::new([192, 0, 2, 1].into(), 80),
        }
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
    fn a_flow_belongs_to_who_made_it_until_it_ends() {
        let (a, b) = pair();
        let claim = a.claim(key(1));
        assert_eq!(
            (a.owner(&key(1)), b.owner(&key(1))),
            (Some(Owner::Me), Some(Owner::Worker(0)))
        );
        assert_eq!(b.owner(&key(2)), None);
        let anew = b.claim(key(1));
        drop(claim);
        assert_eq!(a.owner(&key(1)), Some(Owner::Worker(1)), "the later claim stands");
        drop(anew);
        assert_eq!(a.owner(&key(1)), None);
    }

    #[test]
    fn who_comes_up_wakes_those_whose_pairs_are_not_in_use() {
        let (a, b) = pair();
        assert!(!a.is_up());
        a.set_up(true);
        assert_eq!(b.others(true).collect::<Vec<_>>(), [0]);
        let wakes = |of: &Steering| of.directory.mailboxes[of.me].wake.read().is_ok();
        assert!(wakes(&b));
        b.set_up(true);
        a.set_up(true);
        assert!(!wakes(&a) && !wakes(&b), "nobody's flows are without a pair");
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
