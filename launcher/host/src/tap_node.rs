//! The character device of a macvtap or ipvtap link, `/dev/tapN`, where N is the link's index.
//!
//! udev or devtmpfs creates this file, but not in a container. In devtmpfs, links with the same index in two network
//! namespaces also compete for one name. So the device number is read from a sysfs of the right namespace. If /dev has
//! no file for it, hawser creates one on a tmpfs that is not mounted anywhere.

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, openat, stat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

/// Flags to open a queue: for reading and writing, non-blocking.
const QUEUE: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// sysfs does not have the device number.
    #[error(
        "cannot find the device of {name} in sysfs: {source}; let this process see a /sys of its network namespace"
    )]
    Number {
        /// Name of the link.
        name: String,
        /// The error of the last attempt.
        source: io::Error,
    },
    /// There is no device file, and none can be created.
    #[error(
        "cannot open the device of {name}: {source}; give this process CAP_MKNOD and the right to the device \
         (cgroup), or put /dev/tap{index} (c {major}:{minor}) into its /dev"
    )]
    Open {
        /// Name of the link.
        name: String,
        /// Index of the link.
        index: u32,
        /// Major number of the device.
        major: u32,
        /// Minor number of the device.
        minor: u32,
        /// The error of the last attempt.
        source: io::Error,
    },
}

/// Opens `count` queues of the link with this name and index, which is in the network namespace of the calling thread.
///
/// # Errors
/// [`NodeError`]
pub fn open_queues(name: &str, index: u32, count: usize) -> Result<Vec<OwnedFd>, NodeError> {
    let (major, minor) = device_number(name, index).map_err(|source| NodeError::Number {
        name: name.to_owned(),
        source,
    })?;
    let open = || open_queue(index, makedev(major, minor));
    (0..count)
        .map(|_| open())
        .collect::<io::Result<_>>()
        .map_err(|source| NodeError::Open {
            name: name.to_owned(),
            index,
            major,
            minor,
            source,
        })
}

/// Major and minor number, read from a sysfs of this namespace, or from /sys if that is one.
fn device_number(name: &str, index: u32) -> io::Result<(u32, u32)> {
    let own = Detached::get().sysfs.as_ref();
    own.ok_or_else(|| io::ErrorKind::PermissionDenied.into())
        .and_then(|sysfs| read_number(sysfs, "", name, index))
        .or_else(|_: io::Error| read_number(CWD, "/sys/", name, index))
}

fn read_number(root: impl AsFd, prefix: &str, name: &str, index: u32) -> io::Result<(u32, u32)> {
    let read = |file: &str| -> io::Result<String> {
        let path = format!("{prefix}class/net/{name}/{file}");
        let mut text = String::new();
        File::from(openat(&root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?).read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    };
    if read("ifindex")? != index.to_string() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "/sys is of another network namespace",
        ));
    }
    let text = read(&format!("tap{index}/dev"))?;
    let number = text
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("'{text}' is no device number")))
}

fn open_queue(index: u32, device: u64) -> io::Result<OwnedFd> {
    let path = format!("/dev/tap{index}");
    let is_device = |mode| FileType::from_raw_mode(mode).is_char_device();
    if stat(&path).is_ok_and(|stat| stat.st_rdev == device && is_device(stat.st_mode))
        && let Ok(queue) = openat(CWD, &path, QUEUE, Mode::empty())
    {
        return Ok(queue);
    }
    let private = Detached::get().tmpfs.as_ref();
    let private = private
        .ok_or_else(|| io::ErrorKind::PermissionDenied.into())
        .and_then(|tmpfs| open_made(tmpfs, "tap", device));
    // This works without CAP_SYS_ADMIN, because a container's /dev is usually a tmpfs that accepts devices.
    private.or_else(|_: io::Error| open_made(CWD, &format!("/dev/.hawser-tap{index}-{}", std::process::id()), device))
}

/// Creates a device file, opens it, and removes the file again.
fn open_made(folder: impl AsFd, name: &str, device: u64) -> io::Result<OwnedFd> {
    mknodat(
        &folder,
        name,
        FileType::CharacterDevice,
        Mode::RUSR | Mode::WUSR,
        device,
    )?;
    let opened = openat(&folder, name, QUEUE, Mode::empty());
    // This process has just created the device file.
    let _: Result<(), Errno> = unlinkat(&folder, name, rustix::fs::AtFlags::empty());
    Ok(opened?)
}

/// File systems that are not mounted anywhere. Creating them requires CAP_SYS_ADMIN. So they are created once and kept,
/// for use when a device has come back.
#[derive(Debug)]
pub struct Detached {
    /// A sysfs with the links of the process's network namespace.
    pub sysfs: Option<OwnedFd>,
    /// A tmpfs for one device file at a time.
    pub tmpfs: Option<OwnedFd>,
}

impl Detached {
    /// The file systems, created on the first call.
    pub fn get() -> &'static Self {
        static MADE: OnceLock<Detached> = OnceLock::new();
        MADE.get_or_init(|| Self {
            sysfs: detached("sysfs").ok(),
            tmpfs: detached("tmpfs").ok(),
        })
    }
}

/// A file system of this kind that is not mounted anywhere.
fn detached(kind: &str) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(mount)
}
