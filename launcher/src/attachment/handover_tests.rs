//! Tests of handing over attachments to devices in a network namespace. They need root and `ip`.

use super::*;
use hawser_config::{PaceConfig, PolicyConfig};
use hawser_manifest::nic::{BridgePortSpec, BridgeSpec, ModeSpec, NameSpec, Stack};
use std::fs;
use std::num::NonZeroU16;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs ip(8), and returns true if it succeeds.
fn ip(line: &str) -> bool {
    let ran = Command::new("ip").args(line.split_whitespace()).output();
    ran.is_ok_and(|output| output.status.success())
}

/// A named network namespace, which is removed on drop.
struct Fresh(String);

impl Fresh {
    /// Moves the calling thread into a new namespace. If the test lacks the rights, prints the reason and returns
    /// `None`.
    fn enter(name: &str) -> Option<Self> {
        let name = format!("hawser-{name}-{}", std::process::id());
        if !ip(&format!("netns add {name}")) {
            eprintln!("skipped: needs root and ip(8)");
            return None;
        }
        let fresh = Self(name);
        Namespace::enter(Path::new(&fresh.0)).unwrap();
        Some(fresh)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

fn open(attachment: AttachmentSpec, folder: &Path) -> Opened {
    let bridge = BridgeSpec {
        attachment,
        guests: Vec::new(),
        addresses: Vec::new(),
        routes: Vec::new(),
    };
    let spec = NicSpec {
        name: "net0".into(),
        mac: None,
        mtu: None,
        queue_pairs: NonZeroU16::MIN,
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        names: NameSpec::default(),
        link_up: true,
        device: Default::default(),
        mode: ModeSpec::Bridge(bridge),
        places: None,
    };
    let site = Site {
        namespace: Namespace::default(),
        runtime_folder: folder.to_owned(),
    };
    let survey = survey(&spec, Vec::new(), &site).unwrap().unwrap();
    survey.open(1).unwrap()
}

/// Hands over an attachment, and checks the host while no process owns the attachment.
fn hand_over(opened: Opened, meanwhile: impl FnOnce()) -> Opened {
    let (attached, mut descriptors) = opened.attached.into_handover();
    let (queues, of_queues) = opened.queues.into_handover();
    meanwhile();
    let record = serde_json::to_string(&(attached, queues)).unwrap();
    let (attached, queues) = serde_json::from_str(&record).unwrap();
    descriptors.extend(of_queues);
    let mut descriptors = descriptors.into_iter();
    let opened = Opened {
        attached: Attached::take_over(attached, &mut descriptors).unwrap(),
        queues: Vec::take_over(queues, &mut descriptors).unwrap(),
    };
    assert_eq!(descriptors.len(), 0);
    opened
}

/// Waits, because a child process of another test has copies of all descriptors until it executes its program.
fn eventually(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
}

fn journals(folder: &Path) -> usize {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "journal"))
        .count()
}

#[test]
fn a_port_of_a_bridge_that_is_handed_over_goes_with_its_new_owner_and_so_does_promiscuous_mode() {
    let Some(_fresh) = Fresh::enter("port") else { return };
    let folder = tempfile::tempdir().unwrap();
    assert!(ip("link add br0 type bridge") && ip("link set br0 up"));
    let port = BridgePortSpec {
        bridge: "br0".into(),
        promiscuous: true,
        ..BridgePortSpec::default()
    };
    let mut netlink = Netlink::open().unwrap();
    let opened = open(AttachmentSpec::Bridge(port), folder.path());
    let tap = opened.queues[0].name();
    let mut is_attached = || {
        let bridge = netlink.link_named("br0").unwrap().unwrap();
        let port = netlink.link_named(&tap).unwrap();
        let master = port.map(|port| port.master);
        (master == Some(Some(bridge.index)), bridge.is_promiscuous)
    };
    let opened = hand_over(opened, || {
        journal::recover(folder.path());
        assert_eq!(is_attached(), (true, true));
    });
    assert_eq!(is_attached(), (true, true));
    drop(opened.attached);
    assert_eq!(is_attached(), (true, false));
    assert_eq!(journals(folder.path()), 0);
    drop(opened.queues);
    eventually(|| is_attached() == (false, false));
}

#[test]
fn a_macvtap_that_is_handed_over_is_removed_by_its_new_owner_and_one_of_another_program_is_freed() {
    let Some(_fresh) = Fresh::enter("macvtap") else { return };
    let folder = tempfile::tempdir().unwrap();
    assert!(ip("link add lower0 type veth peer name other0") && ip("link set lower0 up"));
    if !ip("link add adopted0 link lower0 type macvtap") {
        return eprintln!("skipped: this kernel has no macvtap");
    }
    assert!(ip("link set adopted0 up"));
    let stack = |lower: &str| {
        AttachmentSpec::Macvtap(Stack {
            lower: lower.into(),
            mode: None,
        })
    };
    let made = open(stack("lower0"), folder.path());
    let device = made.queues[0].name();
    let exists = || ip(&format!("link show {device}"));
    let made = hand_over(made, || {
        journal::recover(folder.path());
        assert!(exists());
    });
    assert!(exists());
    drop(made);
    assert!(!exists());
    assert_eq!(journals(folder.path()), 0);

    let adopted = open(stack("adopted0"), folder.path());
    let is_claimed = || Claim::on("adopted0").is_err();
    let adopted = hand_over(adopted, || assert!(is_claimed()));
    assert!(is_claimed());
    drop(adopted);
    eventually(|| !is_claimed());
    assert!(ip("link show adopted0"), "its maker removes it");
}
