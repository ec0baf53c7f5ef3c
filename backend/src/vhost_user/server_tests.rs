use super::*;
use crate::config::{MasqueradeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use crate::frame::{GuestBurst, GuestSink};
use crate::mode::{Mode, ModeCommand};
use crate::poller::{Readiness, Token};
use crate::time::Instant;
use crate::vhost_user::message::Message;
use std::fs;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt as _;
use std::thread::JoinHandle;
use vhost::vhost_user::message::FrontendReq;

/// A mode that does nothing, except report device resets to the test if requested.
#[derive(Default)]
struct Idle(Option<std::sync::mpsc::Sender<()>>);

impl Mode for Idle {
    fn on_burst(&mut self, _: Instant, _: &GuestBurst<'_>, _: &mut dyn GuestSink) {}
    fn on_event(&mut self, _: Instant, _: Token, _: Readiness, _: &mut dyn GuestSink) {}
    fn on_room(&mut self, _: Instant, _: &mut dyn GuestSink) {}
    fn on_timer(&mut self, _: Instant, _: &mut dyn GuestSink) {}
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn on_link_up(&mut self, _: Instant, _: &mut dyn GuestSink) {}
    fn on_link_down(&mut self, _: Instant) {}
    fn on_reset(&mut self) {
        if let Some(resets) = &self.0 {
            resets.send(()).unwrap();
        }
    }
}

fn port() -> Arc<Port> {
    let config = PortConfig {
        name: "test".into(),
        mac: None,
        mtu: 1500,
        queue_pairs: NonZeroU16::MIN,
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        mode: ModeConfig::Masquerade(MasqueradeConfig::default()),
    };
    Arc::new(Port::with_modes(config, &mut |_| Ok(Box::<Idle>::default())).unwrap())
}

/// A mode that panics at the first command.
struct Fragile;

impl Mode for Fragile {
    fn on_burst(&mut self, _: Instant, _: &GuestBurst<'_>, _: &mut dyn GuestSink) {}
    fn on_event(&mut self, _: Instant, _: Token, _: Readiness, _: &mut dyn GuestSink) {}
    fn on_room(&mut self, _: Instant, _: &mut dyn GuestSink) {}
    fn on_timer(&mut self, _: Instant, _: &mut dyn GuestSink) {}
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn on_link_up(&mut self, _: Instant, _: &mut dyn GuestSink) {}
    fn on_link_down(&mut self, _: Instant) {}
    fn on_command(&mut self, _: Instant, _: ModeCommand, _: &mut dyn GuestSink) -> io::Result<()> {
        panic!("on purpose");
    }
}

#[test]
fn a_port_whose_worker_has_ended_is_served_no_more_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let config = port().config().clone();
    let port = Arc::new(Port::with_modes(config, &mut |_| Ok(Box::new(Fragile))).unwrap());
    let server = Server::bind(Endpoint::Listen(path.clone()), Arc::clone(&port), Lifetime::Persistent).unwrap();
    let thread = std::thread::spawn(move || server.run());
    let mut front = UnixStream::connect(&path).unwrap();
    get_features(&mut front);
    assert!(port.link().is_up());
    // The command is never answered, and its sender learns this immediately.
    let change =
        crate::mode::ForwardChange::Remove(crate::config::Transport::Tcp, std::collections::HashSet::default());
    let refused = port.workers()[0]
        .command_mode_and_wait(ModeCommand::Forwards(change))
        .unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    let ended = thread.join().unwrap().unwrap_err();
    assert!(ended.to_string().starts_with("worker test-0 panicked"), "{ended}");
    assert!(!port.link().is_up());
    assert_eq!(front.read(&mut [0; 1]).unwrap(), 0, "its front end is left");
    assert!(!path.exists());
}

#[test]
fn reset_device_reaches_the_mode_of_every_worker() {
    const REPLY_ACK_AND_RESET_DEVICE: u64 = 1 << 3 | 1 << 13;
    let config = PortConfig {
        queue_pairs: NonZeroU16::new(3).unwrap(),
        ..port().config().clone()
    };
    let (sender, resets) = std::sync::mpsc::channel();
    let port = Port::with_modes(config, &mut |_| Ok(Box::new(Idle(Some(sender.clone()))))).unwrap();
    let (mut front, ours) = UnixStream::pair().unwrap();
    let server = Server::bind(Endpoint::Fd(ours.into()), Arc::new(port), Lifetime::Persistent).unwrap();
    let thread = std::thread::spawn(move || server.run());
    let agree = REPLY_ACK_AND_RESET_DEVICE.to_ne_bytes();
    let agree = Message::request(FrontendReq::SET_PROTOCOL_FEATURES, &agree);
    front.write_all(agree.bytes()).unwrap();
    assert!(resets.try_recv().is_err(), "nothing was reset yet");
    for _ in 0..2 {
        let reset = Message::request(FrontendReq::RESET_DEVICE, &[]);
        front.write_all(reset.bytes()).unwrap();
        for _ in 0..3 {
            resets.recv_timeout(Duration::from_secs(10)).unwrap();
        }
    }
    drop(front);
    thread.join().unwrap().unwrap();
    assert!(resets.try_recv().is_err(), "a front end that goes is no reset");
}

struct Running {
    stop: StopHandle,
    thread: JoinHandle<Result<(), ServeError>>,
}

fn run(endpoint: Endpoint, lifetime: Lifetime) -> Running {
    let server = Server::bind(endpoint, port(), lifetime).unwrap();
    let stop = server.stop_handle();
    let thread = std::thread::spawn(move || server.run());
    Running { stop, thread }
}

impl Running {
    fn end(self) -> Result<(), ServeError> {
        self.thread.join().unwrap()
    }

    fn stop_and_end(self) -> Result<(), ServeError> {
        self.stop.stop();
        self.end()
    }
}

fn get_features(stream: &mut UnixStream) -> u64 {
    let request = Message::request(FrontendReq::GET_FEATURES, &[]);
    stream.write_all(request.bytes()).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    u64::from_ne_bytes(reply[12..].try_into().unwrap())
}

#[test]
fn front_ends_are_served_one_after_the_other_at_a_socket_that_vanishes_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let running = run(Endpoint::Listen(path.clone()), Lifetime::Persistent);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, SOCKET_MODE);
    for _ in 0..3 {
        let mut front = UnixStream::connect(&path).unwrap();
        assert_ne!(get_features(&mut front) & 1 << 32, 0, "VERSION_1");
    }
    running.stop_and_end().unwrap();
    assert!(!path.exists());
}

#[test]
fn one_off_ends_with_the_first_front_end_that_said_something() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let running = run(Endpoint::Listen(path.clone()), Lifetime::OneOff);
    // A process that probes for a live socket connects and leaves.
    drop(UnixStream::connect(&path).unwrap());
    let mut front = UnixStream::connect(&path).unwrap();
    get_features(&mut front);
    drop(front);
    running.end().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_stop_reaches_a_server_in_the_middle_of_a_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let running = run(Endpoint::Listen(path.clone()), Lifetime::Persistent);
    let mut front = UnixStream::connect(&path).unwrap();
    get_features(&mut front);
    running.stop_and_end().unwrap();
    assert_eq!(front.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_broken_front_end_does_not_end_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let running = run(Endpoint::Listen(path.clone()), Lifetime::Persistent);
    let mut broken = UnixStream::connect(&path).unwrap();
    broken.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(broken.read(&mut [0; 1]).unwrap_or(0), 0);
    get_features(&mut UnixStream::connect(&path).unwrap());
    running.stop_and_end().unwrap();
}

#[test]
fn the_socket_file_of_a_dead_process_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let running = run(Endpoint::Listen(path.clone()), Lifetime::Persistent);
    get_features(&mut UnixStream::connect(&path).unwrap());
    running.stop_and_end().unwrap();
}

#[test]
fn a_live_socket_and_another_file_are_errors_that_name_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let (live, file) = (dir.path().join("live"), dir.path().join("file"));
    let _listener = UnixListener::bind(&live).unwrap();
    fs::write(&file, "precious").unwrap();
    for path in [&live, &file, &dir.path().join("no/such/dir")] {
        let endpoint = Endpoint::Listen(path.clone());
        let error = Server::bind(endpoint, port(), Lifetime::Persistent).err().unwrap();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(live.exists());
}

#[test]
fn a_socket_of_another_process_in_place_of_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let running = run(Endpoint::Listen(path.clone()), Lifetime::Persistent);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    running.stop_and_end().unwrap();
    assert!(path.exists());
}

#[test]
fn a_front_end_that_listens_is_connected_to_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    // No front end listens yet: a persistent server waits for one.
    let running = run(Endpoint::Connect(path.clone()), Lifetime::Persistent);
    for _ in 0..2 {
        let listener = UnixListener::bind(&path).unwrap();
        let (mut front, _) = listener.accept().unwrap();
        get_features(&mut front);
        fs::remove_file(&path).unwrap();
    }
    running.stop_and_end().unwrap();
}

#[test]
fn a_front_end_that_hangs_up_at_once_is_not_asked_without_pause() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let running = run(Endpoint::Connect(path), Lifetime::Persistent);
    let mut connections = 0;
    let end = std::time::Instant::now() + Duration::from_millis(500);
    while std::time::Instant::now() < end {
        connections += usize::from(listener.accept().is_ok());
        std::thread::sleep(Duration::from_millis(1));
    }
    // Attempts are made immediately, after 100 ms, and after another 200 ms.
    assert!((1..=3).contains(&connections), "{connections} connections");
    running.stop_and_end().unwrap();
}

#[test]
fn one_off_does_not_wait_for_a_front_end_that_does_not_listen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let error = run(Endpoint::Connect(path.clone()), Lifetime::OneOff)
        .end()
        .unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_descriptor_may_be_a_connection_or_a_listener() {
    let (mut front, ours) = UnixStream::pair().unwrap();
    let running = run(Endpoint::Fd(ours.into()), Lifetime::Persistent);
    get_features(&mut front);
    drop(front);
    running.end().unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let running = run(Endpoint::Fd(listener.into()), Lifetime::Persistent);
    for _ in 0..2 {
        get_features(&mut UnixStream::connect(&path).unwrap());
    }
    running.stop_and_end().unwrap();
    assert!(path.exists(), "the file belongs to whoever made it");
}

#[test]
fn a_descriptor_of_another_kind_is_refused() {
    let file = fs::File::open("/dev/null").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for fd in [file.into(), udp.into(), OwnedFd::from(tcp)] {
        let error = Server::bind(Endpoint::Fd(fd), port(), Lifetime::Persistent).err();
        assert!(matches!(error, Some(ServeError::BadFd)));
    }
}
