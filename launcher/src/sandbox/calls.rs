//! The system calls that each kind of thread may make.
//!
//! The lists contain the calls that the program made in its tests (`hack/trace-calls`, which records them in
//! traced.txt), and calls that it, or one of its libraries, makes in other cases. Each of the latter has its reason
//! beside it, which a test requires. A call that is in no list ends the process. A call in [`PROBES`] or [`NEWER`] is
//! refused instead, because libraries work without it.

use super::ThreadKind;
use hawser_backend::sys::stream::SIOCATMARK;
use hawser_backend::sys::userfault::{UFFDIO_API, UFFDIO_REGISTER, USERFAULTFD_IOC_NEW};
use libc::*;

/// A system call, and the arguments with which it is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Number of the call.
    pub number: c_long,
    /// Conditions, at least one of which must hold. If there are none, the call is always allowed.
    pub when: &'static [Argument],
    /// The reason why it is allowed although no trace contains it.
    #[cfg_attr(not(test), allow(dead_code, reason = "for readers, and the test that requires it"))]
    pub untraced: Option<&'static str>,
}

/// A condition on one argument: its bits in `mask` must equal `value`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    /// Index of the argument, starting at 0.
    pub index: u8,
    /// Bits to compare.
    pub mask: u32,
    /// Value that these bits must have.
    pub value: u32,
}

const fn bits(index: u8, mask: c_int, value: c_int) -> Argument {
    Argument {
        index,
        mask: mask.cast_unsigned(),
        value: value.cast_unsigned(),
    }
}

const fn is(index: u8, value: c_int) -> Argument {
    bits(index, -1, value)
}

/// An ioctl request, which is a `c_ulong` of 32 bits.
#[allow(clippy::cast_possible_truncation, reason = "requests have 32 bits (ioctl(2))")]
const fn request(value: c_ulong) -> Argument {
    Argument {
        index: 1,
        mask: u32::MAX,
        value: value as u32,
    }
}

/// Makes entries for calls that are allowed with any arguments.
macro_rules! always {
    ($($number:ident),* $(,)?) => {
        &[$(only($number, &[])),*]
    };
}

/// Makes entries for calls that no trace contains. Each group has its reason.
macro_rules! untraced {
    ($($why:literal: [$($number:ident),* $(,)?]),* $(,)?) => {
        &[$($(only($number, &[]).because($why)),*),*]
    };
}

/// An entry for a call that is allowed with some arguments only.
const fn only(number: c_long, when: &'static [Argument]) -> Call {
    Call {
        number,
        when,
        untraced: None,
    }
}

impl Call {
    /// Allows the call although no trace contains it.
    const fn because(mut self, why: &'static str) -> Self {
        self.untraced = Some(why);
        self
    }
}

/// For every thread: memory, waiting, the clock, its own exit, and descriptors that are already open.
const EVERY: &[Call] = always![
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_close,
    SYS_futex,
    SYS_ppoll,
    SYS_epoll_ctl,
    SYS_epoll_create1,
    SYS_eventfd2,
    SYS_munmap,
    SYS_madvise,
    SYS_getrandom,
    SYS_getpid,
    SYS_gettid,
    SYS_sched_getaffinity,
    SYS_rt_sigreturn,
    SYS_rt_sigprocmask,
    SYS_sigaltstack,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_exit,
    SYS_exit_group,
];

const EVERY_UNTRACED: &[Call] = untraced![
    "the allocator, for large allocations": [SYS_mremap, SYS_brk],
    "the clock and the processor's number, if the kernel does not provide them in the vDSO":
        [SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_getcpu],
    "short waits, and waits that continue after a signal":
        [SYS_nanosleep, SYS_clock_nanosleep, SYS_sched_yield, SYS_restart_syscall],
    "epoll_wait(2) on processors without it": [SYS_epoll_pwait],
    "file status in some versions of the C library": [SYS_fstat, SYS_lseek],
];

#[cfg(target_arch = "x86_64")]
const EVERY_OLD: &[Call] = always![SYS_poll, SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const EVERY_OLD: &[Call] = &[];

/// For every thread, with certain arguments only.
const EVERY_CHECKED: &[Call] = &[
    // Writable memory never becomes executable.
    only(SYS_mmap, &[bits(2, PROT_EXEC, 0)]),
    only(SYS_mprotect, &[bits(2, PROT_EXEC, 0)]),
    only(SYS_prctl, &[is(0, PR_SET_NAME)]),
    only(SYS_prctl, &[is(0, PR_GET_NAME)]).because("to name the thread that made a forbidden call"),
    only(SYS_prctl, &[is(0, PR_SET_VMA)]).because("newer C libraries name memory regions"),
    only(SYS_fcntl, &[is(1, F_DUPFD_CLOEXEC)]),
    only(SYS_fcntl, &[is(1, F_GETFL), is(1, F_SETFL)]).because("flows that another process has saved"),
    only(SYS_fcntl, &[is(1, F_GETFD)]).because("debug builds check descriptors that they close"),
    only(SYS_fcntl, &[is(1, F_SETFD)]).because("descriptors received without CLOEXEC get it"),
];

/// For a worker's established sockets.
const TALKING: &[Call] = always![
    SYS_sendto,
    SYS_sendmsg,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_shutdown,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_setsockopt,
];

/// For sending and receiving many datagrams at once.
const BATCHES: &[Call] = always![SYS_sendmmsg, SYS_recvmmsg];

/// For opening sockets, both to listen and to connect.
const MEETING: &[Call] = always![
    SYS_bind,
    SYS_connect,
    SYS_listen,
    SYS_sendto,
    SYS_recvfrom,
    SYS_getsockopt,
    SYS_setsockopt,
];

/// For a worker: internet sockets of its flows, and queues of its device.
const WORKER: &[Call] = &[
    only(SYS_socket, &[is(0, AF_INET), is(0, AF_INET6)]),
    only(SYS_bind, &[]),
    only(SYS_connect, &[]),
    only(SYS_accept4, &[]),
    only(
        SYS_ioctl,
        &[request(FIONBIO), request(TUNSETOFFLOAD), request(TUNSETQUEUE)],
    ),
];

const WORKER_UNTRACED: &[Call] = &[
    only(SYS_ioctl, &[request(FIONREAD), request(SIOCATMARK)]).because("position of an urgent byte"),
    only(SYS_getpeername, &[]).because("a flow that lost its local address"),
];

/// For starting threads of this process, but no new processes.
const THREADS: &[Call] = &[only(SYS_clone, &[bits(0, CLONE_THREAD, CLONE_THREAD)])];

/// For the front ends of a port: Unix sockets, and the file of the listening one.
const FRONT_END: &[Call] = &[
    only(SYS_socket, &[is(0, AF_UNIX)]),
    only(SYS_connect, &[]),
    only(SYS_accept4, &[]),
    only(SYS_sendto, &[]),
    only(SYS_sendmsg, &[]),
    only(SYS_recvmsg, &[]),
    only(SYS_ioctl, &[request(FIONBIO)]),
    only(SYS_statx, &[]),
];

const FRONT_END_UNTRACED: &[Call] = untraced![
    "a kernel without statx(2)": [SYS_newfstatat],
    "removing a file on processors without unlink(2)": [SYS_unlinkat],
    "bytes without descriptors, and socket queries": [SYS_recvfrom, SYS_getsockopt, SYS_setsockopt],
];

/// For guest memory whose pages come later.
const POSTCOPY: &[Call] = &[only(
    SYS_ioctl,
    &[
        request(USERFAULTFD_IOC_NEW),
        request(UFFDIO_API),
        request(UFFDIO_REGISTER),
    ],
)
.because("no traced guest is migrated by post-copy")];

#[cfg(target_arch = "x86_64")]
const FRONT_END_OLD: &[Call] = always![SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const FRONT_END_OLD: &[Call] = &[];

/// For links of the segment. They are watched through open sockets, and a link that comes back is opened again.
const LINKS: &[Call] = &[
    only(SYS_sendto, &[]),
    only(SYS_recvfrom, &[]),
    only(SYS_openat, &[]),
    only(SYS_ioctl, OPENING),
];

/// Arguments for opening a queue of a TUN or TAP device.
const OPENING: &[Argument] = &[
    request(FIONBIO),
    request(TUNSETIFF),
    request(TUNGETIFF),
    request(TUNSETVNETHDRSZ),
    request(TUNSETVNETLE),
];

/// For a queue that another program opened.
const ADOPTED: Call = only(SYS_ioctl, &[request(TUNSETOFFLOAD), request(TUNSETQUEUE)])
    .because("a device of another program may have offloads and queues to set");

const LINKS_UNTRACED: &[Call] = &[
    ADOPTED,
    only(
        SYS_ioctl,
        &[request(SIOCGIFMTU), request(SIOCGIFINDEX), request(SIOCGIFFLAGS)],
    )
    .because("properties of a device that came back"),
    only(SYS_socket, &[is(0, AF_INET)]).because("querying that device"),
    only(SYS_newfstatat, &[]).because("a macvtap that came back: checking its device file"),
    only(SYS_statx, &[]).because("as newfstatat"),
    only(SYS_mknodat, &[]).because("a macvtap that came back: opening its device file"),
    only(SYS_unlinkat, &[]).because("as mknodat"),
];

/// For resolv.conf, which is read when the kernel reports a change.
const NAMES: &[Call] = &[
    only(SYS_inotify_add_watch, &[]).because("no traced test lasts until resolv.conf changes"),
    only(SYS_openat, &[bits(2, O_ACCMODE, O_RDONLY)]).because("as inotify_add_watch"),
    only(SYS_newfstatat, &[]).because("as inotify_add_watch: reading the file"),
    only(SYS_statx, &[]).because("as newfstatat"),
    only(SYS_readlinkat, &[]).because("as inotify_add_watch: resolving the link resolv.conf"),
    only(SYS_getcwd, &[]).because("as readlinkat"),
];
#[cfg(target_arch = "x86_64")]
const NAMES_OLD: &[Call] = untraced!["as readlinkat": [SYS_readlink, SYS_lstat]];
#[cfg(not(target_arch = "x86_64"))]
const NAMES_OLD: &[Call] = &[];

/// For signals, which arrive as bytes of a socket pair.
const SIGNALS: &[Call] = &[
    only(SYS_recvfrom, &[]),
    only(SYS_sendto, &[]).because("a signal arrives meanwhile"),
    only(SYS_setsockopt, &[]).because("time limits of the line to the parent of a VMM"),
];

/// For the parent of a VMM: its children, the line to the process that serves, and the service manager.
const VMM_PARENT: &[Call] = untraced![
    "parents of VMMs are not traced": [SYS_wait4, SYS_waitid, SYS_pidfd_send_signal, SYS_connect, SYS_sendto, SYS_sendmsg,
        SYS_recvfrom, SYS_recvmsg, SYS_getsockopt, SYS_setsockopt],
];

const VMM_PARENT_CHECKED: &[Call] = &[only(SYS_socket, &[is(0, AF_UNIX)]).because("the service manager's socket")];

/// For the API: its clients, the agent in the guest, and added forwards.
const API: &[Call] = &[
    only(SYS_socket, &[is(0, AF_UNIX), is(0, AF_INET), is(0, AF_INET6)]),
    only(SYS_accept4, &[]),
    only(SYS_shutdown, &[]),
    // This writes to the log's destination.
    only(SYS_ioctl, &[request(TCGETS)]),
];

/// For requests, which have a lower priority than packets.
const NICE: &[Call] = &[
    only(SYS_getpriority, &[is(0, PRIO_PROCESS.cast_signed())]),
    only(SYS_setpriority, &[is(0, PRIO_PROCESS.cast_signed())]),
];

/// For a thread that starts another thread with fewer privileges.
const CONFINING: &[Call] = &[
    only(
        SYS_prctl,
        &[
            is(0, PR_SET_NO_NEW_PRIVS),
            is(0, PR_CAP_AMBIENT),
            is(0, PR_CAPBSET_DROP),
            is(0, PR_CAPBSET_READ),
        ],
    ),
    only(SYS_prctl, &[is(0, PR_SET_KEEPCAPS)]).because("a later thread switches to --user"),
    only(SYS_prctl, &[is(0, PR_GET_SECCOMP)]).because("checking for filters"),
    only(SYS_geteuid, &[]).because("a later thread switches to --user"),
    only(SYS_capget, &[]),
    only(SYS_capset, &[]),
    only(SYS_seccomp, &[]),
    only(SYS_landlock_create_ruleset, &[]),
    only(SYS_landlock_restrict_self, &[]),
];

/// For the connections of a guest that migrates: the channel, loopback sockets, and sockets that stay.
const MIGRATION: &[Call] = untraced![
    "migrations are not traced": [SYS_accept4, SYS_socket, SYS_bind, SYS_connect, SYS_listen, SYS_sendto, SYS_sendmmsg,
        SYS_recvfrom, SYS_recvmmsg, SYS_getsockopt, SYS_setsockopt, SYS_getsockname, SYS_getpeername, SYS_shutdown],
];

/// For the thread that starts the channel of a guest that leaves: what the channel's thread inherits from it, and needs for
/// the sockets that stay.
const LEAVING: &[Call] = untraced![
    "migrations are not traced": [SYS_sendto, SYS_sendmmsg, SYS_recvfrom, SYS_recvmmsg, SYS_getsockopt, SYS_setsockopt,
        SYS_getsockname, SYS_getpeername, SYS_shutdown],
];

/// For everything else: the operator's requests, ports that are plugged and unplugged, and links that are restored.
const LAUNCHER: &[Call] = &[
    only(
        SYS_socket,
        &[is(0, AF_UNIX), is(0, AF_NETLINK), is(0, AF_INET), is(0, AF_INET6)],
    ),
    only(SYS_ioctl, OPENING),
    only(SYS_ioctl, &[request(SIOCGIFINDEX)]),
    // These are calls of SQLite.
    only(SYS_fcntl, &[is(1, F_SETLK)]),
];

const LAUNCHER_CHECKED_UNTRACED: &[Call] = &[
    only(SYS_ioctl, &[request(TCGETS), request(TIOCGWINSZ)]).because("the width of a terminal"),
    ADOPTED,
    only(
        SYS_ioctl,
        &[request(SIOCGIFMTU), request(SIOCGIFNAME), request(SIOCGIFFLAGS)],
    )
    .because("properties of a device of another program"),
    only(SYS_getpriority, &[is(0, PRIO_PROCESS.cast_signed())]).because("the API's thread has this list too"),
    only(SYS_setpriority, &[is(0, PRIO_PROCESS.cast_signed())]).because("as getpriority"),
    only(SYS_fcntl, &[is(1, F_GETLK), is(1, F_SETLKW), is(1, F_OFD_SETLK)])
        .because("SQLite, after a process died during a change, or with other waiting processes"),
];

const LAUNCHER_CALLS: &[Call] = always![
    SYS_recvmsg,
    SYS_getsockname,
    SYS_openat,
    SYS_newfstatat,
    SYS_statx,
    SYS_fchown,
    SYS_fsync,
    SYS_ftruncate,
    SYS_pread64,
    SYS_pwrite64,
    SYS_prlimit64,
    SYS_uname,
    SYS_landlock_add_rule,
];

const LAUNCHER_UNTRACED: &[Call] = untraced![
    "threads that it starts, which cannot have more: the API's, and those of NICs that are plugged":
        [SYS_accept4, SYS_shutdown, SYS_sendmmsg, SYS_recvmmsg, SYS_inotify_add_watch],
    "SQLite, if it finds the journal of a process that died, or files with other permissions":
        [SYS_fdatasync, SYS_fchmod, SYS_getcwd, SYS_readlinkat, SYS_statfs, SYS_fstatfs, SYS_faccessat,
        SYS_faccessat2, SYS_utimensat, SYS_getuid, SYS_getgid, SYS_getegid],
    "journal of NICs that are plugged later, and of links that are restored": [SYS_flock, SYS_mkdirat, SYS_getdents64,
        SYS_unlinkat, SYS_renameat, SYS_renameat2],
    "a macvtap that is plugged later: its device file": [SYS_mknodat],
    "modes of sockets, on processors without chmod(2)": [SYS_fchmodat],
    "groups of the sockets of NICs that are plugged later": [SYS_fchownat],
    "memory and processors, in some versions of the C library": [SYS_sysinfo, SYS_getrusage],
    "socket pairs by which libraries wake threads": [SYS_socketpair, SYS_pipe2],
    "bytes and descriptors on Unix sockets": [SYS_sendmsg, SYS_getpeername],
    "leaving the standard streams, when a process in the background serves": [SYS_dup3],
];

#[cfg(target_arch = "x86_64")]
const LAUNCHER_OLD: &[Call] = always![SYS_unlink, SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const LAUNCHER_OLD: &[Call] = &[];

#[cfg(target_arch = "x86_64")]
const LAUNCHER_OLD_UNTRACED: &[Call] = untraced![
    "newer names of listed calls, used by SQLite and some versions of the C library": [SYS_open, SYS_stat, SYS_lstat, SYS_access,
        SYS_readlink, SYS_mkdir, SYS_rmdir, SYS_rename, SYS_dup2],
];
#[cfg(not(target_arch = "x86_64"))]
const LAUNCHER_OLD_UNTRACED: &[Call] = &[];

/// The calls that a kind of thread may make. A call that is in several lists is allowed if one of them allows it.
pub(super) fn allowed(kind: ThreadKind) -> Vec<&'static [Call]> {
    EVERY_KIND.iter().chain(own(kind)).copied().collect()
}

/// Lists that apply to every kind of thread.
pub(super) const EVERY_KIND: &[&[Call]] = &[EVERY, EVERY_UNTRACED, EVERY_OLD, EVERY_CHECKED];

/// Additional lists for a kind of thread.
pub(super) fn own(kind: ThreadKind) -> &'static [&'static [Call]] {
    match kind {
        ThreadKind::Worker => &[WORKER, WORKER_UNTRACED, TALKING, BATCHES],
        ThreadKind::FrontEnd => &[FRONT_END, FRONT_END_UNTRACED, FRONT_END_OLD, POSTCOPY],
        ThreadKind::Links => &[LINKS, LINKS_UNTRACED],
        ThreadKind::Names => &[NAMES, NAMES_OLD],
        ThreadKind::Signals => &[SIGNALS],
        ThreadKind::VmmParent => &[VMM_PARENT, VMM_PARENT_CHECKED],
        ThreadKind::Api => &[API, MEETING, NICE, THREADS, CONFINING, LEAVING],
        ThreadKind::Capture => &[],
        ThreadKind::Migration => &[MIGRATION],
        ThreadKind::Launcher => &[
            LAUNCHER,
            LAUNCHER_CHECKED_UNTRACED,
            LAUNCHER_CALLS,
            MEETING,
            LAUNCHER_UNTRACED,
            LAUNCHER_OLD,
            LAUNCHER_OLD_UNTRACED,
            POSTCOPY,
            THREADS,
            CONFINING,
        ],
    }
}

/// Calls that libraries try but can work without or replace by older calls. They fail as if the kernel lacked them.
/// They concern files and limits, for threads whose list has none of these, and `clone3`, whose flags are in memory,
/// where a filter cannot see them.
pub(super) const PROBES: &[c_long] = &[
    SYS_openat,
    SYS_newfstatat,
    SYS_statx,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_getcwd,
    SYS_uname,
    SYS_sysinfo,
    SYS_prlimit64,
    SYS_getrusage,
    SYS_setpriority,
    SYS_sched_setscheduler,
    SYS_clone3,
    SYS_openat2,
    SYS_close_range,
];

/// Numbers of calls that this program does not use and may not know. A newer C library tries them first and then uses
/// an older call.
pub(super) const NEWER: std::ops::RangeInclusive<c_long> = SYS_futex_waitv..=600;
