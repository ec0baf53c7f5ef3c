//! What each kind of thread may ask of the kernel.
//!
//! The lists are what the program was seen to call in its tests (`hack/trace-calls`, which keeps
//! that in traced.txt), widened to what it, or a library below it, calls in cases the tests do
//! not meet: those have the reason beside them, and the tests ask for it. A call that is in no
//! list ends the process; one in [`PROBES`] or [`NEWER`] is refused: libraries know how to go on
//! without those.

use super::ThreadKind;
use hawser_backend::sys::stream::SIOCATMARK;
use libc::*;

/// A call, and the arguments it is allowed with.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub number: c_long,
    /// One of these must hold; none: it is allowed always.
    pub when: &'static [Argument],
    /// Why it is allowed although no trace shows it.
    #[cfg_attr(not(test), allow(dead_code, reason = "for readers, and the test that asks for it"))]
    pub untraced: Option<&'static str>,
}

/// A condition on one argument: `value` is what its bits in `mask` must be.
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    /// Which, from 0.
    pub index: u8,
    /// The bits that matter.
    pub mask: u32,
    /// What they must be.
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

/// An ioctl's request, which is a `c_ulong` of 32 bits.
#[allow(clippy::cast_possible_truncation, reason = "requests have 32 bits (ioctl(2))")]
const fn request(value: c_ulong) -> Argument {
    Argument {
        index: 1,
        mask: u32::MAX,
        value: value as u32,
    }
}

/// Calls that are allowed whatever their arguments.
macro_rules! always {
    ($($number:ident),* $(,)?) => {
        &[$(only($number, &[])),*]
    };
}

/// The same for calls that no trace shows, each group with the reason why they are allowed.
macro_rules! untraced {
    ($($why:literal: [$($number:ident),* $(,)?]),* $(,)?) => {
        &[$($(only($number, &[]).because($why)),*),*]
    };
}

/// A call that is allowed with some arguments.
const fn only(number: c_long, when: &'static [Argument]) -> Call {
    Call {
        number,
        when,
        untraced: None,
    }
}

impl Call {
    /// No trace shows it, and it is allowed all the same.
    const fn because(mut self, why: &'static str) -> Self {
        self.untraced = Some(why);
        self
    }
}

/// Every thread: memory, waiting, the clock, its own end, and descriptors it has already.
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
    "the allocator, when much is asked for": [SYS_mremap, SYS_brk],
    "the clock and the processor's number, where the kernel does not show them in user memory":
        [SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_getcpu],
    "waits that are short, or go on after a signal":
        [SYS_nanosleep, SYS_clock_nanosleep, SYS_sched_yield, SYS_restart_syscall],
    "epoll_wait(2) where processors have no other": [SYS_epoll_pwait],
    "files that are open, by some versions of the C library": [SYS_fstat, SYS_lseek],
];

#[cfg(target_arch = "x86_64")]
const EVERY_OLD: &[Call] = always![SYS_poll, SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const EVERY_OLD: &[Call] = &[];

/// Every thread, with some arguments only.
const EVERY_CHECKED: &[Call] = &[
    // Nothing that can be written becomes code.
    only(SYS_mmap, &[bits(2, PROT_EXEC, 0)]),
    only(SYS_mprotect, &[bits(2, PROT_EXEC, 0)]),
    only(SYS_prctl, &[is(0, PR_SET_NAME)]),
    only(SYS_prctl, &[is(0, PR_GET_NAME)]).because("to name the thread that made a forbidden call"),
    only(SYS_prctl, &[is(0, PR_SET_VMA)]).because("newer C libraries give names to memory"),
    only(SYS_fcntl, &[is(1, F_GETFL), is(1, F_SETFL), is(1, F_DUPFD_CLOEXEC)]),
    only(SYS_fcntl, &[is(1, F_GETFD)]).because("builds with checks look at what they close"),
    only(SYS_fcntl, &[is(1, F_SETFD)]).because("descriptors that come without CLOEXEC get it"),
];

/// A worker's sockets.
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

/// Many datagrams at once.
const BATCHES: &[Call] = always![SYS_sendmmsg, SYS_recvmmsg];

/// Clients that are met, and sockets to others.
const MEETING: &[Call] = always![
    SYS_bind,
    SYS_connect,
    SYS_listen,
    SYS_accept4,
    SYS_sendto,
    SYS_recvfrom,
    SYS_shutdown,
    SYS_getsockopt,
    SYS_setsockopt,
];

/// A worker: internet sockets of its flows, and queues of its device.
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
    only(SYS_ioctl, &[request(FIONREAD), request(SIOCATMARK)]).because("where an urgent byte of a peer lies"),
    only(SYS_getpeername, &[]).because("a flow whose address the pod has lost gets another socket to its peer"),
];

/// Threads of this process, and no process.
const THREADS: &[Call] = &[only(SYS_clone, &[bits(0, CLONE_THREAD, CLONE_THREAD)])];

/// The front ends of a port: Unix sockets, and the file of the one that is listened at.
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
    "where statx(2) is not known": [SYS_newfstatat],
    "removing a file, where processors have no other": [SYS_unlinkat],
    "bytes without descriptors, and what a connection may be asked": [SYS_recvfrom, SYS_getsockopt, SYS_setsockopt],
];

#[cfg(target_arch = "x86_64")]
const FRONT_END_OLD: &[Call] = always![SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const FRONT_END_OLD: &[Call] = &[];

/// Links of the segment, asked for by sockets there are; what comes back is opened anew.
const LINKS: &[Call] = &[
    only(SYS_sendto, &[]),
    only(SYS_recvfrom, &[]),
    only(SYS_openat, &[]),
    only(SYS_ioctl, OPENING),
];

/// A queue that is opened, of a TUN or TAP device.
const OPENING: &[Argument] = &[
    request(FIONBIO),
    request(TUNSETIFF),
    request(TUNGETIFF),
    request(TUNSETVNETHDRSZ),
    request(TUNSETVNETLE),
];

/// A queue that others opened.
const ADOPTED: Call = only(SYS_ioctl, &[request(TUNSETOFFLOAD), request(TUNSETQUEUE)])
    .because("a device that others made may have offloads and queues set");

const LINKS_UNTRACED: &[Call] = &[
    ADOPTED,
    only(
        SYS_ioctl,
        &[request(SIOCGIFMTU), request(SIOCGIFINDEX), request(SIOCGIFFLAGS)],
    )
    .because("what a device that came back has"),
    only(SYS_socket, &[is(0, AF_INET)]).because("to ask it"),
    only(SYS_newfstatat, &[]).because("a macvtap that came back: whether its device file is there"),
    only(SYS_statx, &[]).because("as newfstatat"),
    only(SYS_mknodat, &[]).because("a macvtap that came back: its device file"),
    only(SYS_unlinkat, &[]).because("as mknodat"),
];

/// resolv.conf is read when the kernel reports a change.
const NAMES: &[Call] = &[
    only(SYS_inotify_add_watch, &[]).because("no traced test lasts until resolv.conf changes"),
    only(SYS_openat, &[bits(2, O_ACCMODE, O_RDONLY)]).because("as inotify_add_watch"),
    only(SYS_newfstatat, &[]).because("as inotify_add_watch: the size of what is read"),
    only(SYS_statx, &[]).because("as newfstatat"),
    only(SYS_readlinkat, &[]).because("as inotify_add_watch: where resolv.conf leads"),
    only(SYS_getcwd, &[]).because("as readlinkat"),
];
#[cfg(target_arch = "x86_64")]
const NAMES_OLD: &[Call] = untraced!["as readlinkat": [SYS_readlink, SYS_lstat]];
#[cfg(not(target_arch = "x86_64"))]
const NAMES_OLD: &[Call] = &[];

/// Signals are bytes of a socket pair by the time they are looked at.
const SIGNALS: &[Call] = &[
    only(SYS_recvfrom, &[]),
    only(SYS_sendto, &[]).because("a signal that comes meanwhile"),
    only(SYS_pidfd_send_signal, &[]).because("a VMM that hawser started is sent the signals meant for it"),
];

/// The API: its clients, the agent in the guest, and forwards that are added.
const API: &[Call] = &[
    only(SYS_socket, &[is(0, AF_UNIX), is(0, AF_INET), is(0, AF_INET6)]),
    // Where what is logged goes to.
    only(SYS_ioctl, &[request(TCGETS)]),
];

/// Requests matter less than packets.
const NICE: &[Call] = &[
    only(SYS_getpriority, &[is(0, PRIO_PROCESS.cast_signed())]),
    only(SYS_setpriority, &[is(0, PRIO_PROCESS.cast_signed())]),
];

/// A thread that starts another which is confined further.
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
    only(SYS_prctl, &[is(0, PR_SET_KEEPCAPS)]).because("a thread that comes later becomes --user's"),
    only(SYS_prctl, &[is(0, PR_GET_SECCOMP)]).because("whether there are filters"),
    only(SYS_geteuid, &[]).because("a thread that comes later becomes --user's"),
    only(SYS_capget, &[]),
    only(SYS_capset, &[]),
    only(SYS_seccomp, &[]),
    only(SYS_landlock_create_ruleset, &[]),
    only(SYS_landlock_restrict_self, &[]),
];

/// Everything else: requests of the operator, ports that come and go, links that are put back.
const LAUNCHER: &[Call] = &[
    only(
        SYS_socket,
        &[is(0, AF_UNIX), is(0, AF_NETLINK), is(0, AF_INET), is(0, AF_INET6)],
    ),
    only(SYS_ioctl, OPENING),
    only(SYS_ioctl, &[request(SIOCGIFINDEX)]),
    // SQLite.
    only(SYS_fcntl, &[is(1, F_SETLK)]),
];

const LAUNCHER_CHECKED_UNTRACED: &[Call] = &[
    only(SYS_ioctl, &[request(TCGETS), request(TIOCGWINSZ)]).because("whether and how wide a terminal is"),
    ADOPTED,
    only(
        SYS_ioctl,
        &[request(SIOCGIFMTU), request(SIOCGIFNAME), request(SIOCGIFFLAGS)],
    )
    .because("what a device that others made has"),
    only(SYS_getpriority, &[is(0, PRIO_PROCESS.cast_signed())]).because("the API's thread, which has this list too"),
    only(SYS_setpriority, &[is(0, PRIO_PROCESS.cast_signed())]).because("as getpriority"),
    only(SYS_fcntl, &[is(1, F_GETLK), is(1, F_SETLKW), is(1, F_OFD_SETLK)])
        .because("SQLite, when a process has died in the midst of a change or others wait"),
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
    "SQLite, when it finds the journal of a process that died, or files of other rights":
        [SYS_fdatasync, SYS_fchmod, SYS_getcwd, SYS_readlinkat, SYS_statfs, SYS_fstatfs, SYS_faccessat,
        SYS_faccessat2, SYS_utimensat, SYS_getuid, SYS_getgid, SYS_getegid],
    "notes of NICs that come later, and of links that are put back": [SYS_flock, SYS_mkdirat, SYS_getdents64,
        SYS_unlinkat, SYS_renameat, SYS_renameat2],
    "a macvtap that comes later: its device file": [SYS_mknodat],
    "modes of sockets, where processors have no other": [SYS_fchmodat],
    "a VMM that hawser started is waited for, and sent the signals meant for it":
        [SYS_wait4, SYS_waitid, SYS_pidfd_send_signal],
    "memory and processors, by some versions of the C library": [SYS_sysinfo, SYS_getrusage],
    "sockets in pairs, which libraries wake threads by": [SYS_socketpair, SYS_pipe2],
    "bytes and descriptors on Unix sockets": [SYS_sendmsg, SYS_getpeername],
];

#[cfg(target_arch = "x86_64")]
const LAUNCHER_OLD: &[Call] = always![SYS_unlink, SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const LAUNCHER_OLD: &[Call] = &[];

#[cfg(target_arch = "x86_64")]
const LAUNCHER_OLD_UNTRACED: &[Call] = untraced![
    "as their newer names, by SQLite and some versions of the C library": [SYS_open, SYS_stat, SYS_lstat, SYS_access,
        SYS_readlink, SYS_mkdir, SYS_rmdir, SYS_rename],
];
#[cfg(not(target_arch = "x86_64"))]
const LAUNCHER_OLD_UNTRACED: &[Call] = &[];

/// What a kind of thread may call. A call that is in several of the lists is allowed if one of
/// them allows it.
pub fn allowed(kind: ThreadKind) -> Vec<&'static [Call]> {
    EVERY_KIND.iter().chain(own(kind)).copied().collect()
}

/// What every kind may call.
pub const EVERY_KIND: &[&[Call]] = &[EVERY, EVERY_UNTRACED, EVERY_OLD, EVERY_CHECKED];

/// What a kind of thread may call besides.
pub fn own(kind: ThreadKind) -> &'static [&'static [Call]] {
    match kind {
        ThreadKind::Worker => &[WORKER, WORKER_UNTRACED, TALKING, BATCHES],
        ThreadKind::FrontEnd => &[FRONT_END, FRONT_END_UNTRACED, FRONT_END_OLD],
        ThreadKind::Links => &[LINKS, LINKS_UNTRACED],
        ThreadKind::Names => &[NAMES, NAMES_OLD],
        ThreadKind::Signals => &[SIGNALS],
        ThreadKind::Api => &[API, MEETING, NICE, THREADS, CONFINING],
        ThreadKind::Capture => &[],
        ThreadKind::Launcher => &[
            LAUNCHER,
            LAUNCHER_CHECKED_UNTRACED,
            LAUNCHER_CALLS,
            MEETING,
            LAUNCHER_UNTRACED,
            LAUNCHER_OLD,
            LAUNCHER_OLD_UNTRACED,
            THREADS,
            CONFINING,
        ],
    }
}

/// What libraries ask for and do without, or take older calls for: they are told that there is
/// no such call. Files and limits, which are no thread's that has none of them in its list; and
/// `clone3`, whose flags lie in memory, where no filter sees them.
pub const PROBES: &[c_long] = &[
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

/// Numbers this program has no use for and may not know: asked for by a C library that is
/// newer, which then takes an older call.
pub const NEWER: std::ops::RangeInclusive<c_long> = SYS_futex_waitv..=600;
