//! A synthetic guest, with just enough of a driver and of TCP to keep one flow at full speed.

use super::crowd::{Background, Crowd};
use super::peer::FarEnd;
use super::segment::{self, ACK, Ends, FIN, HEADERS, OPTIONS, PSH, RST, Received, SYN, Segment, VIRTIO, WINDOW_SCALE};
use super::{Outcome, PATIENCE, PIECE, Run, UNIT, UNITS, Way, thread_time_in};
use hawser_backend::config::{
    Forward, Ipv4Link, MasqueradeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig, Transport,
};
use hawser_backend::packet::MacAddr;
use hawser_backend::port::{Port, PortResources};
use hawser_backend::vhost_user::{Endpoint, Lifetime, Server};
use hawser_testkit::frontend::{Buffer, Ram, Ring, Vmm, VmmConfig};
use hawser_testkit::{Result, failure};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Name of the port. Its worker is the thread that is measured.
pub const NAME: &str = "engine";
/// Options for a hawser in another process with the same port.
pub const OPTIONS_OF_PORT: [&str; 4] = [
    "--ipv4=10.0.2.0/24",
    "--ipv6=off",
    "--mac=52:54:00:68:61:77",
    "--mtu=1500",
];
/// Process name that stands for this process.
const SELF: &str = "self";
const WORKER: &str = "engine-0";
const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x68, 0x61, 0x77]);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GUEST_PORT: u16 = 9000;
/// A port of the host that is forwarded to the guest.
pub const FORWARDED: u16 = 9001;
const RING_SIZE: u16 = 256;
/// Length of a receive buffer in bytes: a page, as Linux posts them for a bulk flow.
const RECEIVE_BUFFER: u32 = 4096;
/// Number of bytes of a receive buffer that are read.
const LOOKED_AT: usize = VIRTIO + HEADERS + OPTIONS;

fn port_config() -> Result<PortConfig> {
    let link = Ipv4Link {
        network: "10.0.2.0/24".parse()?,
        gateway: Ipv4Addr::new(10, 0, 2, 1),
        guest: GUEST,
    };
    Ok(PortConfig {
        name: NAME.into(),
        mac: Some(MAC),
        mtu: 1500,
        queue_pairs: NonZeroU16::MIN,
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        mode: ModeConfig::Masquerade(MasqueradeConfig {
            ipv4: Some(link),
            forwards: vec![Forward {
                transport: Transport::Tcp,
                bind: None,
                host_port: FORWARDED,
                guest_port: FORWARDED,
                count: NonZeroU16::MIN,
            }],
            ..MasqueradeConfig::default()
        }),
    })
}

/// Moves units through hawser.
///
/// # Errors
/// The connection fails or stalls.
pub fn run(run: Run) -> Result<Outcome> {
    run_beside(run, Background::Idle(0)).map(|(outcome, _)| outcome)
}

/// Moves units through hawser with other activity beside it. Also returns the number of connections of the storm.
///
/// # Errors
/// A connection fails or stalls.
pub fn run_beside(run: Run, beside: Background) -> Result<(Outcome, u64)> {
    let far = FarEnd::new(run.way)?;
    let port = Arc::new(Port::new(port_config()?, PortResources::default())?);
    let (ours, theirs) = UnixStream::pair()?;
    let server = Server::bind(Endpoint::Fd(theirs.into()), port, Lifetime::OneOff)?;
    let serving = thread::spawn(move || server.run());
    let outcome = drive(ours, SELF, &far, run, beside);
    serving.join().map_err(|_| failure("the server panicked"))??;
    // A far end that has never got its connection still waits for one.
    if outcome.is_ok() {
        far.join()?;
    }
    outcome
}

/// Moves units through the hawser of another process, which listens at `socket` with a port of this
/// [`NAME`] and the options [`OPTIONS_OF_PORT`].
///
/// # Errors
/// The connection fails or stalls.
pub fn run_against(socket: &Path, process: u32, run: Run) -> Result<Outcome> {
    let far = FarEnd::new(run.way)?;
    let front = UnixStream::connect(socket)?;
    let (outcome, _) = drive(front, &process.to_string(), &far, run, Background::Idle(0))?;
    far.join()?;
    Ok(outcome)
}

/// Connects as a front end, and moves units.
fn drive(front: UnixStream, process: &str, far: &FarEnd, run: Run, beside: Background) -> Result<(Outcome, u64)> {
    let SocketAddr::V4(at) = far.at else {
        return Err(failure("the far end is IPv4"));
    };
    let config = VmmConfig {
        ring_size: RING_SIZE,
        memory: vec![(0, 32 << 20)],
        receive_buffer: RECEIVE_BUFFER,
        ..VmmConfig::default()
    };
    let mut vmm = Vmm::connect(front, config)?;
    let outcome = Guest::new(&mut vmm, at).and_then(|mut guest| {
        process.clone_into(&mut guest.process);
        let mut crowd = Crowd::gather(&mut guest, beside)?;
        guest.connect()?;
        crowd.begin(beside);
        if let Some(reserved) = run.reserved {
            reserved.give_to(process, WORKER)?;
        }
        let outcome = guest.measure(run, far, &mut crowd);
        let storm = crowd.end()?;
        guest.send(FIN | ACK | RST, None)?;
        outcome.map(|outcome| (outcome, storm))
    });
    // This gives the worker time to notice the end of the connection.
    thread::sleep(Duration::from_millis(20));
    outcome
}

/// A driver and its only flow. It keeps no state for flows of a [`Crowd`].
pub struct Guest<'a> {
    ram: Arc<Ram>,
    /// Process whose worker is measured.
    process: String,
    receive: &'a mut Ring,
    transmit: &'a mut Ring,
    ends: Ends,
    /// Guest-physical addresses of receive buffers, by their head.
    receive_at: Vec<u64>,
    /// Header buffer, payload and indirect table of each unit.
    units: Vec<UnitMemory>,
    free_units: Vec<usize>,
    /// Unit that each transmit head carries.
    unit_of: Vec<usize>,
    snd_una: u32,
    snd_nxt: u32,
    rcv_nxt: u32,
    /// The window that the far end accepts beyond `snd_una`.
    window: u32,
    scale: u8,
    is_over: bool,
    /// Port and sequence number of each SYN-ACK to a crowd's flow.
    answers: Vec<(u16, u32)>,
}

impl std::fmt::Debug for Guest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
struct UnitMemory {
    head: u64,
    payload: u64,
    table: u64,
}

impl<'a> Guest<'a> {
    fn new(vmm: &'a mut Vmm, far: SocketAddrV4) -> Result<Self> {
        let ram = Arc::clone(&vmm.ram);
        let nic = &mut vmm.nics[0];
        let units: Vec<_> = (0..UNITS)
            .map(|_| UnitMemory {
                head: ram.allocate(256, 64),
                payload: ram.allocate(UNIT as u64, 4096),
                table: ram.allocate(1024, 16),
            })
            .collect();
        let mut guest = Self {
            process: SELF.into(),
            receive: &mut nic.receive,
            transmit: &mut nic.transmit,
            ends: Ends {
                mac: MAC,
                guest: SocketAddrV4::new(GUEST, GUEST_PORT),
                far,
            },
            receive_at: vec![0; RING_SIZE.into()],
            free_units: (0..UNITS).collect(),
            units,
            unit_of: vec![0; RING_SIZE.into()],
            snd_una: 1,
            snd_nxt: 1,
            rcv_nxt: 0,
            window: 0,
            scale: 0,
            is_over: false,
            answers: Vec::new(),
            ram,
        };
        for _ in 0..RING_SIZE {
            let at = guest.ram.allocate(RECEIVE_BUFFER.into(), 4096);
            guest.post(at)?;
        }
        guest.receive.publish_and_kick()?;
        Ok(guest)
    }

    fn post(&mut self, at: u64) -> Result<()> {
        let buffer = Buffer {
            at,
            len: RECEIVE_BUFFER,
            writable: true,
        };
        let head = self
            .receive
            .add(&[buffer])
            .ok_or_else(|| failure("no room in the ring"))?;
        self.receive_at[usize::from(head)] = at;
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        self.send(SYN, None)?;
        let deadline = Instant::now() + PATIENCE;
        while self.rcv_nxt == 0 {
            if Instant::now() > deadline {
                return Err(failure("no answer to the SYN"));
            }
            self.receive.wait_used(PATIENCE);
            self.receive_all()?;
        }
        self.send(ACK, None)
    }

    /// Puts a segment, with the payload of a unit or without payload, into the ring and kicks the device. False if
    /// there is no room.
    fn queue(&mut self, flags: u8, payload: Option<usize>) -> Result<bool> {
        let segment = Segment {
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags,
            window: u16::MAX,
            payload: payload.unwrap_or(0),
        };
        if !self.put(&self.ends.clone(), segment)? {
            return Ok(false);
        }
        let takes = u32::try_from(segment.payload)? + u32::from(flags & (SYN | FIN) != 0);
        self.snd_nxt = self.snd_nxt.wrapping_add(takes);
        Ok(true)
    }

    /// Puts a segment of any flow into the ring. False if there is no room.
    pub(super) fn put(&mut self, ends: &Ends, segment: Segment) -> Result<bool> {
        while let Some((head, _)) = self.transmit.used() {
            self.free_units.push(self.unit_of[usize::from(head)]);
        }
        let Some(unit) = self.free_units.pop() else {
            return Ok(false);
        };
        let memory = self.units[unit];
        let bytes = segment::emit(ends, segment);
        self.ram.write(memory.head, &bytes);
        let mut chain = vec![Buffer {
            at: memory.head,
            len: u32::try_from(bytes.len())?,
            writable: false,
        }];
        for offset in (0..segment.payload).step_by(PIECE) {
            chain.push(Buffer {
                at: memory.payload + offset as u64,
                len: u32::try_from(PIECE.min(UNIT - offset))?,
                writable: false,
            });
        }
        let head = self.transmit.add_indirect(memory.table, &chain);
        let head = head.ok_or_else(|| failure("no room in the ring"))?;
        self.unit_of[usize::from(head)] = unit;
        Ok(true)
    }

    /// The endpoints of a crowd's flow.
    pub(super) const fn ends_of(&self, port: u16, far: SocketAddrV4) -> Ends {
        Ends {
            mac: MAC,
            guest: SocketAddrV4::new(GUEST, port),
            far,
        }
    }

    /// Publishes all added segments to the device.
    pub(super) fn publish(&mut self) -> Result<()> {
        Ok(self.transmit.publish_and_kick()?)
    }

    /// Waits for frames. False if none arrive.
    pub(super) fn wait(&mut self, time: Duration) -> bool {
        self.receive.wait_used(time)
    }

    /// Takes received frames, and returns the answers to a crowd's SYNs.
    pub(super) fn take_answers(&mut self) -> Result<Vec<(u16, u32)>> {
        self.receive_all()?;
        Ok(std::mem::take(&mut self.answers))
    }

    fn send(&mut self, flags: u8, payload: Option<usize>) -> Result<()> {
        while !self.queue(flags, payload)? {
            if !self.transmit.wait_used(PATIENCE) {
                return Err(failure("the device does not take what is sent"));
            }
        }
        Ok(self.transmit.publish_and_kick()?)
    }

    /// Takes all frames that the device has written. Returns their payload.
    fn receive_all(&mut self) -> Result<(usize, usize)> {
        let (mut bytes, mut frames) = (0, 0);
        while let Some((head, _)) = self.receive.used() {
            let at = self.receive_at[usize::from(head)];
            let mut looked_at = [0; LOOKED_AT];
            self.ram.read(at, &mut looked_at);
            self.post(at)?;
            for _ in 1..segment::buffers(&looked_at) {
                let (head, _) = self
                    .receive
                    .used()
                    .ok_or_else(|| failure("a merged frame lacks buffers"))?;
                self.post(self.receive_at[usize::from(head)])?;
            }
            if let Some(received) = segment::parse(&looked_at) {
                bytes += self.take(received)?;
                frames += 1;
            }
        }
        self.receive.publish_and_kick()?;
        Ok((bytes, frames))
    }

    /// Handles a segment, and returns its new payload.
    fn take(&mut self, segment: Received) -> Result<usize> {
        if segment.port != GUEST_PORT {
            if segment.flags == SYN | ACK {
                self.answers.push((segment.port, segment.seq));
            }
            return Ok(0);
        }
        if segment.flags & RST != 0 {
            return Err(failure("the connection was reset"));
        }
        if segment.flags & SYN != 0 {
            self.scale = segment.scale;
            self.rcv_nxt = segment.seq.wrapping_add(1);
            self.window = segment.window.into();
        } else {
            self.window = u32::from(segment.window) << self.scale;
        }
        self.snd_una = segment.ack;
        self.is_over |= segment.flags & FIN != 0;
        if segment.payload == 0 || segment.seq != self.rcv_nxt {
            return Ok(0);
        }
        self.rcv_nxt = self.rcv_nxt.wrapping_add(u32::try_from(segment.payload)?);
        Ok(segment.payload)
    }

    fn measure(&mut self, run: Run, far: &FarEnd, crowd: &mut Crowd) -> Result<Outcome> {
        let swallowed = || far.swallowed.load(std::sync::atomic::Ordering::Relaxed);
        let (start, before) = (Instant::now(), swallowed());
        let cpu = thread_time_in(&self.process, WORKER)?;
        let mut received = 0;
        while start.elapsed() < run.time {
            crowd.turn(self)?;
            match run.way {
                Way::Out => self.push()?,
                Way::In => received += self.pull()?,
            }
        }
        Ok(Outcome {
            bytes: if run.way == Way::Out {
                swallowed() - before
            } else {
                received
            },
            time: start.elapsed(),
            cpu: thread_time_in(&self.process, WORKER)?.saturating_sub(cpu),
        })
    }

    /// Sends units as far as the window allows, then waits for an acknowledgment.
    fn push(&mut self) -> Result<()> {
        let unit = u32::try_from(UNIT)?;
        while self.snd_nxt.wrapping_sub(self.snd_una) + unit <= self.window {
            if !self.queue(ACK | PSH, Some(UNIT))? {
                break;
            }
        }
        self.transmit.publish_and_kick()?;
        if !self.receive.wait_used(PATIENCE) {
            return Err(failure("no acknowledgment comes"));
        }
        self.receive_all().map(drop)
    }

    /// Waits for bytes and acknowledges all bytes that have arrived, like a driver with mergeable buffers.
    fn pull(&mut self) -> Result<u64> {
        if !self.receive.wait_used(PATIENCE) {
            return Err(failure("no bytes come"));
        }
        let (bytes, frames) = self.receive_all()?;
        if frames > 0 {
            self.send(ACK, None)?;
        }
        Ok(bytes as u64)
    }
}

/// The largest possible window must hold the units in flight.
const _: () = assert!((u16::MAX as usize) << WINDOW_SCALE > UNIT * UNITS);
