//! Network namespaces without names. A descriptor holds each of them, so a test that dies leaves none behind.

use crate::{Result, failure, until};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    /// File that processes started in the namespace see as /etc/resolv.conf.
    resolv_conf: Option<PathBuf>,
}

/// Moves the calling thread into the namespace `fd`. Async-signal-safe.
fn enter(fd: i32) -> io::Result<()> {
    // SAFETY: setns takes plain numbers.
    match unsafe { libc::setns(fd, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the calling process its own /etc/resolv.conf. Async-signal-safe.
fn replace_resolv_conf(with: &CString) -> io::Result<()> {
    let (none, root, here) = (std::ptr::null(), c"/".as_ptr(), c"/etc/resolv.conf".as_ptr());
    // SAFETY: all pointers are null, or point to strings that end with NUL and outlive the calls.
    let done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
            && libc::mount(with.as_ptr(), here, none, libc::MS_BIND, none.cast()) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Namespace {
    /// Creates a namespace with its loopback up.
    pub fn new() -> Result<Self> {
        let make = || -> io::Result<OwnedFd> {
            // SAFETY: unshare takes a plain number, and this thread ends with the closure.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        };
        let made = thread::scope(|scope| scope.spawn(make).join());
        let fd = made.map_err(|_| failure("the thread panicked"))?.map_err(|e| {
            failure(format!(
                "cannot make a network namespace: {e} (the whole-program tests need root)"
            ))
        })?;
        let namespace = Self { fd, resolv_conf: None };
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    /// Makes processes that are started from now on see the file `path` as /etc/resolv.conf.
    pub fn set_resolv_conf(&mut self, path: &Path) {
        self.resolv_conf = Some(path.to_owned());
    }

    /// A path to the namespace for other processes. It is valid while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.fd.as_raw_fd())
    }

    /// A command that starts `program` in the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.fd.as_raw_fd();
        let resolv_conf = self
            .resolv_conf
            .as_ref()
            .and_then(|path| CString::new(path.as_os_str().as_encoded_bytes()).ok());
        // SAFETY: only async-signal-safe calls, on data made before the fork.
        unsafe {
            command.pre_exec(move || {
                enter(fd)?;
                resolv_conf.as_ref().map_or(Ok(()), replace_resolv_conf)
            });
        }
        command
    }

    /// Runs the words of `line` as a command in the namespace, and returns its output. Fails if the command fails.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().ok_or_else(|| failure("no command"))?;
        let output = self
            .command(program)
            .args(words)
            .output()
            .map_err(|e| failure(format!("{line}: {e}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(failure(format!(
            "{line}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )))
    }

    /// Runs `work` on a thread inside the namespace, so that sockets created there belong to it.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let fd = self.fd.as_raw_fd();
        let done = thread::scope(|scope| scope.spawn(move || enter(fd).map(|()| work())).join());
        match done {
            Ok(result) => Ok(result?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The links, addresses and routes, without fields that change by themselves. Waits until no address is tentative.
    pub fn settled(&self) -> Result<String> {
        until("addresses are no longer tentative", || {
            Ok(!self.run("ip addr")?.contains("tentative"))
        })?;
        let mut text = String::new();
        for line in ["ip -d link", "ip addr", "ip route show table all", "ip -6 route"] {
            text += &self.run(line)?;
        }
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            let is_timer = words.last().is_some_and(|last: &&str| last.ends_with("timer"));
            if !is_timer {
                words.push(word);
            }
        }
        Ok(words.join(" "))
    }

    /// Sets a parameter of the namespace, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{name}");
        self.inside(|| fs::write(&path, value))?
            .map_err(|e| failure(format!("{path}: {e}")))
    }
}

/// Addresses of a test's networks. All are from documentation ranges.
pub mod address {
    /// IPv4 address of the pod.
    pub const POD4: &str = "192.0.2.2";
    /// IPv4 address of the world's end of the link.
    pub const WORLD4: &str = "192.0.2.1";
    /// IPv6 address of the pod.
    pub const POD6: &str = "2001:db8:1::2";
    /// IPv6 address of the world's end of the link.
    pub const WORLD6: &str = "2001:db8:1::1";
    /// IPv4 address of a host of the world that is not a neighbour of the pod.
    pub const FAR4: &str = "203.0.113.7";
    /// IPv6 address of a host of the world that is not a neighbour of the pod.
    pub const FAR6: &str = "2001:db8:7::7";
    /// IPv4 address of a host that the world's router reports as unreachable.
    pub const NOWHERE4: &str = "198.51.100.9";
    /// IPv6 address of a host that the world's router reports as unreachable.
    pub const NOWHERE6: &str = "2001:db8:9::9";
}

/// A pod-like namespace and the world beyond it, connected by a veth pair.
#[derive(Debug)]
pub struct Networks {
    /// Namespace in which hawser runs.
    pub pod: Namespace,
    /// Namespace in which servers and clients run. It is also the pod's router.
    pub world: Namespace,
}

impl Networks {
    /// Creates both namespaces, with addresses and routes. `mtu` applies to the link between them.
    pub fn new(mtu: u32) -> Result<Self> {
        use address::{FAR4, FAR6, NOWHERE4, NOWHERE6, POD4, POD6, WORLD4, WORLD6};
        let (pod, world) = (Namespace::new()?, Namespace::new()?);
        pod.run(&format!(
            "ip link add eth0 mtu {mtu} type veth peer name pod0 mtu {mtu} netns {}",
            world.path()
        ))?;
        for line in [
            format!("ip addr add {POD4}/24 dev eth0"),
            format!("ip -6 addr add {POD6}/64 dev eth0 nodad"),
            "ip link set eth0 up".to_owned(),
        ] {
            pod.run(&line)?;
        }
        for line in [
            format!("ip addr add {WORLD4}/24 dev pod0"),
            format!("ip -6 addr add {WORLD6}/64 dev pod0 nodad"),
            "ip link set pod0 up".to_owned(),
            format!("ip addr add {FAR4}/32 dev lo"),
            format!("ip -6 addr add {FAR6}/128 dev lo nodad"),
            format!("ip route add unreachable {NOWHERE4}/32"),
            format!("ip -6 route add unreachable {NOWHERE6}/128"),
        ] {
            world.run(&line)?;
        }
        pod.run(&format!("ip route add default via {WORLD4}"))?;
        pod.run(&format!("ip -6 route add default via {WORLD6}"))?;
        world.sysctl("net/ipv4/ip_forward", "1")?;
        world.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // Ordinary users may send echo requests, as container runtimes permit in a pod.
        pod.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
        Ok(Self { pod, world })
    }
}
