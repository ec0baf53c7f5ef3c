//! The options that a version of QEMU understands.

use std::ffi::OsStr;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

/// Interval at which QEMU tries to reconnect. An attempt is one connect(2) that fails at once while hawser is away.
pub(super) const RECONNECT_MS: u16 = 10;

/// A version of QEMU, by its first two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QemuVersion {
    major: u16,
    minor: u16,
}

/// The first version with `reconnect-ms`, which replaces `reconnect`.
const HAS_MILLISECONDS: QemuVersion = QemuVersion { major: 9, minor: 2 };
/// The first version that survives `reconnect` on the socket of a vhost-user NIC: 7.2 ends with SIGSEGV when the
/// guest's driver starts.
const RECONNECTS: QemuVersion = QemuVersion { major: 8, minor: 0 };

impl QemuVersion {
    /// Any version from 9.2 on.
    pub(crate) const CURRENT: Self = HAS_MILLISECONDS;

    /// The version that a QEMU says it is. A program that does not say it within a second is ended.
    pub(crate) fn of_program(program: &OsStr) -> Option<Self> {
        /// Longest wait. QEMU takes some milliseconds.
        const PATIENCE: Duration = Duration::from_secs(1);
        const TURN: Duration = Duration::from_millis(2);
        let mut asked = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let deadline = Instant::now() + PATIENCE;
        // The answer is shorter than a pipe holds, so the program ends without a reader.
        while asked.try_wait().ok()?.is_none() {
            if Instant::now() > deadline {
                // It may end by itself meanwhile.
                let _ = asked.kill();
                let _ = asked.wait();
                return None;
            }
            thread::sleep(TURN);
        }
        let mut said = String::new();
        asked.stdout.take()?.read_to_string(&mut said).ok()?;
        Self::in_text(&said)
    }

    /// Finds the version in `QEMU emulator version 10.0.2 (Debian …)`.
    fn in_text(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("version ")?;
        rest.split_whitespace().next()?.parse().ok()
    }

    /// Option of a socket to which QEMU connects again after hawser was away. `None` if this version cannot.
    pub(super) fn reconnect(self) -> Option<String> {
        if self >= HAS_MILLISECONDS {
            Some(format!("reconnect-ms={RECONNECT_MS}"))
        } else if self >= RECONNECTS {
            // In seconds.
            Some("reconnect=1".to_owned())
        } else {
            None
        }
    }
}

impl FromStr for QemuVersion {
    type Err = String;

    /// Reads `MAJOR[.MINOR[.…]]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = text.split('.').map(str::parse::<u16>);
        match (numbers.next(), numbers.next().unwrap_or(Ok(0))) {
            (Some(Ok(major)), Ok(minor)) => Ok(Self { major, minor }),
            _ => Err("give a version such as 8.2 or 10, as qemu-system-x86_64 --version prints it".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_program_that_does_not_say_its_version_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, body: &str| {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            QemuVersion::of_program(path.as_os_str())
        };
        let answer = "echo 'QEMU emulator version 8.2.2'";
        assert_eq!(program("answers", answer), Some(QemuVersion { major: 8, minor: 2 }));
        assert_eq!(program("hangs", "exec sleep 1000"), None);
        assert_eq!(program("fails", "exit 1"), None);
        assert_eq!(QemuVersion::of_program(OsStr::new("/nowhere")), None);
    }

    #[test]
    fn each_version_reconnects_as_well_as_it_can() {
        let reconnect = |version: &str| version.parse::<QemuVersion>().unwrap().reconnect();
        for version in ["11", "10.0.2", "9.2"] {
            assert_eq!(reconnect(version).as_deref(), Some("reconnect-ms=10"), "{version}");
        }
        for version in ["9.1", "9", "8.2.2", "8"] {
            assert_eq!(reconnect(version).as_deref(), Some("reconnect=1"), "{version}");
        }
        assert_eq!(reconnect("7.2.22"), None);
        let said = "QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)\nCopyright (c) 2003-2023";
        assert_eq!(QemuVersion::in_text(said), Some(QemuVersion { major: 8, minor: 2 }));
        for wrong in ["", "x", "8.x", "-1"] {
            assert!(wrong.parse::<QemuVersion>().is_err(), "{wrong}");
        }
    }
}
