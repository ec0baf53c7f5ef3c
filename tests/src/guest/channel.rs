//! The test's end of a guest's command channel: see `hawser-traffic agent`.

use crate::{Result, failure};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Result of a command in the guest.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code, or 128 plus the signal. `None` if the command exceeded its time.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    fn parse(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let status = value["status"].as_i64().and_then(|status| i32::try_from(status).ok());
        Self {
            status,
            out: text("out"),
            err: text("err"),
        }
    }
}

/// Waiting callers, by command. `None` once the guest has ended.
type Waiting = Arc<Mutex<Option<HashMap<u64, Sender<Output>>>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The test's end of a command channel.
#[derive(Debug)]
pub(super) struct Channel {
    line: Mutex<UnixStream>,
    waiting: Waiting,
    ready: Receiver<()>,
    next: Mutex<u64>,
}

/// A command that runs in the guest.
#[derive(Debug)]
pub struct Running {
    id: u64,
    command: String,
    end: Receiver<Output>,
}

impl Running {
    /// Waits for the end of the command, slightly longer than its time limit.
    pub fn wait(&self, limit: Duration) -> Result<Output> {
        match self.end.recv_timeout(limit) {
            Ok(output) => Ok(output),
            Err(RecvTimeoutError::Timeout) => Err(failure(format!("no answer from the guest to: {}", self.command))),
            Err(RecvTimeoutError::Disconnected) => {
                Err(failure(format!("the guest went away during: {}", self.command)))
            }
        }
    }

    /// The result, if the command has ended.
    pub fn poll(&self) -> Option<Output> {
        self.end.try_recv().ok()
    }
}

impl Channel {
    pub(super) fn new(line: UnixStream) -> Result<Self> {
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (says_ready, ready) = mpsc::channel();
        let (reader, for_reader) = (BufReader::new(line.try_clone()?), Arc::clone(&waiting));
        thread::spawn(move || {
            for text in reader.split(b'\n').map_while(std::result::Result::ok) {
                // Output of the guest's firmware or kernel on this line is ignored.
                let Ok(value) = serde_json::from_slice::<Value>(&text) else {
                    continue;
                };
                if value["ready"] == true {
                    // The caller may no longer be waiting.
                    let _ = says_ready.send(());
                } else if let Some(id) = value["id"].as_u64() {
                    let waiter = lock(&for_reader).as_mut().and_then(|waiting| waiting.remove(&id));
                    if let Some(waiter) = waiter {
                        let _ = waiter.send(Output::parse(&value));
                    }
                }
            }
            // Dropping the senders wakes all waiting callers.
            *lock(&for_reader) = None;
        });
        Ok(Self {
            line: Mutex::new(line),
            waiting,
            ready,
            next: Mutex::new(0),
        })
    }

    /// True if the guest has reported within `limit` that it is up.
    pub(super) fn is_ready(&self, limit: Duration) -> bool {
        self.ready.recv_timeout(limit).is_ok()
    }

    fn say(&self, what: &Value) -> Result<()> {
        Ok(lock(&self.line).write_all(format!("{what}\n").as_bytes())?)
    }

    pub(super) fn start(&self, command: &str, limit: Duration) -> Result<Running> {
        let id = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        let (sender, end) = mpsc::channel();
        lock(&self.waiting)
            .as_mut()
            .ok_or_else(|| failure("the guest is gone"))?
            .insert(id, sender);
        self.say(&json!({ "id": id, "run": command, "seconds": limit.as_secs().max(1) }))?;
        Ok(Running {
            id,
            command: command.to_owned(),
            end,
        })
    }

    pub(super) fn kill(&self, running: &Running) -> Result<()> {
        self.say(&json!({ "id": running.id, "kill": true }))
    }
}
