//! The state of one front end: its accepted features, memory and rings. Executes each of its requests ("Front-end
//! message types" of the vhost-user specification).
//!
//! No socket here: [`Session::on_request`] takes a request and returns the answer. A request that violates the protocol
//! ends the connection ([`Rejected`]).
//!
//! Front ends differ. The table shows how the session treats each; a test names the front end:
//!
//! | front end | what it does | effect |
//! |---|---|---|
//! | QEMU | SET_VRING_ENABLE before SET_FEATURES, also after RESET_DEVICE | the ring is enabled |
//! | QEMU, DPDK | read GET_QUEUE_NUM as queue pairs | answered in pairs before SET_OWNER |
//! | cloud-hypervisor | reads GET_QUEUE_NUM as rings, after SET_OWNER | answered in rings |
//! | one without protocol features | enables no ring | SET_FEATURES enables all |
//! | a broken one | memory beyond all addresses, or beyond the end of its file | refused |
//! | a broken one | a log longer than its file, or too short for the memory | accepted; the rings rest while it is on |
//! | QEMU 10 | ends the VM if a request fails while the log is switched on | bad ring addresses: the ring rests |

mod bodies;
mod handover;
mod postcopy;
mod standby;

pub use handover::{Busy, SessionRecord};

use super::memory::MemoryTable;
use super::message::{Malformed, Message};
use super::ring::{Addresses, Ring, RingHost};
use crate::mode::Departure;
use crate::packet::MacAddr;
use crate::virtio::{DirtyBitmap, MAX_RING_SIZE};
use bodies::{config_body, only_file, plain, regions};
use postcopy::Postcopy;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use vhost::vhost_user::message::{
    FrontendReq as Req, VhostUserLog, VhostUserProtocolFeatures as Protocol, VhostUserSingleMemoryRegion,
    VhostUserVirtioFeatures, VhostUserVringAddr, VhostUserVringState,
};
use vhost_user_backend::VhostUserBackend;
use vm_memory::ByteValued;

/// VHOST_F_LOG_ALL, among the virtio features.
const F_LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();
/// VHOST_USER_F_PROTOCOL_FEATURES, among the virtio features.
const F_PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// Maximum memory regions of a front end, the same as for vhost in the kernel.
const MEMORY_SLOTS: u64 = 509;
/// The byte of SET_VRING_KICK, CALL and ERR that contains the ring index.
const EVENT_RING: u64 = 0xff;
/// The bit of SET_VRING_KICK, CALL and ERR that is set if there is no descriptor.
const EVENT_NONE: u64 = 1 << 8;

/// The device behind a session: a `vhost-user-backend` device with NIC requests.
pub trait NetDevice: VhostUserBackend<Bitmap = DirtyBitmap> {
    /// Number of queue pairs offered. The control ring belongs to no pair.
    fn queue_pairs(&self) -> usize;

    /// SEND_RARP: announces the location of the guest with this MAC on the network.
    fn announce(&self, mac: MacAddr);

    /// NET_SET_MTU: the front end shows the guest this MTU. Returns false if it is not compatible with ours.
    fn set_mtu(&self, mtu: u64) -> bool;

    /// The MTU that the front end has set, if it is smaller than ours.
    fn mtu(&self) -> Option<u16>;

    /// SET_BACKEND_REQ_FD: the socket for requests from the device to the front end.
    fn set_back_channel(&self, channel: OwnedFd);

    /// Leaves the workers to another session, or applies to them everything that this session has set.
    fn set_active(&self, active: bool);

    /// Called when the front end has stopped all rings of a guest that migrates.
    fn on_stopped(&self) {}

    /// Releases the memory of a front end that is gone. The caller resets the rings afterwards.
    fn detach(&self, departure: Departure);
}

/// The reason why a request ends the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The message is not one of the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// This back end does not support the request.
    #[error("the front end sent request {0}, whose feature was not offered")]
    Unknown(u32),
    /// The request belongs to a protocol feature that was not negotiated.
    #[error("the front end sent request {code} without negotiating protocol feature {feature:?}")]
    NotAgreed {
        /// Number of the request.
        code: u32,
        /// The protocol feature that the request belongs to.
        feature: Protocol,
    },
    /// SET_OWNER was sent on a session that has an owner.
    #[error("the front end sent SET_OWNER twice")]
    Owned,
    /// The front end accepted features that were not offered.
    #[error("the front end accepted virtio features {0:#x}, which were not offered")]
    Features(u64),
    /// The request names a ring that does not exist.
    #[error("the front end uses ring {ring}, but {rings} are offered: give it no more queues than --queue-pairs")]
    NoSuchRing {
        /// Index of the ring in the request.
        ring: u32,
        /// Number of rings offered.
        rings: u32,
    },
    /// The ring has no descriptors, or too many.
    #[error("the front end set a ring size of {0}; 1 to {MAX_RING_SIZE} are allowed")]
    RingSize(u32),
    /// SET_VRING_ENABLE has a value other than 0 or 1.
    #[error("SET_VRING_ENABLE has the value {0}; 0 and 1 are allowed")]
    BadEnable(u32),
    /// A ring lies outside the memory.
    #[error("the front end placed a ring at {0:#x}, outside its memory regions")]
    Unmapped(u64),
    /// The ring is not allowed by virtio.
    #[error("the front end set up an unusable ring: {0}")]
    Ring(String),
    /// A memory region has impossible addresses.
    #[error("the front end sent a region of {len} bytes at {at:#x}, beyond the end of the address space")]
    BadRegion {
        /// Guest-physical or front-end address.
        at: u64,
        /// Length of the region in bytes.
        len: u64,
    },
    /// A memory region reaches beyond the end of its file.
    #[error("the front end sent a region of {len} bytes at {offset:#x} of a file of {file} bytes")]
    ShortMemory {
        /// Length of the region in bytes.
        len: u64,
        /// Offset of the region's start in the file.
        offset: u64,
        /// Length of the file in bytes.
        file: u64,
    },
    /// The memory cannot be mapped, overlaps, or is unknown.
    #[error("the front end sent unusable memory: {0}")]
    Memory(String),
    /// The dirty log reaches beyond the end of its file.
    #[error("the front end sent a dirty log of {size} bytes at {offset:#x} of a file of {file} bytes")]
    ShortLog {
        /// Length of the log in bytes.
        size: u64,
        /// Offset of the log's start in the file.
        offset: u64,
        /// Length of the file in bytes.
        file: u64,
    },
    /// The dirty log does not cover the memory.
    #[error("the front end sent a dirty log of {size} bytes, too short for its memory")]
    LogTooShort {
        /// Length of the log in bytes.
        size: u64,
    },
    /// The dirty log cannot be mapped.
    #[error("the front end sent a dirty log that cannot be mapped: {0}")]
    Log(String),
}

/// A request that ends the connection.
#[derive(Debug)]
pub struct Rejected {
    /// Why the request was refused.
    pub why: Refused,
    /// The last message for the front end, if the front end waits for one.
    pub answer: Option<Message>,
}

/// Result of a request.
enum Outcome {
    /// An acknowledgement, true for success, if the front end requests one.
    Done(bool),
    /// The body of the answer that this request always has.
    Answer(Vec<u8>),
    /// The descriptor of an answer without a body.
    File(OwnedFd),
    /// No answer.
    Nothing,
}

const DONE: Outcome = Outcome::Done(true);

/// The session of one front end with a device.
pub struct Session<D: NetDevice> {
    device: D,
    memory: MemoryTable,
    rings: Vec<Ring>,
    owned: bool,
    /// Features accepted by SET_FEATURES.
    features: Option<u64>,
    protocol: Protocol,
    /// True while another session has the device. The rings wait until then.
    standby: bool,
    /// True if the last log cannot be used.
    has_bad_log: bool,
    postcopy: Postcopy,
    /// A copy of the back channel, for another process.
    back_channel: Option<OwnedFd>,
    /// True once another process continues the session.
    handed_over: bool,
}

impl<D: NetDevice> std::fmt::Debug for Session<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl<D: NetDevice> Session<D> {
    /// A session before its first request, for `device` with rings run by `hosts`.
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub fn new(device: D, hosts: Vec<Box<dyn RingHost>>) -> Result<Self, virtio_queue::Error> {
        let memory = MemoryTable::default();
        let rings = hosts.into_iter().map(|host| Ring::new(host, memory.shared()));
        Ok(Self {
            rings: rings.collect::<Result<_, _>>()?,
            device,
            memory,
            owned: false,
            features: None,
            protocol: Protocol::empty(),
            standby: false,
            has_bad_log: false,
            postcopy: Postcopy::default(),
            back_channel: None,
            handed_over: false,
        })
    }

    /// Handles `request` and returns the answer, if it has one.
    ///
    /// # Errors
    /// [`Rejected`]: the connection must end.
    pub fn on_request(&mut self, mut request: Message) -> Result<Option<Message>, Box<Rejected>> {
        let header = request.header();
        let outcome = self.handle(&mut request);
        let acknowledged = self.protocol.contains(Protocol::REPLY_ACK) && header.needs_reply();
        let acknowledge = |failed: bool| {
            let body = u64::from(failed).to_ne_bytes();
            acknowledged.then(|| Message::reply(header.code, &body))
        };
        match outcome {
            Ok(Outcome::Answer(body)) => Ok(Some(Message::reply(header.code, &body))),
            Ok(Outcome::File(file)) => {
                let mut answer = Message::reply(header.code, &[]);
                answer.files.push(file);
                Ok(Some(answer))
            }
            Ok(Outcome::Nothing) => Ok(None),
            Ok(Outcome::Done(success)) => Ok(acknowledge(!success)),
            Err(why) => Err(Box::new(Rejected {
                why,
                answer: acknowledge(true),
            })),
        }
    }

    fn handle(&mut self, request: &mut Message) -> Result<Outcome, Refused> {
        let header = request.header();
        let kind = Req::try_from(header.code).map_err(|()| Refused::Unknown(header.code))?;
        if header.is_reply() {
            return Err(Malformed::Reply(header.code).into());
        }
        if !request.files.is_empty() && !has_files(kind) {
            return Err(Malformed::UnexpectedFiles(header.code).into());
        }
        if let Some(feature) = needed_feature(kind).filter(|&feature| !self.protocol.contains(feature)) {
            let code = header.code;
            return Err(Refused::NotAgreed { code, feature });
        }
        match kind {
            Req::POSTCOPY_ADVISE | Req::POSTCOPY_LISTEN | Req::POSTCOPY_END => self.change_postcopy(kind, request),
            Req::SET_MEM_TABLE | Req::ADD_MEM_REG | Req::REM_MEM_REG if self.postcopy.is_listening() => {
                self.change_missing_memory(kind, request)
            }
            Req::SET_MEM_TABLE | Req::ADD_MEM_REG | Req::REM_MEM_REG => self.change_memory(kind, request),
            Req::SET_VRING_NUM
            | Req::SET_VRING_ADDR
            | Req::SET_VRING_BASE
            | Req::GET_VRING_BASE
            | Req::SET_VRING_KICK
            | Req::SET_VRING_CALL
            | Req::SET_VRING_ERR
            | Req::SET_VRING_ENABLE => self.change_ring(kind, request),
            Req::GET_FEATURES => question(request, self.device.features()),
            Req::SET_FEATURES => self.set_features(request.body_u64()?),
            Req::GET_PROTOCOL_FEATURES => {
                // This module implements acknowledgements itself.
                let offered = self.device.protocol_features() | Protocol::REPLY_ACK;
                question(request, offered.bits())
            }
            Req::SET_PROTOCOL_FEATURES => {
                self.protocol = Protocol::from_bits_retain(request.body_u64()?);
                Ok(DONE)
            }
            Req::SET_OWNER => {
                let [] = request.body_array()?;
                match std::mem::replace(&mut self.owned, true) {
                    true => Err(Refused::Owned),
                    false => Ok(DONE),
                }
            }
            Req::RESET_OWNER => {
                let [] = request.body_array()?;
                self.owned = false;
                self.features = None;
                Ok(DONE)
            }
            Req::RESET_DEVICE => {
                let [] = request.body_array()?;
                self.features = None;
                self.rings.iter_mut().for_each(Ring::reset);
                self.bar_rings();
                self.device.reset_device();
                Ok(DONE)
            }
            Req::GET_QUEUE_NUM => question(request, self.queue_num()),
            Req::GET_CONFIG => self.get_config(request),
            Req::SET_CONFIG => self.set_config(request),
            Req::SEND_RARP => {
                let [a, b, c, d, e, f, _, _] = request.body_array()?;
                self.device.announce(MacAddr([a, b, c, d, e, f]));
                Ok(DONE)
            }
            Req::NET_SET_MTU => Ok(Outcome::Done(self.device.set_mtu(request.body_u64()?))),
            Req::SET_BACKEND_REQ_FD => {
                let set = request.files.pop().map(|channel| self.set_back_channel(channel));
                Ok(Outcome::Done(set.is_some_and(|set| set.is_ok())))
            }
            Req::GET_MAX_MEM_SLOTS => question(request, MEMORY_SLOTS),
            Req::SET_LOG_BASE => {
                let log: VhostUserLog = plain(&request.body_array::<{ size_of::<VhostUserLog>() }>()?);
                self.set_log(log, only_file(request)?);
                Ok(Outcome::Answer(log.as_slice().to_vec()))
            }
            _ => Err(Refused::Unknown(header.code)),
        }
    }

    fn set_back_channel(&mut self, channel: OwnedFd) -> io::Result<()> {
        self.back_channel = Some(channel.try_clone()?);
        if !self.standby {
            self.device.set_back_channel(channel);
        }
        Ok(())
    }

    /// SET_LOG_BASE. A refusal here, or until the rings are logged, would end the VM: QEMU 10 aborts then. So a log that
    /// cannot be used is accepted, and the rings rest while it would be needed. Nothing is written without being logged,
    /// and the guest continues where it migrates to.
    fn set_log(&mut self, log: VhostUserLog, file: File) {
        let set = self.memory.set_log(log, file);
        if let Err(why) = &set {
            log::error!("{why}; the NIC rests while the guest migrates");
        }
        self.has_bad_log = set.is_err();
        self.bar_rings();
    }

    /// True between the requests of a front end that switch the log on and off.
    fn is_logged(&self) -> bool {
        self.features.is_some_and(|features| features & F_LOG_ALL != 0)
    }

    fn bar_rings(&mut self) {
        let barred = self.standby || self.has_bad_log && self.is_logged();
        self.rings.iter_mut().for_each(|ring| ring.set_barred(barred));
    }

    fn set_features(&mut self, features: u64) -> Result<Outcome, Refused> {
        let unknown = features & !self.device.features();
        if unknown != 0 {
            return Err(Refused::Features(unknown));
        }
        self.features = Some(features);
        if features & F_PROTOCOL_FEATURES == 0 {
            self.rings.iter_mut().for_each(|ring| ring.set_enabled(true));
        }
        // Rings that rest do so before the log is on, and start once it is off.
        if self.is_logged() {
            self.bar_rings();
        }
        self.device.acked_features(features);
        self.bar_rings();
        Ok(DONE)
    }

    /// Answers with the number of queues. QEMU reads it before SET_OWNER and expects pairs. cloud-hypervisor reads it
    /// afterwards and expects rings.
    fn queue_num(&self) -> u64 {
        let num = if self.owned {
            self.rings.len()
        } else {
            self.device.queue_pairs()
        };
        num as u64
    }

    fn get_config(&self, request: &Message) -> Result<Outcome, Refused> {
        let (mut config, _room) = config_body(request)?;
        let mut bytes = self.device.get_config(config.offset, config.size);
        if bytes.len() as u64 != u64::from(config.size) {
            bytes.clear();
        }
        // An answer without a body means that the configuration cannot be read.
        config.size = u32::try_from(bytes.len()).unwrap_or(0);
        Ok(Outcome::Answer([config.as_slice(), &bytes].concat()))
    }

    fn set_config(&self, request: &Message) -> Result<Outcome, Refused> {
        let (config, bytes) = config_body(request)?;
        Ok(Outcome::Done(self.device.set_config(config.offset, bytes).is_ok()))
    }

    fn change_memory(&mut self, kind: Req, request: &mut Message) -> Result<Outcome, Refused> {
        if kind == Req::SET_MEM_TABLE {
            self.memory.replace(regions(request)?)?;
        } else {
            let region: VhostUserSingleMemoryRegion = request.body_as()?;
            match kind {
                Req::ADD_MEM_REG => self.memory.add(&region, only_file(request)?)?,
                // A descriptor may accompany the request; it is closed.
                _ => self.memory.remove(&region)?,
            }
        }
        let told = self.device.update_memory(self.memory.shared());
        told.map_err(|e| Refused::Memory(e.to_string()))?;
        Ok(DONE)
    }

    fn change_ring(&mut self, kind: Req, request: &mut Message) -> Result<Outcome, Refused> {
        match kind {
            Req::SET_VRING_ADDR => return self.set_vring_addr(request.body_as()?),
            Req::SET_VRING_KICK => return self.set_event(request, Ring::set_kick),
            Req::SET_VRING_CALL => return self.set_event(request, Ring::set_call),
            Req::SET_VRING_ERR => return self.set_event(request, Ring::set_error),
            _ => {}
        }
        let VhostUserVringState { index, num } = request.body_as()?;
        // Without protocol features the rings of a device are always enabled.
        let always_enabled = self
            .features
            .is_some_and(|features| features & F_PROTOCOL_FEATURES == 0);
        let ring = self.ring(index)?;
        match kind {
            Req::SET_VRING_NUM => {
                let size = u16::try_from(num).ok().filter(|n| (1..=MAX_RING_SIZE).contains(n));
                ring.set_size(size.ok_or(Refused::RingSize(num))?);
            }
            Req::SET_VRING_BASE => {
                // The upper half is for packed rings.
                let [low, high, _, _] = num.to_le_bytes();
                ring.set_base(u16::from_le_bytes([low, high]));
            }
            Req::GET_VRING_BASE => {
                let state = VhostUserVringState::new(index, ring.stop().into());
                if !self.standby && self.is_logged() && self.rings.iter().all(Ring::is_stopped) {
                    self.device.on_stopped();
                }
                return Ok(Outcome::Answer(state.as_slice().to_vec()));
            }
            _ => match num {
                0 | 1 if always_enabled => {}
                0 => ring.set_enabled(false),
                1 => ring.set_enabled(true),
                other => return Err(Refused::BadEnable(other)),
            },
        }
        Ok(DONE)
    }

    fn set_vring_addr(&mut self, at: VhostUserVringAddr) -> Result<Outcome, Refused> {
        let is_logged = self.is_logged();
        match self.try_set_vring_addr(at) {
            // As for SET_LOG_BASE: the ring rests until it gets other addresses.
            Err(why @ (Refused::Unmapped(_) | Refused::Ring(_))) if is_logged => {
                log::error!("{why}; the ring rests");
                self.ring(at.index)?.forget_addresses();
                Ok(DONE)
            }
            set => set.map(|()| DONE),
        }
    }

    fn try_set_vring_addr(&mut self, at: VhostUserVringAddr) -> Result<(), Refused> {
        let addresses = Addresses {
            descriptors: self.memory.guest_address(at.descriptor)?,
            available: self.memory.guest_address(at.available)?,
            used: self.memory.guest_address(at.used)?,
        };
        let set = self.ring(at.index)?.set_addresses(addresses);
        set.map_err(|e| Refused::Ring(e.to_string()))
    }

    fn set_event(&mut self, request: &mut Message, set: fn(&mut Ring, Option<File>)) -> Result<Outcome, Refused> {
        let body = request.body_u64()?;
        let file = match (body & EVENT_NONE != 0, request.files.len()) {
            (true, 0) => None,
            (true, _) => return Err(Malformed::UnexpectedFiles(request.header().code).into()),
            (false, _) => Some(only_file(request)?),
        };
        let ring = u32::try_from(body & EVENT_RING).unwrap_or(u32::MAX);
        set(self.ring(ring)?, file);
        Ok(DONE)
    }

    fn ring(&mut self, ring: u32) -> Result<&mut Ring, Refused> {
        let rings = u32::try_from(self.rings.len()).unwrap_or(u32::MAX);
        let found = usize::try_from(ring).ok().and_then(|i| self.rings.get_mut(i));
        found.ok_or(Refused::NoSuchRing { ring, rings })
    }
}

impl<D: NetDevice> Drop for Session<D> {
    /// Stops the rings and releases the memory of the front end, which is gone, unless another process serves it now.
    fn drop(&mut self) {
        // A worker may wait for a page that nobody provides any more.
        self.postcopy = Postcopy::Off;
        if self.handed_over || self.standby {
            return;
        }
        // A migration that fails starts the rings again, or switches the log off.
        let departure = if self.is_logged() && self.rings.iter().all(Ring::is_stopped) {
            Departure::Migrated
        } else {
            Departure::Disconnected
        };
        self.device.detach(departure);
        self.rings.iter_mut().for_each(Ring::reset);
        self.device.acked_features(0);
    }
}

/// True if descriptors may accompany a request.
const fn has_files(request: Req) -> bool {
    matches!(
        request,
        Req::SET_MEM_TABLE
            | Req::ADD_MEM_REG
            | Req::REM_MEM_REG
            | Req::SET_LOG_BASE
            | Req::SET_VRING_KICK
            | Req::SET_VRING_CALL
            | Req::SET_VRING_ERR
            | Req::SET_BACKEND_REQ_FD
    )
}

/// The protocol feature that a request needs. SEND_RARP, NET_SET_MTU, SET_BACKEND_REQ_FD and GET_QUEUE_NUM are accepted
/// even without their feature.
const fn needed_feature(request: Req) -> Option<Protocol> {
    match request {
        Req::RESET_DEVICE => Some(Protocol::RESET_DEVICE),
        Req::GET_CONFIG | Req::SET_CONFIG => Some(Protocol::CONFIG),
        Req::GET_MAX_MEM_SLOTS | Req::ADD_MEM_REG | Req::REM_MEM_REG => Some(Protocol::CONFIGURE_MEM_SLOTS),
        Req::SET_LOG_BASE => Some(Protocol::LOG_SHMFD),
        Req::POSTCOPY_ADVISE | Req::POSTCOPY_LISTEN | Req::POSTCOPY_END => Some(Protocol::PAGEFAULT),
        _ => None,
    }
}

/// Answers a request without a body with the number `answer`.
fn question(request: &Message, answer: u64) -> Result<Outcome, Refused> {
    let [] = request.body_array()?;
    Ok(Outcome::Answer(answer.to_ne_bytes().to_vec()))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
