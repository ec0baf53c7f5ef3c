//! The unavoidable minimum: one read(2) or write(2) for each frame of a TCP flow.
//!
//! A thread connects two TAP devices in two network namespaces, and one TCP flow runs through it. The processor time of
//! each call on a frame of the flow is measured separately, so that waiting, the other direction and the measurement
//! itself do not count.

use crate::surroundings::Surroundings;
use hawser_backend::frame::{GuestCaps, GuestSlice, GuestSliceMut};
use hawser_backend::sys::tap::TapQueue;
use hawser_testkit::netns::Namespace;
use hawser_testkit::{Result, failure};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SENDER: &str = "192.0.2.1";
const RECEIVER: &str = "192.0.2.2";
const PORT: u16 = 9000;
/// All offloads that a Linux driver accepts.
const CAPS: GuestCaps = GuestCaps {
    checksum: true,
    tso4: true,
    tso6: true,
    ecn: true,
    uso4: true,
    uso6: true,
};
const ROOM: usize = 65_600;
/// Length from which a frame is not an acknowledgment.
const LARGE: usize = 1000;

/// Costs in processor seconds per 10⁹ bytes.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Cost of reading frames.
    pub read: f64,
    /// Cost of writing frames.
    pub write: f64,
}

/// Connects the devices for `time`.
///
/// # Errors
/// The flow cannot be established.
pub fn run(time: Duration, surroundings: &Surroundings) -> Result<Cost> {
    let ends = [end(SENDER)?, end(RECEIVER)?];
    let [(near, near_queue), (far, far_queue)] = ends;
    surroundings.apply_to_namespace(&near)?;
    let stop = Arc::new(AtomicBool::new(false));
    let relay = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || relay(&near_queue, &far_queue, &stop))
    };
    let listener = far.inside(|| TcpListener::bind((RECEIVER, PORT)))??;
    let swallow = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut room = vec![0; 1 << 20];
        while stream.read(&mut room)? > 0 {}
        Ok(())
    });
    let mut stream = near.inside(|| TcpStream::connect((RECEIVER, PORT)))??;
    let (bytes, start) = (vec![0x5a; 1 << 18], Instant::now());
    while start.elapsed() < time {
        stream.write_all(&bytes)?;
    }
    drop(stream);
    swallow.join().map_err(|_| failure("the receiver panicked"))??;
    stop.store(true, Ordering::Relaxed);
    relay.join().map_err(|_| failure("the relay panicked"))?
}

fn end(address: &str) -> Result<(Namespace, TapQueue)> {
    let namespace = Namespace::new()?;
    let queue = namespace.inside(|| TapQueue::open("tap0", 1))??.pop();
    namespace.run("sysctl -qw net.ipv6.conf.tap0.disable_ipv6=1")?;
    namespace.run(&format!("ip addr add {address}/24 dev tap0"))?;
    namespace.run("ip link set tap0 up")?;
    let queue = queue.ok_or_else(|| failure("no queue"))?;
    queue.set_offloads(CAPS)?;
    Ok((namespace, queue))
}

/// Moves frames until `stop`. Returns the time of the calls on large frames.
fn relay(near: &TapQueue, far: &TapQueue, stop: &AtomicBool) -> Result<Cost> {
    let mut room = vec![0; ROOM];
    let (mut read, mut write, mut bytes) = (Duration::ZERO, Duration::ZERO, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let before = cpu()?;
        let out = near.read(&mut [GuestSliceMut::from_bytes(&mut room)]);
        if let Ok(n) = out {
            let between = cpu()?;
            far.write(&[GuestSlice::from_bytes(&room[..n])])?;
            if n > LARGE {
                read += between.saturating_sub(before);
                write += cpu()?.saturating_sub(between);
                bytes += n as u64;
            }
        }
        let back = far.read(&mut [GuestSliceMut::from_bytes(&mut room)]);
        if let Ok(n) = back {
            near.write(&[GuestSlice::from_bytes(&room[..n])])?;
        }
        if out.is_err() && back.is_err() {
            wait(near, far);
        }
    }
    let per = |time: Duration| time.as_secs_f64() * 1e9 / bytes.max(1) as f64;
    Ok(Cost {
        read: per(read),
        write: per(write),
    })
}

fn wait(near: &TapQueue, far: &TapQueue) {
    let mut fds = [near, far].map(|queue| libc::pollfd {
        fd: queue.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: two pollfds are passed, which live for the call.
    unsafe { libc::poll(fds.as_mut_ptr(), 2, 50) };
}

/// Processor time of this thread.
fn cpu() -> Result<Duration> {
    // SAFETY: all zeroes is a valid timespec, filled during the call.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}
