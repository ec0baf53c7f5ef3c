//! What front ends do that the daemon does not take, and what becomes of it.
//!
//! | front end | what it does | what is done here |
//! |---|---|---|
//! | QEMU | SET_VRING_ENABLE before SET_FEATURES (the daemon hangs up) | kept, told to the daemon after SET_FEATURES |
//! | QEMU | SEND_RARP, NET_SET_MTU (the daemon hangs up) | acted on here |
//! | QEMU, DPDK | read GET_QUEUE_NUM as queue pairs (the daemon answers rings) | answered here |
//! | cloud-hypervisor | reads GET_QUEUE_NUM as rings | told apart by having sent SET_OWNER first |
//! | any | SET_BACKEND_REQ_FD (the daemon's proxy has no word for a change of configuration) | kept here |
//! | a broken one | ADD_MEM_REG of memory beyond all addresses (the daemon panics) | refused |
//! | a broken one | SET_MEM_TABLE, ADD_MEM_REG of memory beyond the end of its file (using it ends the process) | refused |
//! | a broken one | SET_LOG_BASE with a log longer than its file (writing there ends the process) | refused |
//!
//! Everything else passes untouched. No I/O here, but for a look at a file's length: [`Quirks::on_request`] is given a
//! request and says what to do with it.

use super::message::{Malformed, Message, Request};
use crate::packet::MacAddr;
use rustix::fs::FileType;
use std::os::fd::OwnedFd;

/// VHOST_USER_F_PROTOCOL_FEATURES, among the virtio features.
const F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// VHOST_USER_PROTOCOL_F_REPLY_ACK.
const PROTOCOL_F_REPLY_ACK: u64 = 1 << 3;

/// What is to be done with a request.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Requests for the daemon, in order.
    pub to_daemon: Vec<Message>,
    /// Answer for the front end.
    pub to_front: Option<Message>,
}

/// What the relay needs from the device to act on requests the daemon does not know.
pub trait Actions {
    /// SEND_RARP: tell the network where the guest with this MAC is now.
    fn announce(&self, mac: MacAddr);

    /// NET_SET_MTU: the front end shows the guest this MTU. False if that does not
    /// go with ours.
    fn set_mtu(&self, mtu: u64) -> bool;

    /// SET_BACKEND_REQ_FD: where the front end listens to what we have to say.
    fn set_back_channel(&self, _channel: OwnedFd) {}
}

/// Why a request ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a message of the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A ring that does not exist.
    #[error("the front end wants ring {ring}, but {rings} are offered: give it no more queues than --queue-pairs")]
    NoSuchRing {
        /// Ring asked for.
        ring: u32,
        /// Rings offered.
        rings: u32,
    },
    /// Memory that cannot be.
    #[error("the front end has memory of {len} bytes at {at:#x}, beyond the end of the address space")]
    BadRegion {
        /// Guest-physical or front-end address.
        at: u64,
        /// Bytes.
        len: u64,
    },
    /// Memory that is not there.
    #[error("the front end has memory of {len} bytes at {offset:#x} of a file of {file}")]
    ShortMemory {
        /// Bytes of the region.
        len: u64,
        /// Where it starts in the file.
        offset: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// A dirty log that is not there.
    #[error("the front end has a dirty log of {size} bytes at {offset:#x} of a file of {file}")]
    ShortLog {
        /// Bytes of the log.
        size: u64,
        /// Where it starts in the file.
        offset: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// SET_VRING_ENABLE with something else than 0 or 1.
    #[error("SET_VRING_ENABLE says {0}, neither 0 nor 1")]
    BadEnable(u32),
}

/// Whether the daemon takes SET_VRING_ENABLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Features {
    /// Not before SET_FEATURES.
    Unset,
    /// VHOST_USER_F_PROTOCOL_FEATURES was accepted: yes.
    WithProtocol,
    /// It was not: rings are always enabled.
    Plain,
}

/// What must be remembered of one front end.
#[derive(Debug)]
pub struct Quirks {
    queue_pairs: u16,
    features: Features,
    /// SET_VRING_ENABLE that came too early, by ring; as many as there are rings.
    early: Vec<Option<bool>>,
    owned: bool,
    reply_ack: bool,
}

impl Quirks {
    /// Quirks of a front end that has not said anything yet, for a device of
    /// `queue_pairs` with `rings` rings in all.
    pub fn new(queue_pairs: u16, rings: usize) -> Self {
        Self {
            queue_pairs,
            features: Features::Unset,
            early: vec![None; rings],
            owned: false,
            reply_ack: false,
        }
    }

    /// Says what is to be done with `request`.
    ///
    /// # Errors
    /// [`Refused`]: the connection must end.
    pub fn on_request(&mut self, mut request: Message, actions: &impl Actions) -> Result<Verdict, Refused> {
        match request.kind() {
            Request::SetOwner => self.owned = true,
            Request::ResetOwner => {
                self.owned = false;
                self.forget_features();
            }
            Request::ResetDevice => self.forget_features(),
            Request::SetProtocolFeatures => self.reply_ack = request.body_u64()? & PROTOCOL_F_REPLY_ACK != 0,
            Request::SetFeatures => return self.set_features(request),
            Request::SetVringEnable => return self.set_vring_enable(request),
            Request::GetQueueNum => {
                expect_plain::<0>(&request)?;
                return Ok(answer(&request, self.queue_num()));
            }
            Request::SendRarp => {
                let [a, b, c, d, e, f, _, _] = expect_plain(&request)?;
                actions.announce(MacAddr([a, b, c, d, e, f]));
                return Ok(self.acknowledge(&request, true));
            }
            Request::NetSetMtu => {
                let mtu = u64::from_ne_bytes(expect_plain(&request)?);
                let taken = actions.set_mtu(mtu);
                return Ok(self.acknowledge(&request, taken));
            }
            Request::SetBackendReqFd => {
                let channel = request.files.pop();
                let taken = channel.map(|channel| actions.set_back_channel(channel)).is_some();
                return Ok(self.acknowledge(&request, taken));
            }
            Request::AddMemReg => check_region(&request)?,
            Request::SetMemTable => check_table(&request)?,
            Request::SetLogBase => check_log(&request)?,
            Request::Other(_) => {}
        }
        Ok(pass(request))
    }

    fn forget_features(&mut self) {
        self.features = Features::Unset;
        self.early.fill(None);
    }

    /// QEMU asks before SET_OWNER and means pairs, cloud-hypervisor after it and means rings.
    fn queue_num(&self) -> u64 {
        if self.owned {
            self.early.len() as u64
        } else {
            u64::from(self.queue_pairs)
        }
    }

    fn set_features(&mut self, request: Message) -> Result<Verdict, Refused> {
        let accepted = request.body_u64()?;
        let mut verdict = pass(request);
        if accepted & F_PROTOCOL_FEATURES == 0 {
            self.features = Features::Plain;
            self.early.fill(None);
            return Ok(verdict);
        }
        self.features = Features::WithProtocol;
        for (ring, early) in (0..).zip(&mut self.early) {
            let replayed = early.take().map(|enable| Message::vring_enable(ring, enable));
            verdict.to_daemon.extend(replayed);
        }
        Ok(verdict)
    }

    fn set_vring_enable(&mut self, request: Message) -> Result<Verdict, Refused> {
        let [r0, r1, r2, r3, e0, e1, e2, e3] = expect_plain(&request)?;
        let ring = u32::from_ne_bytes([r0, r1, r2, r3]);
        let enable = match u32::from_ne_bytes([e0, e1, e2, e3]) {
            0 => false,
            1 => true,
            other => return Err(Refused::BadEnable(other)),
        };
        let rings = u32::try_from(self.early.len()).unwrap_or(u32::MAX);
        let slot = usize::try_from(ring).ok().and_then(|i| self.early.get_mut(i));
        let slot = slot.ok_or(Refused::NoSuchRing { ring, rings })?;
        match self.features {
            Features::WithProtocol => Ok(pass(request)),
            Features::Plain => Ok(self.acknowledge(&request, true)),
            Features::Unset => {
                *slot = Some(enable);
                Ok(self.acknowledge(&request, true))
            }
        }
    }

    /// The acknowledgement of a request that was dealt with here, if one is wanted.
    fn acknowledge(&self, request: &Message, success: bool) -> Verdict {
        if self.reply_ack && request.header().needs_reply() {
            answer(request, u64::from(!success))
        } else {
            Verdict::default()
        }
    }
}

fn pass(request: Message) -> Verdict {
    Verdict {
        to_daemon: vec![request],
        to_front: None,
    }
}

fn answer(request: &Message, value: u64) -> Verdict {
    Verdict {
        to_daemon: Vec::new(),
        to_front: Some(Message::reply(request.header().code, value)),
    }
}

/// The body of a request of exactly `N` bytes and no descriptors.
fn expect_plain<const N: usize>(request: &Message) -> Result<[u8; N], Malformed> {
    if request.files.is_empty() {
        request.body_array()
    } else {
        Err(Malformed::UnexpectedFiles(request.header().code))
    }
}

/// The daemon checks the addresses of SET_MEM_TABLE, but not of this one.
fn check_region(request: &Message) -> Result<(), Refused> {
    let body: [u8; 40] = request.body_array()?;
    let (words, _) = body.as_chunks::<8>();
    let [_, guest, len, front_end, offset] = [0, 1, 2, 3, 4].map(|i| u64::from_ne_bytes(words[i]));
    let beyond = [guest, front_end].into_iter().find(|at| at.checked_add(len).is_none());
    beyond.map_or(Ok(()), |at| Err(Refused::BadRegion { at, len }))?;
    check_memory(request.files.first(), len, offset)
}

/// The daemon checks all of a table but what its files have. A body of another length is the
/// daemon's to refuse.
fn check_table(request: &Message) -> Result<(), Refused> {
    // The number of regions, and padding.
    let Some((_, regions)) = request.body().split_first_chunk::<8>() else {
        return Ok(());
    };
    let (words, _) = regions.as_chunks::<8>();
    let (regions, _) = words.as_chunks::<4>();
    for (region, file) in regions.iter().zip(&request.files) {
        let [_, len, _, offset] = region.map(u64::from_ne_bytes);
        check_memory(Some(file), len, offset)?;
    }
    Ok(())
}

fn check_memory(file: Option<&OwnedFd>, len: u64, offset: u64) -> Result<(), Refused> {
    ends_beyond(file, len, offset).map_or(Ok(()), |file| Err(Refused::ShortMemory { len, offset, file }))
}

/// The daemon does not check that the log lies in its file.
fn check_log(request: &Message) -> Result<(), Refused> {
    let body: [u8; 16] = request.body_array()?;
    let (words, _) = body.as_chunks::<8>();
    let [size, offset] = [0, 1].map(|i| u64::from_ne_bytes(words[i]));
    let beyond = ends_beyond(request.files.first(), size, offset);
    beyond.map_or(Ok(()), |file| Err(Refused::ShortLog { size, offset, file }))
}

/// The length of a file, if `len` bytes from `offset` on do not lie in it. A request without a
/// descriptor is the daemon's to refuse; what is no regular file (a device) has no length.
fn ends_beyond(file: Option<&OwnedFd>, len: u64, offset: u64) -> Option<u64> {
    let stat = rustix::fs::fstat(file?).ok()?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let file = u64::try_from(stat.st_size).unwrap_or(0);
    let lies_in = len.checked_add(offset).is_some_and(|end| end <= file);
    (!lies_in).then_some(file)
}

#[cfg(test)]
#[path = "quirks_tests.rs"]
mod tests;
