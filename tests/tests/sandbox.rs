//! Tests of the privileges that a running process has dropped, as the kernel reports them for each thread.

use hawser_testkit::hawser::Hawser;
use hawser_testkit::netns::Namespace;
use hawser_testkit::process::Background;
use hawser_testkit::{Result, artifacts, failure};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
/// An ordinary user without any capability.
const NOBODY: u32 = 65534;
/// A guest's network that requires nothing of the namespace.
const NETWORK: [&str; 2] = ["--ipv4=10.0.2.0/24", "--ipv6=off"];

/// Bits of capabilities, as in /proc.
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;

/// Fields of a thread in /proc.
type Status = BTreeMap<String, String>;

/// All threads of a process, by name.
fn threads(id: u32) -> Vec<(String, Status)> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let read = |path: &Path| {
        let text = fs::read_to_string(path.join("status")).ok()?;
        let fields = text.lines().filter_map(|line| line.split_once(":\t"));
        let status: Status = fields.map(|(name, value)| (name.into(), value.trim().into())).collect();
        Some((status.get("Name")?.clone(), status))
    };
    tasks.filter_map(|task| read(&task.path())).collect()
}

fn set(status: &Status, name: &str) -> u64 {
    u64::from_str_radix(&status[name], 16).expect("a set of capabilities")
}

/// Waits until all privileges are dropped. The socket exists slightly earlier.
fn confined(process: &mut Background) -> Result<Vec<(String, Status)>> {
    let id = process.id();
    let filtered = |(_, status): &(String, Status)| status["Seccomp"] == "2";
    process.wait_until("its confinement", PATIENCE, |_| threads(id).iter().all(filtered))?;
    Ok(threads(id))
}

fn assert_gives_up(threads: &[(String, Status)], kept: impl Fn(&str) -> u64) {
    for (name, status) in threads {
        assert_eq!(status["NoNewPrivs"], "1", "{name}");
        for caps in ["CapPrm", "CapEff"] {
            assert_eq!(set(status, caps), kept(name), "{name} {caps}");
        }
        for caps in ["CapInh", "CapAmb"] {
            assert_eq!(set(status, caps), 0, "{name} {caps}");
        }
        // The main thread starts this one when it is itself confined, and then nobody can change the set. It limits
        // executed programs only.
        let starter = if name == "api" { "hawser" } else { name };
        assert_eq!(set(status, "CapBnd"), kept(starter), "{name} CapBnd");
    }
}

/// A namespace that permits ping sockets, like most pods.
fn pod() -> Result<Namespace> {
    let namespace = Namespace::new()?;
    namespace.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    Ok(namespace)
}

#[test]
fn masquerade_keeps_no_capability_and_every_thread_is_filtered() -> Result<()> {
    let (namespace, folder) = (pod()?, tempfile::tempdir()?);
    let (socket, api) = (folder.path().join("vm.sock"), folder.path().join("api.sock"));
    let api = format!("--api-socket={}", api.display());
    let mut hawser = Hawser::start(
        &namespace,
        &socket,
        &[NETWORK[0], NETWORK[1], "--queue-pairs=2", "--port=22", &api],
    )?;
    let threads = confined(hawser.process())?;
    assert_gives_up(&threads, |_| 0);
    let names: Vec<&str> = threads.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["hawser", "signals", "vm", "vm-0", "vm-1"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    // It still answers signals.
    hawser.counters()?;
    hawser.stop()?;
    assert!(!socket.exists());
    Ok(())
}

/// The niceness of the threads with this name.
fn niceness(id: u32, thread: &str) -> Vec<i32> {
    /// Position of the niceness after the name (proc_pid_stat(5)).
    const FIELD: usize = 16;
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let (name, fields) = stat.split_once(") ")?;
            let nice = fields.split(' ').nth(FIELD)?.parse().ok()?;
            name.ends_with(&format!("({thread}")).then_some(nice)
        })
        .collect()
}

#[test]
fn a_confined_process_answers_the_api_after_packets() -> Result<()> {
    let (namespace, folder) = (pod()?, tempfile::tempdir()?);
    let (socket, api) = (folder.path().join("vm.sock"), folder.path().join("api.sock"));
    let agent = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&agent)?;
    let (api, agent) = (
        format!("--api-socket={}", api.display()),
        format!("--guest-agent={}", agent.display()),
    );
    let mut hawser = Hawser::start(&namespace, &socket, &[NETWORK[0], NETWORK[1], &api, &agent])?;
    let id = hawser.process().id();
    let packets = niceness(id, "vm-0")[0];
    let requests = [(packets + 10).min(19)];
    let answers = |_: &str| niceness(id, "api") == requests;
    hawser.process().wait_until("the API's thread", PATIENCE, answers)?;
    let threads = confined(hawser.process())?;
    assert!(threads.iter().any(|(name, _)| name == "api"));
    assert_gives_up(&threads, |_| 0);

    let ask = |words: &[&str]| -> Result<String> {
        let output = Command::new(artifacts::hawser()?).args(words).arg(&api).output()?;
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)?)
        } else {
            Err(failure(String::from_utf8_lossy(&output.stderr)))
        }
    };
    assert!(ask(&["status"])?.starts_with("vm\n"));
    // The guest's agent was also queried, but did not answer in time.
    listener.set_nonblocking(true)?;
    listener.accept()?;
    for forward in ["tcp:127.0.0.1:2222:22", "udp:2223:53"] {
        assert_eq!(ask(&["forward", "add", forward])?.trim(), forward);
        ask(&["forward", "remove", forward])?;
    }
    ask(&["rate", "--rate-in=8M"])?;
    ask(&["loglevel", "debug"])?;
    ask(&["top", "--once", "--interval=0.1"])?;

    let file = folder.path().join("seen.pcapng");
    let mut command = Command::new(artifacts::hawser()?);
    command.args(["capture", &api, "--write"]).arg(&file);
    let mut capture = Background::start(command, "hawser capture", folder.path().join("capture.log"))?;
    capture.wait_until("the capture's head", PATIENCE, |_| {
        fs::metadata(&file).is_ok_and(|file| file.len() > 0)
    })?;
    assert_eq!(niceness(id, "capture"), requests);
    capture.signal(libc::SIGTERM)?;
    capture.wait(PATIENCE)?;
    hawser
        .process()
        .wait_until("the capture's end", PATIENCE, |_| niceness(id, "capture").is_empty())?;
    assert_eq!(niceness(id, "api"), requests);
    hawser.stop()
}

#[test]
fn without_ping_sockets_the_workers_keep_raw_ones_and_nothing_else() -> Result<()> {
    let (namespace, folder) = (Namespace::new()?, tempfile::tempdir()?);
    namespace.sysctl("net/ipv4/ping_group_range", "1 0")?;
    let mut hawser = Hawser::start(&namespace, &folder.path().join("vm.sock"), &NETWORK)?;
    let threads = confined(hawser.process())?;
    assert_gives_up(&threads, |name| match name {
        "vm-0" | "hawser" => CAP_NET_RAW,
        _ => 0,
    });
    hawser.stop()
}

#[test]
fn bridge_mode_keeps_what_puts_links_back_where_it_is_done() -> Result<()> {
    let (namespace, folder) = (pod()?, tempfile::tempdir()?);
    namespace.run("ip link add br0 type bridge")?;
    namespace.run("ip link set br0 up")?;
    let notes = format!("--runtime-dir={}", folder.path().join("run").display());
    let options = ["--mode=bridge", "--bridge=br0", &notes];
    let mut hawser = Hawser::start(&namespace, &folder.path().join("vm.sock"), &options)?;
    let threads = confined(hawser.process())?;
    assert_gives_up(&threads, |name| match name {
        "links" | "hawser" => CAP_NET_ADMIN,
        _ => 0,
    });
    hawser.stop()
}

#[test]
fn every_thread_is_the_users_and_what_it_made_is_removed_at_the_end() -> Result<()> {
    let (namespace, folder) = (pod()?, tempfile::tempdir()?);
    chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
    let socket = folder.path().join("vm.sock");
    // A port that only root can bind.
    let options = [NETWORK[0], NETWORK[1], "--port=22", "--user=65534"];
    let mut hawser = Hawser::start(&namespace, &socket, &options)?;
    let threads = confined(hawser.process())?;
    assert_gives_up(&threads, |_| 0);
    for (name, status) in &threads {
        assert_eq!(status["Uid"], "65534\t65534\t65534\t65534", "{name}");
        assert_eq!(status["Gid"], "65534\t65534\t65534\t65534", "{name}");
        assert_eq!(status["Groups"], "", "{name}");
    }
    assert_eq!(fs::metadata(&socket)?.uid(), NOBODY);
    hawser.stop()?;
    assert!(!socket.exists());
    Ok(())
}

#[test]
fn root_is_a_user_like_any_other_and_threads_started_later_stay_root() -> Result<()> {
    let (namespace, folder) = (pod()?, tempfile::tempdir()?);
    let (socket, api) = (folder.path().join("vm.sock"), folder.path().join("api.sock"));
    let api_option = format!("--api-socket={}", api.display());
    let options = [NETWORK[0], NETWORK[1], "--user=root", &api_option];
    let mut hawser = Hawser::start(&namespace, &socket, &options)?;
    // The API's thread is started after the process has dropped its privileges.
    hawser.process().wait_for_socket(&api, PATIENCE)?;
    let id = hawser.process().id();
    hawser.process().wait_until("the API's thread", PATIENCE, |_| {
        threads(id).iter().any(|(name, _)| name == "api")
    })?;
    let threads = confined(hawser.process())?;
    assert_gives_up(&threads, |_| 0);
    for (name, status) in &threads {
        assert_eq!(status["Uid"], "0\t0\t0\t0", "{name}");
        assert_eq!(status["Groups"], "", "{name}");
    }
    let status = Command::new(artifacts::hawser()?)
        .arg("status")
        .arg(&api_option)
        .output()?;
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    hawser.stop()
}

#[test]
fn an_unprivileged_process_is_confined_too() -> Result<()> {
    let (namespace, folder) = (pod()?, tempfile::tempdir()?);
    chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
    let program = folder.path().join("hawser");
    fs::copy(artifacts::hawser()?, &program)?;
    let socket = folder.path().join("vm.sock");
    let mut command = namespace.command("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program);
    command.arg(format!("--socket-path={}", socket.display())).args(NETWORK);
    let mut process = Background::start(command, "hawser", folder.path().join("log"))?;
    process.wait_for_socket(&socket, PATIENCE)?;
    for (name, status) in confined(&mut process)? {
        assert_eq!((set(&status, "CapEff"), &*status["NoNewPrivs"]), (0, "1"), "{name}");
    }
    process.signal(libc::SIGTERM)?;
    let status = process.wait(PATIENCE)?;
    if status.success() {
        Ok(())
    } else {
        Err(failure(status.to_string()))
    }
}

#[test]
fn nothing_is_given_up_where_the_sandbox_is_off() -> Result<()> {
    let (namespace, folder) = (pod()?, tempfile::tempdir()?);
    let options = [NETWORK[0], NETWORK[1], "--sandbox=off"];
    let mut hawser = Hawser::start(&namespace, &folder.path().join("vm.sock"), &options)?;
    for (name, status) in threads(hawser.process().id()) {
        assert_eq!((&*status["Seccomp"], &*status["NoNewPrivs"]), ("0", "0"), "{name}");
    }
    hawser.stop()
}

#[test]
fn systemd_takes_the_unit_as_it_is() -> Result<()> {
    let unit = include_str!("../../launcher/dist/hawser@.service");
    assert!(
        unit.contains("ExecStart=/usr/bin/hawser run "),
        "it runs another program"
    );
    let folder = tempfile::tempdir()?;
    // It does not matter whether the program and its manual are installed here.
    let unit = unit
        .replace("/usr/bin/hawser", "/bin/true")
        .replace("Documentation=", "#");
    fs::write(folder.path().join("hawser@.service"), unit)?;
    let verify = Command::new("systemd-analyze")
        .arg("verify")
        .arg(folder.path().join("hawser@vm.service"))
        .output();
    let Ok(output) = verify else {
        eprintln!("skipped: there is no systemd-analyze");
        return Ok(());
    };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
    Ok(())
}
