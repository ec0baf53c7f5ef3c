//! Queues of a TAP or macvtap device: one descriptor per queue, one frame per read or write, with a
//! `virtio_net_hdr` of [`HEADER_LEN`] bytes in front.
//!
//! Linux before 6.2 lacks USO, so the kernel segments UDP itself ([`TapQueue::set_offloads`] retries without it).
//! Everything else is older than any supported kernel.

use crate::config::handover::{Descriptors, Handover, HandoverError, next_of};
use crate::config::payload::{Payload, Sealed};
use crate::frame::{GuestCaps, GuestSlice, GuestSliceMut};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use virtio_bindings::virtio_net::virtio_net_hdr_mrg_rxbuf;

/// Length of the virtio header in front of each frame, in bytes.
pub const HEADER_LEN: usize = size_of::<virtio_net_hdr_mrg_rxbuf>();

/// The device file that creates and attaches TAP devices.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// An attached queue of a device. It is non-blocking, without packet information, and has the virtio header in front of
/// each frame.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
    name: CString,
    /// True if the device has multiple queues.
    several: bool,
}

/// The reason why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// /dev/net/tun is missing or cannot be opened.
    #[error(
        "cannot open {TUN_DEVICE}: {0}; load the module tun, and give this process read and \
        write access to the device"
    )]
    Open(#[source] io::Error),
    /// The name is not valid for an interface.
    #[error("'{0}' is not an interface name: give 1 to 15 bytes")]
    Name(String),
    /// Attaching to the device failed.
    #[error("cannot attach to {name}: {source}; {remedy}")]
    Attach {
        /// Name of the device.
        name: String,
        /// Error of the kernel.
        source: io::Error,
        /// Advice to the operator.
        remedy: &'static str,
    },
    /// The descriptor is not a queue of a TAP device.
    #[error("the descriptor is not a queue of a TAP or macvtap device: {0}")]
    NotTap(#[source] io::Error),
    /// The queue lacks the required properties.
    #[error("{name} cannot be used: {what}")]
    Unfit {
        /// Name of the device.
        name: String,
        /// What is wrong with the queue, and the remedy.
        what: &'static str,
    },
}

impl TapQueue {
    /// Attaches `count` queues to the TAP device `name`, which is created if it does not exist. A device created here
    /// is removed with its last queue.
    ///
    /// # Errors
    /// [`TapError`]
    pub fn open(name: &str, count: usize) -> Result<Vec<Self>, TapError> {
        let name = interface_name(name)?;
        (0..count).map(|_| Self::open_queue(&name, count > 1)).collect()
    }

    fn open_queue(name: &CStr, several: bool) -> Result<Self, TapError> {
        let open = || -> Result<OwnedFd, TapError> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(TUN_DEVICE);
            Ok(file.map_err(TapError::Open)?.into())
        };
        let fd = open()?;
        let attached = match attach(&fd, name, several) {
            // A device with several queues must be requested as such, even for one queue.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !several => attach(&fd, name, true),
            other => other,
        };
        attached.map_err(|source| TapError::Attach {
            name: text(name),
            remedy: attach_remedy(&source, several),
            source,
        })?;
        Self::adopt(fd)
    }

    /// Adopts a descriptor that another program opened: a TAP queue, or /dev/tapN of a macvtap or
    /// ipvtap link.
    ///
    /// # Errors
    /// [`TapError::NotTap`], [`TapError::Unfit`]
    pub fn adopt(fd: OwnedFd) -> Result<Self, TapError> {
        let mut request = empty_request();
        // SAFETY: TUNGETIFF fills an ifreq, which lives for the call. On a descriptor of another kind the ioctl number
        // is unknown and fails.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) }).map_err(TapError::NotTap)?;
        // SAFETY: the kernel has just written the flags, and any bits are a valid short.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let name = request_name(&request);
        let unfit = |what| TapError::Unfit {
            name: text(&name),
            what,
        };
        if flags & libc::IFF_TAP == 0 {
            return Err(unfit("it carries IP packets (IFF_TUN): make it a TAP device"));
        }
        if flags & libc::IFF_NO_PI == 0 {
            return Err(unfit(
                "it puts packet information before frames: open it with IFF_NO_PI",
            ));
        }
        if flags & libc::IFF_VNET_HDR == 0 {
            return Err(unfit(
                "it has no virtio header before frames: open it with IFF_VNET_HDR",
            ));
        }
        let several = flags & libc::IFF_MULTI_QUEUE != 0;
        let queue = Self { fd, name, several };
        queue.set_up().map_err(TapError::NotTap)?;
        Ok(queue)
    }

    fn set_up(&self) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.fd, true)?;
        let header = libc::c_int::try_from(HEADER_LEN).map_err(io::Error::other)?;
        // SAFETY: TUNSETVNETHDRSZ reads an int, which lives for the call.
        check(unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) })?;
        let little_endian: libc::c_int = 1;
        // SAFETY: TUNSETVNETLE reads an int, which lives for the call.
        check(unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETVNETLE, &raw const little_endian) })
    }

    /// Another descriptor of the queue, for [`adopt`](Self::adopt) in another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Name of the device at the time when the queue was attached.
    pub fn name(&self) -> String {
        text(&self.name)
    }

    /// MTU of the device, in bytes. The device is looked up by name in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The error of ioctl(2): ENODEV if the device is not in this namespace.
    pub fn mtu(&self) -> io::Result<u16> {
        let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
        let mut request = named_request(&self.name);
        // SAFETY: SIOCGIFMTU reads and writes an ifreq, which lives for the call.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) })?;
        // SAFETY: the kernel has just written the MTU, and any bits are a valid int.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Makes the kernel send flows to this queue too, or only to the others. Has no effect on a device with one queue.
    ///
    /// # Errors
    /// The error of ioctl(2); none if nothing changes.
    pub fn set_in_use(&self, in_use: bool) -> io::Result<()> {
        if !self.several {
            return Ok(());
        }
        let flag = if in_use {
            libc::IFF_ATTACH_QUEUE
        } else {
            libc::IFF_DETACH_QUEUE
        };
        let mut request = empty_request();
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flag).map_err(io::Error::other)?;
        // SAFETY: TUNSETQUEUE reads an ifreq, which lives for the call.
        match check(unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETQUEUE, &raw mut request) }) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// Sets the offloads of the device to those that a guest with `caps` accepts. The kernel does the others itself.
    /// This applies to the whole device. Returns the offloads that are in effect, because older kernels lack USO.
    ///
    /// # Errors
    /// The error of ioctl(2): EBADFD after the device has been removed.
    pub fn set_offloads(&self, caps: GuestCaps) -> io::Result<GuestCaps> {
        let both = caps.uso4 && caps.uso6;
        let caps = GuestCaps {
            uso4: both,
            uso6: both,
            ..caps
        };
        match self.try_offloads(caps) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && both => {
                let caps = GuestCaps {
                    uso4: false,
                    uso6: false,
                    ..caps
                };
                self.try_offloads(caps).map(|()| caps)
            }
            other => other.map(|()| caps),
        }
    }

    fn try_offloads(&self, caps: GuestCaps) -> io::Result<()> {
        let mut flags = 0;
        for (taken, flag) in [
            (caps.checksum, libc::TUN_F_CSUM),
            (caps.tso4, libc::TUN_F_TSO4),
            (caps.tso6, libc::TUN_F_TSO6),
            (caps.ecn && (caps.tso4 || caps.tso6), libc::TUN_F_TSO_ECN),
            // The kernel accepts both of them or neither.
            (caps.uso4 && caps.uso6, libc::TUN_F_USO4 | libc::TUN_F_USO6),
        ] {
            flags |= if taken { flag } else { 0 };
        }
        // SAFETY: TUNSETOFFLOAD takes a plain number.
        check(unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    }

    /// Writes one frame, beginning with the virtio header.
    ///
    /// # Errors
    /// The error of writev(2): EIO while the device is down, EBADFD after it has been removed.
    pub fn write(&self, frame: &[GuestSlice<'_>]) -> io::Result<usize> {
        let n = if let [whole] = frame {
            // write(2) is faster than writev(2) with one slice. SAFETY: GuestSlice guarantees readable memory.
            unsafe { libc::write(self.as_raw_fd(), whole.as_ptr().cast(), whole.len()) }
        } else {
            let count = libc::c_int::try_from(frame.len()).unwrap_or(libc::c_int::MAX);
            // SAFETY: GuestSlice has the layout of iovec, and each guarantees readable memory.
            unsafe { libc::writev(self.as_raw_fd(), frame.as_ptr().cast(), count) }
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Reads one frame, beginning with the virtio header, and returns its length including that header. Bytes that do
    /// not fit are lost.
    ///
    /// # Errors
    /// The error of readv(2): EAGAIN if there is no frame, EBADFD after the device has been removed.
    pub fn read(&self, room: &mut [GuestSliceMut<'_>]) -> io::Result<usize> {
        let count = libc::c_int::try_from(room.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: GuestSliceMut has the layout of iovec, and each guarantees writable memory.
        let n = unsafe { libc::readv(self.as_raw_fd(), room.as_ptr().cast(), count) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

/// The data of a queue apart from its descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapRecord {
    name: CString,
    several: bool,
}

impl Payload for TapRecord {
    const KIND: &'static str = "tap-queue";
    const VERSION: u32 = 1;
}

impl Handover for TapQueue {
    type Record = Sealed<TapRecord>;

    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
        let record = TapRecord {
            name: self.name,
            several: self.several,
        };
        (Sealed(record), vec![self.fd])
    }

    /// Makes no system call, unlike [`adopt`](Self::adopt). The kernel keeps the settings of the queue, and a device
    /// that has disappeared in the meantime may come back.
    fn take_over(Sealed(record): Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        Ok(Self {
            fd: next_of("a queue of the device to the segment", descriptors)?,
            name: record.name,
            several: record.several,
        })
    }
}

impl AsRawFd for TapQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn attach(fd: &OwnedFd, name: &CStr, several: bool) -> io::Result<()> {
    let mut request = named_request(name);
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if several {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes an ifreq, which lives for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

fn attach_remedy(error: &io::Error, several: bool) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "it is in use by another process: end that process, or name another \
            device"
        }
        Some(libc::EPERM) => {
            "it belongs to another user: create it for the user of this process (ip tuntap add … \
             user …), or give the process CAP_NET_ADMIN"
        }
        Some(libc::EINVAL) if several => {
            "create it for several queues (ip tuntap add … multi_queue), or set one queue pair"
        }
        Some(libc::EINVAL) => {
            "it is not a TAP device: name one, or a new name, for which hawser \
            creates a device"
        }
        _ => "check that it is a TAP device of this network namespace",
    }
}

fn interface_name(name: &str) -> Result<CString, TapError> {
    let wrong = || TapError::Name(name.to_owned());
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '%']) {
        return Err(wrong());
    }
    CString::new(name).map_err(|_| wrong())
}

fn empty_request() -> libc::ifreq {
    // SAFETY: all zeroes is a valid ifreq.
    unsafe { std::mem::zeroed() }
}

fn named_request(name: &CStr) -> libc::ifreq {
    let mut request = empty_request();
    for (place, byte) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    request
}

fn request_name(request: &libc::ifreq) -> CString {
    let bytes = request.ifr_name.iter().map(|c| c.to_ne_bytes()[0]);
    CString::new(bytes.take_while(|b| *b != 0).collect::<Vec<u8>>()).unwrap_or_default()
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netns::enter_fresh;
    use std::time::{Duration, Instant};

    fn exists(name: &str) -> bool {
        std::fs::read_to_string("/proc/thread-self/net/dev")
            .unwrap()
            .contains(name)
    }

    #[test]
    fn a_device_whose_queues_are_handed_over_lasts_until_the_last_of_them_is_dropped() {
        if !enter_fresh() {
            return;
        }
        let queues = TapQueue::open("handed0", 2).unwrap();
        queues[1].set_in_use(false).unwrap();
        let (record, descriptors) = queues.into_handover();
        assert!(exists("handed0"));
        let record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        let queues = Vec::<TapQueue>::take_over(record, &mut descriptors.into_iter()).unwrap();
        assert_eq!(queues[1].name(), "handed0");
        queues[1].set_in_use(true).unwrap();
        assert_eq!(queues[1].mtu().unwrap(), 1500);
        drop(queues);
        // A child process of another test has copies of all descriptors until it executes its program.
        let started = Instant::now();
        while exists("handed0") {
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }
}
