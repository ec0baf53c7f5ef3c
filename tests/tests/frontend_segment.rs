//! Tests of a port on a Linux bridge whose front end is synthetic.

use hawser_backend::config::{BridgeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::packet::MacAddr;
use hawser_backend::port::{Port, PortResources};
use hawser_backend::sys::tap::TapQueue;
use hawser_backend::vhost_user::{Endpoint, Lifetime, Server};
use hawser_testkit::frontend::{Vmm, VmmConfig};
use hawser_testkit::segment::{HOST4, Segment};
use std::net::UdpSocket;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the payload of a broadcast, by which its frame is recognized.
const MARKS: [&[u8]; 2] = [b"before the driver", b"while the guest is silent"];

/// Sends a broadcast to all ports of the bridge.
fn broadcast(segment: &Segment, payload: &[u8]) {
    let send = || {
        let socket = UdpSocket::bind((HOST4, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(payload, "192.0.2.255:9").unwrap();
    };
    segment.host.inside(send).unwrap();
}

/// True once a frame that ends with `payload` has arrived.
fn arrives(vmm: &mut Vmm, payload: &[u8]) -> bool {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        match vmm.nics[0].recv(PATIENCE).unwrap() {
            Some(received) if received.frame.ends_with(payload) => return true,
            _ => {}
        }
    }
    false
}

#[test]
fn frames_reach_a_silent_guest_whose_driver_starts_after_the_first_of_them() {
    let segment = Segment::new(1500).unwrap();
    segment.add_tap("tap0", "").unwrap();
    let queues = segment.host.inside(|| TapQueue::open("tap0", 1)).unwrap().unwrap();
    let config = PortConfig {
        name: "net0".into(),
        mac: Some(MacAddr([0x52, 0x54, 0, 0x11, 0x22, 0x33])),
        mtu: 1500,
        queue_pairs: NonZeroU16::MIN,
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        mode: ModeConfig::Bridge(BridgeConfig::default()),
    };
    let resources = PortResources {
        queues: queues.into_iter().map(Arc::new).collect(),
    };
    let port = Arc::new(Port::new(config, resources).unwrap());
    broadcast(&segment, MARKS[0]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::bind(Endpoint::Fd(theirs.into()), port, Lifetime::OneOff).unwrap();
    let serving = thread::spawn(move || server.run());
    let mut vmm = Vmm::connect(ours, VmmConfig::default()).unwrap();
    vmm.post_all().unwrap();
    // Whether frames from before the driver are kept is left open. Reading them empties the queue.
    while vmm.nics[0].recv(Duration::from_millis(300)).unwrap().is_some() {}
    broadcast(&segment, MARKS[1]);
    assert!(arrives(&mut vmm, MARKS[1]), "the guest has room and sends nothing");
    drop(vmm);
    serving.join().unwrap().unwrap();
}
