//! HTTP/1.1 as far as cloud-hypervisor's API needs it: one request, one answer.

use std::io::{self, BufRead as _, BufReader, Error, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a piece of an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest head, and longest body.
const HEAD_MAX: u64 = 16 << 10;
const BODY_MAX: usize = 4 << 20;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// Sends a request with a body of JSON, or none.
///
/// # Errors
/// What keeps the answer from coming.
pub fn exchange(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes())?;
    read_answer(BufReader::new(stream))
}

fn read_answer(mut stream: BufReader<UnixStream>) -> io::Result<Answer> {
    let strange = || Error::new(ErrorKind::InvalidData, "what listens there does not speak HTTP");
    let mut head = (&mut stream).take(HEAD_MAX);
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Err(strange());
        }
        let line = line.trim_end();
        if status.is_none() {
            let words = line.strip_prefix("HTTP/1.").ok_or_else(strange)?;
            status = words.split(' ').nth(1).and_then(|word| word.parse().ok());
            status.ok_or_else(strange)?;
            continue;
        }
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| strange())?;
        }
    }
    if length > BODY_MAX {
        return Err(strange());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Answer {
        status: status.ok_or_else(strange)?,
        body,
    })
}
