//! `hawser capture`: writes the packets that cross a port of a running process, as pcapng.

use super::{Client, Target};
use crate::api::capture;
use crate::api::http::Method;
use crate::cli::client::CaptureArgs;
use crate::failure::Failure;
use crate::http_client::Response;
use std::fs::File;
use std::io::{self, ErrorKind, Write};

/// Writes packets until the process ends or the reader closes the output.
///
/// # Errors
/// The process or port does not exist, or the output cannot be written.
pub(crate) fn run(args: &CaptureArgs) -> Result<(), Failure> {
    let mut target = Target::new(capture::PATH)
        .with("filter", &args.filter)
        .of(args.ask.port.as_deref());
    if args.tunnel {
        target = target.with("at", capture::TUNNEL);
    }
    if let Some(length) = args.snap_length {
        target = target.with("snap-length", length);
    }
    let mut response = Client::of(&args.ask).open(Method::Get, &target, &[])?;
    let mut out: Box<dyn Write> = match &args.write {
        Some(path) => {
            let file = File::create(path);
            Box::new(file.map_err(|e| Failure::runtime(format_args!("--write={}: {e}", path.display())))?)
        }
        None => Box::new(io::stdout().lock()),
    };
    match copy(&mut response, &mut out) {
        // The reader has closed the pipe, which is a normal end.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Failure::runtime(format_args!("the capture ended: {e}"))),
    }
}

/// Copies chunk by chunk and flushes each chunk, so that a reader sees packets immediately.
fn copy(from: &mut Response, to: &mut impl Write) -> io::Result<()> {
    while let Some(bytes) = from.next_chunk()? {
        to.write_all(&bytes)?;
        to.flush()?;
    }
    Ok(())
}
