//! QEMU guests that move: live migration into another QEMU process, and images in files.
//!
//! Both processes of a migration share the guest's command line, so the guest keeps it. A process whose guest has left
//! reads nothing from it.

use super::{Guest, Kind, Plan};
use crate::process::Background;
use crate::{Result, failure};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// Longest time for QEMU to start, to answer, or to migrate a guest.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two questions about the progress of a migration.
const STEP: Duration = Duration::from_millis(20);
/// Name of the monitor's socket in a guest's folder.
pub(super) const MONITOR: &str = "qmp.sock";
/// Name of the socket that an incoming QEMU receives the guest on, in its folder.
const STREAM: &str = "migration.sock";
/// Name of the file of an image, in a guest's folder.
const IMAGE: &str = "image";
/// Name of the socket by which a QEMU that takes another one's place gets the memory, in its folder.
const CPR: &str = "cpr.sock";

/// The monitor of a QEMU process (QMP).
#[derive(Debug)]
pub struct Monitor {
    lines: BufReader<UnixStream>,
    /// Events that have arrived and were not asked for yet.
    events: Vec<Value>,
}

impl Monitor {
    /// Connects to the monitor at `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self {
            lines: BufReader::new(stream),
            events: Vec::new(),
        };
        monitor.next()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line)? {
            0 => Err(failure("QEMU has ended")),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }

    /// Executes a command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.lines.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.next()?;
            if answer["event"].is_string() {
                self.events.push(answer);
            } else if answer["error"].is_object() {
                return Err(failure(format!("{command}: {}", answer["error"]["desc"])));
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Waits for an event. Returns its time since 1970.
    pub fn wait_for(&mut self, event: &str) -> Result<Duration> {
        loop {
            if let Some(time) = self.seen(event) {
                return Ok(time);
            }
            let next = self.next()?;
            self.events.push(next);
        }
    }

    /// The time of an event since 1970, if it has arrived.
    fn seen(&mut self, event: &str) -> Option<Duration> {
        let at = self.events.iter().position(|known| known["event"] == event)?;
        let stamp = &self.events.remove(at)["timestamp"];
        let field = |name: &str| stamp[name].as_u64().unwrap_or_default();
        Some(Duration::from_secs(field("seconds")) + Duration::from_micros(field("microseconds")))
    }

    /// Waits until the migration has the state `wanted`. Returns its description.
    pub fn wait_for_migration(&mut self, wanted: &str) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.execute("query-migrate", &json!({}))?;
            let status = &state["status"];
            if status == wanted {
                return Ok(state);
            }
            let has_ended = status == "failed" || status == "cancelled" || status == "completed";
            if has_ended || Instant::now() > deadline {
                return Err(failure(format!("the migration did not become {wanted}: {state}")));
            }
            std::thread::sleep(STEP);
        }
    }
}

/// A QEMU process that waits for a guest.
#[derive(Debug)]
pub struct Incoming {
    process: Background,
    /// Connected once QEMU answers.
    monitor: Option<Monitor>,
    folder: TempDir,
}

/// What a migration took.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// Time of the stop since 1970.
    pub at: Duration,
    /// Time between the stop in the source and the start in the target.
    pub time: Duration,
}

impl Plan {
    /// Starts a QEMU process that waits for `guest`. Its options are those of this plan.
    pub fn incoming(&self, guest: &Guest) -> Result<Incoming> {
        let from = |folder: &Path| vec![format!("unix:{}", folder.join(STREAM).display())];
        let mut incoming = self.incoming_from(guest, from)?;
        let socket = incoming.folder.path().join(STREAM);
        incoming.process.wait_for_socket(&socket, PATIENCE)?;
        incoming.monitor = Some(incoming.connect()?);
        Ok(incoming)
    }

    /// Starts a QEMU process whose guest continues from the image in the file `image`.
    fn restored(&self, guest: &Guest, image: &Path) -> Result<Incoming> {
        self.incoming_from(guest, |_| vec![format!("file:{}", image.display())])
    }

    /// Starts a QEMU process that will take the place of that of `guest`, with its memory (cpr-transfer). Both plans need
    /// the argument `-machine aux-ram-share=on`.
    pub fn successor(&self, guest: &Guest) -> Result<Incoming> {
        let mut incoming = self.incoming_from(guest, |folder| {
            vec![
                channel("main", &folder.join(STREAM)).to_string(),
                channel("cpr", &folder.join(CPR)).to_string(),
            ]
        })?;
        let socket = incoming.folder.path().join(CPR);
        incoming.process.wait_for_socket(&socket, PATIENCE)?;
        Ok(incoming)
    }

    fn incoming_from(&self, guest: &Guest, from: impl FnOnce(&Path) -> Vec<String>) -> Result<Incoming> {
        let line = guest.line.as_ref();
        let line = line.ok_or_else(|| failure("the guest was not booted as one that migrates"))?;
        assert_eq!(self.kind, Kind::Qemu, "only QEMU migrates guests");
        let folder = tempfile::Builder::new().prefix("hawser-guest-").tempdir()?;
        let mut plan = self.with_monitor(folder.path());
        for uri in from(folder.path()) {
            plan.arguments.extend(["-incoming".to_owned(), uri]);
        }
        let process = plan.start_process(folder.path(), line)?;
        Ok(Incoming {
            process,
            monitor: None,
            folder,
        })
    }
}

fn channel(kind: &str, path: &Path) -> Value {
    let address = json!({ "transport": "socket", "type": "unix", "path": path });
    json!({ "channel-type": kind, "addr": address })
}

impl Guest {
    /// The monitor of its QEMU process.
    pub fn monitor(&mut self) -> Result<&mut Monitor> {
        let monitor = self.monitor.as_mut();
        monitor.ok_or_else(|| failure("the guest was not booted as one that migrates"))
    }

    /// Begins a live migration to `target`.
    pub fn begin_migration(&mut self, target: &Incoming) -> Result<()> {
        let uri = format!("unix:{}", target.folder.path().join(STREAM).display());
        self.monitor()?.execute("migrate", &json!({ "uri": uri }))?;
        Ok(())
    }

    /// Limits the stream of a migration, in bytes per second.
    pub fn limit_migration(&mut self, rate: u64) -> Result<()> {
        let parameters = json!({ "max-bandwidth": rate });
        self.monitor()?.execute("migrate-set-parameters", &parameters)?;
        Ok(())
    }

    /// Lets later migrations wait before the guest starts in the target, after it has stopped.
    pub fn pause_before_switchover(&mut self) -> Result<()> {
        let pause = json!({ "capability": "pause-before-switchover", "state": true });
        let capabilities = json!({ "capabilities": [pause] });
        self.monitor()?.execute("migrate-set-capabilities", &capabilities)?;
        Ok(())
    }

    /// Lets the memory of later migrations come after the guest, for which `target` must be ready.
    pub fn allow_postcopy(&mut self, target: &mut Incoming) -> Result<()> {
        let postcopy = json!({ "capability": "postcopy-ram", "state": true });
        let capabilities = json!({ "capabilities": [postcopy] });
        let theirs = target
            .monitor
            .as_mut()
            .ok_or_else(|| failure("QEMU does not answer yet"))?;
        theirs.execute("migrate-set-capabilities", &capabilities)?;
        self.monitor()?.execute("migrate-set-capabilities", &capabilities)?;
        Ok(())
    }

    /// Lets the guest run in the target while most of its memory is still here.
    pub fn start_postcopy(&mut self) -> Result<()> {
        let monitor = self.monitor()?;
        monitor.wait_for_migration("active")?;
        monitor.execute("migrate-start-postcopy", &json!({}))?;
        monitor.wait_for_migration("postcopy-active").map(drop)
    }

    /// Limits the memory that comes after the guest, in bytes per second, apart from the pages that it waits for.
    pub fn limit_postcopy(&mut self, rate: u64) -> Result<()> {
        let parameters = json!({ "max-postcopy-bandwidth": rate });
        self.monitor()?.execute("migrate-set-parameters", &parameters)?;
        Ok(())
    }

    /// Lets a migration that waits go on.
    pub fn continue_migration(&mut self) -> Result<()> {
        let state = json!({ "state": "pre-switchover" });
        self.monitor()?.execute("migrate-continue", &state)?;
        Ok(())
    }

    /// Cancels the migration, and later ones do not wait any longer. The guest goes on where it was.
    pub fn cancel_migration(&mut self) -> Result<()> {
        let monitor = self.monitor()?;
        monitor.execute("migrate_cancel", &json!({}))?;
        monitor.wait_for_migration("cancelled")?;
        let deadline = Instant::now() + PATIENCE;
        while monitor.execute("query-status", &json!({}))?["running"] != true {
            if Instant::now() > deadline {
                return Err(self.process.failed("does not go on after a cancelled migration"));
            }
            std::thread::sleep(STEP);
        }
        let pause = json!({ "capability": "pause-before-switchover", "state": false });
        monitor.execute("migrate-set-capabilities", &json!({ "capabilities": [pause] }))?;
        // The stop was not that of a migration.
        monitor.events.clear();
        Ok(())
    }

    /// Waits until the guest runs in `target`. The process that it left ends.
    pub fn finish_migration(&mut self, target: Incoming) -> Result<Stopped> {
        self.monitor()?.wait_for_migration("completed")?;
        let stopped = self.monitor()?.wait_for("STOP")?;
        let resumed = self.follow(target)?;
        Ok(Stopped {
            at: stopped,
            time: resumed.saturating_sub(stopped),
        })
    }

    /// Takes `target` as the guest's process once the guest runs there. Returns the time of that since 1970.
    fn follow(&mut self, mut target: Incoming) -> Result<Duration> {
        let mut monitor = target.monitor.take().map_or_else(|| target.connect(), Ok)?;
        let deadline = Instant::now() + PATIENCE;
        while monitor.execute("query-status", &json!({}))?["running"] != true {
            if Instant::now() > deadline {
                return Err(target.process.failed("does not run the guest"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // A monitor that was connected late has missed the event.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let resumed = monitor.seen("RESUME").unwrap_or(now);
        self.monitor = Some(monitor);
        self.process.kill();
        self.process = target.process;
        self.folder = target.folder;
        Ok(resumed)
    }

    /// Migrates the guest to `target`, live.
    pub fn migrate(&mut self, target: Incoming) -> Result<Stopped> {
        self.begin_migration(&target)?;
        self.finish_migration(target)
    }

    /// Gives the guest with its memory to a process on this machine (cpr-transfer).
    pub fn succeed(&mut self, target: Incoming) -> Result<Stopped> {
        let at = |name| target.folder.path().join(name);
        let channels = [channel("main", &at(STREAM)), channel("cpr", &at(CPR))];
        let monitor = self.monitor()?;
        monitor.execute("migrate-set-parameters", &json!({ "mode": "cpr-transfer" }))?;
        monitor.execute("migrate", &json!({ "channels": channels }))?;
        self.finish_migration(target)
    }

    /// Writes an image of the guest to a file, and lets the guest go on. The file exists as long as the process.
    pub fn save(&mut self) -> Result<PathBuf> {
        let image = self.folder.path().join(IMAGE);
        let uri = format!("file:{}", image.display());
        let monitor = self.monitor()?;
        monitor.execute("migrate", &json!({ "uri": uri }))?;
        monitor.wait_for_migration("completed")?;
        monitor.execute("cont", &json!({}))?;
        Ok(image)
    }

    /// Continues in another process from an image. The process that had the guest until now ends first.
    pub fn go_back(&mut self, plan: &Plan, image: &Path) -> Result<()> {
        self.process.kill();
        let target = plan.restored(self, image)?;
        self.follow(target).map(drop)
    }
}

impl Incoming {
    /// The process.
    pub fn process(&mut self) -> &mut Background {
        &mut self.process
    }

    fn connect(&mut self) -> Result<Monitor> {
        let socket = self.folder.path().join(MONITOR);
        self.process.wait_for_socket(&socket, PATIENCE)?;
        Monitor::connect(&socket)
    }
}
