use super::*;
use crate::vhost_user::message::Malformed;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use vhost::vhost_user::message::FrontendReq;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

type Answer = Result<Option<Message>, Box<Rejected>>;

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection on its own thread, with its front end and the device behind it.
struct Bench {
    front: UnixStream,
    requests: Receiver<Message>,
    answers: Sender<Answer>,
    stop: UnixStream,
    connection: JoinHandle<Result<Ended, ConnectionError>>,
}

fn bench() -> Bench {
    let (front, ours) = UnixStream::pair().unwrap();
    let (stop, stopped) = UnixStream::pair().unwrap();
    let (arrived, requests) = channel();
    let (answers, next) = channel();
    let connection = std::thread::spawn(move || {
        let never = stopped.as_raw_fd();
        FrontSocket::new(ours).unwrap().run([never, never], |request| {
            arrived.send(request).unwrap();
            next.recv_timeout(PATIENCE).unwrap()
        })
    });
    Bench {
        front,
        requests,
        answers,
        stop,
        connection,
    }
}

impl Bench {
    /// Receives the next request, and sends `answer`.
    fn request(&self, answer: Answer) -> Message {
        self.answers.send(answer).unwrap();
        self.requests.recv_timeout(PATIENCE).unwrap()
    }

    fn end(self) -> Result<Ended, ConnectionError> {
        drop(self.front);
        self.connection.join().unwrap()
    }
}

fn set_num(body: [u8; 8]) -> Message {
    Message::request(FrontendReq::SET_VRING_NUM, &body)
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

fn assert_malformed(ended: &Result<Ended, ConnectionError>) {
    assert!(
        matches!(ended, Err(ConnectionError::Socket(SocketError::Malformed(_)))),
        "got {ended:?}"
    );
}

#[test]
fn messages_and_their_descriptors_pass_both_ways() {
    let bench = bench();
    let (reader, mut writer) = io::pipe().unwrap();
    let reader = OwnedFd::from(reader);
    let kick = Message::request(FrontendReq::SET_VRING_KICK, &7_u64.to_ne_bytes());
    bench
        .front
        .send_with_fds(&[kick.bytes()], &[reader.as_raw_fd()])
        .unwrap();
    drop(reader);

    let (reader, _writer) = io::pipe().unwrap();
    let mut reply = Message::reply(42, &[0; 8]);
    reply.files.push(reader.into());
    let sent = reply.bytes().to_vec();
    let mut request = bench.request(Ok(Some(reply)));
    assert_eq!(request.bytes(), kick.bytes());
    writer.write_all(b"kick").unwrap();
    drop(writer);
    let mut through = String::new();
    std::fs::File::from(request.files.pop().unwrap())
        .read_to_string(&mut through)
        .unwrap();
    assert_eq!(through, "kick", "the same open file arrived");

    let mut got = [0; 20];
    let (n, file) = bench.front.recv_with_fd(&mut got).unwrap();
    assert_eq!(got[..n], sent);
    assert!(file.is_some());
    assert!(matches!(bench.end(), Ok(Ended::Closed)));
}

#[test]
fn a_header_and_a_body_written_apart_are_one_message() {
    let mut bench = bench();
    let message = set_num([5; 8]);
    for byte in message.bytes() {
        bench.front.write_all(&[*byte]).unwrap();
    }
    assert_eq!(bench.request(Ok(None)).bytes(), message.bytes());
}

#[test]
fn messages_written_together_are_answered_one_by_one() {
    let mut bench = bench();
    let messages: Vec<Message> = (40..60_u8).map(|c| set_num([c; 8])).collect();
    let all: Vec<u8> = messages.iter().flat_map(|m| m.bytes().to_vec()).collect();
    bench.front.write_all(&all).unwrap();
    for message in &messages {
        assert_eq!(bench.request(Ok(None)).bytes(), message.bytes());
    }
}

#[test]
fn a_peer_that_leaves_without_a_message_is_no_front_end() {
    assert!(matches!(bench().end(), Ok(Ended::Silent)));
}

#[test]
fn a_message_cut_short_ends_the_connection_with_a_reason() {
    let mut bench = bench();
    bench.front.write_all(&set_num([5; 8]).bytes()[..15]).unwrap();
    assert_malformed(&bench.end());
}

#[test]
fn bytes_of_another_protocol_end_the_connection_with_a_reason() {
    let mut bench = bench();
    bench.front.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_malformed(&bench.connection.join().unwrap());
    assert!(bench.requests.try_recv().is_err(), "no request came of it");
}

#[test]
fn more_descriptors_than_a_message_has_end_the_connection() {
    let bench = bench();
    let file = std::fs::File::open("/dev/null").unwrap();
    let message = Message::request(FrontendReq::SET_MEM_TABLE, &[0; 8]);
    bench
        .front
        .send_with_fds(&[message.bytes()], &[file.as_raw_fd(); 33])
        .unwrap();
    let ended = bench.connection.join().unwrap();
    assert!(
        matches!(ended, Err(ConnectionError::Socket(SocketError::FilesLost))),
        "got {ended:?}"
    );
}

#[test]
fn the_answer_to_a_request_that_is_refused_reaches_the_front_end() {
    let mut bench = bench();
    bench.front.write_all(set_num([5; 8]).bytes()).unwrap();
    let nack = Message::reply(8, &1_u64.to_ne_bytes());
    let sent = nack.bytes().to_vec();
    bench.request(Err(Box::new(Rejected {
        why: Malformed::Body(8).into(),
        answer: Some(nack),
    })));
    assert_eq!(read_message(&mut bench.front), sent);
    assert_eq!(bench.front.read(&mut [0; 1]).unwrap(), 0);
    let ended = bench.connection.join().unwrap();
    assert!(matches!(ended, Err(ConnectionError::Refused(_))), "got {ended:?}");
}

#[test]
fn a_stop_ends_a_connection_without_messages() {
    let mut bench = bench();
    bench.stop.write_all(&[1]).unwrap();
    assert!(matches!(bench.connection.join().unwrap(), Ok(Ended::Interrupted)));
}

#[test]
fn a_front_end_that_does_not_read_stops_being_read() {
    let (mut front, ours) = UnixStream::pair().unwrap();
    let (mut stop, stopped) = UnixStream::pair().unwrap();
    let connection = std::thread::spawn(move || {
        // Each answer has a body of maximum length.
        let answer = |_| Ok(Some(Message::reply(24, &[0; 4096])));
        let never = stopped.as_raw_fd();
        FrontSocket::new(ours).unwrap().run([never, never], answer)
    });
    // The front end sends requests endlessly and never reads. Once its socket is full, only one answer may be held.
    front.set_nonblocking(true).unwrap();
    let request = Message::request(FrontendReq::GET_FEATURES, &[]);
    let mut stuck = 0;
    let mut taken = 0_usize;
    while stuck < 50 {
        match front.write(request.bytes()) {
            Ok(n) => {
                taken += n;
                stuck = 0;
            }
            Err(_) => {
                stuck += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    assert!(taken < 16 << 20, "{taken} bytes were taken");
    stop.write_all(&[1]).unwrap();
    assert!(matches!(connection.join().unwrap(), Ok(Ended::Interrupted)));
}
