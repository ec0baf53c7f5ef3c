//! One real agent with the processes of many VMs: its memory and processor time while nothing changes, and the time from
//! `apply` to the first answer of DHCP that a new VM gets, without a VMM.

use super::{Row, spread};
use hawser_packet::checksum;
use hawser_testkit::agent::Agent;
use hawser_testkit::cluster::{NETWORK, NIC, vm};
use hawser_testkit::etcd::Etcd;
use hawser_testkit::frontend::{Vmm, VmmConfig};
use hawser_testkit::nodes::{Nodes, WORLD4};
use hawser_testkit::{Result, failure};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// Longest time for all VMs to run, or for the socket of one.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest time for an answer of DHCP.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause between two looks for the socket of a VM.
const LOOK: Duration = Duration::from_millis(1);
/// Number of VMs whose first answer is timed.
const SAMPLES: u8 = 20;
/// Length of the fixed part of a DHCP message, with its cookie.
const DHCP: usize = 240;

/// Measures an agent with `vms` VMs, which is then left alone for `idle`.
///
/// # Errors
/// The agent or etcd does not run, or a VM is not served.
pub fn run_one(vms: usize, idle: Duration) -> Result<Vec<Row>> {
    let nodes = Nodes::new(1, 1500)?;
    let etcd = Etcd::start(&nodes.world, WORLD4, &nodes.path("etcd"))?;
    let mut agent = Agent::new(nodes.path("agent"))?;
    agent.start(&nodes.nodes[0], "n0", &[&format!("--store={}", etcd.store())])?;
    let network = agent.file("network.yaml", NETWORK)?;
    let deadline = Instant::now() + PATIENCE;
    while agent.sh(&format!("apply -f {network}")).is_err() {
        check(deadline, "the agent does not answer")?;
        thread::sleep(Duration::from_millis(50));
    }
    let start = Instant::now();
    let manifests: Vec<String> = (0..vms).map(|number| vm(&format!("idle{number}"))).collect();
    let file = agent.file("vms.yaml", &manifests.join("---\n"))?;
    agent.sh(&format!("apply -f {file} --wait --timeout={}", PATIENCE.as_secs()))?;
    let started = start.elapsed();
    let process = agent.process()?;
    // What the start has left to do is done.
    thread::sleep(Duration::from_secs(3));
    let before = process.cpu_seconds()?;
    thread::sleep(idle);
    let used = (process.cpu_seconds()? - before) / idle.as_secs_f64() * 100.0;
    let resident = f64::from(u32::try_from(process.resident_kib()?)?) / 1024.0;

    let times = (0..SAMPLES).map(|number| first_answer(&agent, &network, number));
    let times: Vec<Duration> = times.collect::<Result<_>>()?;
    let row = |what: String, figure: String| Row { what, figure };
    Ok(vec![
        row(
            format!("{vms} VMs on one node applied, until all are served"),
            format!("{:.1} s", started.as_secs_f64()),
        ),
        row(
            format!("an agent with {vms} VMs, resident"),
            format!("{resident:.1} MB"),
        ),
        row(
            format!("the same, idle, of a processor in {} s", idle.as_secs()),
            format!("{used:.2} %"),
        ),
        row(
            "apply of a VM until its first answer of DHCP, without a VMM".to_owned(),
            spread(times),
        ),
    ])
}

fn check(deadline: Instant, what: &str) -> Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(failure(what))
}

/// Applies a VM, connects as its VMM, and requests an address.
fn first_answer(agent: &Agent, network: &str, number: u8) -> Result<Duration> {
    let name = format!("new{number}");
    let mac = [0x52, 0x54, 0, 0, 9, number];
    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
    let manifest = vm(&name).replace(
        &format!("name: {NIC}, binding"),
        &format!("name: {NIC}, macAddress: '{text}', binding"),
    );
    let file = agent.file("new.yaml", &manifest)?;
    let socket = agent.vm_folder("blue", &name).join(format!("{NIC}.sock"));
    let start = Instant::now();
    agent.sh(&format!("apply -f {network} -f {file}"))?;
    let stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(_) => check(start + PATIENCE, "the VM has no socket")?,
        }
        thread::sleep(LOOK);
    };
    let mut vmm = Vmm::connect(stream, VmmConfig::default())?;
    vmm.post_all()?;
    let nic = vmm.nics.first_mut().ok_or_else(|| failure("the VMM has no NIC"))?;
    nic.send(&discover(mac))?;
    loop {
        let received = nic.recv(ANSWER)?.ok_or_else(|| failure("no answer of DHCP"))?;
        // UDP from port 67 to port 68.
        if received.frame.get(34..38) == Some(&[0, 67, 0, 68]) {
            return Ok(start.elapsed());
        }
    }
}

/// A DHCPDISCOVER (RFC 2131) of the guest `mac`.
fn discover(mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![0; DHCP];
    // A request of an Ethernet client, with the cookie of RFC 2131 3.
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[28..34].copy_from_slice(&mac);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, 1, 255]);
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let udp = [&[0, 68, 0, 67][..], &length(8 + message.len()), &[0, 0], &message].concat();
    let mut ip = [&[0x45, 0][..], &length(20 + udp.len()), &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
    ip.extend([0, 0, 0, 0, 255, 255, 255, 255]);
    let sum = checksum::of(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    [&[0xff; 6][..], &mac, &[8, 0], &ip, &udp].concat()
}
