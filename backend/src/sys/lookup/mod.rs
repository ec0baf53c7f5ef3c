//! A BPF program in a network namespace that assigns new connections and datagrams to given sockets, whatever port they
//! are for (BPF_PROG_TYPE_SK_LOOKUP).
//!
//! The kernel runs it after the lookup of connected sockets and before the lookup of listening sockets. The program has
//! forty instructions, so they are assembled here ([`program`]) and loaded with bpf(2). A loader for compiled objects
//! would need a compiler at build time and be larger than the program.
//!
//! Creating the program needs Linux 5.9, and CAP_BPF and CAP_NET_ADMIN of the initial user namespace. Before 5.11 it
//! also needs a limit on locked memory of at least 20 KiB. Once created it works without these capabilities, and it
//! ends when its last descriptor is closed. If it is not available, [`LookupError`] states why. The only other way to
//! receive on all ports is one socket for each port.

mod program;

use crate::config::handover::{Descriptors, Handover, HandoverError, next_of};
use crate::config::payload::{Payload, Sealed};
use program::{Instruction, MAX_SOCKETS, PORTS_SIZE};
use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};
use socket2::Socket;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// The reason why the program cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// A capability is missing.
    #[error("this needs CAP_NET_ADMIN and CAP_BPF when hawser starts, outside any user namespace")]
    NotPermitted,
    /// The kernel is too old, or built without BPF.
    #[error("this kernel has no sk_lookup programs, which need Linux 5.9 with CONFIG_BPF_SYSCALL")]
    NotSupported,
    /// The namespace already has such a program.
    #[error(
        "another program already directs the ports of this network namespace, perhaps a hawser \
         that serves another VM: stop it, or use another namespace"
    )]
    Taken,
    /// The program cannot be installed for another reason.
    #[error("{step}: {source}")]
    System {
        /// Operation that failed.
        step: &'static str,
        /// Error of the system call.
        source: io::Error,
    },
}

impl LookupError {
    /// Interprets the kernel's answer to `step`.
    fn new(step: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::NotPermitted,
            // An unknown type of program or map, or a kernel without bpf(2).
            Some(libc::EINVAL | libc::ENOSYS) => Self::NotSupported,
            _ => Self::System { step, source },
        }
    }
}

/// A socket that receives the traffic of ports: a listening TCP socket or a bound UDP socket.
#[derive(Clone, Copy, Debug)]
pub struct Taker<'a> {
    /// True for UDP; false for TCP.
    pub is_udp: bool,
    /// True for IPv6; false for IPv4.
    pub is_ipv6: bool,
    /// Socket that listens (TCP) or is bound (UDP).
    pub socket: &'a Socket,
}

/// The attached program. Dropping this value detaches it.
#[derive(Debug)]
pub struct SocketLookup {
    link: OwnedFd,
}

/// The data of a program apart from the descriptor of its link. It is empty, because the kernel keeps the ports and the
/// sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupRecord {}

impl Payload for LookupRecord {
    const KIND: &'static str = "socket-lookup";
    const VERSION: u32 = 1;
}

impl Handover for SocketLookup {
    type Record = Sealed<LookupRecord>;

    /// The sockets must stay open too, because the kernel forgets closed sockets.
    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
        (Sealed(LookupRecord {}), vec![self.link])
    }

    fn take_over(_: Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        let link = next_of("the program that assigns ports", descriptors)?;
        Ok(Self { link })
    }
}

impl SocketLookup {
    /// Another guard of the same program, which stays attached as long as one of them exists.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn share(&self) -> io::Result<Self> {
        let link = self.link.try_clone()?;
        Ok(Self { link })
    }

    /// Makes the calling thread's network namespace assign `ports` to `takers`, which contain one socket per transport
    /// and family. `ports` has one bit per port, lowest port first: 65,536 bits for TCP, then 65,536 for UDP.
    ///
    /// # Errors
    /// [`LookupError`]. In that case nothing has changed.
    pub fn attach(takers: &[Taker<'_>], ports: &[u64]) -> Result<Self, LookupError> {
        // This is checked first, because a system-call filter may end the process at bpf(2).
        if !may_load() {
            return Err(LookupError::NotPermitted);
        }
        let namespace = File::open("/proc/thread-self/ns/net").map_err(|source| LookupError::System {
            step: "cannot open the network namespace",
            source,
        })?;
        if attached(namespace.as_raw_fd())? > 0 {
            return Err(LookupError::Taken);
        }
        let bits = Map::new(BPF_MAP_TYPE_ARRAY, PORTS_SIZE, 1)?;
        let words: Vec<u8> = ports.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bits.set(0, &words)?;
        let sockets = Map::new(BPF_MAP_TYPE_SOCKMAP, FD_SIZE, MAX_SOCKETS)?;
        for taker in takers {
            let key = u32::from(taker.is_udp) * 2 + u32::from(taker.is_ipv6);
            sockets.set(key, &taker.socket.as_raw_fd().to_ne_bytes())?;
        }
        let program = load(&program::assemble(bits.fd.as_fd(), sockets.fd.as_fd()))?;
        let link = LinkCreate {
            program: program.as_raw_fd(),
            target: namespace.as_raw_fd(),
            attach_type: BPF_SK_LOOKUP,
            flags: 0,
        };
        let link = open(
            BPF_LINK_CREATE,
            link,
            "cannot attach the program to the network namespace",
        )?;
        Ok(Self { link })
    }
}

// Commands, types and attach points (include/uapi/linux/bpf.h) that the libc crate lacks.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;
/// Size of a descriptor as a map value, in bytes.
const FD_SIZE: u32 = 4;
/// Program name shown by `bpftool`.
const NAME: [u8; 16] = *b"hawser_ports\0\0\0\0";
/// Licence of the program. None of the helpers requires a particular one.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// A variant of `union bpf_attr`. Pointers take 64 bits on every architecture.
///
/// # Safety
/// Pointers in it must be valid for the command that uses them.
unsafe trait Attribute {}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}
// SAFETY: the structure contains no pointers.
unsafe impl Attribute for MapCreate {}

#[repr(C)]
struct MapUpdate {
    map: RawFd,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}
// SAFETY: created only in `set`, which keeps its pointers valid.
unsafe impl Attribute for MapUpdate {}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}
// SAFETY: created only in `load`, which keeps its pointers valid.
unsafe impl Attribute for ProgramLoad {}

#[repr(C)]
struct LinkCreate {
    program: RawFd,
    target: RawFd,
    attach_type: u32,
    flags: u32,
}
// SAFETY: the structure contains no pointers.
unsafe impl Attribute for LinkCreate {}

#[repr(C)]
struct ProgramQuery {
    target: RawFd,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    _padding: u32,
}
// SAFETY: the only pointer is `ids`, which is null with a count of zero.
unsafe impl Attribute for ProgramQuery {}

/// Calls bpf(2). The result is a descriptor for some commands and has no meaning for others.
fn bpf<A: Attribute>(command: libc::c_long, attribute: &mut A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes at most the given size, which is that of `attribute`; the
    // trait guarantees valid pointers in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<A>()) };
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// True if the calling thread has both capabilities, or CAP_SYS_ADMIN, which covered both before
/// Linux 5.8 and still does.
fn may_load() -> bool {
    let both = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    let enough = [both, CapabilitySet::SYS_ADMIN];
    capabilities(None).is_ok_and(|sets| enough.iter().any(|these| sets.effective.contains(*these)))
}

/// Runs a command that returns a descriptor.
fn open<A: Attribute>(command: libc::c_long, mut attribute: A, step: &'static str) -> Result<OwnedFd, LookupError> {
    let fd = bpf(command, &mut attribute).map_err(|source| LookupError::new(step, source))?;
    // SAFETY: the kernel has just created the descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Number of programs attached to the namespace.
fn attached(namespace: RawFd) -> Result<u32, LookupError> {
    let mut query = ProgramQuery {
        target: namespace,
        attach_type: BPF_SK_LOOKUP,
        query_flags: 0,
        attach_flags: 0,
        ids: 0,
        count: 0,
        _padding: 0,
    };
    match bpf(BPF_PROG_QUERY, &mut query) {
        Ok(_) => Ok(query.count),
        // The buffer is too small for all programs, but the count is still set.
        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => Ok(query.count),
        Err(source) => Err(LookupError::new("cannot query the network namespace", source)),
    }
}

/// A map with 32-bit keys.
struct Map {
    fd: OwnedFd,
    value_size: u32,
}

impl Map {
    fn new(map_type: u32, value_size: u32, max_entries: u32) -> Result<Self, LookupError> {
        let create = MapCreate {
            map_type,
            key_size: 4,
            value_size,
            max_entries,
            flags: 0,
        };
        let fd = open(BPF_MAP_CREATE, create, "cannot create a BPF map")?;
        Ok(Self { fd, value_size })
    }

    fn set(&self, key: u32, value: &[u8]) -> Result<(), LookupError> {
        assert_eq!(
            u32::try_from(value.len()),
            Ok(self.value_size),
            "the kernel reads that much"
        );
        let mut update = MapUpdate {
            map: self.fd.as_raw_fd(),
            _padding: 0,
            key: address(&raw const key),
            value: address(value.as_ptr()),
            flags: 0,
        };
        match bpf(BPF_MAP_UPDATE_ELEM, &mut update) {
            Ok(_) => Ok(()),
            Err(source) => Err(LookupError::new("cannot fill a BPF map", source)),
        }
    }
}

fn load(instructions: &[Instruction]) -> Result<OwnedFd, LookupError> {
    let program = ProgramLoad {
        program_type: BPF_PROG_TYPE_SK_LOOKUP,
        instruction_count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: address(instructions.as_ptr()),
        license: address(LICENSE.as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: NAME,
        interface: 0,
        expected_attach_type: BPF_SK_LOOKUP,
    };
    open(BPF_PROG_LOAD, program, "cannot load the program that assigns ports")
}

/// A pointer in the form that `union bpf_attr` contains.
fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

#[cfg(test)]
mod tests;
