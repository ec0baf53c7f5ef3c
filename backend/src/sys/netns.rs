//! A small network for tests: a pod, a router, and a server behind the router. Each is in its own network namespace,
//! which ends with the test. This needs root and `ip`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest time a link may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Three namespaces in a row. The calling thread is in the pod's namespace.
///
/// Pod 192.0.2.2, fd00:1::2 — router 192.0.2.1, fd00:1::1 and 198.51.100.1, fd00:2::1 —
/// server 198.51.100.2, fd00:2::2.
pub(crate) struct Network {
    pod: File,
    router: File,
    server: File,
}

fn current() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn fresh() -> io::Result<File> {
    // SAFETY: this changes the network namespace of the calling thread only.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(current()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn enter(namespace: &File) {
    // SAFETY: this changes the network namespace of the calling thread only.
    let r = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(r, 0, "setns: {}", io::Error::last_os_error());
}

/// Moves the calling thread into a namespace that has only a loopback link. If the test lacks the
/// rights, prints the reason and returns false.
pub(crate) fn enter_fresh() -> bool {
    if fresh().is_err() {
        eprintln!("skipped: needs root");
        return false;
    }
    run("ip link set lo up");
    true
}

/// Runs a command in the namespace of the calling thread.
pub(crate) fn run(line: &str) {
    output(line);
}

/// Output of a command that must succeed.
fn output(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Network {
    /// Creates the network with `mtu` between router and server. If the test lacks the rights or
    /// `ip`, prints the reason and returns `None`.
    pub(crate) fn new(mtu: u32) -> Option<Self> {
        let made = fresh().and_then(|server| Ok((server, fresh()?)));
        if let (Ok((server, router)), Ok(_)) = (&made, Command::new("ip").arg("-V").output()) {
            let pod = fresh().ok()?;
            let network = Self {
                pod,
                router: router.try_clone().unwrap(),
                server: server.try_clone().unwrap(),
            };
            network.set_up(mtu);
            network.await_links();
            return Some(network);
        }
        eprintln!("skipped: needs root and ip(8)");
        None
    }

    /// Waits until the kernel has activated the queue of each link. It does so asynchronously, and drops packets that
    /// are sent before.
    fn await_links(&self) {
        let links = [
            (&self.pod, "pod0"),
            (&self.router, "r0"),
            (&self.router, "r1"),
            (&self.server, "srv0"),
        ];
        for (namespace, link) in links {
            let is_up = || {
                let output = Command::new("ip").args(["-o", "link", "show", "dev", link]).output();
                String::from_utf8_lossy(&output.unwrap().stdout).contains("state UP")
            };
            self.at(namespace, || {
                let start = Instant::now();
                while !is_up() {
                    assert!(start.elapsed() < PATIENCE, "{link} does not come up");
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
    }

    /// Runs `f` in the server's network namespace.
    pub(crate) fn at_server<R>(&self, f: impl FnOnce() -> R) -> R {
        self.at(&self.server, f)
    }

    /// Runs a command in the pod's namespace.
    pub(crate) fn pod_run(&self, line: &str) {
        self.at(&self.pod, || run(line));
    }

    /// Runs a command in the router's namespace.
    pub(crate) fn router_run(&self, line: &str) {
        self.at(&self.router, || run(line));
    }

    /// Replaces the pod's IPv4 and IPv6 addresses.
    pub(crate) fn renumber_pod(&self, old: [&str; 2], new: [&str; 2]) {
        for (old, length) in old.iter().zip([24, 64]) {
            self.pod_run(&format!("ip address del {old}/{length} dev pod0"));
        }
        self.at(&self.pod, || {
            let prefixes = [format!("{}/24", new[0]), format!("{}/64", new[1])];
            address("pod0", [&prefixes[0], &prefixes[1]], ["192.0.2.1", "fd00:1::1"]);
            // Even without duplicate address detection, the kernel takes a moment to activate an address.
            let start = Instant::now();
            while !output("ip -6 route show table local").contains(new[1]) {
                assert!(start.elapsed() < PATIENCE, "{new:?} is not in use");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }

    fn at<R>(&self, namespace: &File, f: impl FnOnce() -> R) -> R {
        enter(namespace);
        let result = f();
        enter(&self.pod);
        result
    }

    fn set_up(&self, mtu: u32) {
        // A router sends neighbour solicitations from its link-local address, and duplicate address
        // detection would delay that address for a second or two.
        for namespace in [&self.pod, &self.router, &self.server] {
            self.at(namespace, || {
                std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
            });
        }
        let path = |ns: &File| format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd());
        enter(&self.pod);
        run(&format!(
            "ip link add pod0 type veth peer name r0 netns {}",
            path(&self.router)
        ));
        for line in ["ip link set lo up", "ip link set pod0 up"] {
            run(line);
        }
        address("pod0", ["192.0.2.2/24", "fd00:1::2/64"], ["192.0.2.1", "fd00:1::1"]);
        self.at(&self.router, || {
            run(&format!(
                "ip link add r1 type veth peer name srv0 netns {}",
                path(&self.server)
            ));
            for line in [
                "ip link set lo up",
                "ip link set r0 up",
                &format!("ip link set r1 mtu {mtu} up"),
                "ip address add 192.0.2.1/24 dev r0",
                "ip address add fd00:1::1/64 dev r0 nodad",
                "ip address add 198.51.100.1/24 dev r1",
                "ip address add fd00:2::1/64 dev r1 nodad",
            ] {
                run(line);
            }
            for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{name}"), "1").unwrap();
            }
        });
        self.at(&self.server, || {
            run("ip link set lo up");
            run(&format!("ip link set srv0 mtu {mtu} up"));
            address(
                "srv0",
                ["198.51.100.2/24", "fd00:2::2/64"],
                ["198.51.100.1", "fd00:2::1"],
            );
        });
    }
}

fn address(device: &str, [v4, v6]: [&str; 2], [v4_via, v6_via]: [&str; 2]) {
    run(&format!("ip address add {v4} dev {device}"));
    run(&format!("ip address add {v6} dev {device} nodad"));
    run(&format!("ip route replace default via {v4_via}"));
    run(&format!("ip -6 route replace default via {v6_via}"));
}
