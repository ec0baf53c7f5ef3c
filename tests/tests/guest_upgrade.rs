//! Tests of a hawser that replaces a running one under a running guest.

use hawser_testkit::frontend::{DirtyLog, Vmm, VmmConfig, code};
use hawser_testkit::guest::{Kind, Plan, Running};
use hawser_testkit::hawser::{Hawser, get};
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::address::{FAR4, POD4};
use hawser_testkit::process::Background;
use hawser_testkit::segment::Segment;
use hawser_testkit::takeover::{HalfTaker, Hello};
use hawser_testkit::{Result, artifacts, peers, until};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time of a command in the guest.
const LONGEST: Duration = Duration::from_secs(120);

/// The options of a process on `socket`, and those that let it be taken over.
fn options(socket: &Path, more: &[&str]) -> Vec<String> {
    let folder = socket.with_extension("");
    let mut options = vec![
        format!("--takeover-socket={}.takeover", folder.display()),
        format!("--api-socket={}.api", folder.display()),
    ];
    options.extend(more.iter().map(|option| (*option).to_owned()));
    options
}

/// A pod whose hawser can be replaced.
struct Upgrades {
    lab: Lab,
    hawser: Hawser,
    options: Vec<String>,
    done: usize,
    rested: Vec<Duration>,
}

impl Upgrades {
    fn new(more: &[&str]) -> Result<Self> {
        let lab = Lab::new()?;
        let options = options(&lab.path("hawser.sock"), more);
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        let hawser = lab.hawser(&words)?;
        Ok(Self {
            lab,
            hawser,
            options,
            done: 0,
            rested: Vec::new(),
        })
    }

    /// The arguments and the log of the next process.
    fn next(&mut self) -> (Vec<String>, PathBuf) {
        let socket = format!("--socket-path={}", self.hawser.socket().display());
        let words = [socket].into_iter().chain(self.options.iter().cloned());
        let log = self.lab.path(&format!("upgrade-{}.log", self.done));
        self.done += 1;
        (words.collect(), log)
    }

    /// Replaces the process by another one.
    fn upgrade(&mut self) -> Result<()> {
        let (words, log) = self.next();
        let rested = self.hawser.upgrade(&self.lab.networks.pod, &log, &words)?;
        self.rested.push(rested);
        Ok(())
    }

    /// Starts another process that will replace the process.
    fn start(&mut self) -> Result<Background> {
        let (words, log) = self.next();
        Hawser::start_upgrade(&self.lab.networks.pod, &log, &words)
    }
}

/// Checks a run of `hawser-traffic keep`.
fn assert_kept(running: &Running, hawser: &mut Hawser) -> Result<()> {
    let output = running.wait(LONGEST)?;
    assert_eq!(output.status, Some(0), "{output:?} {}", hawser.process().log());
    println!("{}", output.out.lines().last().unwrap_or_default());
    Ok(())
}

#[test]
fn connections_forwards_and_pings_go_on_in_another_process() -> Result<()> {
    let mut upgrades = Upgrades::new(&["--port=8080:7000"])?;
    let server = upgrades.lab.serve_world(FAR4)?;
    let guest = upgrades.lab.guest(Kind::Uml, &upgrades.hawser)?;
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    let keep = guest.start(
        &format!("hawser-traffic keep to={server} connections=100 millis=8000"),
        LONGEST,
    )?;
    let ping = guest.start(&format!("ping -i 0.05 -c 150 -W 2 {FAR4}"), LONGEST)?;
    let bulk = format!("hawser-traffic send to={server} bytes=1000000000 connections=2");
    let bulk = guest.start(&bulk, LONGEST)?;
    let mut inbound = upgrades.lab.networks.world.command(artifacts::traffic()?);
    inbound.args(["keep", &format!("to={POD4}:8080"), "connections=20", "millis=8000"]);
    let mut inbound = Background::start(inbound, "clients", upgrades.lab.path("clients.log"))?;
    inbound.wait_until("their connections", LONGEST, |log| log.contains("keeping"))?;
    // The kernel connects clients before the listener accepts them.
    until("all clients are accepted", || {
        Ok(upgrades.hawser.counters()?.get("tcp_connections_in") == 20)
    })?;
    for _ in 0..5 {
        upgrades.upgrade()?;
    }
    let after = upgrades.hawser.counters()?;
    assert_eq!(after.get("tcp_connections_in"), 20, "counters go on");
    for command in [keep, bulk] {
        assert_kept(&command, &mut upgrades.hawser)?;
    }
    let output = ping.wait(LONGEST)?;
    assert!(output.out.contains(" 0% packet loss"), "{}", output.out);
    let status = inbound.wait(LONGEST)?;
    assert!(status.success(), "{}", inbound.log());
    println!("without traffic: {:?}", upgrades.rested);
    // New connections reach the guest too, and the API answers.
    let report = peers::traffic(&upgrades.lab.networks.world, &format!("connect to={POD4}:8080"))?;
    assert_eq!(report["outcome"], "connected", "{report}");
    get(&upgrades.lab.path("hawser.api"), "/v1/status")?;
    upgrades.hawser.stop()?;
    assert!(
        !upgrades.lab.path("hawser.sock").exists(),
        "the last process removes the sockets"
    );
    Ok(())
}

#[test]
fn a_process_that_fails_to_take_over_leaves_everything_as_it_was() -> Result<()> {
    let mut upgrades = Upgrades::new(&[])?;
    let server = upgrades.lab.serve_world(FAR4)?;
    let guest = upgrades.lab.guest(Kind::Uml, &upgrades.hawser)?;
    let keep = guest.start(
        &format!("hawser-traffic keep to={server} connections=50 millis=12000"),
        LONGEST,
    )?;
    let takeover = upgrades.lab.path("hawser.takeover");
    // They speak another protocol, or do not read what this one writes.
    let protocol = Hello {
        protocol: 9,
        ..Hello::NEWER
    };
    let why = HalfTaker::connect(&takeover, &protocol)?.refusal()?;
    assert!(why.contains("version 9 of the takeover protocol"), "{why}");
    let older = Hello {
        old: Some(("tcp-flow", 1)),
        ..Hello::NEWER
    };
    let why = HalfTaker::connect(&takeover, &older)?.refusal()?;
    assert!(why.contains("does not read payload \"tcp-flow\" of version 3"), "{why}");
    // They end at each step.
    drop(HalfTaker::connect(&takeover, &Hello::NEWER)?);
    for words in 0..4 {
        let mut taker = HalfTaker::connect(&takeover, &Hello::NEWER)?;
        taker.take()?;
        for _ in 0..words {
            taker.hear()?;
        }
    }
    let mut taker = HalfTaker::connect(&takeover, &Hello::NEWER)?;
    taker.take()?;
    taker.hear_until("done")?;
    taker.say(&"ready".into())?;
    assert!(taker.hear()?.get("yours").is_some());
    drop(taker);
    // It stops before it is ready, and before it takes the guest, which waits for two seconds each.
    for ready in [false, true] {
        let mut taker = HalfTaker::connect(&takeover, &Hello::NEWER)?;
        taker.take()?;
        taker.hear_until("done")?;
        if ready {
            taker.say(&"ready".into())?;
            assert!(taker.hear()?.get("yours").is_some());
        }
        let why = taker.refusal()?;
        assert!(why.contains("did not serve the guest within 2 s"), "{why}");
    }
    // It would give the guest another NIC.
    let mut options = vec![
        format!("--socket-path={}", upgrades.hawser.socket().display()),
        "--mtu=1400".into(),
    ];
    options.extend(upgrades.options.iter().cloned());
    let mut other = upgrades.lab.networks.pod.command(artifacts::hawser()?);
    let output = other.args(&options).arg("--takeover").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success()
            && said.contains("the MTU of the NIC is 1500 in the process that serves the guest and 1400"),
        "{said}"
    );
    assert_kept(&keep, &mut upgrades.hawser)?;
    upgrades.upgrade()?;
    guest.sh(&format!("ping -c 1 -W 3 {FAR4}"))?;
    upgrades.hawser.stop()
}

#[test]
fn a_new_process_that_hangs_with_the_guest_is_ended_and_the_old_one_goes_on() -> Result<()> {
    /// Stops the process when it would disarm the timer, which is when it has taken the guest and begun.
    const STOP: &str = "inject=timer_delete:error=EINTR:signal=SIGSTOP";
    let mut upgrades = Upgrades::new(&[])?;
    let server = upgrades.lab.serve_world(FAR4)?;
    let guest = upgrades.lab.guest(Kind::Uml, &upgrades.hawser)?;
    let keep = guest.start(
        &format!("hawser-traffic keep to={server} connections=5 millis=20000"),
        LONGEST,
    )?;
    let ping = guest.start(&format!("ping -i 0.2 -c 50 -W 10 {FAR4}"), LONGEST)?;
    until("the connections are open", || {
        Ok(upgrades.hawser.counters()?.get("tcp_connections_out") >= 5)
    })?;
    let (words, log) = upgrades.next();
    let mut command = upgrades.lab.networks.pod.command("strace");
    command.args(["-f", "-qq", "-e", "trace=timer_delete", "-e", STOP]);
    command.arg(artifacts::hawser()?).args(words).arg("--takeover");
    let mut new = Background::start(command, "strace hawser --takeover", log)?;
    let started = Instant::now();
    upgrades
        .hawser
        .process()
        .wait_until("the end of the other one", LONGEST, |log| {
            log.contains("it has ended: the guest is served again")
        })?;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    new.wait(LONGEST)?;
    assert!(
        new.log().contains("--- stopped by SIGSTOP ---") && new.log().contains("SIGKILL"),
        "{}",
        new.log()
    );
    // It may have moved bytes of connections. The guest learns that they have ended.
    let output = keep.wait(LONGEST)?;
    assert_ne!(output.status, Some(0), "{output:?}");
    guest.reaches(FAR4)?;
    guest.traffic(&format!("send to={server} bytes=1000000"))?;
    let output = ping.wait(LONGEST)?;
    println!("{}", output.out.lines().rev().take(2).collect::<Vec<_>>().join("; "));
    upgrades.upgrade()?;
    guest.reaches(FAR4)?;
    upgrades.hawser.stop()
}

/// A VM with a masqueraded interface and one on the segment's bridge.
const MANIFEST: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: vm1}
spec:
  domain:
    devices:
      interfaces:
      - {name: default, masquerade: {}}
      - {name: lan, bridge: {}}
  networks:
  - {name: default, pod: {}}
  - {name: lan, multus: {networkName: lan}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan}
spec:
  config: '{"cniVersion": "1.0.0", "type": "bridge", "bridge": "br0"}'
"#;

#[test]
fn the_nics_of_a_manifest_go_on_in_another_process_on_a_bridge_too() -> Result<()> {
    /// An address of the pod that is not on the segment.
    const APART: &str = "198.51.100.1";
    let mut segment = Segment::new(1500)?;
    let on_bridge = segment.serve()?;
    segment.host.run(&format!("ip addr add {APART}/32 dev lo"))?;
    let apart = format!("{APART}:{PORT}").parse()?;
    let _server = peers::serve(&segment.host, segment.folder(), apart)?;
    let manifest = segment.path("vm1.yaml");
    fs::write(&manifest, MANIFEST)?;
    let mut hawser = Hawser::run(&segment.host, &manifest, segment.folder(), &["default", "lan"])?;
    let mut plan = Plan::new(Kind::Uml, hawser.socket());
    plan.more_sockets = vec![segment.path("lan.sock")];
    let guest = plan.boot()?;
    guest.sh("net-up 4")?;
    guest.sh("ip link set eth1 up && ip addr add 192.0.2.50/24 dev eth1")?;
    let keep = |to| {
        guest.start(
            &format!("hawser-traffic keep to={to} connections=20 millis=6000"),
            LONGEST,
        )
    };
    let kept = [keep(on_bridge)?, keep(apart)?];
    let folder = segment.folder().display();
    let words = [
        "run".to_owned(),
        "-f".to_owned(),
        manifest.display().to_string(),
        format!("--socket-dir={folder}"),
        format!("--runtime-dir={folder}/run"),
        format!("--store={folder}/store.db"),
    ];
    for n in 0..3 {
        let log = segment.path(&format!("upgrade-{n}.log"));
        let rested = hawser.upgrade(&segment.host, &log, &words)?;
        println!("without traffic: {rested:?}");
    }
    for running in &kept {
        assert_kept(running, &mut hawser)?;
    }
    // Both NICs take new connections, and the bridge forgets the VM at its end.
    for to in [on_bridge, apart] {
        guest.traffic(&format!("send to={to} bytes=1000000"))?;
    }
    hawser.stop()?;
    assert_eq!(segment.host.run("ip -oneline link show master br0")?, "");
    for socket in ["default.sock", "lan.sock", "api.sock", "takeover.sock"] {
        assert!(!segment.path(socket).exists(), "{socket}");
    }
    Ok(())
}

#[test]
fn while_the_guest_migrates_no_process_takes_over() -> Result<()> {
    let mut upgrades = Upgrades::new(&[])?;
    let vmm = Vmm::connect(UnixStream::connect(upgrades.hawser.socket())?, VmmConfig::default())?;
    let log = DirtyLog::new(&vmm.ram)?;
    vmm.wire.set_log_base(&log)?;
    let mut taker = HalfTaker::connect(&upgrades.lab.path("hawser.takeover"), &Hello::NEWER)?;
    taker.take()?;
    let why = taker.refusal()?;
    assert!(why.contains("the guest is being migrated"), "{why}");
    vmm.wire.ask(code::GET_FEATURES, &[])?;
    drop(vmm);
    upgrades.upgrade()?;
    upgrades.hawser.stop()
}

#[test]
#[ignore = "long: run by hack/test --long"]
fn a_new_process_that_stops_at_any_moment_leaves_the_guest_to_one_of_the_two() -> Result<()> {
    /// Moments at which the new process stops, over the time that an undisturbed one takes.
    const STOPS: u32 = 16;
    let mut upgrades = Upgrades::new(&[])?;
    let server = upgrades.lab.serve_world(FAR4)?;
    let guest = upgrades.lab.guest(Kind::Uml, &upgrades.hawser)?;
    let keep = guest.start(
        &format!("hawser-traffic keep to={server} connections=100 millis=60000"),
        LONGEST,
    )?;
    let begun = Instant::now();
    upgrades.upgrade()?;
    let whole = begun.elapsed();
    for stop in 0..STOPS {
        let mut new = upgrades.start()?;
        thread::sleep(whole * stop / STOPS);
        new.signal(libc::SIGSTOP)?;
        // The old process serves the guest, unless the new one had taken it before it stopped. Then it is as if the
        // process that serves the guest had stopped.
        until("the guest is served", || {
            let old = upgrades.hawser.process();
            let has_left = old.assert_alive().is_err() || old.log().contains("has taken the guest");
            Ok(has_left || guest.is_answered(FAR4)?)
        })?;
        new.signal(libc::SIGCONT)?;
        new.wait_until("its outcome", LONGEST, |log| {
            log.contains("rings rested for") || log.contains("the running process")
        })?;
        if new.log().contains("rings rested for") {
            let status = upgrades.hawser.process().wait(LONGEST)?;
            assert!(status.success(), "{}", upgrades.hawser.process().log());
            upgrades.hawser.follow(new);
        } else {
            assert!(!new.wait(LONGEST)?.success(), "{}", new.log());
        }
        guest.reaches(FAR4)?;
    }
    assert_kept(&keep, &mut upgrades.hawser)?;
    upgrades.hawser.stop()
}

#[test]
#[ignore = "long: run by hack/test --long"]
fn a_hundred_upgrades_under_load_lose_no_connection() -> Result<()> {
    const UPGRADES: usize = 100;
    let mut upgrades = Upgrades::new(&[])?;
    let server = upgrades.lab.serve_world(FAR4)?;
    let _iperf = peers::iperf_server(&upgrades.lab.networks.world, upgrades.lab.folder(), FAR4)?;
    let guest = upgrades.lab.guest(Kind::Uml, &upgrades.hawser)?;
    let keep = guest.start(
        &format!("hawser-traffic keep to={server} connections=1000 millis=120000"),
        3 * LONGEST,
    )?;
    let iperf = guest.start(&format!("iperf3 -c {FAR4} -t 100 -J"), 3 * LONGEST)?;
    until("all connections are open", || {
        Ok(upgrades.hawser.counters()?.get("tcp_connections_out") > 1000)
    })?;
    for _ in 0..UPGRADES {
        upgrades.upgrade()?;
        // What has waited for the rings is exchanged in between.
        thread::sleep(Duration::from_millis(200));
    }
    assert_kept(&keep, &mut upgrades.hawser)?;
    let output = iperf.wait(3 * LONGEST)?;
    assert_eq!(output.status, Some(0), "{output:?}");
    upgrades.rested.sort();
    let [median, worst] = [UPGRADES / 2, UPGRADES - 1].map(|at| upgrades.rested[at]);
    println!("without traffic: median {median:?}, worst {worst:?}");
    upgrades.hawser.stop()
}
