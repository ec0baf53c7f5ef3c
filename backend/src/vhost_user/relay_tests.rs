use super::*;
use crate::packet::MacAddr;
use crate::vhost_user::message::Request;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

struct Deaf;

impl Actions for Deaf {
    fn announce(&self, _: MacAddr) {}

    fn set_mtu(&self, _: u64) -> bool {
        true
    }
}

/// A relay running on its own thread, and the other ends of its sockets.
struct Bench {
    front: UnixStream,
    daemon: UnixStream,
    stop: UnixStream,
    relay: JoinHandle<End>,
}

fn bench() -> Bench {
    let (front, ours) = UnixStream::pair().unwrap();
    let (daemon, theirs) = UnixStream::pair().unwrap();
    let (stop, stopped) = UnixStream::pair().unwrap();
    let relay = Relay::new(ours, theirs, Quirks::new(1, 2)).unwrap();
    let relay = std::thread::spawn(move || relay.run(stopped.as_raw_fd(), &Deaf));
    Bench {
        front,
        daemon,
        stop,
        relay,
    }
}

fn read_message(stream: &mut UnixStream) -> Vec<u8> {
    let mut header = [0; 12];
    stream.read_exact(&mut header).unwrap();
    let len = u32::from_ne_bytes(header[8..].try_into().unwrap());
    let mut message = header.to_vec();
    message.resize(12 + len as usize, 0);
    stream.read_exact(&mut message[12..]).unwrap();
    message
}

#[test]
fn messages_and_their_descriptors_pass_both_ways() {
    let bench = bench();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let reader = OwnedFd::from(reader);
    let kick = Message::request(Request::Other(12), &7_u64.to_ne_bytes());
    bench
        .front
        .send_with_fds(&[kick.bytes()], &[reader.as_raw_fd()])
        .unwrap();
    drop(reader);

    let mut got = [0; 20];
    let (n, file) = bench.daemon.recv_with_fd(&mut got).unwrap();
    assert_eq!(&got[..n], kick.bytes());
    writer.write_all(b"kick").unwrap();
    drop(writer);
    let mut through = String::new();
    file.unwrap().read_to_string(&mut through).unwrap();
    assert_eq!(through, "kick", "the same open file arrived");

    let reply = Message::reply(42, 0);
    let (reader, _writer) = std::io::pipe().unwrap();
    bench
        .daemon
        .send_with_fds(&[reply.bytes()], &[reader.as_raw_fd()])
        .unwrap();
    let (n, file) = bench.front.recv_with_fd(&mut got).unwrap();
    assert_eq!(&got[..n], reply.bytes());
    assert!(file.is_some());

    drop(bench.front);
    assert!(matches!(bench.relay.join().unwrap(), End::Closed));
}

#[test]
fn a_header_and_a_body_written_apart_reach_the_daemon_together() {
    let mut bench = bench();
    let message = Message::request(Request::Other(8), &[5; 8]);
    for byte in message.bytes() {
        bench.front.write_all(&[*byte]).unwrap();
    }
    // The daemon takes a body only in one piece: one read must bring it all.
    let mut got = [0; 12];
    bench.daemon.read_exact(&mut got).unwrap();
    let mut body = [0; 64];
    assert_eq!(bench.daemon.read(&mut body).unwrap(), 8);
}

#[test]
fn messages_written_together_reach_the_daemon_one_by_one() {
    let mut bench = bench();
    let messages: Vec<Message> = (40..60_u8)
        .map(|c| Message::request(Request::Other(c.into()), &[c; 40]))
        .collect();
    let all: Vec<u8> = messages.iter().flat_map(|m| m.bytes().to_vec()).collect();
    bench.front.write_all(&all).unwrap();
    for message in &messages {
        assert_eq!(read_message(&mut bench.daemon), message.bytes());
    }
}

#[test]
fn a_message_cut_short_ends_the_connection_with_a_reason() {
    let mut bench = bench();
    bench
        .front
        .write_all(&Message::request(Request::Other(8), &[5; 8]).bytes()[..15])
        .unwrap();
    drop(bench.front);
    let end = bench.relay.join().unwrap();
    assert!(matches!(end, End::Socket(SocketError::Malformed(_))), "got {end:?}");
}

#[test]
fn bytes_of_another_protocol_end_the_connection_with_a_reason() {
    let mut bench = bench();
    bench.front.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let end = bench.relay.join().unwrap();
    assert!(matches!(end, End::Socket(SocketError::Malformed(_))), "got {end:?}");
    assert_eq!(
        bench.daemon.read(&mut [0; 1]).unwrap(),
        0,
        "the daemon saw nothing of it"
    );
}

#[test]
fn more_descriptors_than_a_message_has_end_the_connection() {
    let bench = bench();
    let file = std::fs::File::open("/dev/null").unwrap();
    let message = Message::request(Request::Other(5), &[0; 8]);
    bench
        .front
        .send_with_fds(&[message.bytes()], &[file.as_raw_fd(); 33])
        .unwrap();
    let end = bench.relay.join().unwrap();
    assert!(matches!(end, End::Socket(SocketError::FilesLost)), "got {end:?}");
}

#[test]
fn the_last_words_of_the_daemon_reach_the_front_end() {
    let mut bench = bench();
    let nack = Message::reply(8, 1);
    bench.daemon.write_all(nack.bytes()).unwrap();
    drop(bench.daemon);
    assert_eq!(read_message(&mut bench.front), nack.bytes());
    assert!(matches!(bench.relay.join().unwrap(), End::DaemonClosed));
    assert_eq!(bench.front.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_stop_ends_the_relay_while_both_sides_are_silent() {
    let mut bench = bench();
    bench.stop.write_all(&[1]).unwrap();
    assert!(matches!(bench.relay.join().unwrap(), End::Stopped));
}

#[test]
fn a_front_end_that_does_not_read_stops_being_read() {
    let mut bench = bench();
    // The daemon answers without end, the front end never reads: once the socket to
    // the front end is full, the relay must hold one message and no more.
    bench.daemon.set_nonblocking(true).unwrap();
    let reply = Message::reply(1, 0);
    let mut stuck = 0;
    let mut taken = 0_usize;
    while stuck < 50 {
        match bench.daemon.write(reply.bytes()) {
            Ok(n) => {
                taken += n;
                stuck = 0;
            }
            Err(_) => {
                stuck += 1;
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    }
    assert!(taken < 16 << 20, "{taken} bytes were taken");
    bench.stop.write_all(&[1]).unwrap();
    assert!(matches!(bench.relay.join().unwrap(), End::Stopped));
}
