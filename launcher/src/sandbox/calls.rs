//! What each kind of thread may ask of the kernel.
//!
//! The lists were taken from what the program does in its tests, and widened to the calls the
//! libraries below it may take instead (glibc's allocator and its fallbacks, thread start and
//! end, a kernel without a vdso clock). A call that is in no list ends the process; one in
//! [`PROBES`] or [`NEWER`] is refused: libraries know how to go on without those.

use super::ThreadKind;
use libc::*;

/// A call, and the arguments it is allowed with.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub number: c_long,
    /// One of these must hold; none: it is allowed always.
    pub when: &'static [Argument],
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
        &[$(Call { number: $number, when: &[] }),*]
    };
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
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_epoll_ctl,
    SYS_epoll_create1,
    SYS_eventfd2,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_getrandom,
    SYS_getpid,
    SYS_gettid,
    SYS_getcpu,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_rt_sigreturn,
    SYS_rt_sigprocmask,
    SYS_sigaltstack,
    SYS_restart_syscall,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_membarrier,
    SYS_fstat,
    SYS_lseek,
    SYS_dup,
    SYS_exit,
    SYS_exit_group,
];

#[cfg(target_arch = "x86_64")]
const EVERY_OLD: &[Call] = always![SYS_poll, SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const EVERY_OLD: &[Call] = &[];

/// Every thread, with some arguments only.
const EVERY_CHECKED: &[Call] = &[
    // Nothing that can be written becomes code.
    Call {
        number: SYS_mmap,
        when: &[bits(2, PROT_EXEC, 0)],
    },
    Call {
        number: SYS_mprotect,
        when: &[bits(2, PROT_EXEC, 0)],
    },
    Call {
        number: SYS_prctl,
        when: &[is(0, PR_SET_NAME), is(0, PR_GET_NAME), is(0, PR_SET_VMA)],
    },
    Call {
        number: SYS_fcntl,
        when: &[
            is(1, F_GETFD),
            is(1, F_SETFD),
            is(1, F_GETFL),
            is(1, F_SETFL),
            is(1, F_DUPFD_CLOEXEC),
        ],
    },
];

/// Sockets that are there.
const TALKING: &[Call] = always![
    SYS_sendto,
    SYS_sendmsg,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_shutdown,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
];

/// New connections, of either side.
const MEETING: &[Call] = always![SYS_bind, SYS_connect, SYS_listen, SYS_accept, SYS_accept4];

/// Many datagrams at once.
const BATCHES: &[Call] = always![SYS_sendmmsg, SYS_recvmmsg];

const DEVICES: &[Argument] = &[
    request(FIONBIO),
    request(FIONREAD),
    request(TUNSETOFFLOAD),
    request(TUNSETVNETHDRSZ),
    request(TUNSETVNETLE),
    request(TUNSETQUEUE),
    request(TUNGETIFF),
];

/// A worker: internet sockets of its flows, and queues of its device.
const WORKER: &[Call] = &[
    Call {
        number: SYS_socket,
        when: &[is(0, AF_INET), is(0, AF_INET6)],
    },
    Call {
        number: SYS_ioctl,
        when: DEVICES,
    },
];

/// Threads of this process, and no process.
const THREADS: &[Call] = &[Call {
    number: SYS_clone,
    when: &[bits(0, CLONE_THREAD, CLONE_THREAD)],
}];

/// The front ends of a port: Unix sockets, and the threads of a connection.
const FRONT_END: &[Call] = &[
    Call {
        number: SYS_socket,
        when: &[is(0, AF_UNIX)],
    },
    Call {
        number: SYS_ioctl,
        when: &[request(FIONBIO), request(FIONREAD)],
    },
];

/// The socket's file, removed when the port goes; and regions of the guest's memory, which may
/// be files.
const FRONT_END_FILES: &[Call] = always![
    SYS_newfstatat,
    SYS_statx,
    SYS_unlinkat,
    SYS_fstatfs,
    SYS_madvise,
    SYS_ftruncate,
    SYS_sendmmsg,
];

#[cfg(target_arch = "x86_64")]
const FRONT_END_FILES_OLD: &[Call] = always![SYS_unlink, SYS_lstat, SYS_stat];
#[cfg(not(target_arch = "x86_64"))]
const FRONT_END_FILES_OLD: &[Call] = &[];

const LAUNCHER_REQUESTS: &[Argument] = &[
    request(FIONBIO),
    request(FIONREAD),
    request(TCGETS),
    request(TIOCGWINSZ),
    request(TUNSETIFF),
    request(TUNGETIFF),
    request(TUNSETOFFLOAD),
    request(TUNSETVNETHDRSZ),
    request(TUNSETVNETLE),
    request(TUNSETQUEUE),
    request(SIOCGIFMTU),
    request(SIOCGIFINDEX),
    request(SIOCGIFNAME),
    request(SIOCGIFFLAGS),
];

/// Everything else: requests of the operator, ports that come and go, links that are put back.
const LAUNCHER: &[Call] = &[
    Call {
        number: SYS_socket,
        when: &[is(0, AF_UNIX), is(0, AF_NETLINK), is(0, AF_INET), is(0, AF_INET6)],
    },
    Call {
        number: SYS_ioctl,
        when: LAUNCHER_REQUESTS,
    },
    // A port that comes later confines its worker.
    Call {
        number: SYS_prctl,
        when: &[
            is(0, PR_SET_NO_NEW_PRIVS),
            is(0, PR_SET_KEEPCAPS),
            is(0, PR_CAP_AMBIENT),
            is(0, PR_CAPBSET_DROP),
            is(0, PR_CAPBSET_READ),
            is(0, PR_GET_SECCOMP),
        ],
    },
    Call {
        number: SYS_fcntl,
        when: &[is(1, F_GETLK), is(1, F_SETLK), is(1, F_SETLKW), is(1, F_OFD_SETLK)],
    },
];

const LAUNCHER_CALLS: &[Call] = always![
    SYS_openat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_getcwd,
    SYS_getdents64,
    SYS_unlinkat,
    SYS_mkdirat,
    SYS_renameat,
    SYS_renameat2,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_mknodat,
    SYS_umask,
    SYS_flock,
    SYS_fsync,
    SYS_fdatasync,
    SYS_ftruncate,
    SYS_pread64,
    SYS_pwrite64,
    SYS_msync,
    SYS_utimensat,
    SYS_pipe2,
    SYS_socketpair,
    SYS_dup3,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_inotify_init1,
    SYS_inotify_add_watch,
    SYS_inotify_rm_watch,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getresuid,
    SYS_getresgid,
    SYS_getppid,
    SYS_prlimit64,
    SYS_uname,
    SYS_sysinfo,
    SYS_getrusage,
    SYS_capget,
    SYS_capset,
    SYS_seccomp,
    SYS_landlock_create_ruleset,
    SYS_landlock_add_rule,
    SYS_landlock_restrict_self,
    SYS_wait4,
    SYS_waitid,
    SYS_pidfd_send_signal,
];

#[cfg(target_arch = "x86_64")]
const LAUNCHER_OLD: &[Call] = always![
    SYS_open,
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_unlink,
    SYS_mkdir,
    SYS_rmdir,
    SYS_rename,
    SYS_chmod,
    SYS_chown,
    SYS_mknod,
    SYS_pipe,
];
#[cfg(not(target_arch = "x86_64"))]
const LAUNCHER_OLD: &[Call] = &[];

/// Links of the segment: looked at, put back together, and their queues opened anew.
const LINKS: &[Call] = &[Call {
    number: SYS_socket,
    when: &[is(0, AF_NETLINK), is(0, AF_INET)],
}];

const LINKS_FILES: &[Call] = always![SYS_openat, SYS_newfstatat, SYS_statx, SYS_mknodat, SYS_unlinkat];

const LINKS_DEVICES: &[Call] = &[Call {
    number: SYS_ioctl,
    when: LAUNCHER_REQUESTS,
}];

/// The VMM is sent the signals meant for it.
const SIGNALS: &[Call] = always![SYS_pidfd_send_signal];

/// What a kind of thread may call. A call that is in several of the lists is allowed if one of
/// them allows it.
pub fn allowed(kind: ThreadKind) -> Vec<&'static [Call]> {
    let every = [EVERY, EVERY_OLD, EVERY_CHECKED];
    let own: &[&'static [Call]] = match kind {
        ThreadKind::Worker => &[WORKER, TALKING, MEETING, BATCHES],
        ThreadKind::FrontEnd => &[
            FRONT_END,
            FRONT_END_FILES,
            FRONT_END_FILES_OLD,
            TALKING,
            MEETING,
            THREADS,
        ],
        ThreadKind::Links => &[LINKS, LINKS_FILES, LINKS_DEVICES, TALKING, MEETING],
        ThreadKind::Signals => &[TALKING, SIGNALS],
        ThreadKind::Capture => &[TALKING],
        ThreadKind::Launcher => &[
            LAUNCHER,
            LAUNCHER_CALLS,
            LAUNCHER_OLD,
            FRONT_END_FILES,
            FRONT_END_FILES_OLD,
            TALKING,
            MEETING,
            BATCHES,
            THREADS,
        ],
    };
    every.into_iter().chain(own.iter().copied()).collect()
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
