//! A QEMU in the lab VM whose guest gets virtual functions through vfio. It is an emulator within an emulator.
//!
//! Such a guest would need minutes to unpack its kernel. It boots on this machine instead, without a function, and QEMU
//! in the lab VM continues from an image of it ([`arguments`]). The two QEMUs have the same devices, besides the functions.

use super::machine::{Files, inside};
use super::{AGENT_FD, CONSOLE, Monitor, SHORT_BOOT, Shell, cpio, hand_over, migration};
use crate::process::Background;
use crate::{Result, artifacts, failure};
use serde_json::json;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Path of the image in the lab VM, without a leading slash.
pub const IMAGE: &str = "guest/image";
/// What QEMU gets in both places: a machine without any device, with this memory.
const BARE: &str = "-nodefaults -no-reboot -display none -M q35,accel=tcg -cpu qemu64 -m 192M";
/// The devices that hawser adds in the lab VM: memory, a root port for each function and four more. The image has those
/// of a VM with one function.
const AS_HAWSER: &str =
    "-object memory-backend-memfd,id=hawser-mem,size=192M,share=on -machine memory-backend=hawser-mem";
const ROOT_PORTS: usize = 5;
/// Longest time for the guest to boot on this machine, and for its image to be written.
const PATIENCE: Duration = Duration::from_secs(90);

/// Loads the driver and keeps only what runs without libraries: the rest of memory stays empty, and with it the image
/// small.
const BOOT: &[u8] = b"#!/bin/sh
insmod /lib/modules/igbvf.ko
ln -sf /bin/busybox /bin/sh
for program in /usr/bin/*; do
    [ $program = /usr/bin/hawser-traffic ] || rm $program
done
rm -rf /lib /lib64
exec hawser-traffic agent tty=/dev/$HAWSER_AGENT
";

/// Arguments with which QEMU in the lab VM continues from the image. The guest's command line is the lab VM's third
/// serial line, and its console a file.
pub fn arguments() -> String {
    format!(
        "{BARE} -serial file:/run/guest.console -chardev serial,id=line,path=/dev/ttyS2 -serial chardev:line \
         -incoming file:/{IMAGE}"
    )
}

/// QEMU and its libraries, for the lab VM.
pub(super) fn qemu() -> Result<Files> {
    let program = artifacts::guest_file("qemu/qemu-system-x86_64")?;
    let listed = Command::new("ldd").arg(&program).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files: Vec<PathBuf> = libraries.map(PathBuf::from).collect();
    let share = fs::read_dir(artifacts::guest_file("qemu/share")?)?;
    for file in share {
        files.push(file?.path());
    }
    files.push(program);
    let mut contents = Vec::new();
    for file in files {
        contents.push((inside(&file), fs::read(&file)?));
    }
    let starter = fs::read(artifacts::guest_file("bin/qemu-system-x86_64")?)?;
    contents.push(("usr/bin/qemu-system-x86_64".to_owned(), starter));
    Ok(contents)
}

/// Boots the guest on this machine and returns its image.
pub fn image() -> Result<Vec<u8>> {
    let folder = tempfile::Builder::new().prefix("hawser-image-").tempdir()?;
    let at = |name: &str| folder.path().join(name);
    write_initramfs(&at("initramfs.cpio"))?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(artifacts::guest_file("bin/qemu-system-x86_64")?);
    command.args(BARE.split(' ')).args(AS_HAWSER.split(' '));
    for n in 0..ROOT_PORTS {
        let port = format!("pcie-root-port,id=hawser-port{n},chassis=200,slot={n}");
        command.args(["-device", &port]);
    }
    command.args(["-serial", "stdio", "-chardev"]);
    command.arg(format!("socket,id=line,fd={AGENT_FD}"));
    command.args(["-serial", "chardev:line", "-kernel"]);
    command.arg(artifacts::lab_file("sriov/vmlinuz")?);
    command.arg("-initrd").arg(at("initramfs.cpio")).arg("-append");
    // Pages that are free are zero, and do not become part of the image.
    command.arg(format!(
        "console=ttyS0 quiet HAWSER_AGENT=ttyS1 init_on_free=1 tsc=reliable no_timer_check {SHORT_BOOT}"
    ));
    let monitor = at(migration::MONITOR);
    command
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", monitor.display()));
    hand_over(&mut command, vec![(theirs.as_raw_fd(), AGENT_FD)]);
    let mut process = Background::start(command, "guest for the lab VM", at(CONSOLE))?;
    let shell = Shell::new(ours, Some(at(CONSOLE)))?;
    process.wait_for_socket(&monitor, PATIENCE)?;
    let mut monitor = Monitor::connect(&monitor)?;
    if !shell.is_ready(PATIENCE) {
        return Err(process.failed(&format!("did not boot within {PATIENCE:?}")));
    }
    let image = at("image");
    let uri = format!("file:{}", image.display());
    monitor.execute("migrate-set-parameters", &json!({"max-bandwidth": 1_u64 << 34}))?;
    monitor.execute("migrate", &json!({ "uri": uri }))?;
    monitor.wait_for_migration("completed")?;
    process.kill();
    let image = fs::read(&image)?;
    if image.is_empty() {
        return Err(failure("QEMU wrote an empty image"));
    }
    Ok(image)
}

fn write_initramfs(path: &Path) -> Result<()> {
    let mut archive = File::create(path)?;
    archive.write_all(&fs::read(artifacts::lab_file("sriov/initramfs.cpio")?)?)?;
    let traffic = fs::read(artifacts::traffic()?)?;
    cpio::write(
        &mut archive,
        &["etc", "etc/hawser"],
        &[("usr/bin/hawser-traffic", &traffic), ("etc/hawser/boot", BOOT)],
    )?;
    Ok(())
}
