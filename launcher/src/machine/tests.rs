use super::*;
use crate::cli::Cli;
use crate::config;
use crate::host::Host;
use clap::Parser as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A masqueraded NIC that needs nothing from the system.
fn nic(folder: &Path, name: &str) -> Nic {
    let cli = Cli::try_parse_from(["hawser", "--ipv4=10.0.2.0/24", "--ipv6=off"]).unwrap();
    let spec = cli.port.spec(name.into()).unwrap();
    let found = config::resolve(spec, &Host::default(), None).unwrap();
    Nic::vhost_user(Endpoint::Listen(socket(folder, name)), found)
}

fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}

fn machine(folder: &Path, names: &[&str], lifetime: Lifetime) -> Result<Machine, Failure> {
    let setup = MachineSetup {
        sandbox: Sandbox::default(),
        lifetime,
        names_interfaces: true,
    };
    Machine::start(setup, names.iter().map(|name| nic(folder, name)).collect())
}

fn names(machine: &Machine) -> Vec<String> {
    let ports = machine.ports();
    ports.iter().map(|port| port.config().name.clone()).collect()
}

/// A front end that sends one message, so that it counts as a front end, and disconnects.
fn come_and_go(folder: &Path, name: &str) {
    /// GET_FEATURES, version 1, no body.
    const GET_FEATURES: [u32; 3] = [1, 1, 0];
    let mut front = UnixStream::connect(socket(folder, name)).unwrap();
    let message: Vec<u8> = GET_FEATURES.iter().flat_map(|word| word.to_ne_bytes()).collect();
    std::io::Write::write_all(&mut front, &message).unwrap();
    let mut answer = [0; 20];
    std::io::Read::read_exact(&mut front, &mut answer).unwrap();
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn ports_come_and_go_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine(folder.path(), &["a", "b"], Lifetime::Persistent).unwrap();
    let port = |name| match machine.nic(name) {
        Some(ServedNic::VhostUser { port, .. }) => port,
        _ => panic!("no port {name}"),
    };
    let b = port("b");
    machine.add(nic(folder.path(), "c")).unwrap();
    assert!(machine.remove("a"));
    assert!(!machine.remove("a"));
    assert_eq!(names(&machine), ["b", "c"]);
    assert!(!socket(folder.path(), "a").exists());
    assert!(Arc::ptr_eq(&b, &port("b")));
    come_and_go(folder.path(), "b");
    come_and_go(folder.path(), "c");
    machine.end();
    assert!(!socket(folder.path(), "b").exists() && !socket(folder.path(), "c").exists());
}

#[test]
fn a_second_port_of_a_name_is_refused_and_the_first_is_served_on() {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine(folder.path(), &["a"], Lifetime::Persistent).unwrap();
    let refused = machine.add(nic(folder.path(), "a")).map(drop).unwrap_err();
    assert!(refused.to_string().contains("served already"), "{refused}");
    come_and_go(folder.path(), "a");
}

#[test]
fn nothing_is_served_unless_all_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(socket(folder.path(), "b"), "not a socket").unwrap();
    let refused = machine(folder.path(), &["a", "b"], Lifetime::Persistent)
        .map(drop)
        .unwrap_err();
    assert!(refused.to_string().starts_with("interface b: "), "{refused}");
    assert!(!socket(folder.path(), "a").exists());
}

#[test]
fn one_off_it_is_over_when_the_last_front_end_has_gone_and_no_sooner() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Arc::new(machine(folder.path(), &["a", "b"], Lifetime::OneOff).unwrap());
    let waiting = thread::spawn({
        let machine = Arc::clone(&machine);
        move || machine.wait()
    });
    come_and_go(folder.path(), "a");
    eventually("a ends", || machine.life("a") == Some(Life::Ended));
    assert!(!waiting.is_finished());
    come_and_go(folder.path(), "b");
    assert_eq!(waiting.join().unwrap(), Ok(()));
}

#[test]
fn a_machine_whose_last_port_was_removed_waits_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Arc::new(machine(folder.path(), &["a"], Lifetime::OneOff).unwrap());
    let waiting = thread::spawn({
        let machine = Arc::clone(&machine);
        move || machine.wait()
    });
    machine.remove("a");
    machine.add(nic(folder.path(), "a")).unwrap();
    assert!(!waiting.is_finished());
    machine.stop();
    assert_eq!(waiting.join().unwrap(), Ok(()));
    let late = machine.add(nic(folder.path(), "b")).map(drop).unwrap_err();
    assert!(late.to_string().contains("shutting down"), "{late}");
}
