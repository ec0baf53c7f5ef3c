//! A lab VM: a Linux machine with a distribution's kernel, for features that the test machine's kernel may lack
//! (ipvlan, VLAN-filtering bridges), or with hardware that the machine lacks (SR-IOV).
//!
//! It is an emulating QEMU, without a NIC or with a PF. Inside it run hawser and a guest, User-Mode Linux. The guest's
//! command line is another serial line of the lab VM.

use super::{AGENT_FD, Guest, Kind, Plan, SHORT_BOOT, Shell, cpio, hand_over, passed};
use crate::lab::{Turn, share_machine};
use crate::process::Background;
use crate::{Result, artifacts, failure};
use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Descriptor of QEMU's end of the nested guest's line.
const NESTED_FD: i32 = AGENT_FD + 1;
/// Path of the nested guest's initramfs in the lab VM.
const NESTED_INITRAMFS: &str = "/guest/initramfs.cpio";
/// Longest time for a lab VM to boot. It unpacks much, with processors that other tests use too.
const PATIENCE: Duration = Duration::from_secs(240);
/// Longest time for the nested guest to boot. It runs in an emulation within an emulation.
const NESTED_PATIENCE: Duration = Duration::from_secs(90);
/// Longest run time of the nested guest.
const LIFETIME: Duration = Duration::from_secs(3600);

const LAB_BOOT: &str = "#!/bin/sh
while read -r module; do
    insmod \"$module\" || echo \"lab: cannot load $module\"
done </etc/lab-modules
# The emulated IOMMU does not remap interrupts, because the emulator loses timers when it does.
unsafe=/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
[ ! -e $unsafe ] || echo Y >$unsafe
mkdir -p /run/netns /run/hawser
exec hawser-traffic agent tty=/dev/$HAWSER_AGENT
";

/// Files by their paths, without a leading slash.
pub(super) type Files = Vec<(String, Vec<u8>)>;

/// What a lab VM consists of.
struct Hardware {
    /// Files of `hack/guests`: the kernel, and the archives of the initramfs.
    kernel: &'static str,
    archives: &'static [&'static str],
    processor: &'static str,
    /// Number of processors.
    processors: &'static str,
    memory: &'static str,
    /// Programs that run in it, besides hawser.
    programs: fn(&Path) -> Result<Files>,
    /// Further arguments of QEMU.
    devices: &'static [&'static str],
    /// Further parameters for the kernel.
    parameters: &'static str,
}

/// A machine without a NIC, for everything that the kernel does by itself.
const PLAIN: Hardware = Hardware {
    kernel: "qemu/vmlinuz",
    archives: &["qemu/initramfs.cpio", "qemu/lab.cpio"],
    processor: "max",
    processors: "2",
    memory: "1G",
    programs: uml,
    devices: &[],
    parameters: "",
};

/// A machine with an IOMMU and three PFs, each at its own root port. Two are on one segment. Inside it runs QEMU.
const SRIOV: Hardware = Hardware {
    kernel: "sriov/vmlinuz",
    archives: &["sriov/initramfs.cpio"],
    // The driver of this IOMMU exists only in kernels for such processors.
    processor: "EPYC",
    // With an IOMMU, the emulator loses timers of a second one.
    processors: "1",
    memory: "1536M",
    programs: |_| passed::qemu(),
    devices: &[
        "-device",
        "intel-iommu,intremap=off,caching-mode=on",
        "-device",
        "pcie-root-port,id=rp0,slot=1",
        "-device",
        "pcie-root-port,id=rp1,slot=2",
        "-device",
        "pcie-root-port,id=rp2,slot=3,disable-acs=on",
        "-netdev",
        "hubport,id=pf0,hubid=0",
        "-netdev",
        "hubport,id=pf1,hubid=0",
        "-netdev",
        "hubport,id=pf2,hubid=1",
        "-device",
        "igb,netdev=pf0,bus=rp0,romfile=,mac=52:54:00:00:10:01",
        "-device",
        "igb,netdev=pf1,bus=rp1,romfile=,mac=52:54:00:00:10:02",
        // This root port does not isolate its functions, so the kernel puts all of them into one IOMMU group.
        "-device",
        "igb,netdev=pf2,bus=rp2,romfile=,mac=52:54:00:00:10:03",
    ],
    parameters: "intel_iommu=on iommu=pt",
};

/// A running lab VM, which is killed on drop.
#[derive(Debug)]
pub struct Machine {
    host: Guest,
    nested: Option<UnixStream>,
    _turn: Turn,
}

impl Deref for Machine {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.host
    }
}

impl Machine {
    /// Waits for a share of the machine, and boots a lab VM with hawser. `files` are given by their paths without a
    /// leading slash.
    pub fn boot(files: &[(&str, &[u8])]) -> Result<Self> {
        Self::boot_with(&PLAIN, files)
    }

    /// Boots a lab VM with an IOMMU and three PFs, which use the driver igb.
    pub fn boot_sriov(files: &[(&str, &[u8])]) -> Result<Self> {
        Self::boot_with(&SRIOV, files)
    }

    /// The reason why [`Self::boot_sriov`] is impossible here, if there is one.
    pub fn lacks_sriov() -> Option<String> {
        if let Err(error) = artifacts::lab_file(SRIOV.kernel) {
            return Some(error.to_string());
        }
        let devices = artifacts::guest_file("bin/qemu-system-x86_64")
            .and_then(|qemu| Ok(Command::new(qemu).args(["-device", "help"]).output()?));
        match devices {
            Ok(listed) if String::from_utf8_lossy(&listed.stdout).contains("name \"igb\"") => None,
            Ok(_) => Some("QEMU has no device igb: it needs version 8 or newer".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    fn boot_with(hardware: &Hardware, files: &[(&str, &[u8])]) -> Result<Self> {
        let turn = share_machine()?;
        let folder = tempfile::Builder::new().prefix("hawser-machine-").tempdir()?;
        let initramfs = folder.path().join("initramfs.cpio");
        write_initramfs(&initramfs, hardware, files)?;
        let (ours, theirs) = UnixStream::pair()?;
        let (nested, nested_theirs) = UnixStream::pair()?;
        let mut command = qemu(hardware, &initramfs)?;
        let lines = vec![(theirs.as_raw_fd(), AGENT_FD), (nested_theirs.as_raw_fd(), NESTED_FD)];
        hand_over(&mut command, lines);
        let console = folder.path().join("console.log");
        let process = Background::start(command, "lab VM", console.clone())?;
        let mut host = Guest {
            kind: Kind::Qemu,
            process,
            shell: Shell::new(ours, Some(console))?,
            line: None,
            monitor: None,
            folder,
        };
        host.wait_for_boot_within(PATIENCE)?;
        Ok(Self {
            host,
            nested: Some(nested),
            _turn: turn,
        })
    }

    /// Starts `hawser ARGUMENTS` in the lab VM and waits until it listens on each of `sockets`. Its output is written
    /// to `/run/NAME.log`, and its process id to `/run/NAME.pid`.
    pub fn hawser(&self, name: &str, arguments: &str, sockets: &[&str]) -> Result<()> {
        self.start(
            &format!("echo $$ >/run/{name}.pid; exec hawser {arguments} >/run/{name}.log 2>&1"),
            LIFETIME,
        )?;
        for socket in sockets {
            // The flag shows that hawser listens, and not only that the socket exists.
            self.sh(&format!(
                "for n in $(seq 100); do grep -q ' 00010000 .* {socket}$' /proc/net/unix && exit; usleep 100000; done; \
                 cat /run/{name}.log; exit 1"
            ))?;
        }
        Ok(())
    }

    /// The command line of a guest that QEMU continues in the lab VM ([`passed::arguments`]). Only one such guest can run.
    pub fn continued_guest(&self) -> Result<Nested> {
        let line = self.nested.as_ref().map(UnixStream::try_clone);
        let line = line.ok_or_else(|| failure("a lab VM has a line for one guest"))??;
        Ok(Nested(Shell::new(line, None)?))
    }

    /// Starts User-Mode Linux in the lab VM with a NIC for each of `sockets`. Only one such guest can run.
    pub fn start_guest(&mut self, sockets: &[&str]) -> Result<Nested> {
        let line = self.nested.take();
        let line = line.ok_or_else(|| failure("a lab VM has a line for one guest"))?;
        let cards: Vec<String> = sockets
            .iter()
            .map(|socket| format!("virtio_uml.device={socket}:1"))
            .collect();
        self.start(
            &format!(
                "TMPDIR=/tmp exec linux.uml seccomp=on mem=192M initrd={NESTED_INITRAMFS} retain_initrd uml_dir=/run {} con=null \
                 con0=null,fd:1 ssl=null ssl0=tty:/dev/ttyS2 HAWSER_AGENT=ttyS0 >/run/uml.log 2>&1",
                cards.join(" ")
            ),
            LIFETIME,
        )?;
        Ok(Nested(Shell::new(line, None)?))
    }
}

/// A guest in a lab VM.
#[derive(Debug)]
pub struct Nested(Shell);

impl Deref for Nested {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.0
    }
}

impl Nested {
    /// Waits until the guest accepts commands.
    pub fn wait_for_boot(&self, machine: &Machine) -> Result<()> {
        if self.0.is_ready(NESTED_PATIENCE) {
            return Ok(());
        }
        let console = machine.sh("tail -n 40 /run/uml.log")?;
        Err(failure(format!("the guest in the lab VM did not boot:\n{console}")))
    }
}

fn qemu(hardware: &Hardware, initramfs: &Path) -> Result<Command> {
    let mut command = Command::new(artifacts::guest_file("bin/qemu-system-x86_64")?);
    command
        .args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-cpu",
            hardware.processor,
        ])
        .args([
            "-machine",
            "q35,accel=tcg",
            "-smp",
            hardware.processors,
            "-m",
            hardware.memory,
            "-serial",
            "stdio",
        ]);
    for (name, fd) in [("agent", AGENT_FD), ("nested", NESTED_FD)] {
        command.arg("-chardev").arg(format!("socket,id={name},fd={fd}"));
        command.arg("-serial").arg(format!("chardev:{name}"));
    }
    command.args(hardware.devices);
    command.arg("-kernel").arg(artifacts::lab_file(hardware.kernel)?);
    command.arg("-initrd").arg(initramfs);
    let parameters = hardware.parameters;
    command.args([
        "-append",
        &format!("console=ttyS0 quiet HAWSER_AGENT=ttyS1 {SHORT_BOOT} {parameters}"),
    ]);
    Ok(command)
}

/// Writes the initramfs of QEMU guests, with everything that runs in a lab VM.
fn write_initramfs(path: &Path, hardware: &Hardware, files: &[(&str, &[u8])]) -> Result<()> {
    let mut archive = File::create(path)?;
    for piece in hardware.archives {
        archive.write_all(&fs::read(artifacts::lab_file(piece)?)?)?;
    }
    let mut contents: Files = vec![
        ("usr/bin/hawser".into(), fs::read(artifacts::hawser()?)?),
        ("usr/bin/hawser-traffic".into(), fs::read(artifacts::traffic()?)?),
        ("etc/hawser/boot".into(), LAB_BOOT.into()),
    ];
    contents.extend((hardware.programs)(path)?);
    contents.extend(files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())));
    let folders = folders(&contents);
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    let files: Vec<(&str, &[u8])> = contents.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
    let mut bytes = Vec::new();
    cpio::write(&mut bytes, &folders, &files)?;
    Ok(archive.write_all(&bytes)?)
}

/// User-Mode Linux and what it boots. `beside` is a path beside which files can be written.
fn uml(beside: &Path) -> Result<Files> {
    let nested = beside.with_extension("nested");
    Plan::new(Kind::Uml, Path::new("")).write_initramfs(&nested)?;
    let uml = artifacts::guest_file("bin/linux.uml")?;
    let mut contents = vec![
        ("usr/bin/linux.uml".into(), fs::read(&uml)?),
        (NESTED_INITRAMFS.trim_start_matches('/').into(), fs::read(&nested)?),
    ];
    // The program looks for its libraries at the path where it was built.
    for library in fs::read_dir(artifacts::guest_file("uml/lib")?)? {
        let library = library?.path();
        contents.push((inside(&library), fs::read(&library)?));
    }
    Ok(contents)
}

/// A path in the form that archives use.
pub(super) fn inside(path: &Path) -> String {
    path.display().to_string().trim_start_matches('/').to_owned()
}

/// The directories of the files, outer directories first.
fn folders(files: &[(String, Vec<u8>)]) -> Vec<String> {
    let mut folders: Vec<PathBuf> = files
        .iter()
        .flat_map(|(path, _)| Path::new(path).ancestors().skip(1))
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(Path::to_owned)
        .collect();
    folders.sort();
    folders.dedup();
    folders.iter().map(|folder| inside(folder)).collect()
}
