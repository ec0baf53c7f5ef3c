//! QEMU Machine Protocol: one JSON object per line. Commands are answered in order, and events may arrive in between.
//!
//! Every wait has a limit, in case QEMU hangs or its monitor, which accepts one client, is in use.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum length of a line in bytes. The answer to query-pci of a large machine has several hundred kilobytes.
const LINE_MAX: usize = 4 << 20;
/// Maximum events that are kept for a later [`Qmp::event`].
const EVENTS_MAX: usize = 256;

/// Errors of the monitor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    /// QEMU did not answer in time.
    #[error("QEMU does not answer on its monitor, which may already have a client: give hawser a monitor of its own")]
    Silent,
    /// The socket failed.
    #[error("QEMU's monitor: {0}")]
    Socket(#[from] io::Error),
    /// The peer is not a QEMU monitor.
    #[error("the socket does not speak QEMU's machine protocol: give the socket of -qmp")]
    NoQmp,
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {description}")]
    Refused {
        /// Name of the command.
        command: &'static str,
        /// Class of QEMU's error.
        class: String,
        /// Description of the error by QEMU.
        description: String,
    },
}

/// A monitor that has sent its greeting.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: UnixStream,
    /// Received part of the next line.
    buffer: Vec<u8>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects and waits for QEMU's greeting.
    ///
    /// # Errors
    /// [`QmpError`]
    pub(super) fn connect(path: &Path) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut qmp = Self {
            stream,
            buffer: Vec::new(),
            events: VecDeque::new(),
        };
        let greeting = qmp.next(Instant::now() + PATIENCE)?.ok_or(QmpError::Silent)?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::NoQmp);
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command.
    ///
    /// # Errors
    /// [`QmpError`]
    #[allow(clippy::needless_pass_by_value, reason = "callers make it for this call")]
    pub(super) fn execute(&mut self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.stream.write_all(line.as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut answer = self.next(deadline)?.ok_or(QmpError::Silent)?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                return Err(QmpError::Refused {
                    command,
                    class: text("class"),
                    description: text("desc"),
                });
            }
            self.keep(answer);
        }
    }

    /// Waits for an event, including one that arrived earlier. `None` after `deadline`.
    ///
    /// # Errors
    /// [`QmpError`]
    pub(super) fn event(
        &mut self,
        deadline: Instant,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>, QmpError> {
        loop {
            if let Some(at) = self.events.iter().position(&wanted) {
                return Ok(self.events.remove(at));
            }
            match self.next(deadline)? {
                Some(message) => self.keep(message),
                None => return Ok(None),
            }
        }
    }

    fn keep(&mut self, message: Value) {
        if message.get("event").is_some() {
            if self.events.len() == EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back(message);
        }
    }

    /// Reads the next line. `None` if it is incomplete at `deadline`.
    fn next(&mut self, deadline: Instant) -> Result<Option<Value>, QmpError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|_| QmpError::NoQmp);
            }
            if self.buffer.len() > LINE_MAX {
                return Err(QmpError::NoQmp);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                Ok(length) => self.buffer.extend_from_slice(&piece[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
