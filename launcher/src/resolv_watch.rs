//! Follows resolv.conf while the process runs, however it is replaced
//! ([`files`](crate::watcher::files)). After each report the whole file is read and compared.

use crate::failure::Failure;
use crate::machine::Machine;
use crate::resolv::{PATH, ResolvConf};
use crate::sandbox::{Sandbox, ThreadKind};
use crate::watcher::files::FileWatch;
use crate::watcher::{End, Watcher};
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

/// Time that a program may take between emptying the file and filling it.
const WRITING: Duration = Duration::from_millis(50);

/// Informs `machine` of every change of resolv.conf until the returned handle is dropped.
///
/// # Errors
/// The system has no thread or inotify instance left.
pub(crate) fn follow(machine: &Arc<Machine>, sandbox: &Sandbox) -> Result<Watcher, Failure> {
    let file = FileWatch::new(Path::new(PATH)).map_err(Failure::runtime)?;
    let machine = Arc::clone(machine);
    Watcher::start(sandbox, ThreadKind::Names, "resolv.conf", move |end| {
        if let Err(error) = watch(Path::new(PATH), &file, end, |conf| machine.change_resolvers(conf)) {
            log::error!("{PATH} is no longer watched: {error}");
        }
    })
}

/// Calls `changed` with the file's contents, initially and whenever they differ.
fn watch(path: &Path, file: &FileWatch, end: &End, mut changed: impl FnMut(&ResolvConf)) -> Result<(), Errno> {
    let mut seen = None;
    let mut failure = None;
    file.follow(end, || match read_whole(path) {
        Ok(conf) if seen.as_ref() != Some(&conf) => {
            changed(&conf);
            (seen, failure) = (Some(conf), None);
        }
        Ok(_) => failure = None,
        // The last contents stay in use, and this is logged once.
        Err(error) if failure != Some(error.kind()) => {
            log::warn!(
                "{} cannot be read; its last name servers stay in use: {error}",
                path.display()
            );
            failure = Some(error.kind());
        }
        Err(_) => {}
    })
}

/// Reads the file. If it has no name servers, it may be about to be written, so it is read once more.
fn read_whole(path: &Path) -> io::Result<ResolvConf> {
    let conf = ResolvConf::read(path)?;
    if !conf.name_servers.is_empty() {
        return Ok(conf);
    }
    thread::sleep(WRITING);
    ResolvConf::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::{Receiver, channel};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn watched(path: &Path) -> (Watcher, Receiver<Vec<String>>) {
        let (sender, changes) = channel();
        let path = path.to_owned();
        let file = FileWatch::new(&path).unwrap();
        let watcher = Watcher::start(&Sandbox::default(), ThreadKind::Names, "test", move |end| {
            let tell = |conf: &ResolvConf| {
                let servers = conf.name_servers.iter().map(ToString::to_string).collect();
                sender.send(servers).unwrap();
            };
            watch(&path, &file, end, tell).unwrap();
        });
        (watcher.unwrap(), changes)
    }

    #[test]
    fn a_file_that_is_written_renamed_or_linked_anew_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, server: &str| fs::write(at(name), format!("nameserver {server}\n")).unwrap();
        fs::create_dir(at("run")).unwrap();
        write("resolv.conf", "192.0.2.1");
        let (watcher, changes) = watched(&at("resolv.conf"));
        let expect = |server: &str| loop {
            // A file that is written in place is empty for a moment.
            let told = changes.recv_timeout(PATIENCE).unwrap();
            if !told.is_empty() {
                assert_eq!(told, [server]);
                break;
            }
        };
        expect("192.0.2.1");
        write("resolv.conf", "192.0.2.2");
        expect("192.0.2.2");
        write("new", "192.0.2.3");
        fs::rename(at("new"), at("resolv.conf")).unwrap();
        expect("192.0.2.3");
        write("run/stub", "192.0.2.4");
        symlink("run/stub", at("link")).unwrap();
        fs::rename(at("link"), at("resolv.conf")).unwrap();
        expect("192.0.2.4");
        write("run/new", "192.0.2.5");
        fs::rename(at("run/new"), at("run/stub")).unwrap();
        expect("192.0.2.5");
        // A removed file causes no change, and is followed again when it is back.
        fs::remove_file(at("run/stub")).unwrap();
        write("run/stub", "192.0.2.6");
        expect("192.0.2.6");
        drop(watcher);
        assert!(changes.try_recv().is_err());
    }
}
