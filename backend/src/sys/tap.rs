//! Queues of a TAP or macvtap device: one descriptor per queue, a frame per read or write,
//! each behind a `virtio_net_hdr` of [`HEADER_LEN`] bytes.
//!
//! On an older kernel: USO is missing before Linux 6.2, and then the kernel segments UDP
//! itself ([`TapQueue::set_offloads`] asks again without). Everything else is older than
//! what io_uring and SO_PEEK_OFF need elsewhere.

use crate::frame::{GuestCaps, GuestSlice, GuestSliceMut};
use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use virtio_bindings::virtio_net::virtio_net_hdr_mrg_rxbuf;

/// Bytes of the virtio header in front of each frame.
pub const HEADER_LEN: usize = size_of::<virtio_net_hdr_mrg_rxbuf>();

/// Where TAP devices are opened.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// One queue of a device, attached: non-blocking, without packet information, with the
/// virtio header in front of each frame.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
    name: CString,
    /// The device may have several queues.
    several: bool,
}

/// Why a device is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No /dev/net/tun, or no right to it.
    #[error("cannot open {TUN_DEVICE}: {0}; load the module tun, and let this process read and write the device")]
    Open(#[source] io::Error),
    /// A name no interface can have.
    #[error("'{0}' is not an interface name: give 1 to 15 bytes")]
    Name(String),
    /// The device does not let itself be attached to.
    #[error("cannot attach to {name}: {source}; {remedy}")]
    Attach {
        /// The device.
        name: String,
        /// What the kernel says.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The descriptor is not a queue of a TAP device.
    #[error("the descriptor is not a queue of a TAP or macvtap device: {0}")]
    NotTap(#[source] io::Error),
    /// A queue with other properties than those needed.
    #[error("{name} is not as needed: {what}")]
    Unfit {
        /// The device.
        name: String,
        /// What is wrong, and what to do.
        what: &'static str,
    },
}

impl TapQueue {
    /// Attaches `count` queues to the TAP device `name`, which is made if there is none; one
    /// that was made goes with its last queue.
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
            // A device made for several queues has to be asked for as one.
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

    /// Takes over a descriptor that somebody else opened: a TAP queue, or /dev/tapN of a
    /// macvtap or ipvtap link.
    ///
    /// # Errors
    /// [`TapError::NotTap`], [`TapError::Unfit`]
    pub fn adopt(fd: OwnedFd) -> Result<Self, TapError> {
        let mut request = empty_request();
        // SAFETY: TUNGETIFF fills an ifreq, which lives for the call. On a descriptor of
        // another kind the number means nothing and gives an error.
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

    /// Name of the device when the queue was attached.
    pub fn name(&self) -> String {
        text(&self.name)
    }

    /// MTU of the device, in bytes of IP packet. It is asked for by name, in the network
    /// namespace of the calling thread.
    ///
    /// # Errors
    /// What ioctl(2) says: ENODEV if the device is not in this namespace.
    pub fn mtu(&self) -> io::Result<u16> {
        let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
        let mut request = named_request(&self.name);
        // SAFETY: SIOCGIFMTU reads and writes an ifreq, which lives for the call.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) })?;
        // SAFETY: the kernel has just written the MTU, and any bits are a valid int.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Has the kernel send flows to this queue, or to the others only. Without meaning for a
    /// device of one queue.
    ///
    /// # Errors
    /// What ioctl(2) says; none if nothing changes.
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

    /// Has the kernel leave to us what a guest with `caps` takes, and do the rest itself.
    /// Holds for the whole device. Returns what it does leave: USO is missing from older
    /// kernels.
    ///
    /// # Errors
    /// What ioctl(2) says; EBADFD after the device has gone.
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
            // The kernel takes both or none.
            (caps.uso4 && caps.uso6, libc::TUN_F_USO4 | libc::TUN_F_USO6),
        ] {
            flags |= if taken { flag } else { 0 };
        }
        // SAFETY: TUNSETOFFLOAD takes a plain number.
        check(unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    }

    /// Writes one frame, virtio header first.
    ///
    /// # Errors
    /// What writev(2) says: EIO while the device is down, EBADFD after it has gone.
    pub fn write(&self, frame: &[GuestSlice<'_>]) -> io::Result<usize> {
        let n = if let [whole] = frame {
            // The kernel takes this faster than a list of one.
            // SAFETY: GuestSlice promises readable memory.
            unsafe { libc::write(self.as_raw_fd(), whole.as_ptr().cast(), whole.len()) }
        } else {
            let count = libc::c_int::try_from(frame.len()).unwrap_or(libc::c_int::MAX);
            // SAFETY: GuestSlice has the layout of iovec, and each promises readable memory.
            unsafe { libc::writev(self.as_raw_fd(), frame.as_ptr().cast(), count) }
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Reads one frame, virtio header first, and returns its length with that. What does not
    /// fit is lost.
    ///
    /// # Errors
    /// What readv(2) says: EAGAIN if there is none, EBADFD after the device has gone.
    pub fn read(&self, room: &mut [GuestSliceMut<'_>]) -> io::Result<usize> {
        let count = libc::c_int::try_from(room.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: GuestSliceMut has the layout of iovec, and each promises writable memory.
        let n = unsafe { libc::readv(self.as_raw_fd(), room.as_ptr().cast(), count) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
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
        Some(libc::EBUSY) => "it is in use by another process: end that process, or name another device",
        Some(libc::EPERM) => {
            "it is another user's: make it for the one of this process (ip tuntap add … user …), or give that \
             CAP_NET_ADMIN"
        }
        Some(libc::EINVAL) if several => {
            "make it for several queues (ip tuntap add … multi_queue), or ask for one pair"
        }
        Some(libc::EINVAL) => "it is no TAP device: name one, or give hawser one to make",
        _ => "see that it is a TAP device of this network namespace",
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
