//! `hawser capture`: asks a running process for what crosses a port of it.

use crate::api;
use crate::cli::CaptureArgs;
use crate::failure::Failure;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

/// Longest head of an answer.
const HEAD_MAX: u64 = 16 << 10;

/// Writes packets until the process, or who reads them, ends.
///
/// # Errors
/// If there is no such process or port, or nothing can be written.
pub fn run(args: &CaptureArgs) -> Result<(), Failure> {
    let socket = args.api_socket.display();
    let failed = |error: io::Error| Failure::runtime(format_args!("--api-socket={socket}: {error}"));
    let mut stream = UnixStream::connect(&args.api_socket).map_err(failed)?;
    stream.write_all(request(args).as_bytes()).map_err(failed)?;
    let mut answer = BufReader::new(stream);
    let status = read_head(&mut answer).map_err(failed)?;
    if status != 200 {
        let mut message = String::new();
        answer.take(HEAD_MAX).read_to_string(&mut message).map_err(failed)?;
        return Err(Failure::runtime(format_args!("hawser refuses: {}", message.trim_end())));
    }
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

fn request(args: &CaptureArgs) -> String {
    let mut query = format!("filter={}", api::encode(&args.filter));
    if let Some(port) = &args.port {
        query += &format!("&port={}", api::encode(port));
    }
    if let Some(length) = args.snap_length {
        query += &format!("&snap-length={length}");
    }
    format!(
        "GET {}?{query} HTTP/1.1\r\nHost: hawser\r\nConnection: close\r\n\r\n",
        api::CAPTURE
    )
}

/// Reads up to the empty line; the status.
fn read_head(answer: &mut impl io::BufRead) -> io::Result<u16> {
    let mut lines = answer.take(HEAD_MAX).lines();
    let bad = || io::Error::new(ErrorKind::InvalidData, "what answers there is not hawser");
    let first = lines.next().ok_or_else(bad)??;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    for line in lines {
        if line?.is_empty() {
            return status.ok_or_else(bad);
        }
    }
    Err(bad())
}

/// Hands on what comes as it comes.
fn copy(from: &mut impl io::BufRead, to: &mut impl Write) -> io::Result<()> {
    loop {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return to.flush();
        }
        to.write_all(bytes)?;
        let taken = bytes.len();
        from.consume(taken);
        to.flush()?;
    }
}
