//! A current libvirt, with its own QEMU, starts hawser under the name passt. They live in a root of their own, which
//! `hack/libvirt-root` makes.

use hawser_testkit::lab::Lab;
use hawser_testkit::netns::Namespace;
use hawser_testkit::netns::address::{POD4, WORLD4};
use hawser_testkit::process::Background;
use hawser_testkit::{Result, artifacts, failure, until};
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for the start of a daemon or of the guest, whose processor is emulated.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time of a command in the guest.
const COMMAND: Duration = Duration::from_secs(60);
/// Directory of this test in libvirt's root.
const STAGE: &str = "stage";
/// Port of the pod that leads to `GUEST_PORT` of the guest.
const FORWARDED: u16 = 2222;
const GUEST_PORT: u16 = 7000;

/// libvirt's daemon in the pod's network namespace, with a root of its own.
struct Libvirt {
    daemon: Background,
    root: PathBuf,
}

/// A file system that ends with its mount.
struct Overlay(PathBuf);

impl Drop for Overlay {
    fn drop(&mut self) {
        // A failure leaves a mount in the test's temporary folder.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What the new root runs as its first program. Its mounts end with the mount namespace. The shell stays, because libvirt
/// waits for the end of daemons that the first process has to collect.
const ENTER: &str = "set -e
cd \"$1\"
mount --rbind /dev dev; mount -t proc proc proc; mount --rbind /sys sys
mount -t tmpfs run run; mount -t tmpfs tmp tmp
pivot_root . old
export PATH=/usr/local/bin:/usr/sbin:/usr/bin
mkdir -p /run/libvirt /run/lock
virtlogd -d
libvirtd &
wait";

impl Libvirt {
    fn start(namespace: &Namespace, root: &Path, log: PathBuf) -> Result<Self> {
        let stage = root.join(STAGE);
        fs::create_dir_all(&stage)?;
        fs::create_dir_all(root.join("old"))?;
        fs::set_permissions(&stage, fs::Permissions::from_mode(0o777))?;
        for file in ["qemu/vmlinuz", "qemu/initramfs.cpio"] {
            let name = Path::new(file).file_name().unwrap_or_default();
            fs::copy(artifacts::cache().join(file), stage.join(name))?;
        }
        let programs = root.join("usr/local/bin");
        fs::copy(artifacts::hawser()?, programs.join("hawser"))?;
        symlink("hawser", programs.join("passt"))?;
        fs::write(
            root.join("etc/libvirt/qemu.conf"),
            "security_driver = \"none\"\nnamespaces = []\ncgroup_controllers = []\nstdio_handler = \"file\"\n",
        )?;
        let mut command = namespace.command("unshare");
        // Everything that libvirt starts ends with its first process.
        command.args(["--pid", "--fork", "--kill-child", "--mount", "--propagation", "private"]);
        command.args(["bash", "-c", ENTER, "enter"]);
        command.arg(root);
        let daemon = Background::start(command, "libvirtd", log)?;
        let libvirt = Self {
            daemon,
            root: root.to_owned(),
        };
        // The first answer takes longest: libvirt asks QEMU for what it can do.
        let begun = Instant::now();
        while libvirt.virsh(&["domcapabilities", "--virttype", "qemu"]).is_err() {
            if begun.elapsed() > PATIENCE {
                return Err(libvirt.daemon.failed("libvirt does not answer"));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(libvirt)
    }

    /// A program in libvirt's root.
    fn command(&self, program: &str) -> Command {
        let parent = self.daemon.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let id = children.unwrap_or_default().trim().to_owned();
        let mut command = Command::new("nsenter");
        command.args([&format!("--target={id}"), "--mount", "--net", "--pid"]);
        command.arg(format!("--root=/proc/{id}/root"));
        command.args(["env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", program]);
        command
    }

    /// Runs virsh. Its standard error is the failure.
    fn virsh(&self, words: &[&str]) -> Result<String> {
        let output = self.command("virsh").args(words).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(failure(format!(
                "virsh {words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            ))),
        }
    }

    /// Writes a file of the test, and returns its path in libvirt's root.
    fn file(&self, name: &str, text: &str) -> Result<String> {
        fs::write(self.root.join(STAGE).join(name), text)?;
        Ok(format!("/{STAGE}/{name}"))
    }

    /// Numbers of the processes that serve as passt.
    fn passts(&self) -> Result<Vec<u32>> {
        let look = r#"for p in /proc/[0-9]*; do
            [ "$(readlink $p/exe)" != /usr/local/bin/hawser ] || echo ${p#/proc/}
        done"#;
        let output = self.command("bash").args(["-c", look]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().map(str::parse).collect::<std::result::Result<_, _>>()?)
    }

    /// Waits until as many processes serve.
    fn wait_for_passts(&self, number: usize) -> Result<Vec<u32>> {
        until(&format!("{number} processes serve"), || {
            Ok(self.passts()?.len() == number)
        })?;
        self.passts()
    }

    fn shell(&self) -> Result<Shell> {
        let path = self.root.join(STAGE).join("serial.sock");
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let shell = Shell {
            stream,
            commands: AtomicU32::new(0),
        };
        until("the guest's shell answers", || {
            // A shell that has just started may lose what was written before.
            Ok(shell.run_for("true", Duration::from_secs(5)).is_ok())
        })?;
        Ok(shell)
    }
}

/// The shell on the guest's serial console.
struct Shell {
    stream: UnixStream,
    /// Number of commands so far.
    commands: AtomicU32,
}

impl Shell {
    /// Output of a command that must succeed.
    fn run(&self, command: &str) -> Result<String> {
        self.run_for(command, COMMAND)
    }

    fn run_for(&self, command: &str, limit: Duration) -> Result<String> {
        // A command that took too long may still end, so each has a number.
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let done = format!("finished-{number}:");
        let mut stream = &self.stream;
        // The console echoes the line, in which the word is divided.
        stream.write_all(format!("{command}; echo fini''shed-{number}:$?:\n").as_bytes())?;
        let (begun, mut out, mut buffer) = (Instant::now(), String::new(), [0; 4096]);
        while begun.elapsed() < limit {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => out += &String::from_utf8_lossy(&buffer[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
            if let Some(status) = out.split_once(&done).and_then(|(_, rest)| rest.split_once(':')) {
                return match status.0 {
                    "0" => Ok(out.split_once('\n').unwrap_or_default().1.to_owned()),
                    _ => Err(failure(format!("in the guest: {command}: {out}"))),
                };
            }
        }
        Err(failure(format!("in the guest: {command} did not end: {out}")))
    }

    fn pings(&self) -> Result<()> {
        self.run(&format!("ping -q -c 2 -W 5 {WORLD4}")).map(drop)
    }
}

/// An interface in the words of libvirt's pages about passt.
fn interface(kind: &str, mac: &str, port: u16) -> String {
    format!(
        "<interface type='{kind}'><mac address='{mac}'/><source dev='eth0'/><backend type='passt'/>\
         <model type='virtio'/><portForward proto='tcp'><range start='{port}' to='{GUEST_PORT}'/></portForward></interface>"
    )
}

fn domain(interface: &str) -> String {
    let ports = "<controller type='pci' model='pcie-root-port'/>".repeat(6);
    format!(
        "<domain type='qemu'><name>vm</name><memory unit='MiB'>256</memory>\
         <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/{STAGE}/vmlinuz</kernel>\
         <initrd>/{STAGE}/initramfs.cpio</initrd><cmdline>console=ttyS0 quiet</cmdline></os>\
         <features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <serial type='unix'><source mode='bind' path='/{STAGE}/serial.sock'/></serial>\
         <controller type='pci' model='pcie-root'/>{ports}{interface}</devices></domain>"
    )
}

fn has_the_address_of_the_pod(shell: &Shell) -> Result<()> {
    // The console wraps long lines.
    let addresses = shell.run("ip -4 -o addr show eth0 | cut -c1-40")?;
    match addresses.contains(&format!("inet {POD4}/")) {
        true => Ok(()),
        false => Err(failure(format!(
            "the guest has not the address of the pod: {addresses}"
        ))),
    }
}

const MAC: &str = "52:54:00:11:22:33";
const SECOND: &str = "52:54:00:11:22:44";

/// A pod with libvirt in it.
fn stage() -> Result<(Lab, Overlay, Libvirt)> {
    let base = artifacts::cache().join("libvirt");
    if !base.is_dir() {
        return Err(failure("no libvirt: run hack/libvirt-root"));
    }
    let lab = Lab::new()?;
    // The root of the cache stays as it is.
    let [upper, work, root] = ["upper", "work", "root"].map(|name| lab.path(name));
    for folder in [&upper, &work, &root] {
        fs::create_dir(folder)?;
    }
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        base.display(),
        upper.display(),
        work.display()
    );
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &layers])
        .arg(&root)
        .status()?;
    assert!(mounted.success(), "mount: {mounted}");
    let overlay = Overlay(root.clone());
    let libvirt = Libvirt::start(&lab.networks.pod, &root, lab.path("libvirtd.log"))?;
    Ok((lab, overlay, libvirt))
}

#[test]
#[ignore = "needs a root with libvirt (hack/libvirt-root)"]
fn libvirt_starts_plugs_restarts_saves_and_ends_it_as_passt() -> Result<()> {
    let (lab, _overlay, libvirt) = stage()?;
    let mut iperf = lab.networks.world.command("iperf3");
    iperf.arg("-s");
    let _iperf = Background::start(iperf, "iperf3", lab.path("iperf3.log"))?;
    assert!(
        libvirt
            .virsh(&["domcapabilities", "--virttype", "qemu"])?
            .contains("<value>passt</value>")
    );
    libvirt.virsh(&[
        "create",
        &libvirt.file("vm.xml", &domain(&interface("vhostuser", MAC, FORWARDED)))?,
    ])?;
    let shell = libvirt.shell()?;

    // DHCP gives the pod's own address.
    shell.run("net-up 4")?;
    has_the_address_of_the_pod(&shell)?;
    shell.pings()?;
    for direction in ["", "--reverse"] {
        shell.run(&format!("iperf3 --client {WORLD4} --time 2 {direction}"))?;
    }

    // A client outside reaches the guest.
    shell.run(&format!("(nc -l -p {GUEST_PORT} >/tmp/got &); sleep 1"))?;
    let client = lab.networks.world.inside(|| TcpStream::connect((POD4, FORWARDED)))??;
    (&client).write_all(b"through the forward\n")?;
    drop(client);
    shell.run("sleep 1; grep -q 'through the forward' /tmp/got")?;

    // A second interface is plugged and unplugged. Its process comes and goes with it.
    let second = libvirt.file("second.xml", &interface("vhostuser", SECOND, FORWARDED + 1))?;
    libvirt.virsh(&["attach-device", "vm", &second])?;
    until("the guest sees the second interface", || {
        Ok(shell.run("ip link show eth1").is_ok())
    })?;
    libvirt.wait_for_passts(2)?;
    libvirt.virsh(&["detach-device", "vm", &second])?;
    until("the guest has released it", || {
        Ok(shell.run("! ip link show eth1 2>/dev/null").is_ok())
    })?;
    libvirt.wait_for_passts(1)?;

    // A failure is libvirt's error message.
    let taken = libvirt.file("taken.xml", &interface("vhostuser", SECOND, FORWARDED))?;
    let error = libvirt
        .virsh(&["attach-device", "vm", &taken])
        .err()
        .map(|e| e.to_string());
    assert!(
        error
            .as_ref()
            .is_some_and(|text| text.contains("port 2222 is in use on the host")),
        "{error:?}"
    );

    // The link.
    libvirt.virsh(&["domif-setlink", "vm", MAC, "down"])?;
    until("the link is down", || {
        Ok(shell.run("cat /sys/class/net/eth0/carrier")?.starts_with('0'))
    })?;
    libvirt.virsh(&["domif-setlink", "vm", MAC, "up"])?;
    until("the link is up", || {
        Ok(shell.run("cat /sys/class/net/eth0/carrier")?.starts_with('1'))
    })?;
    shell.pings()?;

    // libvirt starts the process again, and QEMU reconnects after five seconds.
    let before = libvirt.wait_for_passts(1)?;
    let kill = format!("kill -9 {}", before[0]);
    assert!(libvirt.command("bash").args(["-c", &kill]).status()?.success());
    until("libvirt has started it again", || {
        Ok(libvirt.passts()?.iter().any(|id| *id != before[0]))
    })?;
    until("the guest is back", || Ok(shell.pings().is_ok()))?;

    // The guest is saved to a file and restored.
    libvirt.virsh(&["save", "vm", &format!("/{STAGE}/vm.save")])?;
    libvirt.wait_for_passts(0)?;
    drop(shell);
    libvirt.virsh(&["restore", &format!("/{STAGE}/vm.save")])?;
    let shell = libvirt.shell()?;
    until("the restored guest reaches the world", || Ok(shell.pings().is_ok()))?;
    has_the_address_of_the_pod(&shell)?;

    libvirt.virsh(&["destroy", "vm"])?;
    libvirt.wait_for_passts(0)?;
    let left = libvirt.command("ls").arg("/run/libvirt/qemu/passt").output()?.stdout;
    assert_eq!(
        String::from_utf8_lossy(&left),
        "",
        "neither socket nor PID file is left"
    );

    // The other protocol is refused with the XML to write.
    let user = libvirt.file("user.xml", &domain(&interface("user", MAC, FORWARDED)))?;
    let error = libvirt.virsh(&["create", &user]).err().map(|e| e.to_string());
    let expected = "write <interface type='vhostuser'> instead of type='user'";
    assert!(error.as_ref().is_some_and(|text| text.contains(expected)), "{error:?}");
    Ok(())
}

#[test]
#[ignore = "needs a root with libvirt (hack/libvirt-root)"]
fn qemu_starts_it_for_its_own_netdev_passt() -> Result<()> {
    let (lab, _overlay, libvirt) = stage()?;
    let mut qemu = libvirt.command("qemu-system-x86_64");
    let kernel = [
        "-M q35 -m 256M -object memory-backend-memfd,id=mem,size=256M,share=on -machine memory-backend=mem",
        "-display none -kernel /stage/vmlinuz -initrd /stage/initramfs.cpio -serial unix:/stage/serial.sock,server=on,wait=off",
        "-netdev passt,id=n0,path=/usr/local/bin/passt,vhost-user=on,tcp-ports=2222:7000 -device virtio-net-pci,netdev=n0",
    ];
    qemu.args(kernel.iter().flat_map(|words| words.split(' ')));
    qemu.args(["-append", "console=ttyS0 quiet"]);
    let mut qemu = Background::start(qemu, "qemu", lab.path("qemu.log"))?;
    let socket = libvirt.root.join(STAGE).join("serial.sock");
    qemu.wait_until("opening its serial port", PATIENCE, |_| socket.exists())?;
    let shell = libvirt.shell()?;
    shell.run("net-up 4")?;
    shell.pings()?;
    has_the_address_of_the_pod(&shell)?;
    qemu.kill();
    libvirt.wait_for_passts(0)?;
    Ok(())
}
