//! The gateway's name server over TCP (RFC 7766).
//!
//! The NAT engine connects the guest's connections to port 53 of the gateway to a listening socket on the loopback,
//! which this module serves: names of the network are answered, and other queries are sent to the name servers of the
//! pod, one after another until one answers. A query on a connection waits for the one before it.
//!
//! All sockets belong to worker 0. The loopback socket answers any process of the network namespace, which can ask the
//! pod's name servers anyway.

use super::event_owner;
use crate::poller::{GENERATION_MASK, Interest, Poller, Token};
use crate::responder::dns::{self, Dns, PORT};
use crate::time::Instant;
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Maximum connections at a time.
const CONNECTIONS: usize = 32;
/// Time after which an idle connection is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Time that one name server has to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the length before a message.
const PREFIX: usize = 2;
/// Bytes of a message, and of as much of the next one as is read with it.
const INPUT: usize = 64 << 10;

/// A socket that listens on the loopback for connections to the gateway's port 53.
pub(super) fn listen() -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
    socket.listen(i32::try_from(CONNECTIONS).unwrap_or(i32::MAX))?;
    let at = socket.local_addr()?.as_socket();
    Ok((socket, at.ok_or(ErrorKind::AddrNotAvailable)?))
}

/// The name server on worker 0.
pub(super) struct NameServer {
    listener: Arc<Socket>,
    poller: Poller,
    /// The pod's name servers.
    servers: Vec<IpAddr>,
    /// Index of the server that answered last.
    preferred: usize,
    connections: Slab<Connection>,
    generation: u32,
}

/// A connection of the guest.
struct Connection {
    stream: Socket,
    generation: u32,
    input: Vec<u8>,
    output: Vec<u8>,
    is_ended: bool,
    upstream: Option<Upstream>,
    until: Instant,
}

/// A query that another name server is to answer.
struct Upstream {
    socket: Socket,
    /// The message with its length.
    query: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    server: usize,
    /// Servers that have not been tried.
    left: usize,
    until: Instant,
}

/// Progress of a query.
enum Progress {
    Pending,
    Answer(Vec<u8>),
    Failed,
}

impl NameServer {
    /// Serves the connections of `listener`.
    ///
    /// # Errors
    /// It cannot be watched.
    pub(super) fn new(listener: Arc<Socket>, poller: Poller, servers: Vec<IpAddr>) -> io::Result<Self> {
        poller.add(&*listener, Token::new(event_owner::NAMES, 0), Interest::ReadLevel)?;
        Ok(Self {
            listener,
            poller,
            servers,
            preferred: 0,
            connections: Slab::new(),
            generation: 0,
        })
    }

    /// Replaces the pod's name servers, starting with the next query.
    pub(super) fn set_servers(&mut self, servers: &[IpAddr]) {
        self.servers = servers.to_vec();
        self.preferred = 0;
    }

    /// Accepts connections.
    pub(super) fn accept(&mut self, now: Instant) {
        while let Ok((stream, _)) = self.listener.accept() {
            // A connection above the limit is closed at once, and the guest tries again.
            if self.connections.len() >= CONNECTIONS || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.generation = self.generation.wrapping_add(1) & GENERATION_MASK;
            let entry = self.connections.vacant_entry();
            let token = token(event_owner::NAMES_CLIENT, self.generation, entry.key());
            if self.poller.add(&stream, token, Interest::StreamEdge).is_ok() {
                entry.insert(Connection {
                    stream,
                    generation: self.generation,
                    input: Vec::new(),
                    output: Vec::new(),
                    is_ended: false,
                    upstream: None,
                    until: now + IDLE,
                });
            }
        }
    }

    /// Serves a connection as far as possible, after an event for it or for its query.
    pub(super) fn on_event(&mut self, now: Instant, token: Token, dns: &Dns) {
        let index = token.index as usize;
        let is_current = |connection: &&Connection| connection.generation == token.generation;
        if self.connections.get(index).filter(is_current).is_some() {
            self.serve(now, index, dns);
        }
    }

    /// Ends what has waited for too long.
    pub(super) fn on_timer(&mut self, now: Instant, dns: &Dns) {
        let due = |(index, connection): (usize, &Connection)| (connection.deadline() <= now).then_some(index);
        let due: Vec<usize> = self.connections.iter().filter_map(due).collect();
        for index in due {
            if self.connections[index].upstream.is_some() {
                self.serve(now, index, dns);
            } else {
                self.connections.remove(index);
            }
        }
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.connections
            .iter()
            .map(|(_, connection)| connection.deadline())
            .min()
    }

    fn serve(&mut self, now: Instant, index: usize, dns: &Dns) {
        if self.try_serve(now, index, dns).is_err() {
            self.connections.remove(index);
        }
    }

    /// # Errors
    /// The connection is over.
    fn try_serve(&mut self, now: Instant, index: usize, dns: &Dns) -> io::Result<()> {
        loop {
            let connection = &mut self.connections[index];
            connection.read()?;
            if let Some(upstream) = &mut connection.upstream {
                match upstream.advance(now) {
                    Progress::Pending => break,
                    Progress::Answer(answer) => {
                        self.preferred = upstream.server;
                        connection.upstream = None;
                        connection.answer(now, &answer);
                    }
                    Progress::Failed => self.next_server(now, index),
                }
            } else if let Some(query) = take_message(&mut connection.input) {
                match dns.answer_message(&query) {
                    Some(answer) => connection.answer(now, &answer),
                    None => self.ask(now, index, query),
                }
            } else {
                break;
            }
        }
        let connection = &mut self.connections[index];
        connection.write()?;
        let is_over = connection.is_ended && connection.output.is_empty() && connection.upstream.is_none();
        if is_over {
            Err(ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        }
    }

    /// Sends a query to the first name server.
    fn ask(&mut self, now: Instant, index: usize, query: Vec<u8>) {
        let (first, left) = (self.preferred, self.servers.len());
        self.try_servers(now, index, query, first, left);
    }

    /// Sends the query of a connection to the name server after the one that has failed.
    fn next_server(&mut self, now: Instant, index: usize) {
        if let Some(failed) = self.connections[index].upstream.take() {
            let next = (failed.server + 1) % self.servers.len().max(1);
            self.try_servers(now, index, failed.query[PREFIX..].to_vec(), next, failed.left);
        }
    }

    /// Sends a query to the first of `left` name servers that can be asked, from `server` on. If there is none, the
    /// answer is SERVFAIL.
    fn try_servers(&mut self, now: Instant, index: usize, query: Vec<u8>, server: usize, left: usize) {
        let connection = &mut self.connections[index];
        for step in 0..left {
            let server = (server + step) % self.servers.len().max(1);
            let Some(address) = self.servers.get(server) else { break };
            let token = token(event_owner::NAMES_QUERY, connection.generation, index);
            let opened = connect(SocketAddr::new(*address, PORT))
                .and_then(|socket| self.poller.add(&socket, token, Interest::StreamEdge).map(|()| socket));
            if let Ok(socket) = opened {
                connection.upstream = Some(Upstream {
                    socket,
                    query: with_length(&query),
                    sent: 0,
                    input: Vec::new(),
                    server,
                    left: left - step - 1,
                    until: now + PATIENCE,
                });
                return;
            }
        }
        match dns::failure(&query) {
            Some(answer) => connection.answer(now, &answer),
            // What is no query gets no answer.
            None => connection.is_ended = true,
        }
    }
}

impl Connection {
    fn deadline(&self) -> Instant {
        self.upstream.as_ref().map_or(self.until, |upstream| upstream.until)
    }

    fn read(&mut self) -> io::Result<()> {
        while !self.is_ended && self.input.len() <= INPUT {
            match read(&self.stream, &mut self.input) {
                Ok(0) => self.is_ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match (&self.stream).write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn answer(&mut self, now: Instant, message: &[u8]) {
        self.output.extend(with_length(message));
        self.until = now + IDLE;
    }
}

impl Upstream {
    fn advance(&mut self, now: Instant) -> Progress {
        self.try_advance().unwrap_or(Progress::Failed).within(now, self.until)
    }

    fn try_advance(&mut self) -> io::Result<Progress> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        while self.sent < self.query.len() {
            match (&self.socket).write(&self.query[self.sent..]) {
                Ok(sent) => self.sent += sent,
                // The connection is being opened.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(Progress::Pending);
                }
                Err(error) => return Err(error),
            }
        }
        loop {
            if let Some(answer) = take_message(&mut self.input) {
                return Ok(Progress::Answer(answer));
            }
            match read(&self.socket, &mut self.input) {
                Ok(0) => return Ok(Progress::Failed),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Pending),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Progress {
    fn within(self, now: Instant, until: Instant) -> Self {
        match self {
            Self::Pending if now >= until => Self::Failed,
            other => other,
        }
    }
}

const fn token(owner: crate::poller::Owner, generation: u32, index: usize) -> Token {
    #[allow(clippy::cast_possible_truncation, reason = "few connections")]
    let index = index as u32;
    Token {
        owner,
        generation,
        index,
    }
}

fn connect(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

fn read(mut stream: &Socket, input: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let n = stream.read(&mut buffer)?;
    input.extend(&buffer[..n]);
    Ok(n)
}

/// Takes the first message, if all of it is there.
fn take_message(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (length, rest) = input.split_first_chunk::<PREFIX>()?;
    let message = rest.get(..u16::from_be_bytes(*length).into())?.to_vec();
    input.drain(..PREFIX + message.len());
    Some(message)
}

/// A message with its length before it. A longer one than TCP can carry is cut.
fn with_length(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], &message[..length.into()]].concat()
}

#[cfg(test)]
#[path = "name_server_tests.rs"]
mod tests;
