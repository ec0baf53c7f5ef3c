//! The destination of events: the end of a file, or standard output.
//!
//! Log rotation works both ways: after the file is moved away, the next event starts a new file in its place; after it
//! is copied and emptied, writing continues at the new end. Lines that cannot be written, for example because the disk
//! is full, are lost, and the log reports this; writing resumes when it can.

use crate::failure::Failure;
use crate::sandbox::Sandbox;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// File name that stands for standard output.
const STANDARD_OUTPUT: &str = "-";

/// An open event log.
pub(crate) struct EventFile {
    out: Box<dyn Write + Send>,
    /// Path and identity, for a file.
    place: Option<(PathBuf, Identity)>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The last lines were written completely.
    Written,
    /// The last lines were not written, or only in part.
    Failed,
}

/// Device and inode of a file.
type Identity = (u64, u64);

impl EventFile {
    /// Opens `path` for appending, or standard output for `-`. The file is given to the user to which the process
    /// switches, as is a file that later takes its place.
    ///
    /// # Errors
    /// The file cannot be opened for writing.
    pub(crate) fn open(path: &Path, sandbox: &Sandbox) -> Result<Self, Failure> {
        if path == Path::new(STANDARD_OUTPUT) {
            return Ok(Self::of(Box::new(io::stdout()), None));
        }
        let failed = |e: io::Error| Failure::runtime(format_args!("--event-log={}: {e}", path.display()));
        let (file, identity) = append(path).map_err(failed)?;
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
            sandbox.own(path).map_err(failed)?;
        }
        Ok(Self::of(Box::new(file), Some((path.to_owned(), identity))))
    }

    fn of(out: Box<dyn Write + Send>, place: Option<(PathBuf, Identity)>) -> Self {
        let state = State::Written;
        Self { out, place, state }
    }

    /// Writes complete lines.
    pub(crate) fn write(&mut self, lines: &[u8]) {
        self.follow();
        // A truncated line must not become the beginning of another line.
        let separator: &[u8] = if self.state == State::Failed { b"\n" } else { b"" };
        let text = [separator, lines].concat();
        match self.out.write_all(&text).and_then(|()| self.out.flush()) {
            Ok(()) if self.state == State::Failed => {
                log::info!("the event log can be written again");
                self.state = State::Written;
            }
            Ok(()) => {}
            Err(error) if self.state == State::Written => {
                log::error!("the event log cannot be written; events are lost until it can: {error}");
                self.state = State::Failed;
            }
            Err(_) => {}
        }
    }

    /// Reopens the file if another file, or none, has its name now.
    fn follow(&mut self) {
        let Some((path, identity)) = &mut self.place else {
            return;
        };
        if fs::metadata(&*path).is_ok_and(|found| (found.dev(), found.ino()) == *identity) {
            return;
        }
        match append(path) {
            Ok((file, found)) => {
                self.out = Box::new(file);
                *identity = found;
            }
            Err(error) => {
                log::error!(
                    "--event-log={}: it was moved, and cannot be created again: {error}; from now on hawser \
                        writes to the moved file, whatever happens to its name",
                    path.display()
                );
                self.place = None;
            }
        }
    }
}

fn append(path: &Path) -> io::Result<(File, Identity)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let found = file.metadata()?;
    Ok((file, (found.dev(), found.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_moved_log_continues_in_a_new_file_and_an_emptied_one_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("events"), folder.path().join("events.1"));
        let mut log = EventFile::open(&path, &Sandbox::default()).unwrap();
        log.write(b"1\n");
        fs::rename(&path, &old).unwrap();
        log.write(b"2\n");
        log.write(b"3\n");
        assert_eq!(fs::read(&old).unwrap(), b"1\n");
        assert_eq!(fs::read(&path).unwrap(), b"2\n3\n");
        File::options().write(true).truncate(true).open(&path).unwrap();
        log.write(b"4\n");
        assert_eq!(fs::read(&path).unwrap(), b"4\n");
        fs::remove_file(&path).unwrap();
        log.write(b"5\n");
        assert_eq!(fs::read(&path).unwrap(), b"5\n");
    }

    #[test]
    fn it_stays_where_it_is_if_its_name_cannot_be_had_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("events"), folder.path().join("events.1"));
        let mut log = EventFile::open(&path, &Sandbox::default()).unwrap();
        fs::rename(&path, &old).unwrap();
        fs::create_dir(&path).unwrap();
        log.write(b"1\n");
        log.write(b"2\n");
        assert_eq!(fs::read(&old).unwrap(), b"1\n2\n");
    }

    /// A disk with limited room.
    #[derive(Clone)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, room) = &mut *self.0.lock().unwrap();
            let n = bytes.len().min(*room);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            text.extend(&bytes[..n]);
            *room -= n;
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_find_no_room_are_lost_and_those_after_them_are_whole() {
        let disk = Disk(Arc::new(Mutex::new((Vec::new(), 8))));
        let mut log = EventFile::of(Box::new(disk.clone()), None);
        for line in ["first\n", "second\n", "third\n"] {
            log.write(line.as_bytes());
        }
        disk.0.lock().unwrap().1 = 100;
        log.write(b"fourth\n");
        log.write(b"fifth\n");
        let text = String::from_utf8(disk.0.lock().unwrap().0.clone()).unwrap();
        assert_eq!(text, "first\nse\nfourth\nfifth\n");
    }
}
