//! Tests of a port on a Linux bridge whose front end is synthetic.

use hawser_backend::config::{BridgeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::packet::MacAddr;
use hawser_backend::port::{Port, PortResources};
use hawser_backend::sys::tap::TapQueue;
use hawser_backend::vhost_user::{Endpoint, Lifetime, Server};
use hawser_testkit::Result;
use hawser_testkit::frontend::{Vmm, VmmConfig};
use hawser_testkit::segment::{HOST4, Segment};
use std::net::{Shutdown, UdpSocket};
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// Time in which the worker has seen a frame or the end of a connection.
const SETTLED: Duration = Duration::from_millis(100);
/// Payloads of broadcasts, by which their frames are recognized.
const MARKS: [&[u8]; 2] = [b"without a front end", b"while the guest is silent"];

/// Sends a broadcast to all ports of the bridge.
fn broadcast(segment: &Segment, payload: &[u8]) -> Result<()> {
    segment.host.inside(|| {
        let socket = UdpSocket::bind((HOST4, 0))?;
        socket.set_broadcast(true)?;
        socket.send_to(payload, "192.0.2.255:9")?;
        Ok(())
    })?
}

/// True once a frame that ends with `payload` has arrived.
fn arrives(vmm: &mut Vmm, payload: &[u8]) -> Result<bool> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        match vmm.nics[0].recv(PATIENCE)? {
            Some(received) if received.frame.ends_with(payload) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

#[test]
fn frames_reach_a_silent_guest_whose_front_end_was_away_when_others_arrived() {
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
        ..PortResources::default()
    };
    let port = Arc::new(Port::new(config, resources).unwrap());
    let path = segment.path("nic.sock");
    let server = Server::bind(Endpoint::Listen(path.clone()), port, Lifetime::Persistent).unwrap();
    let stop = server.stop_handle();
    let serving = thread::spawn(move || server.run());
    let mut vmm = Vmm::connect(UnixStream::connect(&path).unwrap(), VmmConfig::default()).unwrap();
    vmm.post_all().unwrap();
    // The guest's buffers stay posted, so that the ring has room as soon as it starts again.
    for _ in 0..5 {
        vmm.wire.try_clone_stream().unwrap().shutdown(Shutdown::Both).unwrap();
        thread::sleep(SETTLED);
        broadcast(&segment, MARKS[0]).unwrap();
        thread::sleep(SETTLED);
        vmm.reconnect(UnixStream::connect(&path).unwrap()).unwrap();
        // Whether the frame is kept until then is left open.
        while vmm.nics[0].recv(SETTLED).unwrap().is_some() {}
        broadcast(&segment, MARKS[1]).unwrap();
        assert!(
            arrives(&mut vmm, MARKS[1]).unwrap(),
            "the guest has room and sends nothing"
        );
    }
    drop(vmm);
    stop.stop();
    serving.join().unwrap().unwrap();
}
