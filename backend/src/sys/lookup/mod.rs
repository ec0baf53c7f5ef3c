//! A program in a network namespace that gives new connections and datagrams to sockets of
//! ours, whatever port they are for (BPF_PROG_TYPE_SK_LOOKUP).
//!
//! The kernel asks it before it looks for listening sockets, and after it has looked for
//! connected ones. It is forty instructions, so they are assembled here ([`program`]) and
//! loaded with bpf(2): a loader of compiled objects would be a compiler to build with, and
//! more code than it loads.
//!
//! Needs Linux 5.9, and CAP_BPF and CAP_NET_ADMIN of the initial user namespace while it is
//! made (before 5.11 also a limit on locked memory that holds 20 KiB). What is made works
//! without them, and ends with the last descriptor. Where it cannot be had [`LookupError`]
//! says why; there is no other way to get all ports without a socket for each.

mod program;

use program::{Instruction, MAX_SOCKETS, PORTS_SIZE};
use rustix::thread::{CapabilitySet, capabilities};
use socket2::Socket;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// Why there is no such program.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// A capability is missing.
    #[error("this needs CAP_NET_ADMIN and CAP_BPF when hawser starts, outside any user namespace")]
    NotPermitted,
    /// The kernel is too old, or made without BPF.
    #[error("this kernel has no sk_lookup programs, which need Linux 5.9 with CONFIG_BPF_SYSCALL")]
    NotSupported,
    /// Somebody else has one in the namespace.
    #[error(
        "another program already directs the ports of this network namespace, perhaps a hawser that serves another VM: end it, or use another namespace"
    )]
    Taken,
    /// Anything else.
    #[error("{step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl LookupError {
    /// What the kernel's answer to `step` means.
    fn new(step: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::NotPermitted,
            // An unknown type of program or map, or a kernel without bpf(2).
            Some(libc::EINVAL | libc::ENOSYS) => Self::NotSupported,
            _ => Self::System { step, source },
        }
    }
}

/// A socket that ports are given to: a TCP socket that listens, or a bound UDP socket.
#[derive(Clone, Copy, Debug)]
pub struct Taker<'a> {
    /// UDP; otherwise TCP.
    pub is_udp: bool,
    /// IPv6; otherwise IPv4.
    pub is_ipv6: bool,
    /// Listening (TCP) or bound (UDP).
    pub socket: &'a Socket,
}

/// The program, in force in a network namespace while this lives.
#[derive(Debug)]
pub struct SocketLookup {
    _link: OwnedFd,
}

impl SocketLookup {
    /// Makes the calling thread's network namespace hand `ports` to `takers`, one per transport
    /// and family. `ports` has one bit per port, the lowest first: 65,536 for TCP, then as many
    /// for UDP.
    ///
    /// # Errors
    /// [`LookupError`]; then nothing has changed.
    pub fn attach(takers: &[Taker<'_>], ports: &[u64]) -> Result<Self, LookupError> {
        // Asked first: where system calls are filtered, bpf(2) may end the process.
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
        Ok(Self { _link: link })
    }
}

// Commands, types and places (include/uapi/linux/bpf.h), which the libc crate leaves out.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;
/// Bytes of a descriptor, as the value of a map.
const FD_SIZE: u32 = 4;
/// Shown by `bpftool`.
const NAME: [u8; 16] = *b"hawser_ports\0\0\0\0";
/// None of the helpers asks for a licence.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// Parts of `union bpf_attr`. Pointers are 64 bits wide on every machine.
///
/// # Safety
/// Pointers in it must be valid for what its command does with them.
unsafe trait Attribute {}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}
// SAFETY: it has no pointers.
unsafe impl Attribute for MapCreate {}

#[repr(C)]
struct MapUpdate {
    map: RawFd,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}
// SAFETY: made in `set` alone, which vouches for its pointers.
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
// SAFETY: made in `load` alone, which vouches for its pointers.
unsafe impl Attribute for ProgramLoad {}

#[repr(C)]
struct LinkCreate {
    program: RawFd,
    target: RawFd,
    attach_type: u32,
    flags: u32,
}
// SAFETY: it has no pointers.
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
// SAFETY: the only pointer is `ids`, and it is null with a count of zero.
unsafe impl Attribute for ProgramQuery {}

/// bpf(2). What it returns is a descriptor for some commands, and nothing for others.
fn bpf<A: Attribute>(command: libc::c_long, attribute: &mut A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes no more than the size it is told, which is that of
    // `attribute`; pointers in it are vouched for by the trait.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<A>()) };
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// True if the calling thread has the capabilities, or the one that stood for both before
/// Linux 5.8 and still does.
fn may_load() -> bool {
    let both = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    let enough = [both, CapabilitySet::SYS_ADMIN];
    capabilities(None).is_ok_and(|sets| enough.iter().any(|these| sets.effective.contains(*these)))
}

/// A command that returns a descriptor.
fn open<A: Attribute>(command: libc::c_long, mut attribute: A, step: &'static str) -> Result<OwnedFd, LookupError> {
    let fd = bpf(command, &mut attribute).map_err(|source| LookupError::new(step, source))?;
    // SAFETY: the kernel has just made the descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How many programs the namespace has.
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
        // More than there is room for: the count is told all the same.
        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => Ok(query.count),
        Err(source) => Err(LookupError::new("cannot look at the network namespace", source)),
    }
}

/// A map from 32-bit numbers.
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
        let fd = open(BPF_MAP_CREATE, create, "cannot make a map for BPF")?;
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
            Err(source) => Err(LookupError::new("cannot fill a map for BPF", source)),
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
    open(BPF_PROG_LOAD, program, "cannot load the program that gives out ports")
}

/// A pointer as `union bpf_attr` holds it.
fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

#[cfg(test)]
mod tests;
