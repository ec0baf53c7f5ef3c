//! The plain reference: a TAP device, one system call per frame, without optimisations.
//!
//! It uses hawser's own vhost-user server, worker and rings, so the only difference from masquerade is the mode. Frames
//! of the guest are written to the TAP device unchanged, with their offloads. Frames that the kernel routes there are
//! read directly into guest memory.

use hawser_backend::counters::{Counters, DropReason};
use hawser_backend::frame::{GuestBurst, GuestCaps, GuestFrame, GuestSink, Layout, NoRoom, Offload};
use hawser_backend::mode::Mode;
use hawser_backend::poller::{Interest, Owner, Poller, Readiness, Token};
use hawser_backend::time::Instant;
use hawser_backend::virtio::features::Features;
use hawser_backend::virtio::net_header::{self, HEADER_LEN, LEGACY_HEADER_LEN};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Length of the Ethernet header in bytes. It is read into process memory to check the offload.
const ETHERNET: usize = 14;
/// Number of frames read before other work has its turn.
const FRAMES_PER_TURN: usize = 64;
/// Length of the largest IP packet in bytes.
const LARGEST: usize = 65_535;
/// Minimum room for a read. It is a GSO frame of Linux, and slightly less than what a driver without MRG_RXBUF posts.
const ENOUGH: usize = 65_200;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_F_DATA_VALID
const DATA_VALID: u8 = 2;

/// TUN_F_* (linux/if_tun.h)
const OFFLOAD_CSUM: u32 = 0x01;
const OFFLOAD_TSO4: u32 = 0x02;
const OFFLOAD_TSO6: u32 = 0x04;
const OFFLOAD_TSO_ECN: u32 = 0x08;
const OFFLOAD_USO4: u32 = 0x20;
const OFFLOAD_USO6: u32 = 0x40;

/// A TAP device.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// True if the kernel may leave offload work to the guest.
    offloads: bool,
}

impl Tap {
    /// Creates a TAP device with this `name` in the current network namespace. It is removed on drop.
    ///
    /// # Errors
    /// /dev/net/tun or a privilege is missing, or the name is in use.
    pub fn new(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: all zeroes is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *place = libc::c_char::from_ne_bytes([byte]);
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        let header = libc::c_int::try_from(HEADER_LEN).map_err(io::Error::other)?;
        let fd = file.as_raw_fd();
        // SAFETY: each request gets the argument that its documentation requires, which lives for the call.
        unsafe {
            check(libc::ioctl(fd, libc::TUNSETIFF, &raw mut request))?;
            check(libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const header))?;
            check(libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK))?;
        }
        Ok(Self { file, offloads: true })
    }

    /// Never sets the guest's offloads (TUNSETOFFLOAD), so each frame is a segment of the MTU.
    #[must_use]
    pub fn without_offloads(self) -> Self {
        Self {
            offloads: false,
            ..self
        }
    }

    /// Sets the offloads that the kernel may leave to the guest.
    fn set_offloads(&self, caps: GuestCaps) -> io::Result<()> {
        if !self.offloads {
            return Ok(());
        }
        let mut flags = 0;
        for (taken, flag) in [
            (caps.checksum, OFFLOAD_CSUM),
            (caps.tso4, OFFLOAD_TSO4),
            (caps.tso6, OFFLOAD_TSO6),
            (caps.ecn && caps.tso4, OFFLOAD_TSO_ECN),
            (caps.uso4 && caps.uso6, OFFLOAD_USO4 | OFFLOAD_USO6),
        ] {
            flags |= if taken { flag } else { 0 };
        }
        // SAFETY: TUNSETOFFLOAD takes a plain number.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A mode that moves frames to the device and back, one at a time.
pub struct TapMode {
    tap: Tap,
    counters: Arc<Counters>,
    /// iovecs of one call.
    slices: Vec<libc::iovec>,
    /// True if the device may have a frame.
    readable: bool,
}

impl std::fmt::Debug for TapMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TapMode")
            .field("readable", &self.readable)
            .finish_non_exhaustive()
    }
}

// SAFETY: the addresses in `slices` are used within one call only.
unsafe impl Send for TapMode {}

impl TapMode {
    /// A mode that moves frames between the guest and `tap`.
    ///
    /// # Errors
    /// The device cannot be watched.
    pub fn new(tap: Tap, poller: &Poller, counters: Arc<Counters>) -> io::Result<Self> {
        poller.add(&tap.file, Token::new(Owner::of_mode(1), 0), Interest::ReadEdge)?;
        Ok(Self {
            tap,
            counters,
            slices: Vec::new(),
            readable: false,
        })
    }

    fn write(&mut self, frame: &GuestFrame<'_>) {
        let caps = GuestCaps {
            checksum: true,
            ..GuestCaps::default()
        };
        let mut header = net_header::encode(frame.offload, frame.head, 0, caps);
        self.slices.clear();
        self.slices.push(iovec(header.as_mut_ptr(), header.len()));
        // SAFETY: GuestSlice has the layout of iovec.
        let payload: &[libc::iovec] =
            unsafe { std::slice::from_raw_parts(frame.slices.as_ptr().cast(), frame.slices.len()) };
        self.slices.extend_from_slice(payload);
        let count = libc::c_int::try_from(self.slices.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the slices are readable as long as `frame` and `header` live.
        let written = unsafe { libc::writev(self.tap.file.as_raw_fd(), self.slices.as_ptr(), count) };
        if written < 0 {
            self.counters.count_drop(DropReason::SocketError);
        }
    }

    fn read_all(&mut self, sink: &mut dyn GuestSink) {
        for _ in 0..FRAMES_PER_TURN {
            if !self.readable || self.read(sink).is_err() {
                return;
            }
        }
    }

    /// Reads one frame into guest memory, if there is one.
    fn read(&mut self, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        sink.reserve(Layout {
            header: ETHERNET,
            payload: LARGEST,
            count: 1,
        })?;
        let room: usize = sink.payload_all().iter().map(|slice| slice.len()).sum();
        if room < ENOUGH {
            // A frame that does not fit would be truncated. This is called again, because there is a backlog.
            return Err(NoRoom);
        }
        let (mut header, mut ethernet) = ([0; HEADER_LEN], [0; ETHERNET]);
        self.slices.clear();
        self.slices.push(iovec(header.as_mut_ptr(), header.len()));
        self.slices.push(iovec(ethernet.as_mut_ptr(), ethernet.len()));
        let room = sink.payload_all();
        self.slices
            .extend(room.iter().map(|slice| iovec(slice.as_ptr(), slice.len())));
        let count = libc::c_int::try_from(self.slices.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the slices are writable: two belong to this mode, and the others to the reservation.
        let read = unsafe { libc::readv(self.tap.file.as_raw_fd(), self.slices.as_ptr(), count) };
        let Ok(read) = usize::try_from(read) else {
            self.readable = false;
            return Ok(());
        };
        let len = read.saturating_sub(HEADER_LEN + ETHERNET);
        sink.commit(&[len], &mut |_, _, head| {
            head.copy_from_slice(&ethernet);
            offload(header)
        });
        Ok(())
    }
}

fn iovec(at: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: at.cast(),
        iov_len: len,
    }
}

/// The offload that the kernel left undone. The kernel is trusted, so nothing is checked against the frame.
fn offload(header: [u8; HEADER_LEN]) -> Offload {
    if header[0] & NEEDS_CSUM == 0 {
        return if header[0] & DATA_VALID != 0 {
            Offload::VALID
        } else {
            Offload::NONE
        };
    }
    let legacy: [u8; LEGACY_HEADER_LEN] = std::array::from_fn(|i| header[i]);
    let gso_ipv6 = header[1] & !0x80 == 4;
    // The head contains every offset, and the given protocol.
    let mut head = [0; 512];
    head[12..14].copy_from_slice(if gso_ipv6 { &[0x86, 0xdd] } else { &[8, 0] });
    net_header::decode(&legacy, &head, Features(u64::MAX)).unwrap_or(Offload::NONE)
}

impl Mode for TapMode {
    fn on_burst(&mut self, _: Instant, burst: &GuestBurst<'_>, _: &mut dyn GuestSink) {
        for frame in burst {
            self.write(frame);
        }
    }

    fn on_event(&mut self, _: Instant, _: Token, _: Readiness, sink: &mut dyn GuestSink) {
        self.readable = true;
        self.read_all(sink);
    }

    fn on_room(&mut self, _: Instant, sink: &mut dyn GuestSink) {
        self.read_all(sink);
    }

    fn on_timer(&mut self, _: Instant, _: &mut dyn GuestSink) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn has_backlog(&self) -> bool {
        self.readable
    }

    fn on_link_up(&mut self, _: Instant, sink: &mut dyn GuestSink) {
        // A kernel that refuses an offload does the work itself.
        if self.tap.set_offloads(sink.caps()).is_err() {
            let without_uso = GuestCaps {
                uso4: false,
                uso6: false,
                ..sink.caps()
            };
            let _ = self.tap.set_offloads(without_uso);
        }
    }

    fn on_link_down(&mut self, _: Instant) {}
}
