//! Builds the seccomp filters of a thread from lists of calls.
//!
//! There are two filters, and the kernel applies the stricter result. One refuses calls that libraries only try. The
//! other stops the process at a call that is in no list. Most calls are allowed with any arguments. The kernel detects
//! those when a filter is installed, stores one bit per call, and runs no filter for them, so the filters cost nothing
//! per packet (seccomp_cache_prepare, Linux 5.11).
//!
//! A forbidden call raises SIGSYS instead of ending the process silently. The handler reports the call on standard
//! error and ends the process with the same signal. The call is not executed in either case, and no thread may change
//! the handler.

use super::calls::{self, Argument, Call};
use super::names;
use super::{Level, ThreadKind};
use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The reason why the filters cannot be installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// A filter cannot be compiled.
    #[error("the sandbox supports no system call filter for this processor: {0}; use --sandbox=off")]
    Compile(#[from] BackendError),
    /// The kernel refused a filter.
    #[error("the kernel refused the system call filter: {0}; use --sandbox=off on a kernel without seccomp")]
    Install(#[from] seccompiler::Error),
    /// The handler that reports forbidden calls cannot be installed.
    #[error("cannot catch SIGSYS: {0}")]
    Handler(#[from] io::Error),
}

/// Installs the filters for the calling thread, and for threads that it starts.
///
/// # Errors
/// [`FilterError`]. The thread is then unchanged, or has only one of the filters.
pub(super) fn install(kind: ThreadKind, level: Level) -> Result<(), FilterError> {
    let (otherwise, refuse) = match level {
        Level::Off => return Ok(()),
        Level::Log => (SeccompAction::Log, false),
        Level::Strict => (SeccompAction::Trap, true),
    };
    let (passed, refused) = passed_and_refused(kind)?;
    // The filter that stops the process comes last, because installing the other one needs calls of its own.
    if refuse {
        let action = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        seccompiler::apply_filter(&compile(refused, SeccompAction::Allow, action)?)?;
    }
    seccompiler::apply_filter(&compile(passed, otherwise, SeccompAction::Allow)?)?;
    Ok(())
}

/// The calls that one filter allows, and those of them that the other filter refuses.
fn passed_and_refused(kind: ThreadKind) -> Result<(Rules, Rules), BackendError> {
    let allowed = rules(&calls::allowed(kind))?;
    let refused: Rules = probes()
        .filter(|call| !allowed.contains_key(call))
        .map(|call| (call, Vec::new()))
        .collect();
    let mut passed = allowed;
    passed.extend(refused.clone());
    Ok((passed, refused))
}

/// The length of the last filter of a kind, which identifies the kind in traces.
#[cfg(test)]
pub(super) fn passed_length(kind: ThreadKind) -> Result<usize, BackendError> {
    let (passed, _) = passed_and_refused(kind)?;
    Ok(compile(passed, SeccompAction::Trap, SeccompAction::Allow)?.len())
}

/// Calls that fail with an error, and do not end the process, if they are not allowed.
pub(super) fn probes() -> impl Iterator<Item = c_long> {
    calls::PROBES.iter().copied().chain(calls::NEWER)
}

fn compile(rules: Rules, otherwise: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()
}

fn rules(lists: &[&[Call]]) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    let mut always = Vec::new();
    for call in lists.iter().copied().flatten() {
        let known = rules.entry(call.number).or_default();
        if call.when.is_empty() {
            always.push(call.number);
        }
        for argument in call.when {
            known.push(SeccompRule::new(vec![condition(*argument)?])?);
        }
    }
    for call in always {
        rules.insert(call, Vec::new());
    }
    Ok(rules)
}

fn condition(argument: Argument) -> Result<SeccompCondition, BackendError> {
    let Argument { index, mask, value } = argument;
    let compare = SeccompCmpOp::MaskedEq(mask.into());
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, compare, value.into())
}

/// Starts to report forbidden calls. Call this once, before any thread is filtered.
///
/// # Errors
/// The error of sigaction(2).
pub(super) fn catch_violations() -> io::Result<()> {
    // SAFETY: all bytes zero are a valid value of this plain structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = told;
    action.sa_sigaction = handler as libc::sighandler_t;
    // The handler is reset and the signal is not blocked in it, because the handler ends the process with the same
    // signal.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_NODEFER;
    // SAFETY: `action` is complete. The handler makes only calls that are safe in a signal handler.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's data for SIGSYS (`struct siginfo`, `_sigsys`).
#[repr(C)]
struct Refused {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    _padding: libc::c_int,
    _address: *mut libc::c_void,
    call: libc::c_int,
    _arch: libc::c_uint,
}

/// `si_code` of a call that a filter stopped (`SYS_SECCOMP`, not in the libc crate).
const BY_FILTER: libc::c_int = 1;

extern "C" fn told(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO a whole siginfo, of which these are
    // the first fields in the case of SIGSYS.
    let refused = unsafe { &*info.cast::<Refused>() };
    let mut line = Line::default();
    let written = if refused.code == BY_FILTER {
        let call = c_long::from(refused.call);
        writeln!(
            line,
            "hawser: ended: thread {} made the system call {call} ({}), which its sandbox forbids. \
             Report this; --sandbox=log lets it pass and has the kernel log it, see \
             docs/security.md",
            thread_name().as_str(),
            names::name_of(call)
        )
    } else {
        writeln!(line, "hawser: ended by SIGSYS from another process")
    };
    // A line that is too long is truncated.
    let _ = written;
    // SAFETY: the buffer belongs to this function, and tgkill names the calling thread. With the default action back in
    // place, tgkill does not return.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len);
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal);
        libc::_exit(libc::EXIT_FAILURE);
    }
}

/// Name of the calling thread. Safe in a signal handler.
fn thread_name() -> Line {
    let mut line = Line::default();
    // SAFETY: the kernel writes at most 16 bytes there, the last of them zero.
    if unsafe { libc::prctl(libc::PR_GET_NAME, line.bytes.as_mut_ptr()) } == 0 {
        line.len = line.bytes.iter().position(|&byte| byte == 0).unwrap_or(0);
    }
    line
}

/// A text that needs no allocator.
struct Line {
    bytes: [u8; 320],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 320],
            len: 0,
        }
    }
}

impl Line {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or("?")
    }
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let n = text.len().min(room.len());
        room[..n].copy_from_slice(&text.as_bytes()[..n]);
        self.len += n;
        if n == text.len() { Ok(()) } else { Err(std::fmt::Error) }
    }
}
