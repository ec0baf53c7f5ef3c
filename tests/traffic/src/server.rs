//! The server: one thread per connection, controlled by the client.

use crate::wire::{Request, WHOLE, be_patient, read_line};
use crate::{Report, flood, marks, stream};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Number of connections that may wait to be accepted, because a storm of connections must not be refused.
const BACKLOG: i32 = 4096;
/// Stack size that is enough for the few frames of a connection's thread, and small enough for thousands.
const STACK: usize = 128 * 1024;

/// Values that clients have stored, by token.
#[derive(Default)]
struct Memory {
    kept: Mutex<HashMap<u64, String>>,
    changed: Condvar,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, String>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, token: u64, what: String) {
        self.lock().insert(token, what);
        self.changed.notify_all();
    }

    /// Waits a while for the value under `token`.
    fn recall(&self, token: u64) -> String {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), Duration::from_secs(20), |kept| !kept.contains_key(&token));
        let (mut kept, _) = waited.unwrap_or_else(PoisonError::into_inner);
        kept.remove(&token).unwrap_or_else(|| "nothing".to_owned())
    }
}

/// Serves TCP and UDP on `at` until killed.
pub(crate) fn serve(at: SocketAddr) -> Report {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    let udp = UdpSocket::bind(at)?;
    thread::spawn(move || echo_datagrams(&udp));
    println!("serving {at}");
    let memory = Arc::new(Memory::default());
    for stream in TcpListener::from(socket).incoming() {
        let Ok(stream) = stream else { continue };
        let memory = Arc::clone(&memory);
        let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
            // The client reports a failed connection.
            let _ = answer(stream, &memory);
        });
        if let Err(error) = spawned {
            eprintln!("serve: no thread for a connection: {error}");
        }
    }
    Ok((false, serde_json::json!({ "error": "the listening socket is gone" })))
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 65536];
    loop {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            // The client counts a datagram that cannot be returned as lost.
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}

/// Length of the stream of `seed` that was received until the end, or a description of the error.
fn length_to_end(reader: &mut impl Read, seed: u64) -> String {
    match stream::receive_to_end(reader, seed) {
        Ok(bytes) => bytes.to_string(),
        Err(error) => error.to_string(),
    }
}

fn answer(stream: TcpStream, memory: &Memory) -> io::Result<()> {
    be_patient(&stream)?;
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
    match serde_json::from_str(&read_line(&mut reader)?)? {
        Request::Sink { bytes, seed } => match stream::receive(&mut reader, seed, bytes) {
            Ok(()) => writeln!(writer, "{WHOLE}"),
            Err(error) => writeln!(writer, "{error}"),
        },
        Request::Source { bytes, seed } => {
            stream::send(&mut writer, seed, bytes)?;
            writeln!(writer, "{WHOLE}")
        }
        Request::Echo => {
            // A client may be silent for long. How long it waits for an answer is its own decision.
            stream.set_read_timeout(None)?;
            io::copy(&mut reader, &mut writer).map(drop)
        }
        Request::AwaitEnd { seed } => writeln!(writer, "{}", length_to_end(&mut reader, seed)),
        Request::EndFirst { token, seed } => {
            stream.shutdown(Shutdown::Write)?;
            memory.keep(token, length_to_end(&mut reader, seed));
            Ok(())
        }
        Request::Abort => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        Request::Watch { token } => {
            writeln!(writer, "watching")?;
            let end = match reader.read(&mut [0; 64]) {
                Ok(0) => "end".to_owned(),
                Ok(_) => "data".to_owned(),
                Err(error) => format!("{:?}", error.kind()),
            };
            memory.keep(token, end);
            Ok(())
        }
        Request::Recall { token } => writeln!(writer, "{}", memory.recall(token)),
        Request::Count { size } => flood::count(&stream, size),
        Request::Pour { size, millis } => flood::pour(&stream, size, Duration::from_millis(millis)),
        Request::Burst { size, count } => flood::send_burst(&stream, size, count),
        Request::Peer => writeln!(writer, "{}", stream.peer_addr()?),
        Request::Urgent => {
            writeln!(writer, "ready")?;
            let came = marks::receive_urgent(&stream)?;
            writeln!(writer, "{came}")?;
            marks::send_urgent(&stream)
        }
    }
}
