//! Times parts of the packet path in isolation, without a guest or another thread.
//!
//! A case is run in rounds. Each round prepares its data and passes the rest to [`measured`], so that the clock, or a
//! tool that counts instructions, sees only that part. Memory is warm, which it would not be with a guest on another
//! processor.

mod overlay;
mod port;

use crate::tunnel::Pair;
use hawser_backend::config::{Ipv4Link, MasqueradeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::counters::Counters;
use hawser_backend::frame::Budget;
use hawser_backend::frame::testing::{OwnedFrame, TestSink};
use hawser_backend::frame::{GuestSink, Layout, Offload};
use hawser_backend::masquerade::{Masquerade, MasqueradeSetup};
use hawser_backend::mode::Mode;
use hawser_backend::packet::{Head, MacAddr, checksum};
use hawser_backend::virtio::features::Features;
use hawser_backend::virtio::receive::Receive;
use hawser_backend::virtio::ring::Ring;
use hawser_backend::virtio::testing::{Buffer, DriverRing, TestMemory};
use hawser_backend::virtio::transmit::Transmit;
use hawser_testkit::Result;
use std::hint::black_box;
use std::net::{Ipv4Addr, UdpSocket};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// VERSION_1, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, GUEST_CSUM, CSUM.
const FEATURES: Features = Features(1 << 32 | 1 << 15 | 1 << 28 | 1 << 29 | 1 << 1 | 1);
const RING: u16 = 256;
/// Number of frames per burst.
const BURST: usize = 64;
/// Guests that the tunnel's table knows besides the two.
const MANY: u32 = 10_000;
/// Payload bytes of a segment in the tunnel on an underlay of 1500 bytes.
const SEGMENT: u16 = 1376;
/// Number of known flows.
const FLOWS: usize = 512;

/// Runs the measured part, and returns its duration. It is never inlined, so that tools find it by its name.
#[inline(never)]
pub fn measured(work: &mut dyn FnMut()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// A round. It returns the duration of the measured part, and its number of frames or calls.
pub type Round = Box<dyn FnMut() -> (Duration, u32)>;

/// A case: its name, and the function that creates its rounds.
pub type Case = (&'static str, fn() -> Result<Round>);

/// All cases.
pub const ALL: [Case; 23] = [
    ("transmit-60", || Ok(transmit(&[72], false))),
    ("transmit-1514-two-buffers", || Ok(transmit(&[12, 1514], false))),
    ("transmit-64k-indirect", || {
        let large: Vec<u32> = [12, 66].into_iter().chain([4096; 16]).collect();
        Ok(transmit(&large, true))
    }),
    ("receive-60-copied", || Ok(receive(None))),
    ("receive-1460-reserved", || Ok(receive(Some(1460)))),
    ("receive-64k-reserved", || Ok(receive(Some(65_482)))),
    ("parse-tcp4", || Ok(parse(ipv4(6, &[0; 32])))),
    ("parse-udp4", || Ok(parse(ipv4(17, &[0; 8])))),
    ("parse-tcp6", || Ok(parse(ipv6(6, &[0; 32])))),
    ("checksum-20", || Ok(sum(20))),
    ("checksum-1500", || Ok(sum(1500))),
    ("udp-burst-one-flow", || udp_burst(1)),
    ("udp-burst-64-flows-of-512", || udp_burst(BURST)),
    ("overlay-send-64k-cut", || overlay::send(Pair::new(SEGMENT, 0)?)),
    ("overlay-receive-64k-joined", || {
        overlay::receive(Pair::new(SEGMENT, 0)?)
    }),
    ("overlay-send-64k-whole", || overlay::send(Pair::whole(SEGMENT)?)),
    ("overlay-receive-64k-whole", || overlay::receive(Pair::whole(SEGMENT)?)),
    ("overlay-send-64", || overlay::send(Pair::small(0)?)),
    ("overlay-send-64-10000-known", || overlay::send(Pair::small(MANY)?)),
    ("overlay-receive-64", || overlay::receive(Pair::small(0)?)),
    ("overlay-receive-64-10000-known", || {
        overlay::receive(Pair::small(MANY)?)
    }),
    ("port-burst-1", || port::burst(1)),
    ("port-burst-64", || port::burst(BURST)),
];

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A driver, the memory that it shares, and the ring in that memory.
fn pair() -> (TestMemory, DriverRing, Ring) {
    let mut memory = TestMemory::new(0x100_0000);
    let driver = DriverRing::new(&mut memory, RING);
    let ring = Ring::new(Arc::clone(&memory.map), driver.layout, FEATURES).expect("a good ring");
    (memory, driver, ring)
}

fn buffers(memory: &mut TestMemory, lengths: &[u32], writable: bool) -> Vec<Buffer> {
    let buffer = |&len: &u32| Buffer {
        address: memory.take(len.into(), 64),
        len,
        writable,
    };
    lengths.iter().map(buffer).collect()
}

/// A full ring of frames, each in buffers of `lengths`.
fn transmit(lengths: &[u32], indirect: bool) -> Round {
    let (mut memory, mut driver, ring) = pair();
    let mut transmit = Transmit::new(ring, FEATURES);
    let counters = Counters::default();
    let chain = buffers(&mut memory, lengths, false);
    let per_ring = if indirect { 1 } else { lengths.len() };
    let frames = count(usize::from(RING) / per_ring);
    let table = memory.take(0x1000, 16);
    Box::new(move || {
        for _ in 0..frames {
            if indirect {
                driver.post_table(&memory, table, &chain);
            } else {
                driver.post(&memory, &chain);
            }
        }
        let mut taken = 0;
        let time = measured(&mut || {
            while taken < frames {
                let burst = transmit.burst(
                    &counters,
                    Budget::UNLIMITED,
                    |_, _, _| Ok(Head::default()),
                    |_, _| {},
                    |burst| {
                        black_box(burst);
                    },
                );
                taken += count(burst.expect("good chains"));
                black_box(transmit.ring().wants_call());
            }
        });
        (time, taken)
    })
}

/// Writes frames into buffers as Linux posts them, either copied or reserved with this many bytes of payload.
fn receive(payload: Option<usize>) -> Round {
    const BUFFER: u32 = 1536;
    let (mut memory, mut driver, ring) = pair();
    let mut receive = Receive::new(Arc::new(Counters::default()));
    receive.set_features(FEATURES);
    receive.start(ring);
    let all: Vec<_> = (0..RING).map(|_| buffers(&mut memory, &[BUFFER], true)).collect();
    let mut posted = 0;
    Box::new(move || {
        while posted < usize::from(RING) {
            driver.post(&memory, &all[posted]);
            posted += 1;
        }
        let mut frames = 0;
        let time = measured(&mut || {
            while one_frame(&mut receive, payload) {
                frames += 1;
            }
            black_box(receive.publish());
        });
        posted -= driver.take_used(&memory).len();
        (time, frames)
    })
}

/// Sends the guest one whole frame. False if there was no room for it.
fn one_frame(receive: &mut Receive, payload: Option<usize>) -> bool {
    let Some(payload) = payload else {
        return receive.send(Offload::VALID, &[&[1; 14], &[2; 46]]).is_ok();
    };
    let layout = Layout {
        header: 54,
        payload,
        count: 1,
    };
    if receive.reserve(layout).is_err() {
        return false;
    }
    let room: usize = receive.payload_all().iter().map(|slice| slice.len()).sum();
    let whole = room == payload;
    let lengths = [payload];
    receive.commit(&lengths[..usize::from(whole)], &mut |_, _, head| {
        head.fill(3);
        Offload::VALID
    });
    whole
}

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 1, 2, 3]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

fn ethernet(ethertype: [u8; 2]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 0], &MAC.0[..], &ethertype].concat()
}

fn ipv4(protocol: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + rest.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = [0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 64, protocol, 0, 0].to_vec();
    header.extend_from_slice(&[GUEST.octets(), GATEWAY.octets()].concat());
    let sum = checksum::of(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [&ethernet([8, 0]), &header[..], rest].concat()
}

fn ipv6(protocol: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
    header.resize(40, 1);
    [&ethernet([0x86, 0xdd]), &header[..], rest].concat()
}

fn parse(frame: Vec<u8>) -> Round {
    assert!(Head::parse(&frame, frame.len()).fault().is_none(), "a good frame");
    Box::new(move || {
        let time = measured(&mut || {
            for _ in 0..BURST {
                let _ = black_box(Head::parse(black_box(&frame), frame.len()));
            }
        });
        (time, count(BURST))
    })
}

fn sum(len: usize) -> Round {
    let bytes = vec![0x5a; len];
    Box::new(move || {
        let time = measured(&mut || {
            for _ in 0..BURST {
                black_box(checksum::of(black_box(&bytes)));
            }
        });
        (time, count(BURST))
    })
}

/// A masquerade whose gateway stands for the loopback of this machine.
fn masquerade() -> Result<Masquerade> {
    let link = Ipv4Link {
        network: "10.0.2.0/24".parse()?,
        gateway: GATEWAY,
        guest: GUEST,
    };
    let mode = MasqueradeConfig {
        ipv4: Some(link),
        map_host_loopback: vec![GATEWAY.into()],
        ..MasqueradeConfig::default()
    };
    let port = PortConfig {
        name: "case".into(),
        mac: Some(MAC),
        mtu: 1500,
        queue_pairs: NonZeroU16::MIN,
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        mode: ModeConfig::Masquerade(mode.clone()),
    };
    Ok(Masquerade::new(MasqueradeSetup::alone(&port, &mode, 1024)?)?)
}

/// A burst of 64-byte datagrams of this many flows, chosen among [`FLOWS`] known ones. It takes the path after
/// admission, with its flow lookups and system calls.
fn udp_burst(flows: usize) -> Result<Round> {
    let server = UdpSocket::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port().to_be_bytes();
    let datagram = |flow: usize| {
        let from = u16::try_from(20_000 + flow).unwrap_or(0).to_be_bytes();
        let udp = [from[0], from[1], port[0], port[1], 0, 72, 0, 0];
        OwnedFrame::new(ipv4(17, &[&udp[..], &[7; 64]].concat())).with_offload(Offload::VALID)
    };
    let frames: Vec<_> = (0..FLOWS).map(datagram).collect();
    let (mut masquerade, mut sink) = (masquerade()?, TestSink::default());
    let clock = hawser_backend::time::Instant::from_nanos(0);
    masquerade.on_link_up(clock, &mut sink);
    for frame in &frames {
        frame.with(|frame| masquerade.on_burst(clock, &[*frame], &mut sink));
    }
    let mut first = 0;
    Ok(Box::new(move || {
        // Each round uses different flows, so that none was just looked up.
        first = (first + BURST) % FLOWS;
        let of = |n: usize| &frames[(first + n % flows) % FLOWS];
        let slices: Vec<_> = (0..BURST).map(|n| of(n).slices()).collect();
        let burst: Vec<_> = (0..BURST).map(|n| of(n).view(&slices[n])).collect();
        let time = measured(&mut || masquerade.on_burst(clock, &burst, &mut sink));
        sink.frames.clear();
        let _ = &server;
        (time, count(BURST))
    }))
}
