//! Tests on clusters of etcd as operators run them: with certificates and users, and with several members.

use super::etcd::Member;
use super::running::{binding, changes, port};
use super::{give, of_range};
use crate::bindings::{Epoch, Epochs as _, Watch as _};
use crate::etcd::{Etcd, EtcdOptions, Tls, User};
use crate::records::{Batch, RecordKey, Records as _};
use crate::{StoreError, StoreProblem};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Seconds for which etcd accepts the token of a user who sends nothing.
const TOKEN: u64 = 1;
const NETWORK: &str = "default/blue";

/// Repeats an attempt until it succeeds.
fn patiently<T, E: std::fmt::Display>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output();
    let output = output.unwrap_or_else(|error| panic!("openssl: {error}; hack/setup installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Creates an authority and a certificate for 127.0.0.1 that it has signed.
fn certify(folder: &Path, name: &str) {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        folder,
        &format!("req -x509 {KEY} -days 2 -subj /CN={name}-ca -keyout {name}-ca.key -out {name}-ca.pem"),
    );
    openssl(
        folder,
        &format!("req {KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"),
    );
    std::fs::write(folder.join("extensions"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial -days 2 -extfile extensions \
             -out {name}.pem"
        ),
    );
}

#[test]
fn a_cluster_with_certificates_and_users_takes_only_those_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    for name in ["good", "other"] {
        certify(&path, name);
    }
    let at = |name: &str| path.join(name).display().to_string();
    let read = |name: &str| std::fs::read(path.join(name)).unwrap();
    let arguments = vec![
        format!("--cert-file={}", at("good.pem")),
        format!("--key-file={}", at("good.key")),
        format!("--trusted-ca-file={}", at("good-ca.pem")),
        "--client-cert-auth".to_owned(),
        format!("--auth-token-ttl={TOKEN}"),
    ];
    let member = Member::start_with("https", folder, arguments);
    let certificates = [
        format!("--cacert={}", at("good-ca.pem")),
        format!("--cert={}", at("good.pem")),
        format!("--key={}", at("good.key")),
    ];
    let control = |words: &[&str]| {
        let certificates = certificates.iter().map(String::as_str);
        member.control(&words.iter().copied().chain(certificates).collect::<Vec<&str>>())
    };
    let tls = |authority: &str, name: &str| {
        Some(Tls {
            authority: read(&format!("{authority}-ca.pem")),
            identity: Some((read(&format!("{name}.pem")), read(&format!("{name}.key")))),
        })
    };
    let connect = |tls: Option<Tls>, password: &str| {
        let user = User {
            name: "agent".into(),
            password: password.into(),
        };
        Etcd::connect(EtcdOptions {
            tls,
            user: (!password.is_empty()).then_some(user),
            ..member.options("n1")
        })
    };
    drop(patiently(|| connect(tls("good", "good"), "")));
    for words in [
        &["user", "add", "root:secret"][..],
        &["role", "add", "hawser"],
        &[
            "role",
            "grant-permission",
            "hawser",
            "readwrite",
            "--prefix=true",
            "/hawser/test/",
        ],
        &["user", "add", "agent:password"],
        &["user", "grant-role", "agent", "hawser"],
        &["auth", "enable"],
    ] {
        control(words);
    }
    let mut etcd = connect(tls("good", "good"), "password").unwrap();
    assert_eq!(etcd.bind(&port("a"), None, &binding("p")).unwrap(), Epoch(1));
    give(&mut etcd, "a", &[of_range("lan", 9)]).unwrap();
    let (_, mut revision) = etcd.bindings(NETWORK).unwrap();
    assert_eq!(changes(&etcd, &mut revision), []);
    // A token that has expired is replaced.
    std::thread::sleep(Duration::from_secs(2 * TOKEN + 1));
    assert_eq!(etcd.bind(&port("b"), None, &binding("p")).unwrap(), Epoch(1));

    let problem = |refused: Result<Etcd, StoreError>| refused.map(drop).unwrap_err().problem;
    let wrong = problem(connect(tls("good", "good"), "guessed"));
    assert!(
        matches!(&wrong, StoreProblem::Denied(text) if text.contains("authentication failed")),
        "{wrong}"
    );
    let unknown = problem(connect(tls("good", "other"), "password"));
    assert!(matches!(unknown, StoreProblem::Away(_)), "{unknown}");
    let foreign = problem(connect(tls("other", "good"), "password")).to_string();
    assert!(foreign.contains("certificate"), "{foreign}");
    // The role does not permit access to the records of another cluster.
    let elsewhere = Etcd::connect(EtcdOptions {
        cluster: "elsewhere".into(),
        ..etcd.options().clone()
    });
    let denied = problem(elsewhere);
    assert!(
        matches!(&denied, StoreProblem::Denied(text) if text.contains("permission denied")),
        "{denied}"
    );
}

/// A cluster of three members.
struct Members {
    members: Vec<Option<Child>>,
    clients: Vec<u16>,
    peers: Vec<u16>,
    folder: TempDir,
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}

impl Members {
    fn start() -> Self {
        let free: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = free.iter().map(|port| port.local_addr().unwrap().port()).collect();
        drop(free);
        let mut members = Self {
            members: vec![None, None, None],
            clients: ports[..3].to_vec(),
            peers: ports[3..].to_vec(),
            folder: tempfile::tempdir().unwrap(),
        };
        (0..3).for_each(|member| members.restart(member));
        members
    }

    fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            // The member may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn restart(&mut self, member: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (0..3).map(|n| format!("m{n}={}", url(self.peers[n]))).collect();
        let (client, peer) = (url(self.clients[member]), url(self.peers[member]));
        let log = std::fs::File::create(self.folder.path().join(format!("log{member}"))).unwrap();
        let child = Command::new("etcd")
            .arg(format!("--name=m{member}"))
            .arg(format!(
                "--data-dir={}",
                self.folder.path().join(format!("m{member}")).display()
            ))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", cluster.join(",")))
            .stderr(Stdio::from(log))
            .stdout(Stdio::null())
            .spawn();
        self.members[member] = Some(child.unwrap());
    }

    fn options(&self) -> EtcdOptions {
        EtcdOptions {
            endpoints: self.clients.iter().map(|port| format!("127.0.0.1:{port}")).collect(),
            cluster: "test".into(),
            node: "n1".into(),
            tls: None,
            user: None,
        }
    }
}

#[test]
fn each_member_may_be_away_in_turn_and_no_change_is_lost() {
    let mut members = Members::start();
    let mut etcd = patiently(|| Etcd::connect(members.options()));
    let watcher = patiently(|| Etcd::connect(members.options()));
    etcd.bind(&port("a"), None, &binding("p")).unwrap();
    let (_, mut revision) = watcher.bindings(NETWORK).unwrap();
    let mut seen = Vec::new();
    let record = RecordKey::new(["vm", "blue", "web"]);
    let mut epoch = Epoch(1);
    for member in 0..3 {
        members.kill(member);
        // An agent that starts meanwhile finds the members that are there, whichever it asks first.
        for _ in 0..3 {
            drop(Etcd::connect(members.options()).unwrap());
        }
        for _ in 0..3 {
            epoch = patiently(|| match etcd.bind(&port("a"), Some(epoch), &binding("p")) {
                Ok(next) => Ok(next),
                // The answer to an earlier attempt was lost when the member ended.
                Err(crate::bindings::BindError::Fenced { found: Some(found), .. }) => Ok(found.epoch),
                Err(error) => Err(error),
            });
            // An operator's change needs no second attempt.
            let known = etcd.record(&record).unwrap().map(|record| record.version);
            let change = Batch::default().expect(&record, known).put(&record, epoch.to_string());
            assert!(etcd.change(&change).unwrap(), "member {member} is away");
        }
        members.restart(member);
        let last = patiently(|| {
            seen.extend(changes(&watcher, &mut revision));
            let last = seen.iter().rev().find_map(|change| match change {
                crate::bindings::Change::Bound(bound) => Some(bound.epoch),
                crate::bindings::Change::Unbound { .. } => None,
            });
            if last == Some(epoch) {
                Ok(epoch)
            } else {
                Err(format!("{last:?} instead of {epoch}"))
            }
        });
        assert_eq!(last, epoch);
    }
    assert!(epoch >= Epoch(10), "{epoch}");
    give(&mut etcd, "a", &[of_range("lan", 9)]).unwrap();
}
