//! Tests of the running program: readiness, signals, exits, and errors at start. No guest is needed.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for an action that the program should perform immediately.
const PATIENCE: Duration = Duration::from_secs(20);
/// An ordinary user without any capability.
const NOBODY: u32 = 65534;
/// A guest network that does not depend on the machine on which the test runs.
const NETWORK: [&str; 2] = ["--ipv4=10.0.2.0/24", "--ipv6=off"];
/// The first message of every front end: request 1 in version 1 of the protocol, without a body.
const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// A directory with the vhost-user socket and the service manager's socket.
struct Stage {
    dir: tempfile::TempDir,
    manager: UnixDatagram,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let manager = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { dir, manager }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn socket_option(&self) -> String {
        format!("--socket-path={}", self.path("vm.sock").display())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("NOTIFY_SOCKET", self.path("notify")).stderr(Stdio::piped());
        command
    }

    fn hawser(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_hawser"));
        command.env("STATE_DIRECTORY", self.dir.path());
        command
    }

    /// Receives the next notification to the service manager, except for status texts.
    fn told(&self) -> String {
        let mut buffer = [0; 256];
        let n = self.manager.recv(&mut buffer).expect("a notification in time");
        let told = String::from_utf8_lossy(&buffer[..n]);
        let lines = told.lines().filter(|line| !line.starts_with("STATUS="));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// A running program, which is killed if the test fails.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // This fails only if the program has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("hawser starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, stderr }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Reads standard error up to a line that contains `words`, and returns that line.
    fn line_with(&mut self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            let start = seen.len();
            let n = self.stderr.read_line(&mut seen).expect("UTF-8");
            assert!(n > 0, "{words:?} not in: {seen}");
            if seen[start..].contains(words) {
                return seen[start..].to_owned();
            }
        }
    }

    /// Waits for the program to end. Returns the status and the rest of standard error.
    fn ended(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "still running");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).expect("UTF-8");
        (status, rest)
    }
}

/// Asserts that the program ends with status 1 and a last line that contains all of `words`.
fn refused(command: &mut Command, words: &[&str]) {
    let (status, error) = Running::start(command).ended();
    assert_eq!(status.code(), Some(1), "{error}");
    let last = error.lines().last().unwrap_or_default();
    assert!(last.starts_with("hawser: "), "{error}");
    for words in words {
        assert!(last.contains(words), "{words:?} not in: {last}");
    }
}

#[test]
fn readiness_is_reported_once_the_socket_listens_and_sigterm_leaves_nothing_behind() {
    let stage = Stage::new();
    let mut hawser = Running::start(stage.hawser().arg(stage.socket_option()).args(NETWORK));
    assert_eq!(stage.told(), "READY=1");
    assert!(stage.path("vm.sock").exists());
    let line = hawser.line_with("serving");
    assert!(line.contains("vm.sock: masquerade, guest 10.0.2.2/24, MTU "), "{line}");
    hawser.signal(Signal::TERM);
    assert_eq!(stage.told(), "STOPPING=1");
    let (status, rest) = hawser.ended();
    assert_eq!(status.code(), Some(0), "{rest}");
    assert!(rest.contains("port vm:"), "the counters: {rest}");
    assert!(!stage.path("vm.sock").exists());
}

#[test]
fn sigusr1_writes_the_counters_and_serving_continues() {
    let stage = Stage::new();
    let mut hawser = Running::start(stage.hawser().arg(stage.socket_option()).args(NETWORK).arg("--log=off"));
    assert_eq!(stage.told(), "READY=1");
    for _ in 0..2 {
        hawser.signal(Signal::USR1);
        assert_eq!(hawser.line_with("port vm"), "port vm:\n");
    }
    assert!(UnixStream::connect(stage.path("vm.sock")).is_ok());
    hawser.signal(Signal::INT);
    let (status, rest) = hawser.ended();
    assert_eq!((status.code(), rest.as_str()), (Some(0), ""));
}

#[test]
fn a_front_end_may_come_and_go_unless_it_is_the_only_one() {
    let stage = Stage::new();
    let mut hawser = Running::start(stage.hawser().arg(stage.socket_option()).args(NETWORK));
    assert_eq!(stage.told(), "READY=1");
    for _ in 0..3 {
        drop(UnixStream::connect(stage.path("vm.sock")).expect("it listens"));
    }
    hawser.signal(Signal::TERM);
    assert_eq!(hawser.ended().0.code(), Some(0));

    let stage = Stage::new();
    let mut hawser = Running::start(stage.hawser().arg(stage.socket_option()).args(NETWORK).arg("--one-off"));
    assert_eq!(stage.told(), "READY=1");
    // A client that only checks whether the socket answers is not a front end.
    drop(UnixStream::connect(stage.path("vm.sock")).expect("it listens"));
    let mut front = UnixStream::connect(stage.path("vm.sock")).expect("it listens");
    front.write_all(&GET_FEATURES).expect("sent");
    front.read_exact(&mut [0; GET_FEATURES.len() + 8]).expect("an answer");
    drop(front);
    assert_eq!(hawser.ended().0.code(), Some(0));
    assert!(!stage.path("vm.sock").exists());
}

/// Starts the program with `socket` as descriptor 9.
fn with_descriptor(stage: &Stage, socket: OwnedFd) -> Running {
    let mut command = stage.command("sh");
    let script = format!(
        "exec {} --fd=9 {} 9<&0 </dev/null",
        env!("CARGO_BIN_EXE_hawser"),
        NETWORK.join(" ")
    );
    Running::start(command.args(["-c", &script]).stdin(socket))
}

#[test]
fn an_inherited_socket_may_be_connected_or_listening() {
    let stage = Stage::new();
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut hawser = with_descriptor(&stage, theirs.into());
    assert_eq!(stage.told(), "READY=1");
    drop(ours);
    let (status, rest) = hawser.ended();
    assert_eq!(status.code(), Some(0), "its only front end has gone: {rest}");

    let stage = Stage::new();
    let listener = UnixListener::bind(stage.path("vm.sock")).expect("a socket");
    let mut hawser = with_descriptor(&stage, listener.into());
    assert_eq!(stage.told(), "READY=1");
    for _ in 0..2 {
        drop(UnixStream::connect(stage.path("vm.sock")).expect("it listens"));
    }
    hawser.signal(Signal::TERM);
    assert_eq!(hawser.ended().0.code(), Some(0));
    assert!(stage.path("vm.sock").exists(), "not ours to remove");
}

#[test]
fn a_descriptor_that_is_no_unix_socket_is_refused() {
    let stage = Stage::new();
    let mut hawser = with_descriptor(&stage, fs::File::open("/dev/null").expect("it exists").into());
    let (status, rest) = hawser.ended();
    assert_eq!(status.code(), Some(1));
    assert!(rest.contains("hawser: --fd: "), "{rest}");
    refused(
        stage.hawser().arg("--fd=77").args(NETWORK),
        &["--fd=77", "no such descriptor"],
    );
}

#[test]
fn connecting_waits_for_the_front_end_and_can_be_stopped_meanwhile() {
    let stage = Stage::new();
    let mut hawser = Running::start(stage.hawser().arg(stage.socket_option()).args(NETWORK).arg("--connect"));
    assert_eq!(stage.told(), "READY=1");
    let listener = UnixListener::bind(stage.path("vm.sock")).expect("a socket");
    drop(listener.accept().expect("it connects"));
    drop(listener);
    hawser.signal(Signal::TERM);
    assert_eq!(hawser.ended().0.code(), Some(0));
}

#[test]
fn a_socket_path_that_cannot_be_had_is_named() {
    let stage = Stage::new();
    fs::write(stage.path("file"), "precious").expect("written");
    for name in ["missing/vm.sock", "file", "file/vm.sock"] {
        let path = stage.path(name);
        refused(
            stage.hawser().arg("--socket-path").arg(&path).args(NETWORK),
            &["--socket-path", path.to_str().expect("UTF-8")],
        );
    }
    assert_eq!(fs::read_to_string(stage.path("file")).expect("still there"), "precious");

    let _other = UnixListener::bind(stage.path("vm.sock")).expect("a socket");
    refused(
        stage.hawser().arg(stage.socket_option()).args(NETWORK),
        &["--socket-path", "in use by another process"],
    );
    assert!(
        UnixStream::connect(stage.path("vm.sock")).is_ok(),
        "the other one goes on"
    );
}

#[test]
fn the_socket_of_a_dead_process_is_replaced() {
    let stage = Stage::new();
    drop(UnixListener::bind(stage.path("vm.sock")).expect("a socket"));
    let mut hawser = Running::start(stage.hawser().arg(stage.socket_option()).args(NETWORK));
    assert_eq!(stage.told(), "READY=1");
    assert!(UnixStream::connect(stage.path("vm.sock")).is_ok());
    hawser.signal(Signal::TERM);
    assert_eq!(hawser.ended().0.code(), Some(0));
}

#[test]
fn a_busy_port_is_named_and_nothing_is_half_started() {
    let stage = Stage::new();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let ports = [
        format!("tcp:127.0.0.1:{}", tcp.local_addr().expect("bound").port()),
        format!("udp:127.0.0.1:{}", udp.local_addr().expect("bound").port()),
    ];
    for port in ports {
        let option = format!("{port}:22");
        let mut command = stage.hawser();
        command
            .arg(stage.socket_option())
            .args(NETWORK)
            .args(["--port", &option]);
        refused(&mut command, &["--port", &option, "in use"]);
        assert!(!stage.path("vm.sock").exists());
    }
}

/// Starts the program as a user without rights. This uses a copy of it, because the build directory may not be
/// accessible to every user.
fn as_nobody(stage: &Stage) -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        return Some(stage.hawser());
    }
    let program = stage.path("hawser");
    // The copy is made by another process. If this process wrote it, a child that another test starts could hold it
    // open for writing, and then it could not be executed.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_hawser"))
        .arg(&program)
        .status();
    copied.ok().filter(ExitStatus::success)?;
    for path in [stage.dir.path(), &stage.path("notify")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).ok()?;
    }
    let mut command = stage.command(program.to_str()?);
    command.uid(NOBODY).gid(NOBODY);
    Some(command)
}

#[test]
fn an_ordinary_user_without_any_capability_can_serve() {
    let stage = Stage::new();
    let mut command = as_nobody(&stage).expect("a copy of the program");
    let mut hawser = Running::start(command.arg(stage.socket_option()).args(NETWORK));
    assert_eq!(stage.told(), "READY=1");
    let status = fs::read_to_string(format!("/proc/{}/status", hawser.child.id())).expect("it runs");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", hawser.child.id())).expect("it runs");
    let open_files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a limit");
    let [.., soft, hard, _unit] = open_files.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{open_files}")
    };
    assert_eq!(soft, hard, "the limit is raised to what the process may have");
    hawser.signal(Signal::TERM);
    let (status, log) = hawser.ended();
    assert_eq!(status.code(), Some(0));
    if rustix::process::geteuid().is_root() {
        assert_eq!(log.contains("ping is not answered"), !ping_is_not_permitted(), "{log}");
    }
}

/// True if the system lets [`NOBODY`]'s group open ping sockets.
fn ping_is_not_permitted() -> bool {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").expect("Linux");
    let bounds: Vec<u32> = range.split_whitespace().map(|n| n.parse().expect("a group")).collect();
    (bounds[0]..=bounds[1]).contains(&NOBODY)
}

#[test]
fn a_port_that_needs_a_privilege_is_named() {
    let first_free: u16 = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .expect("Linux")
        .trim()
        .parse()
        .expect("a port");
    if first_free == 0 {
        return; // All ports are free to every user here: there is nothing to refuse.
    }
    let stage = Stage::new();
    let port = format!("tcp:127.0.0.1:{}:22", first_free.min(1023) - 1);
    let mut command = as_nobody(&stage).expect("a copy of the program");
    command.arg(stage.socket_option()).args(NETWORK).args(["--port", &port]);
    refused(&mut command, &["--port", &port, "ip_unprivileged_port_start"]);
    assert!(!stage.path("vm.sock").exists());
}

/// A VM with one masqueraded NIC, whose networks do not depend on the machine.
const MANIFEST: &str = "\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: vm}
spec:
  domain: {devices: {interfaces: [{name: default, masquerade: {}}]}}
  networks: [{name: default, pod: {vmNetworkCIDR: 10.0.2.0/24}}]
";

#[test]
fn a_manifest_is_served_in_a_folder_of_sockets_and_ends_like_any_port() {
    let stage = Stage::new();
    fs::write(stage.path("vm.yaml"), MANIFEST).expect("a manifest");
    let socket = stage.path("sockets/default.sock");
    let start = || {
        let mut command = stage.hawser();
        command.arg("run").arg("-f").arg(stage.path("vm.yaml"));
        command.arg(format!("--socket-dir={}", stage.path("sockets").display()));
        command
    };
    let mut hawser = Running::start(&mut start());
    // In the system's own namespace, or without the capabilities, not every port is forwarded.
    let told = hawser.line_with("no port reaches the guest from outside");
    assert!(told.contains("connections that the guest opens work"), "{told}");
    hawser.line_with("serving on");
    assert_eq!(stage.told(), "READY=1");
    assert!(socket.exists() && stage.path("store.db").exists());

    let (status, error) = Running::start(&mut start()).ended();
    assert_eq!(status.code(), Some(1), "{error}");

    UnixStream::connect(&socket).expect("the first still listens");
    hawser.signal(Signal::TERM);
    let (status, rest) = hawser.ended();
    assert_eq!(status.code(), Some(0), "{rest}");
    assert!(!socket.exists());

    let mut once = Running::start(start().arg("--one-off"));
    once.line_with("serving on");
    let mut front_end = UnixStream::connect(&socket).expect("it listens");
    front_end.write_all(&GET_FEATURES).expect("a message");
    drop(front_end);
    assert_eq!(once.ended().0.code(), Some(0));
}

#[test]
fn nothing_of_a_manifest_with_a_problem_is_served() {
    let stage = Stage::new();
    let broken = MANIFEST.replace("masquerade: {}", "masquerade: {}, model: e1000");
    fs::write(stage.path("vm.yaml"), broken).expect("a manifest");
    let mut command = stage.hawser();
    command.arg("run").arg("-f").arg(stage.path("vm.yaml"));
    command.arg(format!("--socket-dir={}", stage.path("sockets").display()));
    let (status, error) = Running::start(&mut command).ended();
    assert_eq!(status.code(), Some(2), "{error}");
    assert!(
        error.contains("vm.yaml:5: spec.domain.devices.interfaces[0].model: \"e1000\": "),
        "{error}"
    );
    assert!(!stage.path("sockets").exists());
}

/// Starts `hawser run` with a VMM that is a script. It is first asked for its version.
fn with_vmm(stage: &Stage, script: &str) -> Running {
    fs::write(stage.path("vm.yaml"), MANIFEST).expect("a manifest");
    let vmm = stage.path("fake-qemu");
    let version = "[ \"$1\" != --version ] || exec echo QEMU emulator version 10.0.2";
    fs::write(&vmm, format!("#!/bin/sh\n{version}\n{script}\n")).expect("a script");
    fs::set_permissions(&vmm, fs::Permissions::from_mode(0o755)).expect("a mode");
    let mut command = stage.hawser();
    command.arg("run").arg("-f").arg(stage.path("vm.yaml"));
    command.arg(format!("--socket-dir={}", stage.path("sockets").display()));
    command.arg("--").arg(vmm).args(["-m", "512M", "-nographic"]);
    command.env("STAGE", stage.dir.path());
    Running::start(&mut command)
}

#[test]
fn a_vmm_is_started_when_its_sockets_are_ready_and_ends_hawser_with_its_status() {
    let stage = Stage::new();
    let script = "echo \"$@\" > $STAGE/words; test -S $STAGE/sockets/default.sock && exit 7; exit 1";
    let (status, error) = with_vmm(&stage, script).ended();
    assert_eq!(status.code(), Some(7), "{error}");
    let words = fs::read_to_string(stage.path("words")).expect("the script ran");
    let memory = "-m 512M -nographic -object memory-backend-memfd,id=hawser-mem,size=512M,share=on -machine ";
    assert!(words.starts_with(memory), "{words}");
    assert!(words.contains("/sockets/default.sock,reconnect-ms="), "{words}");
    assert!(!stage.path("sockets/default.sock").exists());
}

#[test]
fn a_vmm_is_handed_the_signals_and_given_its_time_to_end() {
    let stage = Stage::new();
    let script = "trap 'touch $STAGE/told; exit 0' TERM; touch $STAGE/up; while :; do sleep 0.1; done";
    let mut hawser = with_vmm(&stage, script);
    let deadline = Instant::now() + PATIENCE;
    while !stage.path("up").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    hawser.signal(Signal::TERM);
    let (status, error) = hawser.ended();
    assert_eq!(status.code(), Some(0), "{error}");
    assert!(stage.path("told").exists());
    let (status, error) = with_vmm(&stage, "kill -KILL $$").ended();
    assert_eq!(status.code(), Some(128 + 9), "{error}");
}

#[test]
fn a_program_that_is_no_vmm_is_refused_before_anything_is_made() {
    let stage = Stage::new();
    fs::write(stage.path("vm.yaml"), MANIFEST).expect("a manifest");
    let mut command = stage.hawser();
    command.arg("run").arg("-f").arg(stage.path("vm.yaml"));
    command.arg(format!("--socket-dir={}", stage.path("sockets").display()));
    command.args(["--", "/bin/true"]);
    let (status, error) = Running::start(&mut command).ended();
    assert_eq!(status.code(), Some(2), "{error}");
    assert!(
        error.contains("whose name contains qemu or cloud-hypervisor"),
        "{error}"
    );
    assert!(!stage.path("sockets").exists());
}
