//! Activity beside the measured flow: idle flows, and storms of connections.

use super::guest::{FORWARDED, Guest};
use super::segment::{ACK, Ends, SYN, Segment};
use super::{FAR, PATIENCE};
use hawser_testkit::{Result, failure};
use socket2::{SockRef, Socket};
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// First port of the guest's idle flows; there is room for 50,000.
const FIRST_IDLE: u16 = 10_000;
/// First port of the guest's storm.
const FIRST_STORM: u16 = 61_000;
/// Number of ports of the storm, which are used one after another.
const STORM_PORTS: u64 = 4000;
/// Number of handshakes in flight at a time. It is less than the number of buffers in the ring.
const AT_ONCE: u32 = 64;
/// Number of SYNs that the guest sends between two units of the measured flow.
const SYNS_AT_ONCE: u32 = 16;
/// A port without a listener.
const CLOSED: u16 = 9;
/// Initial sequence number of all these flows.
const ISS: u32 = 1;

/// The activity beside the measured flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// This many established flows without data.
    Idle(u32),
    /// The guest opens connections as fast as it can, to a port without a listener.
    StormOfGuest,
    /// Clients connect to a forwarded port as fast as they can, and the guest does not answer.
    StormOfClients,
}

/// Accepts connections and keeps them until it is dropped.
pub struct Keeper {
    at: SocketAddrV4,
    listener: Socket,
    kept: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Keeper {
    fn new() -> Result<Self> {
        let at: Ipv4Addr = FAR.parse()?;
        let listener = TcpListener::bind((at, 0))?;
        let at = SocketAddrV4::new(at, listener.local_addr()?.port());
        let kept = Arc::new(AtomicU64::new(0));
        let (ours, count) = (listener.try_clone()?, Arc::clone(&kept));
        let thread = thread::spawn(move || {
            // It has a separate table of descriptors, because the back end may use up the limit. SAFETY: this thread
            // uses only copies of descriptors that it has here.
            if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
                return;
            }
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                held.push(stream);
                count.store(held.len() as u64, Ordering::Relaxed);
            }
        });
        Ok(Self {
            at,
            listener: ours.into(),
            kept,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // This ends the wait for the next client.
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Clients that connect and disconnect on a separate thread, until this is dropped.
struct Clients {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Clients {
    fn new() -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&made));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // This resets the connection, because after 30,000 closed connections a client would search for a free
                // port for 10 ms.
                let client = TcpStream::connect((FAR, FORWARDED))?;
                SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self {
            stop,
            made,
            thread: Some(thread),
        }
    }

    /// Stops the clients, and returns the number of their connections.
    fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| failure("the clients panicked"))??;
        }
        Ok(self.made.load(Ordering::Relaxed))
    }
}

/// The crowd of one run.
pub struct Crowd {
    is_storm: bool,
    syns: u64,
    clients: Option<Clients>,
    /// Dropped after the flows of the guest.
    _keeper: Option<Keeper>,
}

impl std::fmt::Debug for Crowd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crowd")
            .field("is_storm", &self.is_storm)
            .field("syns", &self.syns)
            .finish_non_exhaustive()
    }
}

impl Crowd {
    /// Opens the idle flows.
    ///
    /// # Errors
    /// A flow does not open.
    pub fn gather(guest: &mut Guest<'_>, beside: Background) -> Result<Self> {
        let keeper = match beside {
            Background::Idle(n) if n > 0 => {
                let keeper = Keeper::new()?;
                guest.open_idle(keeper.at, n)?;
                while keeper.kept.load(Ordering::Relaxed) < n.into() {
                    thread::yield_now();
                }
                Some(keeper)
            }
            _ => None,
        };
        Ok(Self {
            is_storm: beside == Background::StormOfGuest,
            syns: 0,
            clients: None,
            _keeper: keeper,
        })
    }

    /// Called when the measured flow begins.
    pub fn begin(&mut self, beside: Background) {
        self.clients = (beside == Background::StormOfClients).then(Clients::new);
    }

    /// Called between two units of the measured flow.
    pub fn turn(&mut self, guest: &mut Guest<'_>) -> Result<()> {
        for _ in 0..if self.is_storm { SYNS_AT_ONCE } else { 0 } {
            let port = FIRST_STORM + u16::try_from(self.syns % STORM_PORTS)?;
            if !guest.knock(FAR.parse()?, CLOSED, port)? {
                break;
            }
            self.syns += 1;
        }
        Ok(())
    }

    /// Called when the measured flow has ended. Returns the number of connections of the storm.
    pub fn end(&mut self) -> Result<u64> {
        let clients = self.clients.take().map_or(Ok(0), Clients::end)?;
        Ok(self.syns + clients)
    }
}

impl Guest<'_> {
    /// Sends a SYN from `port`. False if the ring has no room.
    fn knock(&mut self, far: Ipv4Addr, far_port: u16, port: u16) -> Result<bool> {
        let ends = self.ends_of(port, SocketAddrV4::new(far, far_port));
        let syn = Segment {
            seq: ISS,
            ack: 0,
            flags: SYN,
            window: u16::MAX,
            payload: 0,
        };
        self.put(&ends, syn)
    }

    fn acknowledge(&mut self, ends: &Ends, seq: u32) -> Result<bool> {
        let ack = Segment {
            seq: ISS + 1,
            ack: seq.wrapping_add(1),
            flags: ACK,
            window: u16::MAX,
            payload: 0,
        };
        self.put(ends, ack)
    }

    /// Opens `n` connections to `far` and leaves them idle.
    fn open_idle(&mut self, far: SocketAddrV4, n: u32) -> Result<()> {
        let (mut asked, mut open) = (0, 0);
        while open < n {
            while asked < n && asked - open < AT_ONCE {
                let port = FIRST_IDLE + u16::try_from(asked)?;
                if !self.knock(*far.ip(), far.port(), port)? {
                    break;
                }
                asked += 1;
            }
            self.publish()?;
            if asked == open {
                // No answer arrives before the device has taken the frames in the ring.
                thread::yield_now();
                continue;
            }
            if !self.wait(PATIENCE) {
                return Err(failure(format!("{open} of {n} connections open, and no more do")));
            }
            for (port, seq) in self.take_answers()? {
                while !self.acknowledge(&self.ends_of(port, far), seq)? {
                    self.publish()?;
                    thread::yield_now();
                }
                open += 1;
            }
        }
        self.publish()
    }
}
