//! Round trips of small TCP segments between two synthetic guests on two nodes, over hawser's tunnel or over TAP devices
//! and bridges without a tunnel.
//!
//! Ports, links and bridges are real. Only the guests are not: one sends a segment as soon as the last one has come
//! back, and the other returns each. They sleep until they are interrupted, each on a processor of its own. User-Mode
//! Linux takes several times as long for its part, and its scatter hides what the tunnel adds.

use super::overlay::station_config;
use crate::engine::placement;
use crate::layer2::setup::connect_by_bridge;
use crate::served::Served;
use hawser_backend::config::{BridgeConfig, Layer2Config, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::packet::MacAddr;
use hawser_backend::packet::checksum::Sum;
use hawser_backend::port::{Port, PortResources};
use hawser_backend::sys::tap::TapQueue;
use hawser_testkit::frontend::{Header, Nic};
use hawser_testkit::nodes::Nodes;
use hawser_testkit::{Result, failure};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const MTU: u32 = 1500;
const MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
const PATIENCE: Duration = Duration::from_millis(200);
/// Times that a segment is sent in vain.
const ATTEMPTS: usize = 10;
/// Bytes of a segment: Ethernet, IPv4, TCP with timestamps, and one byte.
const LEN: usize = 14 + PACKET as usize;
/// Bytes of its IPv4 packet.
const PACKET: u8 = 20 + 32 + 1;
/// Where a segment has its number: TCP's sequence number.
const NUMBER: Range<usize> = 38..42;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM, at the checksum of TCP.
const PARTIAL: Header = Header {
    flags: 1,
    gso_type: 0,
    hdr_len: 66,
    gso_size: 0,
    csum_start: 34,
    csum_offset: 16,
    num_buffers: 0,
};

/// What is between the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// hawser's tunnel.
    Tunnel,
    /// TAP devices and bridges of the kernel, served by hawser's bridge mode.
    Bridges,
}

/// Two ports with their guests. Fields are dropped in order.
#[derive(Debug)]
pub struct Exchange {
    echo: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    near: Served,
    _nodes: Nodes,
}

impl Exchange {
    /// Starts ports and guests. The caller must have the machine.
    ///
    /// # Errors
    /// A part does not start.
    pub fn new(between: Between) -> Result<Self> {
        let nodes = Nodes::beside(2, MTU)?;
        let near = serve(between, &nodes, 0)?;
        let mut far = serve(between, &nodes, 1)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let echo = thread::spawn(move || {
            // A thread that cannot be pinned measures, with more scatter.
            let _ = placement::pin_to(1);
            while !stopping.load(Ordering::Relaxed) {
                if echo(&mut far.vmm.nics[0]).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            echo: Some(echo),
            stop,
            near,
            _nodes: nodes,
        })
    }

    /// Microseconds of each of `count` round trips.
    ///
    /// # Errors
    /// Segments do not come back.
    pub fn run(&mut self, count: u32) -> Result<Vec<f64>> {
        let nic = &mut self.near.vmm.nics[0];
        // On a thread of its own, so that those that the caller starts later are not pinned.
        thread::scope(|scope| {
            let guest = scope.spawn(|| {
                placement::pin_to(0)?;
                (0..count).map(|number| round_trip(nic, number)).collect()
            });
            guest.join().map_err(|_| failure("the guest panicked"))?
        })
    }
}

/// Microseconds until segment `number` has come back. One that is lost is sent again.
fn round_trip(nic: &mut Nic, number: u32) -> Result<f64> {
    let frame = segment(0, 1, number);
    for _ in 0..ATTEMPTS {
        let start = Instant::now();
        nic.send_with(PARTIAL, &frame)?;
        while let Some(received) = nic.recv(PATIENCE)? {
            if number_of(&received.frame) == Some(number) {
                return Ok(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    Err(failure("segments do not come back"))
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(echo) = self.echo.take() {
            // If it panicked, the panic hook has reported it.
            let _ = echo.join();
        }
    }
}

/// Returns one segment.
fn echo(nic: &mut Nic) -> std::io::Result<()> {
    let received = nic.recv(PATIENCE)?;
    if let Some(number) = received.and_then(|received| number_of(&received.frame)) {
        nic.send_with(PARTIAL, &segment(1, 0, number))?;
    }
    Ok(())
}

/// The number of a segment; `None` for another frame, such as one by which the system looks for neighbours.
fn number_of(frame: &[u8]) -> Option<u32> {
    let number = frame.get(NUMBER).filter(|_| frame.len() == LEN)?;
    Some(u32::from_be_bytes(*number.first_chunk()?))
}

/// A segment whose checksum is left to the device.
fn segment(from: usize, to: usize, number: u32) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..6].copy_from_slice(&MACS[to].0);
    bytes[6..12].copy_from_slice(&MACS[from].0);
    bytes[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, PACKET]);
    bytes[20..24].copy_from_slice(&[0x40, 0, 64, 6]);
    bytes[26..34].copy_from_slice(&[10, 0, 0, MACS[from].0[5], 10, 0, 0, MACS[to].0[5]]);
    let sum = Sum::default().bytes(&bytes[14..34]).finish();
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes[34..38].copy_from_slice(&[0x10, MACS[from].0[5], 0x10, MACS[to].0[5]]);
    bytes[NUMBER].copy_from_slice(&number.to_be_bytes());
    bytes[46..50].copy_from_slice(&[0x80, 0x18, 1, 0]);
    bytes[54..66].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
    let pseudo = Sum::default().bytes(&bytes[26..34]).word(6).word(33).fold();
    bytes[50..52].copy_from_slice(&pseudo.to_be_bytes());
    bytes
}

fn serve(between: Between, nodes: &Nodes, number: usize) -> Result<Served> {
    let node = &nodes.nodes[number];
    let (mode, resources) = match between {
        Between::Tunnel => (ModeConfig::Layer2(layer2(number)?), PortResources::default()),
        Between::Bridges => {
            connect_by_bridge(node)?;
            let queues = node.inside(|| TapQueue::open("tap0", 1))??;
            let resources = PortResources {
                queues: queues.into_iter().map(Arc::new).collect(),
                ..PortResources::default()
            };
            (ModeConfig::Bridge(BridgeConfig::default()), resources)
        }
    };
    let config = PortConfig {
        name: format!("node{number}"),
        mac: Some(MACS[number]),
        mtu: 1400,
        queue_pairs: NonZeroU16::MIN,
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        mode,
    };
    let port = Arc::new(node.inside(|| Port::new(config, resources))??);
    Served::start(port)
}

fn layer2(number: usize) -> Result<Layer2Config> {
    let vtep = |number| -> Result<SocketAddr> { Ok(SocketAddr::new(Nodes::vtep4(number).parse()?, 6081)) };
    let other = 1 - number;
    station_config(vtep(number)?, MACS[number], (vtep(other)?, MACS[other], true), 0)
}
