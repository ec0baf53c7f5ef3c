//! A lab VM: a Linux machine with a distribution's kernel, for features that the test machine's kernel may lack
//! (ipvlan, VLAN-filtering bridges).
//!
//! It is an emulating QEMU without a NIC. Inside it run hawser and a guest, User-Mode Linux, whose command line is
//! another serial line of the lab VM.

use super::{AGENT_FD, Guest, Kind, Plan, SHORT_BOOT, Shell, cpio, hand_over};
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

const MEMORY: &str = "1G";
/// The descriptor of QEMU's end of the nested guest's line.
const NESTED_FD: i32 = AGENT_FD + 1;
/// Path of the nested guest's initramfs in the lab VM.
const NESTED_INITRAMFS: &str = "/guest/initramfs.cpio";
/// Longest time for the nested guest to boot, which is an emulation in an emulation.
const NESTED_PATIENCE: Duration = Duration::from_secs(90);
/// Longest run time of the nested guest.
const LIFETIME: Duration = Duration::from_secs(3600);

const LAB_BOOT: &str = "#!/bin/sh
while read -r module; do
    insmod \"$module\" || echo \"lab: cannot load $module\"
done </etc/lab-modules
mkdir -p /run/netns /run/hawser
exec hawser-traffic agent tty=/dev/$HAWSER_AGENT
";

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
    /// Waits for a share of the machine, and boots a lab VM with hawser, and with `files` by their paths without a leading slash.
    pub fn boot(files: &[(&str, &[u8])]) -> Result<Self> {
        let turn = share_machine()?;
        let folder = tempfile::Builder::new().prefix("hawser-machine-").tempdir()?;
        let initramfs = folder.path().join("initramfs.cpio");
        write_initramfs(&initramfs, files)?;
        let (ours, theirs) = UnixStream::pair()?;
        let (nested, nested_theirs) = UnixStream::pair()?;
        let mut command = qemu(&initramfs)?;
        let lines = vec![(theirs.as_raw_fd(), AGENT_FD), (nested_theirs.as_raw_fd(), NESTED_FD)];
        hand_over(&mut command, lines);
        let console = folder.path().join("console.log");
        let process = Background::start(command, "lab VM", console.clone())?;
        let mut host = Guest {
            kind: Kind::Qemu,
            process,
            shell: Shell::new(ours, Some(console))?,
            _folder: folder,
        };
        host.wait_for_boot()?;
        Ok(Self {
            host,
            nested: Some(nested),
            _turn: turn,
        })
    }

    /// Starts `hawser ARGUMENTS` in the lab VM and waits until it listens on each of `sockets`. Its
    /// output goes to `/run/NAME.log`, its process id to `/run/NAME.pid`.
    pub fn hawser(&self, name: &str, arguments: &str, sockets: &[&str]) -> Result<()> {
        self.start(
            &format!("echo $$ >/run/{name}.pid; exec hawser {arguments} >/run/{name}.log 2>&1"),
            LIFETIME,
        )?;
        for socket in sockets {
            // The flag shows that it listens, not just that the socket exists.
            self.sh(&format!(
                "for n in $(seq 100); do grep -q ' 00010000 .* {socket}$' /proc/net/unix && exit; usleep 100000; done; \
                 cat /run/{name}.log; exit 1"
            ))?;
        }
        Ok(())
    }

    /// Starts User-Mode Linux in the lab VM with a NIC for each of `sockets`. Only one can run.
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
    /// Waits until it accepts commands.
    pub fn wait_for_boot(&self, machine: &Machine) -> Result<()> {
        if self.0.is_ready(NESTED_PATIENCE) {
            return Ok(());
        }
        let console = machine.sh("tail -n 40 /run/uml.log")?;
        Err(failure(format!("the guest in the lab VM did not boot:\n{console}")))
    }
}

fn qemu(initramfs: &Path) -> Result<Command> {
    let mut command = Command::new(artifacts::guest_file("bin/qemu-system-x86_64")?);
    command
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-cpu", "max"])
        .args([
            "-machine",
            "q35,accel=tcg",
            "-smp",
            "2",
            "-m",
            MEMORY,
            "-serial",
            "stdio",
        ]);
    for (name, fd) in [("agent", AGENT_FD), ("nested", NESTED_FD)] {
        command.arg("-chardev").arg(format!("socket,id={name},fd={fd}"));
        command.arg("-serial").arg(format!("chardev:{name}"));
    }
    command.arg("-kernel").arg(artifacts::guest_file("qemu/vmlinuz")?);
    command.arg("-initrd").arg(initramfs);
    command.args([
        "-append",
        &format!("console=ttyS0 quiet HAWSER_AGENT=ttyS1 {SHORT_BOOT}"),
    ]);
    Ok(command)
}

/// The initramfs of QEMU guests, with everything that runs in a lab VM.
fn write_initramfs(path: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    let mut archive = File::create(path)?;
    for piece in ["qemu/initramfs.cpio", "qemu/lab.cpio"] {
        archive.write_all(&fs::read(artifacts::guest_file(piece)?)?)?;
    }
    let nested = path.with_extension("nested");
    Plan::new(Kind::Uml, Path::new("")).write_initramfs(&nested)?;
    let uml = artifacts::guest_file("bin/linux.uml")?;
    let mut contents: Vec<(String, Vec<u8>)> = vec![
        ("usr/bin/hawser".into(), fs::read(artifacts::hawser()?)?),
        ("usr/bin/hawser-traffic".into(), fs::read(artifacts::traffic()?)?),
        ("usr/bin/linux.uml".into(), fs::read(&uml)?),
        ("etc/hawser/boot".into(), LAB_BOOT.into()),
        (NESTED_INITRAMFS.trim_start_matches('/').into(), fs::read(&nested)?),
    ];
    // The program looks for its libraries at the path where it was built.
    for library in fs::read_dir(artifacts::guest_file("uml/lib")?)? {
        let library = library?.path();
        contents.push((inside(&library), fs::read(&library)?));
    }
    contents.extend(files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())));
    let folders = folders(&contents);
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    let files: Vec<(&str, &[u8])> = contents.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
    let mut bytes = Vec::new();
    cpio::write(&mut bytes, &folders, &files)?;
    Ok(archive.write_all(&bytes)?)
}

/// A path in the form that archives use.
fn inside(path: &Path) -> String {
    path.display().to_string().trim_start_matches('/').to_owned()
}

/// The directories of files, outer ones first.
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
