//! The guest's half of its command channel.
//!
//! The testkit has the other half, at the far end of a serial line: lines of JSON in both directions.
//! `{"id":1,"run":"ls","seconds":10}` starts a shell command; several may run at once.
//! `{"id":1,"status":0,"out":"…","err":"…"}` reports its end. `{"id":1,"kill":true}` ends it early. An initial
//! `{"ready":true}` reports that the guest is up.

use crate::Report;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Deserialize)]
struct Order {
    id: u64,
    run: Option<String>,
    #[serde(default)]
    seconds: u64,
    #[serde(default)]
    kill: bool,
}

#[derive(Serialize)]
struct End {
    id: u64,
    /// Exit code, or 128 plus the signal, as in a shell. `None` if the command exceeded its time.
    status: Option<i32>,
    out: String,
    err: String,
}

type Line = Arc<Mutex<File>>;
/// Process groups of running commands, by id.
type Running = Arc<Mutex<HashMap<u64, i32>>>;

fn make_raw(tty: &File) -> io::Result<()> {
    // SAFETY: all zeroes is a valid termios, and tcgetattr fills it in.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    let fd = tty.as_raw_fd();
    // SAFETY: the descriptor is open and `settings` is valid for each call.
    let result = unsafe {
        libc::tcgetattr(fd, &raw mut settings);
        libc::cfmakeraw(&raw mut settings);
        libc::tcsetattr(fd, libc::TCSANOW, &raw const settings)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn say(line: &Line, what: &impl Serialize) {
    if let Ok(mut text) = serde_json::to_vec(what) {
        text.push(b'\n');
        // Without the line there is no reader.
        let _ = line.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text);
    }
}

fn kill_group(group: i32) {
    // SAFETY: kill takes plain numbers. The error for a group that is gone can be ignored.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // Output before an error is still sent.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for `child`, for at most `limit`.
fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.code().or_else(|| status.signal().map(|signal| 128 + signal)),
            Ok(None) if Instant::now() < deadline => thread::sleep(pause),
            _ => return None,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn run(id: u64, command: &str, limit: Duration, running: &Running) -> End {
    let spawned = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            return End {
                id,
                status: Some(127),
                out: String::new(),
                err: error.to_string(),
            };
        }
    };
    let group = i32::try_from(child.id()).unwrap_or(i32::MAX);
    running.lock().unwrap_or_else(PoisonError::into_inner).insert(id, group);
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child, limit);
    running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    if status.is_none() {
        kill_group(group);
        // This only reaps the child. Its status would show the kill.
        let _ = child.wait();
    }
    End {
        id,
        status,
        out: out.join().unwrap_or_default(),
        err: err.join().unwrap_or_default(),
    }
}

/// Executes commands from the serial line `tty` until it closes.
pub(crate) fn serve(tty: &str) -> Report {
    let tty = OpenOptions::new().read(true).write(true).open(tty)?;
    make_raw(&tty)?;
    let reader = BufReader::new(tty.try_clone()?);
    let line: Line = Arc::new(Mutex::new(tty));
    let running = Running::default();
    say(&line, &json!({ "ready": true }));
    for text in reader.lines() {
        let Ok(order) = serde_json::from_str::<Order>(&text?) else {
            continue;
        };
        if order.kill {
            if let Some(&group) = running.lock().unwrap_or_else(PoisonError::into_inner).get(&order.id) {
                kill_group(group);
            }
        } else if let Some(command) = order.run {
            let (line, running) = (Arc::clone(&line), Arc::clone(&running));
            thread::spawn(move || {
                let end = run(order.id, &command, Duration::from_secs(order.seconds), &running);
                say(&line, &end);
            });
        }
    }
    Ok((true, json!({ "error": "the line is gone" })))
}
