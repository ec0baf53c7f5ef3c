//! Real Linux guests whose only NIC is a vhost-user socket.
//!
//! There are two kinds. User-Mode Linux boots in a second and is fast. QEMU (emulating, since a test machine need not
//! have KVM) is what users run, and can disable features. Both boot the initramfs of `hack/guests` with
//! `hawser-traffic` added, which then receives commands over a serial line.

mod channel;
mod cpio;
mod machine;
mod migration;
pub mod passed;
mod shell;

use crate::frontend::Withholding;
use crate::process::Background;
use crate::{Result, artifacts};
pub use channel::{Output, Running};
pub use machine::{Machine, Nested};
pub use migration::{Incoming, Monitor, Stopped};
pub use shell::{Lasting, Shell};
use std::fs;
use std::io::Write as _;
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// Descriptor of a guest's end of the command channel. It is far from those in use.
const AGENT_FD: i32 = 100;

/// Name of the file of a guest's console output, in its folder.
const CONSOLE: &str = "console.log";

const BOOT: &[u8] = b"#!/bin/sh\nexec hawser-traffic agent tty=/dev/$HAWSER_AGENT\n";

/// Kernel parameters that avoid work that is slow in an emulator. They save a fifth of the boot time. None of them
/// affects packets.
const SHORT_BOOT: &str = "mitigations=off nokaslr no5lvl cryptomgr.notests=1 \
    initcall_blacklist=jent_mod_init,crypto_kdf108_init,load_system_certificate_list";

/// The program that acts as the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// User-Mode Linux.
    Uml,
    /// QEMU as an emulator.
    Qemu,
}

/// How QEMU connects to the back end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chardev {
    /// QEMU connects to the back end's socket once.
    #[default]
    Connects,
    /// QEMU connects, and reconnects this many milliseconds after a connection is lost.
    Reconnects(u32),
    /// QEMU listens, and starts the guest once the back end has connected.
    Listens,
}

/// Options for booting a guest.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Program that runs the guest.
    pub kind: Kind,
    /// vhost-user socket of the back end.
    pub socket: PathBuf,
    /// UML: sockets of further NICs, eth1 and so on.
    pub more_sockets: Vec<PathBuf>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// UML: the processor on which it runs. `None` for any.
    pub processor: Option<usize>,
    /// Parameters for the guest's kernel.
    pub kernel_arguments: Vec<String>,
    /// QEMU: number of queue pairs, and of processors.
    pub queue_pairs: u16,
    /// QEMU: MAC of the NIC. `None` for the back end's.
    pub mac: Option<String>,
    /// QEMU: properties of the NIC, such as `mrg_rxbuf=off`.
    pub properties: Vec<String>,
    /// QEMU: how it connects to the back end.
    pub chardev: Chardev,
    /// QEMU: additional arguments.
    pub arguments: Vec<String>,
    /// Files of `hack/guests` that are appended to the initramfs, such as `qemu/agent.cpio`.
    pub archives: Vec<&'static str>,
    /// Features of the back end that are hidden from the guest, as a mask. QEMU has properties for that. Not available
    /// if QEMU listens.
    pub withheld: u64,
}

impl Plan {
    /// Options for a guest on `socket`, with their defaults.
    pub fn new(kind: Kind, socket: &Path) -> Self {
        Self {
            kind,
            socket: socket.to_owned(),
            more_sockets: Vec::new(),
            memory_mib: 512,
            processor: None,
            kernel_arguments: Vec::new(),
            queue_pairs: 1,
            mac: None,
            properties: Vec::new(),
            chardev: Chardev::default(),
            arguments: Vec::new(),
            archives: Vec::new(),
            withheld: 0,
        }
    }

    /// Boots the guest and waits until it accepts commands. Its NIC is present, but not configured.
    pub fn boot(&self) -> Result<Guest> {
        let mut guest = self.start()?;
        guest.wait_for_boot()?;
        Ok(guest)
    }

    /// Starts the guest without waiting. This is needed if QEMU itself waits for the back end.
    pub fn start(&self) -> Result<Guest> {
        let folder = tempfile::Builder::new().prefix("hawser-guest-").tempdir()?;
        let (ours, theirs) = UnixStream::pair()?;
        let process = self.start_process(folder.path(), &theirs)?;
        self.guest(process, ours, folder)
    }

    /// Boots a QEMU guest that can migrate.
    pub fn boot_to_migrate(&self) -> Result<Guest> {
        let folder = tempfile::Builder::new().prefix("hawser-guest-").tempdir()?;
        let (ours, theirs) = UnixStream::pair()?;
        let monitor = folder.path().join(migration::MONITOR);
        let process = self.with_monitor(folder.path()).start_process(folder.path(), &theirs)?;
        let mut guest = self.guest(process, ours, folder)?;
        guest.line = Some(theirs);
        guest.process.wait_for_socket(&monitor, Duration::from_secs(10))?;
        guest.monitor = Some(Monitor::connect(&monitor)?);
        guest.wait_for_boot()?;
        Ok(guest)
    }

    /// The same plan with a monitor in `folder`.
    fn with_monitor(&self, folder: &Path) -> Self {
        let mut plan = self.clone();
        let at = folder.join(migration::MONITOR);
        let monitor = format!("unix:{},server=on,wait=off", at.display());
        plan.arguments.extend(["-qmp".to_owned(), monitor]);
        plan
    }

    /// Starts the process of a guest whose command line is at the other end of `line`.
    fn start_process(&self, folder: &Path, line: &UnixStream) -> Result<Background> {
        let socket = self.socket_for_guest(folder)?;
        let initramfs = folder.join("initramfs.cpio");
        let command = match self.kind {
            Kind::Uml => self.uml(&socket, folder, &initramfs)?,
            Kind::Qemu => self.qemu(&socket, &initramfs)?,
        };
        self.start_command(command, folder, line)
    }

    /// Starts a QEMU guest through another program. That program gets QEMU's command line after its own arguments, and
    /// adds the NICs and the shared memory.
    pub fn start_by(&self, mut program: Command) -> Result<Guest> {
        let folder = tempfile::Builder::new().prefix("hawser-guest-").tempdir()?;
        let machine = self.qemu_machine(&folder.path().join("initramfs.cpio"))?;
        program.arg(machine.get_program()).args(machine.get_args());
        let (ours, theirs) = UnixStream::pair()?;
        let process = self.start_command(program, folder.path(), &theirs)?;
        self.guest(process, ours, folder)
    }

    fn start_command(&self, mut command: Command, folder: &Path, line: &UnixStream) -> Result<Background> {
        self.write_initramfs(&folder.join("initramfs.cpio"))?;
        hand_over(&mut command, vec![(line.as_raw_fd(), AGENT_FD)]);
        let name = format!("{:?} guest", self.kind);
        Background::start(command, &name, folder.join(CONSOLE))
    }

    fn guest(&self, process: Background, line: UnixStream, folder: TempDir) -> Result<Guest> {
        Ok(Guest {
            kind: self.kind,
            process,
            shell: Shell::new(line, Some(folder.path().join(CONSOLE)))?,
            line: None,
            monitor: None,
            folder,
        })
    }

    /// The back end's socket, or that of the relay that hides features.
    fn socket_for_guest(&self, folder: &Path) -> Result<PathBuf> {
        if self.withheld == 0 {
            return Ok(self.socket.clone());
        }
        let socket = folder.join("withholding.sock");
        let between = Withholding::bind(&socket, &self.socket, self.withheld)?;
        // The relay ends with the guest, whose console shows how it handled a lost back end.
        thread::spawn(move || between.serve());
        Ok(socket)
    }

    fn uml(&self, socket: &Path, folder: &Path, initramfs: &Path) -> Result<Command> {
        let program = artifacts::guest_file("bin/linux.uml")?;
        let mut command = match self.processor {
            None => Command::new(program),
            Some(number) => {
                let mut held = Command::new("taskset");
                held.arg("--cpu-list").arg(number.to_string()).arg(program);
                held
            }
        };
        // Guest memory is a file in this directory, shared with the back end. On a disk it would be slow.
        command.env(
            "TMPDIR",
            if Path::new("/dev/shm").is_dir() {
                Path::new("/dev/shm")
            } else {
                folder
            },
        );
        command.arg(format!("mem={}M", self.memory_mib));
        // The initramfs stays at the end of guest memory. This kernel's checksums read up to seven bytes too many, and
        // nothing is mapped after the last page.
        command.arg(format!("initrd={}", initramfs.display()));
        command.arg("retain_initrd");
        command.arg(format!("uml_dir={}", folder.display()));
        for socket in [socket]
            .into_iter()
            .chain(self.more_sockets.iter().map(PathBuf::as_path))
        {
            command.arg(format!("virtio_uml.device={}:1", socket.display()));
        }
        command.args(["con=null", "con0=null,fd:1", "ssl=null"]);
        command.arg(format!("ssl0=fd:{AGENT_FD}"));
        command.arg("HAWSER_AGENT=ttyS0").args(&self.kernel_arguments);
        Ok(command)
    }

    /// The command line of QEMU with the NIC and shared memory.
    fn qemu(&self, socket: &Path, initramfs: &Path) -> Result<Command> {
        let mut command = self.qemu_machine(initramfs)?;
        let path = socket.display();
        let chardev = match self.chardev {
            Chardev::Connects => format!("socket,id=net,path={path}"),
            Chardev::Reconnects(ms) => format!("socket,id=net,path={path},reconnect-ms={ms}"),
            Chardev::Listens => format!("socket,id=net,path={path},server=on,wait=on"),
        };
        let mut netdev = "vhost-user,id=net0,chardev=net".to_owned();
        let mut device = "virtio-net-pci,netdev=net0,romfile=".to_owned();
        if self.queue_pairs > 1 {
            netdev += &format!(",queues={}", self.queue_pairs);
            device += &format!(",mq=on,vectors={}", 2 * self.queue_pairs + 2);
        }
        if let Some(mac) = &self.mac {
            device += &format!(",mac={mac}");
        }
        for property in &self.properties {
            device += &format!(",{property}");
        }
        let memory = format!("memory-backend-memfd,id=mem,size={}M,share=on", self.memory_mib);
        command
            .args(["-machine", "memory-backend=mem", "-object", &memory])
            .args(["-chardev", &chardev, "-netdev", &netdev, "-device", &device]);
        Ok(command)
    }

    /// The command line of QEMU without a NIC.
    fn qemu_machine(&self, initramfs: &Path) -> Result<Command> {
        let mut command = Command::new(artifacts::guest_file("bin/qemu-system-x86_64")?);
        let (memory, kernel) = (self.memory_mib, artifacts::guest_file("qemu/vmlinuz")?);
        command
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-cpu", "max"])
            .args(["-machine", "q35,accel=tcg", "-m", &format!("{memory}M")])
            .args(["-smp", &self.queue_pairs.to_string()])
            .args(&self.arguments)
            .args(["-serial", "stdio"])
            .arg("-chardev")
            .arg(format!("socket,id=agent,fd={AGENT_FD}"))
            .args(["-serial", "chardev:agent"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet HAWSER_AGENT=ttyS1 {SHORT_BOOT} {}",
                self.kernel_arguments.join(" ")
            ));
        Ok(command)
    }

    fn write_initramfs(&self, path: &Path) -> Result<()> {
        let base = match self.kind {
            Kind::Uml => "uml/initramfs.cpio",
            Kind::Qemu => "qemu/initramfs.cpio",
        };
        fs::copy(artifacts::guest_file(base)?, path)?;
        let mut whole = fs::OpenOptions::new().append(true).open(path)?;
        for archive in &self.archives {
            whole.write_all(&fs::read(artifacts::guest_file(archive)?)?)?;
        }
        let traffic = fs::read(artifacts::traffic()?)?;
        let mut bytes = Vec::with_capacity(traffic.len() + 4096);
        cpio::write(
            &mut bytes,
            &["etc", "etc/hawser"],
            &[("usr/bin/hawser-traffic", &traffic), ("etc/hawser/boot", BOOT)],
        )?;
        Ok(whole.write_all(&bytes)?)
    }
}

/// Passes descriptors to a process under other numbers, as pairs of our number and its number.
fn hand_over(command: &mut Command, descriptors: Vec<(RawFd, RawFd)>) {
    // SAFETY: only async-signal-safe calls, on descriptors that outlive the spawn.
    unsafe {
        command.pre_exec(move || {
            for &(ours, its) in &descriptors {
                // If the numbers were equal, the descriptor would keep close-on-exec.
                let done = if ours == its {
                    libc::fcntl(ours, libc::F_SETFD, 0)
                } else {
                    libc::dup2(ours, its)
                };
                if done < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// A running guest, which is killed on drop.
#[derive(Debug)]
pub struct Guest {
    kind: Kind,
    process: Background,
    shell: Shell,
    /// Its end of the command line, for other processes. `None` if it does not migrate.
    line: Option<UnixStream>,
    /// QEMU: the monitor. `None` if the guest does not migrate.
    monitor: Option<Monitor>,
    folder: TempDir,
}

/// Gives access to the commands for any guest.
impl Deref for Guest {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.shell
    }
}

impl Guest {
    /// Waits until a started guest accepts commands.
    pub fn wait_for_boot(&mut self) -> Result<()> {
        let limit = match self.kind {
            Kind::Uml => Duration::from_secs(30),
            Kind::Qemu => Duration::from_secs(90),
        };
        self.wait_for_boot_within(limit)
    }

    fn wait_for_boot_within(&mut self, limit: Duration) -> Result<()> {
        let step = Duration::from_millis(500);
        for _ in 0..limit.as_millis() / step.as_millis() {
            if self.shell.is_ready(step) {
                return Ok(());
            }
            self.process.assert_alive()?;
        }
        Err(self.process.failed(&format!("did not boot within {limit:?}")))
    }

    /// Process that runs the guest.
    pub fn process(&mut self) -> &mut Background {
        &mut self.process
    }

    /// Kills the machine, as if its power were cut.
    pub fn kill_machine(&mut self) {
        self.process.kill();
    }
}
