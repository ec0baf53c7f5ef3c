//! Tests of `hawser run -- qemu-system-x86_64 …`. QEMU is started, gets links and NICs, and is stopped.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::Namespace;
use hawser_testkit::netns::address::WORLD4;
use hawser_testkit::process::Background;
use hawser_testkit::{Result, artifacts, failure, until};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
/// Loads what the agent and the power button need.
const MODULES: &str = "while read -r module; do insmod $module; done </etc/agent-modules";
/// Bridges of the pod, each with the addresses of the guest and of the pod.
const TRUNK: [&str; 3] = ["br1", "10.1.0.2/24", "10.1.0.1"];
const STORAGE: [&str; 3] = ["br2", "10.2.0.2/24", "10.2.0.1"];

/// A VM with interfaces (name, `up` or `down`): `default` is masqueraded, the others are on the
/// bridges.
fn manifest(interfaces: &[(&str, &str)], grace: u32) -> String {
    let (mut cards, mut networks, mut attachments) = (String::new(), String::new(), String::new());
    for (name, state) in interfaces {
        let binding = if *name == "default" {
            networks += "  - {name: default, pod: {}}\n";
            "masquerade: {}, ports: [{port: 22}]"
        } else {
            networks += &format!("  - {{name: {name}, multus: {{networkName: {name}}}}}\n");
            let bridge = if *name == "trunk" { TRUNK[0] } else { STORAGE[0] };
            attachments += &format!(
                "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: {name}}}\n\
                 spec:\n  config: '{{\"cniVersion\": \"1.0.0\", \"type\": \"bridge\", \"bridge\": \"{bridge}\"}}'\n"
            );
            "bridge: {}"
        };
        cards += &format!("      - {{name: {name}, {binding}, state: {state}}}\n");
    }
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: vm}}\nspec:\n  \
         terminationGracePeriodSeconds: {grace}\n  \
         domain:\n    devices:\n      interfaces:\n{cards}  networks:\n{networks}{attachments}"
    )
}

/// Runs `hawser run -f MANIFEST … --`, followed by the VMM's command line.
fn run(namespace: &Namespace, folder: &Path, manifest: &str, options: &[String]) -> Result<Command> {
    let file = folder.join("vm.yaml");
    fs::write(&file, manifest)?;
    let mut command = namespace.command(artifacts::hawser()?);
    command.arg("run").arg("-f").arg(file);
    command.arg(format!("--socket-dir={}", folder.display()));
    command.arg(format!("--runtime-dir={}", folder.join("run").display()));
    command.arg("--store=off").args(options).arg("--");
    Ok(command)
}

/// Number of the child of `parent` whose program has a name that begins with `name`.
fn child(parent: u32, name: &str) -> Result<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    for child in children.split_whitespace() {
        if fs::read_to_string(format!("/proc/{child}/comm"))?.starts_with(name) {
            return Ok(child.parse()?);
        }
    }
    Err(failure(format!("{parent} has no child {name}: {children:?}")))
}

/// Starts the program of `hawser` again with the same arguments and `--takeover`, and waits until the new process serves
/// the guest.
fn upgrade(namespace: &Namespace, hawser: &Background, log: &Path) -> Result<Background> {
    let words = fs::read(format!("/proc/{}/cmdline", hawser.id()))?;
    let words = String::from_utf8(words)?;
    let (ours, vmm) = words.split_once("\0--\0").ok_or_else(|| failure("no VMM"))?;
    let mut words = ours.split('\0');
    let mut command = namespace.command(words.next().unwrap_or_default());
    command.args(words).args(["--takeover", "--"]);
    command.args(vmm.trim_end_matches('\0').split('\0'));
    let mut process = Background::start(command, "hawser --takeover", log.to_owned())?;
    process.wait_until("the takeover", PATIENCE, |log| log.contains("rings rested for"))?;
    Ok(process)
}

/// A VM that hawser has started.
struct Stage {
    lab: Lab,
    /// Guest whose process belongs to hawser.
    guest: Guest,
}

impl Stage {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        for [bridge, _, pod] in [TRUNK, STORAGE] {
            lab.networks.pod.run(&format!("ip link add {bridge} type bridge"))?;
            lab.networks.pod.run(&format!("ip addr add {pod}/24 dev {bridge}"))?;
            lab.networks.pod.run(&format!("ip link set {bridge} up"))?;
        }
        let agent = lab.path("agent.sock").display().to_string();
        let options = [format!("--guest-agent={agent}"), "--plug-mode=bridge".to_owned()];
        let vm = manifest(&[("default", "up"), ("trunk", "down")], 30);
        let hawser = run(&lab.networks.pod, lab.folder(), &vm, &options)?;
        let mut plan = Plan::new(Kind::Qemu, Path::new(""));
        plan.archives = vec!["qemu/agent.cpio"];
        plan.arguments = [
            "-device virtio-serial-pci",
            "-device virtserialport,chardev=agent0,name=org.qemu.guest_agent.0",
        ]
        .iter()
        .flat_map(|words| words.split(' '))
        .map(str::to_owned)
        .collect();
        plan.arguments.extend([
            "-chardev".into(),
            format!("socket,id=agent0,path={agent},server=on,wait=off"),
        ]);
        let mut guest = plan.start_by(hawser)?;
        guest.wait_for_boot()?;
        Ok(Self { lab, guest })
    }

    /// Output of `hawser WORDS…`.
    fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(artifacts::hawser()?);
        let folder = format!("--socket-dir={}", self.lab.folder().display());
        let output = command.args(words).arg(folder).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(failure(format!(
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )))
    }

    /// Waits until the guest sees this carrier state of a NIC.
    fn carrier(&self, card: &str, up: bool) -> Result<()> {
        let wanted = if up { "1" } else { "0" };
        until(&format!("the guest sees the carrier of {card} as {wanted}"), || {
            Ok(self
                .guest
                .run(&format!("cat /sys/class/net/{card}/carrier"))?
                .out
                .trim()
                == wanted)
        })
    }

    fn use_bridge(&self, card: &str, [_, guest, pod]: [&str; 3]) -> Result<()> {
        self.guest
            .sh(&format!("ip link set {card} up && ip addr replace {guest} dev {card}"))?;
        self.guest.sh(&format!("ping -q -c 2 -W 5 {pod}")).map(drop)
    }

    fn links(&mut self) -> Result<()> {
        let world = self.lab.serve_world(WORLD4)?;
        assert_eq!(world.port(), PORT);
        self.guest.sh("net-up 4")?;
        self.guest.traffic(&format!("send to={world} bytes=1000000"))?;
        // The link is configured as down, and is down from the start.
        self.guest.sh("ip link set eth1 up")?;
        self.carrier("eth1", false)?;
        assert_eq!(self.ask(&["link", "trunk", "up"])?, "trunk: link up\n");
        self.carrier("eth1", true)?;
        self.use_bridge("eth1", TRUNK)?;

        assert_eq!(self.ask(&["link", "default", "down"])?, "default: link down\n");
        self.carrier("eth0", false)?;
        assert_eq!(self.status("default")?["linkState"], "down");
        assert_eq!(self.ask(&["link", "default", "up"])?, "default: link up\n");
        self.carrier("eth0", true)?;
        self.guest.traffic(&format!("send to={world} bytes=1000000"))?;
        Ok(())
    }

    /// The NIC in `hawser status`.
    fn status(&self, name: &str) -> Result<Value> {
        let status: Value = serde_json::from_str(&self.ask(&["status", "--json"])?)?;
        let nics = status["interfaces"].as_array().into_iter().flatten();
        let nic = nics.into_iter().find(|nic| nic["name"] == name);
        nic.cloned().ok_or_else(|| failure(format!("no {name} in {status}")))
    }

    fn agent(&self) -> Result<()> {
        // No agent answers, but the status is complete otherwise.
        let nic = self.status("default")?;
        assert_eq!(nic["interfaceName"], Value::Null, "{nic}");
        self.guest.sh(&format!("{MODULES}; mkdir -p /var/run"))?;
        self.guest.sh("ip addr add 192.168.77.7/32 dev eth0")?;
        self.guest
            .sh("qemu-ga --daemonize --method=virtio-serial --path=/dev/$(basename /sys/class/virtio-ports/*)")?;
        until("the agent answers", || {
            Ok(self.status("default")?["interfaceName"] == "eth0")
        })?;
        let nic = self.status("default")?;
        let sources = nic["infoSource"].as_str().unwrap_or_default();
        assert!(
            sources.starts_with("domain, dhcp, ") && sources.ends_with(", guest-agent"),
            "{nic}"
        );
        assert_eq!(nic["ipAddress"], "10.0.2.2", "{nic}");
        let addresses = nic["ipAddresses"].as_array().cloned().unwrap_or_default();
        assert!(addresses.contains(&"192.168.77.7".into()), "{nic}");
        assert!(self.ask(&["status"])?.contains("eth0"));
        Ok(())
    }

    fn cards(&self) -> Result<()> {
        let all = [("default", "up"), ("trunk", "up"), ("storage", "up")];
        let file = self.lab.path("vm.yaml");
        fs::write(&file, manifest(&all, 30))?;
        let plugged = self.ask(&["plug", "-f", &file.display().to_string()])?;
        assert_eq!(plugged, "storage: plugged\n");
        until("the guest finds its card", || {
            Ok(self.guest.run("ip link show dev eth2")?.status == Some(0))
        })?;
        self.use_bridge("eth2", STORAGE)?;
        assert_eq!(self.ask(&["unplug", "storage"])?, "storage: unplugged\n");
        assert_ne!(self.guest.run("ip link show dev eth2")?.status, Some(0));
        assert!(!self.lab.path("storage.sock").exists());
        Ok(())
    }

    fn log_and_rates(&mut self) -> Result<()> {
        self.ask(&["loglevel", "debug"])?;
        assert_eq!(self.ask(&["loglevel"])?, "debug\n");
        self.ask(&["loglevel", "info"])?;
        let ping = format!("ping -i 0.01 -c 10000 {WORLD4}");
        let traffic = self.guest.start(&ping, PATIENCE)?;
        let mut ports = Value::Null;
        // The emulated guest takes a while to start it.
        until("the rates are those of the ping", || {
            let top = self.ask(&["top", "--once", "--interval=0.5", "--json"])?;
            ports = serde_json::from_str(&top)?;
            assert_eq!(ports[0]["port"], "default", "{ports}");
            let rates = ["outFramesPerSecond", "inFramesPerSecond"];
            Ok(rates.iter().all(|rate| ports[0][*rate].as_f64() > Some(10.0)))
        })
        .map_err(|e| failure(format!("{e}: {ports}")))?;
        // A guest may send neighbour requests at any time, on this NIC too.
        assert_eq!(ports[1]["port"], "trunk", "{ports}");
        self.guest.kill(&traffic)
    }

    /// Requests a shutdown of the guest. The guest shuts down, and everything ends with it.
    fn end(mut self) -> Result<()> {
        // Reading the power button is the task of a distribution's daemon. There is only one such device.
        let event = self
            .guest
            .sh("grep -l 'Power Button' /sys/class/input/event*/device/name")?;
        let event = event.trim().split('/').nth(4).unwrap_or_default();
        let button =
            format!("head -c 1 /dev/input/{event} >/dev/null; echo guest: shutting down >/dev/console; poweroff -f");
        let _waiting = self.guest.start(&button, PATIENCE * 2)?;
        self.guest
            .sh("for n in $(seq 100); do pidof head && exit; usleep 20000; done; exit 1")?;
        let hawser = self.guest.process();
        hawser.signal(libc::SIGTERM)?;
        let status = hawser.wait(PATIENCE)?;
        let log = hawser.log();
        assert!(log.contains("guest: shutting down"), "{log}");
        assert!(status.success(), "{status}: {log}");
        for name in ["default", "trunk", "api"] {
            assert!(!self.lab.path(&format!("{name}.sock")).exists(), "{name}.sock is left");
        }
        Ok(())
    }
}

#[test]
fn a_vm_started_with_hawser_is_served_asked_changed_and_shut_down_in_order() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.links()?;
    stage.agent()?;
    stage.cards()?;
    stage.log_and_rates()?;
    stage.end()
}

#[test]
fn a_vm_whose_vmm_hawser_has_started_goes_on_when_another_process_serves_it() -> Result<()> {
    let mut stage = Stage::new()?;
    let world = stage.lab.serve_world(WORLD4)?;
    stage.guest.sh("net-up 4")?;
    // The manifest says that it is down.
    stage.ask(&["link", "trunk", "up"])?;
    let keep = format!("hawser-traffic keep to={world} connections=50 millis=8000");
    let keep = stage.guest.start(&keep, PATIENCE)?;
    let first = stage.guest.process().id();
    let old = child(first, "hawser")?;
    let mut serving = Vec::new();
    for n in 0..3 {
        let log = stage.lab.path(&format!("upgrade-{n}.log"));
        let started = upgrade(&stage.lab.networks.pod, stage.guest.process(), &log)?;
        println!(
            "{}",
            started
                .log()
                .lines()
                .find(|line| line.contains("rings rested for"))
                .unwrap_or_default()
        );
        // Each process ends when the next one serves. The one that a shell waits for stays.
        if let Some(mut before) = serving.pop() {
            let before: &mut Background = &mut before;
            assert!(before.wait(PATIENCE)?.success(), "{}", before.log());
        }
        serving.push(started);
        stage.guest.process().assert_alive()?;
    }
    until("the first one has ended", || {
        Ok(!Path::new(&format!("/proc/{old}")).exists())
    })?;
    let output = keep.wait(PATIENCE)?;
    assert_eq!(output.status, Some(0), "{output:?}");
    stage.guest.sh(MODULES)?;
    // The new process plugs, and shuts the guest down when the first one gets the signal.
    stage.cards()?;
    stage.end()?;
    let mut last = serving.pop().ok_or_else(|| failure("nothing serves"))?;
    assert!(last.wait(PATIENCE)?.success(), "{}", last.log());
    Ok(())
}

#[test]
fn both_processes_of_an_upgraded_vm_end_as_its_vmm_does() -> Result<()> {
    let killed = Some(128 + libc::SIGKILL);
    let mut vm = Deaf::new(30, &[])?;
    let qemu = vm.qemu()?;
    let mut new = vm.upgrade()?;
    // A shutdown is under way with a first signal, and a second one ends the VMM, although another process asked.
    // SAFETY: kill takes plain numbers. The parent has not reaped the process yet.
    assert_eq!(unsafe { libc::kill(qemu, libc::SIGKILL) }, 0);
    assert_eq!(new.wait(PATIENCE)?.code(), killed, "{}", new.log());
    assert_eq!(vm.end()?.code(), killed);

    // While the guest shuts down, no process takes over; the one that serves is asked, and stops the VMM in the end.
    let mut slow = Deaf::new(600, &[])?;
    slow.qemu()?;
    let mut new = slow.upgrade()?;
    slow.hawser.signal(libc::SIGTERM)?;
    new.wait_until("the request", PATIENCE, |log| {
        log.contains("asked the guest to shut down")
    })?;
    let refused = slow.upgrade().map(drop).map_err(|error| error.to_string());
    assert!(
        refused
            .as_ref()
            .is_err_and(|why| why.contains("the guest is shutting down")),
        "{refused:?}"
    );
    slow.hawser.signal(libc::SIGTERM)?;
    assert_eq!(new.wait(PATIENCE)?.code(), Some(0), "{}", new.log());
    assert_eq!(slow.end()?.code(), Some(0));

    // If the process that serves dies, the first one says so.
    let mut dead = Deaf::new(30, &[])?;
    dead.qemu()?;
    let mut new = dead.upgrade()?;
    new.kill();
    assert_eq!(dead.hawser.wait(PATIENCE)?.code(), Some(1));
    let log = dead.hawser.log();
    assert!(log.contains("the process that serves the guest has ended"), "{log}");
    // SAFETY: kill takes plain numbers. The group is that of the process that has ended, and of its VMM.
    unsafe { libc::kill(-i32::try_from(dead.hawser.id())?, libc::SIGKILL) };
    Ok(())
}

/// hawser with a QEMU that has nothing to boot, and therefore ignores its power button.
struct Deaf {
    hawser: Background,
    folder: tempfile::TempDir,
    _namespace: Namespace,
}

impl Deaf {
    fn new(grace: u32, words: &[&str]) -> Result<Self> {
        let (namespace, folder) = (Namespace::new()?, tempfile::tempdir()?);
        namespace.run("ip addr add 192.0.2.1/32 dev lo")?;
        let vm = manifest(&[("default", "up")], grace);
        let mut command = run(&namespace, folder.path(), &vm, &[])?;
        command.arg(artifacts::guest_file("bin/qemu-system-x86_64")?);
        command.args([
            "-nodefaults",
            "-display",
            "none",
            "-machine",
            "q35,accel=tcg",
            "-m",
            "64M",
        ]);
        command.args(words);
        let hawser = Background::start(command, "hawser", folder.path().join("log"))?;
        Ok(Self {
            hawser,
            folder,
            _namespace: namespace,
        })
    }

    /// Waits until QEMU runs. Returns its process id.
    fn qemu(&mut self) -> Result<i32> {
        let monitor = self.folder.path().join("qmp.sock");
        self.hawser.wait_for_socket(&monitor, PATIENCE)?;
        // QEMU listens and sends its greeting before it catches signals, and answers only afterwards.
        let mut monitor = UnixStream::connect(monitor)?;
        monitor.write_all(b"{\"execute\": \"qmp_capabilities\"}\n")?;
        let lines: Vec<String> = BufReader::new(monitor)
            .lines()
            .take(2)
            .collect::<std::io::Result<_>>()?;
        assert!(lines[1].contains("return"), "{lines:?}");
        let hawser = self.hawser.id();
        child(hawser, "qemu")
    }

    /// Replaces the process that serves.
    fn upgrade(&mut self) -> Result<Background> {
        upgrade(&self._namespace, &self.hawser, &self.folder.path().join("upgrade.log"))
    }

    fn end(&mut self) -> Result<ExitStatus> {
        let status = self.hawser.wait(PATIENCE)?;
        assert_eq!(status.signal(), None, "{}", self.hawser.log());
        assert!(!self.folder.path().join("default.sock").exists());
        Ok(status)
    }
}

#[test]
fn hawser_ends_as_its_vmm_does() -> Result<()> {
    // QEMU ends with its own exit status.
    let mut refused = Deaf::new(30, &["-device", "no-such-device"])?;
    assert_eq!(refused.end()?.code(), Some(1));

    // QEMU is killed by a signal.
    let mut killed = Deaf::new(30, &[])?;
    let qemu = killed.qemu()?;
    // SAFETY: kill takes plain numbers. hawser has not reaped the process yet.
    assert_eq!(unsafe { libc::kill(qemu, libc::SIGKILL) }, 0);
    assert_eq!(killed.end()?.code(), Some(128 + libc::SIGKILL));

    // QEMU gets the signal when the guest's time is up, immediately if the guest has no time, or on a second signal.
    let mut slow = Deaf::new(1, &[])?;
    slow.qemu()?;
    slow.hawser.signal(libc::SIGTERM)?;
    assert_eq!(slow.end()?.code(), Some(0));
    let log = slow.hawser.log();
    assert!(log.contains("the guest has not shut down in time"), "{log}");

    for (grace, signals) in [(0, 1), (600, 2)] {
        let mut hasty = Deaf::new(grace, &[])?;
        hasty.qemu()?;
        for _ in 0..signals {
            hasty.hawser.signal(libc::SIGTERM)?;
            // Pending signals of one kind are merged.
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(hasty.end()?.code(), Some(0));
    }
    Ok(())
}
