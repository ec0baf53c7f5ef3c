//! Tests on a real etcd: races of several nodes, and what happens when etcd is unavailable, compacted or restored. Each
//! test has a cluster with one member.

use super::running::{binding, changes, flip, port};
use super::{Place, addresses, give, of_range, vm};
use crate::bindings::{Change, Changes, Epoch, Epochs as _, Watch as _};
use crate::etcd::{Etcd, EtcdOptions};
use crate::liveness::{Liveness as _, Moment, ProcessId};
use crate::range::number;
use crate::records::{Batch, RecordKey, Records as _};
use crate::{Lease, Store as _, StoreProblem};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A cluster of one member.
pub(super) struct Member {
    /// The process; `None` while it is stopped.
    child: Option<Child>,
    /// Ports for clients and for other members.
    ports: [u16; 2],
    folder: TempDir,
    /// Scheme of the URL for clients.
    scheme: &'static str,
    /// More arguments.
    arguments: Vec<String>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Member {
    pub(super) fn start() -> Self {
        Self::start_with("http", tempfile::tempdir().unwrap(), Vec::new())
    }

    /// Starts a member with more arguments; files that they name may be in `folder`.
    pub(super) fn start_with(scheme: &'static str, folder: TempDir, arguments: Vec<String>) -> Self {
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let mut member = Self {
            child: None,
            ports: free.map(|port| port.local_addr().unwrap().port()),
            folder,
            scheme,
            arguments,
        };
        member.restart();
        member
    }

    /// Folder that contains the member's data.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Kills the member without warning.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The member may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the member again with its data.
    pub(super) fn restart(&mut self) {
        self.kill();
        let [clients, peers] = self.ports;
        let (clients, peers) = (
            format!("{}://127.0.0.1:{clients}", self.scheme),
            format!("http://127.0.0.1:{peers}"),
        );
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new("etcd")
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={clients}"))
            .arg(format!("--advertise-client-urls={clients}"))
            .arg(format!("--listen-peer-urls={peers}"))
            .arg(format!("--initial-advertise-peer-urls={peers}"))
            .arg(format!("--initial-cluster=default={peers}"))
            .args(&self.arguments)
            .stderr(Stdio::from(log))
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("etcd: {error}; hack/setup installs it"));
        self.child = Some(child);
    }

    /// Runs etcdctl, and returns its output.
    pub(super) fn control(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=127.0.0.1:{}", self.ports[0]));
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Number of requests for keys that the member has answered.
    fn requests(&self) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[0])).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("grpc_server_handled_total{"));
        let of_keys = lines.filter(|line| line.contains("\"etcdserverpb.KV\""));
        of_keys
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    pub(super) fn options(&self, node: &str) -> EtcdOptions {
        EtcdOptions {
            endpoints: vec![format!("127.0.0.1:{}", self.ports[0])],
            cluster: "test".into(),
            node: node.into(),
            tls: None,
            user: None,
        }
    }

    /// Connects a node once the member answers.
    pub(super) fn join(&self, node: &str) -> Etcd {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match Etcd::connect(self.options(node)) {
                Ok(etcd) => return etcd,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// A member, and the connection of one node to it.
pub(crate) struct OnEtcd {
    etcd: Etcd,
    /// The member, which ends after the connection.
    _member: Member,
}

impl Place for OnEtcd {
    type Store = Etcd;

    fn new() -> Self {
        let member = Member::start();
        Self {
            etcd: member.join("n1"),
            _member: member,
        }
    }

    fn open(&self) -> Etcd {
        self.etcd.clone()
    }
}

const NETWORK: &str = "default/blue";

/// Repeats `done` until it returns true.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nodes_that_start_at_once_get_different_macs_and_addresses() {
    const NODES: usize = 8;
    const VMS: usize = 4;
    let member = Member::start();
    let first = member.join("n0");
    let network = |interface: &str| {
        let mut claim = of_range(interface, 200);
        claim.segment = crate::Segment::Network(NETWORK.into());
        claim
    };
    let pool = "02:00:00:00:00:00-02:00:00:00:ff:ff".parse().unwrap();
    let leases: Vec<Lease> = std::thread::scope(|scope| {
        let node = |n: usize| {
            let (etcd, network) = (member.join(&format!("n{n}")), &network);
            move || {
                let mut etcd = etcd;
                let leases = (0..VMS).map(|m| {
                    let (vm, claims) = (vm(&format!("vm{n}-{m}")), [network("lan")]);
                    let claimed = etcd.step(|ledger| crate::claim::claim(ledger, &vm, &claims, &[], &pool));
                    claimed.unwrap().remove(0)
                });
                leases.collect::<Vec<Lease>>()
            }
        };
        let threads: Vec<_> = (0..NODES).map(|n| scope.spawn(node(n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let macs: BTreeSet<_> = leases.iter().map(|lease| lease.mac.unwrap().to_string()).collect();
    let given: BTreeSet<_> = leases.iter().map(|lease| number(lease.addresses[0].addr())).collect();
    assert_eq!((macs.len(), given.len()), (NODES * VMS, NODES * VMS));
    assert_eq!(first.leases(None).unwrap().len(), NODES * VMS);
    // Each lease is one record of its VM, one record of its MAC, and two of its address in the indexes.
    let count = |kind: &str| member.control(&["get", "--prefix", "--keys-only", &format!("/hawser/test/{kind}/")]);
    for kind in ["vm", "mac", "ip", "any"] {
        assert_eq!(count(kind).split_whitespace().count(), NODES * VMS, "{kind}");
    }
}

#[test]
fn the_ports_of_a_guest_flip_at_one_revision() {
    let member = Member::start();
    let (mut etcd, other) = (member.join("n1"), member.join("n2"));
    for name in ["a", "b", "c"] {
        etcd.bind(&port(name), None, &binding("p")).unwrap();
    }
    let (_, before) = other.bindings(&port("a").network).unwrap();
    let flips = ["a", "b", "c"].map(|name| flip(name, 1, "q"));
    assert_eq!(etcd.flip(&flips).unwrap(), [Epoch(2); 3]);
    let (listed, after) = other.bindings(&port("a").network).unwrap();
    assert!(listed.iter().all(|bound| bound.epoch == Epoch(2)), "{listed:?}");
    assert_eq!(after.number - before.number, 1);
}

#[test]
fn a_port_that_was_looked_up_is_bound_by_one_more_request_unless_another_node_was_first() {
    let member = Member::start();
    let (mut etcd, mut other) = (member.join("n1"), member.join("n2"));
    let before = member.requests();
    assert_eq!(etcd.bound(&port("a")).unwrap(), None);
    assert_eq!(etcd.bind(&port("a"), None, &binding("p")).unwrap(), Epoch(1));
    assert_eq!(member.requests() - before, 2);
    // What was read is out of date when it is used: for the better, and for the worse.
    assert_eq!(etcd.bound(&port("a")).unwrap().map(|bound| bound.epoch), Some(Epoch(1)));
    assert_eq!(other.bind(&port("a"), Some(Epoch(1)), &binding("q")).unwrap(), Epoch(2));
    assert_eq!(etcd.bind(&port("a"), Some(Epoch(2)), &binding("p")).unwrap(), Epoch(3));
    assert_eq!(etcd.bound(&port("a")).unwrap().map(|bound| bound.epoch), Some(Epoch(3)));
    assert_eq!(other.bind(&port("a"), Some(Epoch(3)), &binding("q")).unwrap(), Epoch(4));
    etcd.bind(&port("a"), Some(Epoch(3)), &binding("p")).unwrap_err();
}

#[test]
fn what_is_released_leaves_nothing_behind() {
    let member = Member::start();
    let mut etcd = member.join("n1");
    let given = give(&mut etcd, "a", &[of_range("lan", 9)]).unwrap();
    assert_eq!(addresses(&given), ["10.0.0.2/24"]);
    super::release(&mut etcd, "a");
    let left = member.control(&["get", "--prefix", "--keys-only", "/hawser/"]);
    let left: Vec<&str> = left.split_whitespace().collect();
    assert!(
        left.iter()
            .all(|key| key.contains("/cursor/") || key.ends_with("/schema")),
        "{left:?}"
    );
}

#[test]
fn a_watcher_goes_on_after_etcd_was_away() {
    let mut member = Member::start();
    let mut etcd = member.join("n1");
    etcd.bind(&port("a"), None, &binding("p")).unwrap();
    let (_, mut revision) = etcd.bindings(NETWORK).unwrap();
    assert_eq!(changes(&etcd, &mut revision), []);
    member.kill();
    // What was read before stays available, and a change fails with a message about the outage.
    assert_eq!(changes(&etcd, &mut revision), []);
    let error = etcd.bind(&port("b"), None, &binding("p")).unwrap_err().to_string();
    assert!(error.contains("etcd does not answer"), "{error}");
    member.restart();
    let mut other = member.join("n2");
    other.bind(&port("c"), None, &binding("q")).unwrap();
    let mut seen = Vec::new();
    wait_until("the change of another node", || {
        seen.extend(changes(&etcd, &mut revision));
        seen.iter().any(|change| *change.port() == port("c"))
    });
    wait_until("a change", || etcd.bind(&port("b"), None, &binding("p")).is_ok());
}

#[test]
fn a_watcher_that_sleeps_through_a_compaction_misses_nothing() {
    let mut member = Member::start();
    let mut etcd = member.join("n1");
    etcd.bind(&port("a"), None, &binding("p")).unwrap();
    let (_, mut revision) = etcd.bindings(NETWORK).unwrap();
    assert_eq!(changes(&etcd, &mut revision), []);
    // The connection is lost. The changes that it misses are compacted before it is restored.
    let mut later = None;
    member.kill();
    member.restart();
    wait_until("etcd", || {
        later = Etcd::connect(member.options("n2")).ok();
        later.is_some()
    });
    let mut later = later.unwrap();
    for epoch in 0..20 {
        let seen = (epoch > 0).then_some(Epoch(epoch));
        later.bind(&port("b"), seen, &binding("q")).unwrap();
    }
    later.unbind(&port("a"), Epoch(1)).unwrap();
    let (_, now) = later.bindings(NETWORK).unwrap();
    member.control(&["compact", &now.number.to_string()]);
    let mut known = Vec::new();
    wait_until("both changes", || {
        known.extend(changes(&etcd, &mut revision));
        let unbound = |change: &Change| matches!(change, Change::Unbound { port: of, .. } if *of == port("a"));
        let bound = |change: &Change| matches!(change, Change::Bound(bound) if bound.epoch == Epoch(20));
        known.iter().any(unbound) && known.iter().any(bound)
    });
}

#[test]
fn a_cluster_that_is_restored_from_an_older_copy_is_a_gap() {
    let mut member = Member::start();
    let mut etcd = member.join("n1");
    etcd.bind(&port("a"), None, &binding("p")).unwrap();
    member.kill();
    let copy = tempfile::tempdir().unwrap();
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    };
    copied(&member.data(), copy.path());
    member.restart();
    drop(member.join("n2"));
    wait_until("etcd", || etcd.bind(&port("b"), None, &binding("p")).is_ok());
    let (_, newer) = etcd.bindings(NETWORK).unwrap();
    member.kill();
    std::fs::remove_dir_all(member.data()).unwrap();
    copied(&copy.path().join("data"), &member.data());
    member.restart();
    wait_until("a gap", || matches!(etcd.changes(NETWORK, newer), Ok(Changes::Gap)));
    let (listed, mut revision) = etcd.bindings(NETWORK).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(changes(&etcd, &mut revision), []);
}

#[test]
fn a_port_that_is_forgotten_has_a_higher_epoch_when_it_is_bound_again() {
    let member = Member::start();
    let mut etcd = member.join("n1");
    for name in ["a", "b", "c"] {
        let mut seen = None;
        for _ in 0..3 {
            seen = Some(etcd.bind(&port(name), seen, &binding("p")).unwrap());
        }
        etcd.unbind(&port(name), Epoch(3)).unwrap();
    }
    let (_, before) = etcd.bindings(NETWORK).unwrap();
    assert!(matches!(etcd.changes(NETWORK, before), Ok(Changes::Complete { .. })));
    assert_eq!(etcd.forget_unbound(1).unwrap(), 2);
    assert_eq!(etcd.forget_unbound(1).unwrap(), 0);
    assert_eq!(etcd.bind(&port("a"), None, &binding("q")).unwrap(), Epoch(4));
    assert_eq!(etcd.bind(&port("c"), None, &binding("q")).unwrap(), Epoch(4));
    assert_eq!(etcd.bind(&port("new"), None, &binding("q")).unwrap(), Epoch(4));
}

#[test]
fn a_process_whose_node_is_silent_is_dead_by_the_clock_of_the_server() {
    let member = Member::start();
    let (mut etcd, other) = (member.join("n1"), member.join("n2"));
    let process = |name: &str| ProcessId {
        node: "n1".into(),
        process: name.into(),
    };
    let now = Moment {
        boot: "boot".into(),
        since_boot: Duration::ZERO,
    };
    let lifetime = Duration::from_secs(2);
    etcd.keep_alive(&process("p"), &now, lifetime).unwrap();
    etcd.keep_alive(&process("q"), &now, lifetime).unwrap();
    assert_eq!(other.dead(&now).unwrap(), []);
    etcd.forget(&process("q")).unwrap();
    wait_until("the end of the time lease", || {
        other.dead(&now).unwrap() == [process("p")]
    });
    // The process was only slow.
    etcd.keep_alive(&process("p"), &now, lifetime).unwrap();
    assert_eq!(other.dead(&now).unwrap(), []);
}

#[test]
fn a_store_of_a_newer_hawser_is_refused_also_while_running() {
    let member = Member::start();
    let mut etcd = member.join("n1");
    member.control(&["put", "/hawser/test/schema", r#"{"layout": 2}"#]);
    let error = give(&mut etcd, "a", &[of_range("lan", 9)]).unwrap_err().to_string();
    assert!(
        error.contains("a newer hawser created it (layout 2, this one supports 1)"),
        "{error}"
    );
    assert!(etcd.bind(&port("a"), None, &binding("p")).is_err());
    let refused = Etcd::connect(member.options("n2")).unwrap_err();
    assert!(
        matches!(refused.problem, StoreProblem::Newer { found: 2, known: 1 }),
        "{refused}"
    );
    assert!(
        refused.to_string().starts_with("--store=etcd://127.0.0.1:"),
        "{refused}"
    );
}

#[test]
fn a_cluster_without_space_refuses_changes_and_still_answers_reads() {
    const QUOTA: usize = 16 << 20;
    const PIECE: usize = 1 << 20;
    let arguments = vec![format!("--quota-backend-bytes={QUOTA}")];
    let member = Member::start_with("http", tempfile::tempdir().unwrap(), arguments);
    let mut etcd = member.join("n1");
    etcd.bind(&port("a"), None, &binding("p")).unwrap();
    let (_, mut revision) = etcd.bindings(NETWORK).unwrap();
    let key = RecordKey::new(["vm", "blue", "web"]);
    // Every version of the record takes space until the cluster is compacted.
    let put = Batch::default().put(&key, "x".repeat(PIECE));
    let full = (0..4 * QUOTA / PIECE).find_map(|_| etcd.change(&put).err());
    let full = full.expect("the quota is used up");
    assert!(matches!(full.problem, StoreProblem::NoSpace), "{full}");
    assert!(full.to_string().contains("alarm disarm"), "{full}");
    let refused = etcd.bind(&port("b"), None, &binding("p")).unwrap_err();
    assert!(refused.to_string().contains("no space left"), "{refused}");
    assert_eq!(etcd.record(&key).unwrap().unwrap().text.len(), PIECE);
    assert_eq!(changes(&etcd, &mut revision), []);
    // What the message says helps.
    let (_, newest) = etcd.bindings(NETWORK).unwrap();
    member.control(&["compact", &newest.number.to_string()]);
    member.control(&["defrag"]);
    member.control(&["alarm", "disarm"]);
    assert_eq!(etcd.bind(&port("b"), None, &binding("p")).unwrap(), Epoch(1));
    assert!(etcd.change(&put).unwrap());
}
