//! The unavoidable minimum: only the system calls on the payload.

use super::peer::FarEnd;
use super::{Outcome, PIECE, Run, UNIT, UNITS, Way};
use hawser_backend::frame::{GuestSlice, GuestSliceMut};
use hawser_backend::sys::stream::{PeekAt, discard, peek, send, set_peek_offset};
use hawser_testkit::{Result, failure};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

const THREAD: &str = "floor";

/// Moves units.
///
/// # Errors
/// The socket fails.
pub fn run(run: Run) -> Result<Outcome> {
    let Run { way, time, .. } = run;
    let far = FarEnd::new(way)?;
    let stream = TcpStream::connect(far.at)?;
    stream.set_nonblocking(true)?;
    let moving = thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || -> Result<Outcome> {
            let mut memory = vec![0x5a_u8; UNIT * UNITS];
            let (start, cpu) = (Instant::now(), super::thread_time(THREAD)?);
            let mut bytes = 0;
            if way == Way::In {
                set_peek_offset(&stream, 0)?;
            }
            let mut next = 0;
            while start.elapsed() < time {
                let unit = Unit(&mut memory[next * UNIT..][..UNIT]);
                bytes += match way {
                    Way::Out => unit.send(&stream)?,
                    Way::In => unit.take(&stream)?,
                };
                next = (next + 1) % UNITS;
            }
            let cpu = super::thread_time(THREAD)?.saturating_sub(cpu);
            stream.shutdown(Shutdown::Both)?;
            Ok(Outcome {
                bytes,
                time: start.elapsed(),
                cpu,
            })
        })?;
    let outcome = moving.join().map_err(|_| failure("the floor panicked"))??;
    far.join()?;
    Ok(outcome)
}

/// Memory for a unit.
struct Unit<'a>(&'a mut [u8]);

impl Unit<'_> {
    /// Calls sendmsg once, when the socket accepts data. Returns the number of bytes sent.
    fn send(&self, stream: &TcpStream) -> io::Result<u64> {
        let slices: Vec<_> = self.0.chunks(PIECE).map(GuestSlice::from_bytes).collect();
        again(stream, libc::POLLOUT, || send(stream, &slices))
    }

    /// Peeks once, when there is data, and discards once. Returns the number of bytes.
    fn take(self, stream: &TcpStream) -> io::Result<u64> {
        let mut slices: Vec<_> = self.0.chunks_mut(PIECE).map(GuestSliceMut::from_bytes).collect();
        let at = PeekAt {
            offset: 0,
            peer_closed: false,
        };
        let peeked = again(stream, libc::POLLIN, || peek(stream, at, &mut slices))?;
        discard(stream, usize::try_from(peeked).unwrap_or(UNIT))?;
        Ok(peeked)
    }
}

/// Calls `f` again after a wait, as long as it would block.
fn again(stream: &TcpStream, events: i16, mut f: impl FnMut() -> io::Result<usize>) -> io::Result<u64> {
    loop {
        match f() {
            Ok(n) => return u64::try_from(n).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fd = libc::pollfd {
                    fd: stream.as_raw_fd(),
                    events,
                    revents: 0,
                };
                // SAFETY: one pollfd, alive for the call.
                unsafe { libc::poll(&raw mut fd, 1, 100) };
            }
            Err(error) => return Err(error),
        }
    }
}
