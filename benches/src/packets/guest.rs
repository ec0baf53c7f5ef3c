//! A synthetic guest that keeps the rings busy with small frames.

use super::frames::LEN;
use super::sender::{Sender, deaf};
use super::{HEADERS, Load, MAC, Outcome, PAYLOAD, TAP, set_up};
use crate::engine::thread_time;
use hawser_backend::config::{BridgeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::counters::Count;
use hawser_backend::packet::MacAddr;
use hawser_backend::port::{Port, PortResources};
use hawser_backend::sys::tap::TapQueue;
use hawser_backend::vhost_user::{Endpoint, Lifetime, Server};
use hawser_testkit::frontend::{Buffer, Ram, Ring, Vmm, VmmConfig};
use hawser_testkit::netns::Namespace;
use hawser_testkit::{Result, failure};
use std::hint::spin_loop;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const NAME: &str = "packets";
const WORKER: &str = "packets-0";
const RING_SIZE: u16 = 256;
/// Length of a receive buffer, which has room for a frame of the usual MTU and its headers, as Linux posts it.
const RECEIVE_BUFFER: u32 = 1536;
/// Length of the virtio header in bytes.
const VIRTIO: usize = 12;
/// VIRTIO_NET_HDR_GSO_UDP_L4
const GSO_UDP_L4: u8 = 5;
const PATIENCE: Duration = Duration::from_secs(2);

fn port_config() -> PortConfig {
    PortConfig {
        name: NAME.into(),
        mac: Some(MacAddr(MAC)),
        mtu: 1500,
        queue_pairs: NonZeroU16::MIN,
        policy: PolicyConfig::default(),
        pace: PaceConfig::default(),
        mode: ModeConfig::Bridge(BridgeConfig::default()),
    }
}

/// Moves frames through hawser for `time`. The guest accepts `features` among those that are offered.
///
/// # Errors
/// The rings stall.
pub fn run(load: Load, features: u64, time: Duration) -> Result<Outcome> {
    let namespace = Namespace::new()?;
    let queue = namespace.inside(|| TapQueue::open(TAP, 1))??.pop();
    let queue = queue.ok_or_else(|| failure("no queue"))?;
    let resources = PortResources {
        queues: vec![Arc::new(queue)],
        ..PortResources::default()
    };
    let port = Arc::new(Port::new(port_config(), resources)?);
    let host_mac = set_up(&namespace)?;
    let _deaf = namespace.inside(deaf)??;
    let (ours, theirs) = UnixStream::pair()?;
    let server = Server::bind(Endpoint::Fd(theirs.into()), Arc::clone(&port), Lifetime::OneOff)?;
    let serving = thread::spawn(move || server.run());
    let config = VmmConfig {
        ring_size: RING_SIZE,
        memory: vec![(0, 32 << 20)],
        features,
        receive_buffer: RECEIVE_BUFFER,
        ..VmmConfig::default()
    };
    let mut vmm = Vmm::connect(ours, config)?;
    let ram = Arc::clone(&vmm.ram);
    let outcome = if load.is_out() {
        let mut guest = Transmitter::new(&ram, &mut vmm.nics[0].transmit, |n| load.frames().frame(n, host_mac))?;
        guest.measure(&port, time)
    } else {
        let mut guest = Receiver::new(&ram, &mut vmm.nics[0].receive)?;
        let _sender = namespace.inside(|| Sender::start(load == Load::InBatches))??;
        guest.measure(time)
    };
    drop(vmm);
    serving.join().map_err(|_| failure("the server panicked"))??;
    outcome
}

/// Waits until half of the ring has been used, because three threads share two processors.
fn wait(ring: &mut Ring) -> bool {
    ring.wait_used_by(RING_SIZE / 2, PATIENCE)
}

struct Transmitter<'a> {
    ring: &'a mut Ring,
}

impl<'a> Transmitter<'a> {
    /// A full ring. Each frame is posted again as soon as it has been used.
    fn new(ram: &Ram, ring: &'a mut Ring, frame: impl Fn(usize) -> [u8; LEN]) -> Result<Self> {
        for n in 0..usize::from(RING_SIZE) {
            let at = ram.allocate(LEN as u64, 64);
            ram.write(at, &frame(n));
            let buffer = Buffer {
                at,
                len: u32::try_from(LEN)?,
                writable: false,
            };
            ring.add(&[buffer]).ok_or_else(|| failure("no room in the ring"))?;
        }
        Ok(Self { ring })
    }

    /// Posts used frames again. False if there were none.
    fn put_back(&mut self) -> bool {
        // The descriptor still has the address of the frame.
        let mut any = false;
        while let Some((head, _)) = self.ring.used() {
            self.ring.offer(head);
            any = true;
        }
        any
    }

    /// Polls the ring, like a guest with a dedicated processor (DPDK); interrupts are off.
    fn measure(&mut self, port: &Port, time: Duration) -> Result<Outcome> {
        self.ring.publish_and_kick()?;
        let sent = || port.counters().count(Count::TxFrames);
        let (start, cpu, before) = (Instant::now(), thread_time(WORKER)?, sent());
        let mut last = start;
        while start.elapsed() < time {
            if self.put_back() {
                self.ring.want_call(false);
                self.ring.publish_and_kick()?;
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                return Err(failure("the device does not take what is sent"));
            } else {
                spin_loop();
            }
        }
        Ok(Outcome {
            packets: sent() - before,
            time: start.elapsed(),
            cpu: thread_time(WORKER)?.saturating_sub(cpu),
        })
    }
}

struct Receiver<'a> {
    ram: &'a Ram,
    ring: &'a mut Ring,
    at: Vec<u64>,
}

impl<'a> Receiver<'a> {
    fn new(ram: &'a Ram, ring: &'a mut Ring) -> Result<Self> {
        let mut at = vec![0; RING_SIZE.into()];
        for _ in 0..RING_SIZE {
            let buffer = Buffer {
                at: ram.allocate(RECEIVE_BUFFER.into(), 64),
                len: RECEIVE_BUFFER,
                writable: true,
            };
            let head = ring.add(&[buffer]).ok_or_else(|| failure("no room in the ring"))?;
            at[usize::from(head)] = buffer.at;
        }
        ring.publish_and_kick()?;
        Ok(Self { ram, ring, at })
    }

    fn measure(&mut self, time: Duration) -> Result<Outcome> {
        let (start, cpu) = (Instant::now(), thread_time(WORKER)?);
        let mut packets = 0;
        while start.elapsed() < time {
            while let Some((head, len)) = self.ring.used() {
                packets += self.count(head, len);
                self.ring.offer(head);
            }
            self.ring.publish_and_kick()?;
            if !wait(self.ring) {
                return Err(failure("no frame comes"));
            }
        }
        Ok(Outcome {
            packets,
            time: start.elapsed(),
            cpu: thread_time(WORKER)?.saturating_sub(cpu),
        })
    }

    /// Number of datagrams in a buffer. A datagram that continues from the previous buffer begins with payload.
    fn count(&self, head: u16, len: u32) -> u64 {
        let mut virtio = [0; VIRTIO];
        self.ram.read(self.at[usize::from(head)], &mut virtio);
        let payload = (len as usize).saturating_sub(VIRTIO + HEADERS);
        if virtio[1] == GSO_UDP_L4 {
            payload.div_ceil(PAYLOAD) as u64
        } else {
            1
        }
    }
}
