//! Tests with connections over the loopback.

use super::*;
use crate::responder::dns::Names;
use std::net::TcpStream;
use std::time::Instant as Clock;

/// The only guest is db.
#[derive(Debug)]
struct Db;

impl Names for Db {
    fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>> {
        (name == "db").then(|| vec![IpAddr::from([192, 0, 2, 5])])
    }

    fn name_of(&self, _: IpAddr) -> Option<String> {
        None
    }
}

/// A query for the IPv4 address of a name of one label, with its length.
fn query(id: u8, name: &str) -> Vec<u8> {
    let mut query = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()];
    query.extend(name.bytes());
    query.extend([0, 0, 1, 0, 1]);
    with_length(&query)
}

struct Stage {
    server: NameServer,
    poller: Poller,
    dns: Dns,
    at: SocketAddr,
}

impl Stage {
    fn new(servers: &[&str]) -> Self {
        let (listener, at) = listen().unwrap();
        let poller = Poller::new().unwrap();
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        Self {
            server: NameServer::new(Arc::new(listener), poller.clone(), servers).unwrap(),
            dns: Dns::new([], None, None, Arc::new(Db)),
            poller,
            at,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Serves events at a time until `done` returns something.
    fn until<T>(&mut self, secs: u64, mut done: impl FnMut(&mut NameServer) -> Option<T>) -> T {
        let (started, now) = (Clock::now(), Instant::default() + Duration::from_secs(secs));
        let mut events = crate::poller::EventBuffer::with_capacity(16);
        loop {
            assert!(started.elapsed() < Duration::from_secs(10));
            let mut tokens = Vec::new();
            let wait = Some(Duration::from_millis(1));
            self.poller
                .wait(&mut events, wait, |token, _| tokens.push(token))
                .unwrap();
            for token in tokens {
                if token.owner == event_owner::NAMES {
                    self.server.accept(now);
                } else {
                    self.server.on_event(now, token, &self.dns);
                }
            }
            self.server.on_timer(now, &self.dns);
            if let Some(result) = done(&mut self.server) {
                return result;
            }
        }
    }
}

/// The next answer on a connection, if it has arrived.
fn answer(mut stream: &TcpStream, input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut buffer = [0; 512];
    if let Ok(n) = stream.read(&mut buffer) {
        input.extend(&buffer[..n]);
    }
    take_message(input)
}

#[test]
fn names_of_the_network_are_answered_in_order_however_queries_are_cut() {
    let mut stage = Stage::new(&[]);
    let mut stream = stage.connect();
    let queries = [query(1, "db"), query(2, "db")].concat();
    let (first, second) = queries.split_at(25);
    stream.write_all(first).unwrap();
    let mut input = Vec::new();
    let reply = stage.until(0, |_| answer(&stream, &mut input));
    assert_eq!((reply[1], &reply[reply.len() - 4..]), (1, &[192, 0, 2, 5][..]));
    stream.write_all(second).unwrap();
    assert_eq!(stage.until(0, |_| answer(&stream, &mut input))[1], 2);
    drop(stream);
    stage.until(0, |server| server.connections.is_empty().then_some(()));
}

#[test]
fn a_name_that_no_server_answers_gets_a_failure() {
    // Nothing listens there.
    let mut stage = Stage::new(&["127.0.0.77", "127.0.0.78"]);
    let mut stream = stage.connect();
    stream.write_all(&query(7, "elsewhere")).unwrap();
    let mut input = Vec::new();
    let reply = stage.until(0, |_| answer(&stream, &mut input));
    assert_eq!((reply[1], reply[3] & 0xf), (7, 2), "SERVFAIL");
    stream.write_all(&query(8, "db")).unwrap();
    assert_eq!(stage.until(0, |_| answer(&stream, &mut input))[1], 8);
}

#[test]
fn idle_connections_end_and_no_more_than_the_limit_are_served() {
    let mut stage = Stage::new(&[]);
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| stage.connect()).collect();
    stage.until(0, |server| (server.connections.len() == CONNECTIONS).then_some(()));
    streams.extend((0..5).map(|_| stage.connect()));
    let is_closed = |mut stream: &TcpStream| matches!(stream.read(&mut [0; 1]), Ok(0));
    stage.until(0, |_| {
        (streams.iter().filter(|stream| is_closed(stream)).count() == 5).then_some(())
    });
    assert_eq!(stage.server.deadline(), Some(Instant::default() + IDLE));
    stage.until(10, |server| server.connections.is_empty().then_some(()));
}
