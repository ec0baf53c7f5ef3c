//! Two of hawser's layer2 modes that are peers of each other.

use super::{BURST, Burst, PAYLOAD, REGION};
use hawser_backend::config::{
    Ipv4Link, Layer2Config, ModeConfig, NameConfig, NetworkRole, PaceConfig, PeerConfig, PolicyConfig, PortConfig,
    PrimaryNetwork,
};
use hawser_backend::frame::{
    Checksum, GuestCaps, GuestFrame, GuestSink, GuestSlice, GuestSliceMut, HEAD_MAX, Layout, NoRoom, Offload,
    Segmentation,
};
use hawser_backend::mode::Mode;
use hawser_backend::overlay::{Overlay, OverlaySetup, OverlayState};
use hawser_backend::packet::checksum::Sum;
use hawser_backend::packet::geneve::Vni;
use hawser_backend::packet::{Head, MacAddr};
use hawser_backend::time::Instant;
use hawser_testkit::{Result, failure};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::time::Duration;

const HEADERS: usize = 14 + 20 + 32;
/// Number of attempts to receive without success after which missing datagrams count as lost.
const PATIENCE: u32 = 1000;
const NOW: Instant = Instant::from_nanos(1);
const SENDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const RECEIVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A guest that accepts every frame into its memory.
struct Memory {
    bytes: Vec<u8>,
    at: usize,
    payload: u64,
    frames: u64,
}

impl GuestSink for Memory {
    fn caps(&self) -> GuestCaps {
        GuestCaps::ALL
    }

    fn send(&mut self, _: Offload, parts: &[&[u8]]) -> std::result::Result<(), NoRoom> {
        for part in parts {
            if self.at + part.len() > self.bytes.len() {
                self.at = 0;
            }
            self.bytes[self.at..][..part.len()].copy_from_slice(part);
            self.at += part.len();
            self.payload += part.len() as u64;
        }
        self.payload -= HEADERS as u64;
        self.frames += 1;
        Ok(())
    }

    fn reserve(&mut self, _: Layout) -> std::result::Result<usize, NoRoom> {
        Err(NoRoom)
    }

    fn payload(&mut self, _: usize) -> &mut [GuestSliceMut<'_>] {
        &mut []
    }

    fn payload_all(&mut self) -> &mut [GuestSliceMut<'_>] {
        &mut []
    }

    fn commit(&mut self, _: &[usize], _: &mut dyn FnMut(usize, usize, &mut [u8]) -> Offload) {}
}

/// Two modes, and the memory of their guests.
pub struct Pair {
    sender: Overlay,
    receiver: Overlay,
    from: Vec<u8>,
    into: Memory,
    shape: Shape,
    sent: usize,
    seq: u32,
}

/// The form of what the guest sends.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Length of a segment's payload in bytes.
    mss: u16,
    /// Length of a frame's payload in bytes.
    payload: usize,
    /// Number of frames in a burst.
    frames: usize,
}

impl Shape {
    const fn large(mss: u16) -> Self {
        Self {
            mss,
            payload: PAYLOAD,
            frames: BURST,
        }
    }

    const fn bytes(self) -> usize {
        self.payload * self.frames
    }

    const fn segmentation(self) -> Segmentation {
        if self.payload > self.mss as usize {
            Segmentation::Tcp4 {
                mss: self.mss,
                ecn: false,
            }
        } else {
            Segmentation::None
        }
    }
}

/// Runs work, and returns how long it took, or zero if that is not measured.
pub(crate) type Timed = fn(&mut dyn FnMut()) -> Duration;

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl Pair {
    /// Modes of a network whose guests send segments of `mss` bytes, with `peers` additional guests in the table.
    ///
    /// # Errors
    /// The system cannot create the sockets.
    pub fn new(mss: u16, peers: u32) -> Result<Self> {
        Self::of(Shape::large(mss), peers, false)
    }

    /// Modes for processes that support hawser's option, and so do not split frames on the loopback.
    ///
    /// # Errors
    /// The system cannot create the sockets.
    pub fn whole(mss: u16) -> Result<Self> {
        Self::of(Shape::large(mss), 0, true)
    }

    /// The same for guests that send bursts of small frames, with `peers` additional guests in the table.
    ///
    /// # Errors
    /// The system gives no sockets.
    pub(crate) fn small(peers: u32) -> Result<Self> {
        let shape = Shape {
            mss: 1376,
            payload: 64,
            frames: 64,
        };
        Self::of(shape, peers, false)
    }

    /// Number of frames in a burst.
    pub(crate) const fn frames(&self) -> usize {
        self.shape.frames
    }

    fn of(shape: Shape, peers: u32, knows_frame_option: bool) -> Result<Self> {
        let mss = shape.mss;
        let (a, b) = (endpoint(2)?, endpoint(3)?);
        let sender = station_config(a, SENDER, (b, RECEIVER, knows_frame_option), peers)?;
        let receiver = station_config(b, RECEIVER, (a, SENDER, knows_frame_option), peers)?;
        Ok(Self {
            sender: station(&sender, SENDER, mss)?,
            receiver: station(&receiver, RECEIVER, mss)?,
            from: vec![0x5a; REGION],
            into: Memory {
                bytes: vec![0; REGION],
                at: 0,
                payload: 0,
                frames: 0,
            },
            shape,
            sent: 0,
            seq: 1,
        })
    }

    /// The headers of the next frame, whose checksum is left to the device.
    fn headers(&mut self) -> [u8; HEADERS] {
        let mut bytes = [0; HEADERS];
        bytes[..6].copy_from_slice(&RECEIVER.0);
        bytes[6..12].copy_from_slice(&SENDER.0);
        bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        let total = u16::try_from(HEADERS - 14 + self.shape.payload).unwrap_or(u16::MAX);
        bytes[16..18].copy_from_slice(&total.to_be_bytes());
        bytes[20..24].copy_from_slice(&[0x40, 0, 64, 6]);
        bytes[26..34].copy_from_slice(&[10, 0, 0, 9, 10, 0, 0, 1]);
        let sum = Sum::default().bytes(&bytes[14..34]).finish();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes[34..38].copy_from_slice(&[0x10, 0, 0x20, 0]);
        bytes[38..42].copy_from_slice(&self.seq.to_be_bytes());
        bytes[46..48].copy_from_slice(&[0x80, 0x10]);
        bytes[48] = 1;
        bytes[54..66].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
        let length = u16::try_from(32 + self.shape.payload).unwrap_or(u16::MAX);
        let pseudo = Sum::default().bytes(&bytes[26..34]).word(6).word(length).fold();
        bytes[50..52].copy_from_slice(&pseudo.to_be_bytes());
        self.seq = self.seq.wrapping_add(u32::try_from(self.shape.payload).unwrap_or(0));
        bytes
    }
}

impl Pair {
    /// Sends a burst. Returns the time of the sender.
    pub(crate) fn send(&mut self, timed: Timed) -> Duration {
        let Shape {
            payload: len, frames, ..
        } = self.shape;
        let headers: Vec<[u8; HEADERS]> = (0..frames).map(|_| self.headers()).collect();
        let mut heads = Vec::new();
        let mut slices = Vec::new();
        for header in &headers {
            let payload = &self.from[self.sent..][..len];
            let mut head = [0; HEAD_MAX];
            head[..HEADERS].copy_from_slice(header);
            head[HEADERS..].copy_from_slice(&payload[..HEAD_MAX - HEADERS]);
            heads.push(head);
            slices.push([GuestSlice::from_bytes(header), GuestSlice::from_bytes(payload)]);
            self.sent = (self.sent + len) % (REGION - PAYLOAD);
        }
        let offload = Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            segmentation: self.shape.segmentation(),
        };
        let frames: Vec<GuestFrame<'_>> = heads
            .iter()
            .zip(&slices)
            .map(|(head, slices)| GuestFrame {
                head,
                parsed: Head::parse(head, HEADERS + len),
                slices,
                len: HEADERS + len,
                offload,
            })
            .collect();
        let mut nothing = Memory {
            bytes: Vec::new(),
            at: 0,
            payload: 0,
            frames: 0,
        };
        timed(&mut || self.sender.on_burst(NOW, &frames, &mut nothing))
    }

    /// Receives the burst that was sent last. Returns the time of the receiver.
    ///
    /// # Errors
    /// A part of the burst was lost.
    pub(crate) fn receive(&mut self, timed: Timed) -> Result<Duration> {
        let expected = self.into.payload + u64::try_from(self.shape.bytes())?;
        let mut idle = 0;
        let time = timed(&mut || {
            while self.into.payload < expected && idle < PATIENCE {
                let had = self.into.payload;
                self.receiver.after_burst(NOW, &mut self.into);
                idle = if had == self.into.payload { idle + 1 } else { 0 };
            }
        });
        if idle == PATIENCE {
            return Err(failure("segments were lost on the loopback"));
        }
        Ok(time)
    }
}

impl Burst for Pair {
    fn burst(&mut self) -> Result<u64> {
        let untimed: Timed = |work| {
            work();
            Duration::ZERO
        };
        self.send(untimed);
        self.receive(untimed)?;
        Ok(u64::try_from(self.shape.bytes())?)
    }
}

fn endpoint(host: u8) -> Result<SocketAddr> {
    Ok(UdpSocket::bind((Ipv4Addr::new(127, 0, 0, host), 0))?.local_addr()?)
}

/// The configuration of a mode for the guest `mac`, with a peer given by endpoint, MAC and support for the option, and
/// `peers` others.
pub(super) fn station_config(
    vtep: SocketAddr,
    mac: MacAddr,
    (other, far, knows_frame_option): (SocketAddr, MacAddr, bool),
    peers: u32,
) -> Result<Layer2Config> {
    let known = PeerConfig {
        vtep: other,
        macs: vec![far],
        addresses: vec![Ipv4Addr::new(10, 0, 0, far.0[5]).into()],
        name: None,
        knows_frame_option,
        is_moved: false,
    };
    let more = (0..peers).map(|number| {
        let [a, b, c, d] = number.to_be_bytes();
        PeerConfig {
            vtep: SocketAddr::new(Ipv4Addr::new(198, 18, c & 3, d).into(), 6081),
            macs: vec![MacAddr([6, 0, a, b, c, d])],
            addresses: vec![Ipv4Addr::new(10, 1, c, d).into()],
            name: None,
            knows_frame_option: false,
            is_moved: false,
        }
    });
    Ok(Layer2Config {
        vni: Vni::new(7).ok_or_else(|| failure("no VNI"))?,
        vtep,
        role: NetworkRole::Primary(PrimaryNetwork {
            ipv4: Some(Ipv4Link {
                network: "10.0.0.0/8".parse()?,
                gateway: Ipv4Addr::new(10, 0, 0, 254),
                guest: Ipv4Addr::new(10, 0, 0, mac.0[5]),
            }),
            ipv6: None,
            dns_forward: Vec::new(),
            forwards: Vec::new(),
            services: Vec::new(),
        }),
        names: NameConfig::default(),
        peers: std::iter::once(known).chain(more).collect(),
    })
}

/// A mode for the guest `mac` whose segments have `mss` bytes.
fn station(mode: &Layer2Config, mac: MacAddr, mss: u16) -> Result<Overlay> {
    let port = PortConfig {
        name: "tunnel".into(),
        mac: Some(mac),
        mtu: mss + 52,
        queue_pairs: NonZeroU16::MIN,
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        mode: ModeConfig::Layer2(mode.clone()),
    };
    Ok(Overlay::new(
        OverlaySetup::alone(&port, mode, 16)?,
        OverlayState::new(&port, mode),
        None,
    )?)
}
