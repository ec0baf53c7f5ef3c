//! `hawser capture`: what crosses a port of a running process.

use super::args::CaptureArgs;
use super::{Client, Target};
use crate::api::capture;
use crate::api::http::Method;
use crate::exchange::Answer;
use crate::failure::Failure;
use std::fs::File;
use std::io::{self, ErrorKind, Write};

/// Writes packets until the process, or who reads them, ends.
///
/// # Errors
/// If there is no such process or port, or nothing can be written.
pub fn run(args: &CaptureArgs) -> Result<(), Failure> {
    let mut target = Target::new(capture::PATH)
        .with("filter", &args.filter)
        .of(args.ask.port.as_deref());
    if let Some(length) = args.snap_length {
        target = target.with("snap-length", length);
    }
    let mut answer = Client::of(&args.ask).open(Method::Get, &target, &[])?;
    let mut out: Box<dyn Write> = match &args.write {
        Some(path) => {
            let file = File::create(path);
            Box::new(file.map_err(|e| Failure::runtime(format_args!("--write={}: {e}", path.display())))?)
        }
        None => Box::new(io::stdout().lock()),
    };
    match copy(&mut answer, &mut out) {
        // Whoever looked has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Failure::runtime(format_args!("the capture ended: {e}"))),
    }
}

/// Hands on what comes as it comes.
fn copy(from: &mut Answer, to: &mut impl Write) -> io::Result<()> {
    while let Some(bytes) = from.piece()? {
        to.write_all(&bytes)?;
        to.flush()?;
    }
    Ok(())
}
