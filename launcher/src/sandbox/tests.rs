use super::*;
use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};

/// Environment variable that selects the action of the test below, which runs in a separate process.
const DEED: &str = "HAWSER_TEST_DEED";

type Deed = fn() -> io::Result<()>;

/// Actions that a confined thread tries. Each has a name, the kind of the thread, and a function that performs it and
/// returns the kernel's answer.
const DEEDS: &[(&str, ThreadKind, Deed)] = &[
    ("worker-socket", ThreadKind::Worker, internet),
    ("worker-program", ThreadKind::Worker, program),
    ("worker-child", ThreadKind::Worker, child),
    ("worker-file", ThreadKind::Worker, file),
    ("worker-unix", ThreadKind::Worker, unix_socket),
    ("worker-thread", ThreadKind::Worker, a_thread),
    ("worker-code", ThreadKind::Worker, code),
    ("worker-handler", ThreadKind::Worker, handler),
    ("front-end-unix", ThreadKind::FrontEnd, unix_socket),
    ("front-end-thread", ThreadKind::FrontEnd, a_thread),
    ("front-end-internet", ThreadKind::FrontEnd, internet),
    ("signals-internet", ThreadKind::Signals, internet),
    ("capture-file", ThreadKind::Capture, file),
    ("links-internet6", ThreadKind::Links, internet6),
    ("launcher-socket", ThreadKind::Launcher, internet),
    ("launcher-thread", ThreadKind::Launcher, a_thread),
    ("launcher-file", ThreadKind::Launcher, file),
    ("launcher-program", ThreadKind::Launcher, program),
    ("launcher-child", ThreadKind::Launcher, child),
    ("launcher-user", ThreadKind::Launcher, user),
];

fn internet() -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(drop)
}

fn internet6() -> io::Result<()> {
    UdpSocket::bind("[::1]:0").map(drop)
}

fn unix_socket() -> io::Result<()> {
    UnixDatagram::unbound().map(drop)
}

fn program() -> io::Result<()> {
    let (name, nothing) = (c"/bin/true", [std::ptr::null()]);
    // SAFETY: the name and the lists are terminated.
    unsafe { libc::execve(name.as_ptr(), nothing.as_ptr(), nothing.as_ptr()) };
    Err(io::Error::last_os_error())
}

fn child() -> io::Result<()> {
    Command::new("/bin/true").status().map(drop)
}

fn file() -> io::Result<()> {
    File::open("/etc/passwd").map(drop)
}

fn a_thread() -> io::Result<()> {
    let thread = thread::Builder::new().spawn(|| ())?;
    thread.join().map_err(|_| io::Error::other("it panicked"))
}

fn code() -> io::Result<()> {
    let (anywhere, length) = (std::ptr::null_mut(), 4096);
    // SAFETY: this is a new mapping at an address that the kernel chooses. It is not used.
    let mapped = unsafe {
        libc::mmap(
            anywhere,
            length,
            libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(mapped, libc::MAP_FAILED);
    Ok(())
}

fn handler() -> io::Result<()> {
    filter::catch_violations()
}

fn user() -> io::Result<()> {
    // SAFETY: this changes the thread's user, or fails.
    match unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The other half of the tests below: a process that confines one thread, which performs the action.
#[test]
#[ignore = "started by other tests, in a process of its own"]
fn the_deed() {
    let Ok(deed) = std::env::var(DEED) else { return };
    let (name, level) = deed.split_once(' ').unwrap();
    let (_, kind, does) = DEEDS.iter().find(|(known, ..)| *known == name).unwrap();
    let args = SandboxArgs {
        sandbox: Level::from_str(level, false).unwrap(),
        ..SandboxArgs::default()
    };
    let sandbox = Sandbox::new(args, Needs::default()).unwrap();
    let does = *does;
    let work = move || match does() {
        Ok(()) => eprintln!("done"),
        Err(error) => eprintln!("refused: {error}"),
    };
    sandbox.spawn(*kind, "confined", work).unwrap().join().unwrap();
}

fn outcome(deed: &str, level: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "--test-threads=1",
            "sandbox::tests::the_deed",
        ])
        .env(DEED, format!("{deed} {level}"))
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_forbidden_call_ends_the_process_which_says_which_it_was() {
    for (deed, call) in [
        ("worker-program", "(execve)"),
        ("worker-unix", "(socket)"),
        ("worker-code", "(mmap)"),
        ("worker-handler", "(rt_sigaction)"),
        ("front-end-internet", "(socket)"),
        ("signals-internet", "(socket)"),
        ("links-internet6", "(socket)"),
        ("launcher-program", "(execve)"),
        ("launcher-user", "(setresuid)"),
    ] {
        let output = outcome(deed, "strict");
        let told = text(&output);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{deed}: {told}");
        assert!(told.contains("thread confined"), "{deed}: {told}");
        assert!(told.contains(call), "{deed}: {told}");
        assert!(!told.contains("done"), "{deed}: {told}");
    }
    // The C library blocks all signals in the meantime, so the handler cannot report.
    for deed in ["worker-thread", "front-end-thread", "worker-child", "launcher-child"] {
        let output = outcome(deed, "strict");
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{deed}: {}", text(&output));
    }
}

#[test]
fn calls_that_libraries_only_try_are_refused_and_the_thread_continues() {
    for deed in ["worker-file", "capture-file", "launcher-file"] {
        let output = outcome(deed, "strict");
        assert!(output.status.success(), "{deed}: {}", text(&output));
        assert!(text(&output).contains("refused: "), "{deed}: {}", text(&output));
    }
}

#[test]
fn what_a_thread_needs_it_may_do() {
    for deed in ["worker-socket", "front-end-unix", "launcher-socket", "launcher-thread"] {
        let output = outcome(deed, "strict");
        assert!(text(&output).contains("done"), "{deed}: {}", text(&output));
    }
}

#[test]
fn nothing_is_forbidden_where_calls_are_only_logged_or_the_sandbox_is_off() {
    for (deed, level) in [("worker-unix", "log"), ("worker-child", "log"), ("worker-file", "off")] {
        let output = outcome(deed, level);
        assert!(text(&output).contains("done"), "{deed} {level}: {}", text(&output));
    }
}

#[test]
fn only_the_folders_it_needs_are_reached() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
    for path in [&inside, &outside] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("note"), "x").unwrap();
    }
    let mut reach = Reach::default();
    reach.folder_of(&inside.join("note"), Access::Notes);
    let tries = move || {
        if !files::restrict(&reach).unwrap() {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        }
        assert_eq!(fs::read(inside.join("note")).unwrap(), b"x");
        fs::write(inside.join("other"), "y").unwrap();
        fs::remove_file(inside.join("note")).unwrap();
        for refused in [
            fs::read(outside.join("note")).map(drop),
            fs::write(outside.join("other"), "y"),
            fs::remove_file(outside.join("note")),
            fs::create_dir(inside.join("folder")),
            fs::read("/etc/passwd").map(drop),
        ] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
        // Landlock restricts only files.
        UnixStream::pair().unwrap();
    };
    privileged_thread(tries);
}

/// Runs `work` on a separate thread, which takes its restrictions with it.
fn privileged_thread(work: impl FnOnce() + Send + 'static) {
    let work = move || {
        privilege::give_up(None, &[], CapabilitySet::empty()).unwrap();
        work();
    };
    thread::spawn(work).join().unwrap();
}
