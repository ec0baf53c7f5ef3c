//! Sends raw frames, for packets that IP sockets do not send.

use crate::{Arguments, Failure, Report};
use serde_json::json;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Sends a frame from an interface several times, for the command `frame`.
pub(crate) fn frame(arguments: &Arguments) -> Report {
    let frame = decode(arguments.text("bytes")?)?;
    let count: u32 = arguments.get_or("count", 1)?;
    let (socket, address) = open(arguments.text("on")?)?;
    for _ in 0..count {
        send(&socket, &address, &frame)?;
    }
    Ok((true, json!({ "sent": count, "bytes": frame.len() })))
}

fn decode(hex: &str) -> Result<Vec<u8>, Failure> {
    let digits: Vec<char> = hex.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
    let bytes: Result<_, _> = digits.chunks(2).map(byte).collect();
    Ok(bytes.map_err(|e| format!("'{hex}' is not hexadecimal: {e}"))?)
}

fn open(interface: &str) -> Result<(OwnedFd, libc::sockaddr_ll), Failure> {
    let name = CString::new(interface)?;
    // SAFETY: `name` is a string that ends with NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(format!("{interface}: {}", io::Error::last_os_error()).into());
    }
    // SAFETY: socket(2) takes plain numbers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_ifindex = i32::try_from(index)?;
    // SAFETY: the socket has just been opened and has no other owner.
    Ok((unsafe { OwnedFd::from_raw_fd(socket) }, address))
}

fn send(socket: &OwnedFd, address: &libc::sockaddr_ll, frame: &[u8]) -> Result<(), Failure> {
    let len = u32::try_from(size_of::<libc::sockaddr_ll>())?;
    // SAFETY: both `frame` and `address` live for the call, with the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(address).cast(),
            len,
        )
    };
    match usize::try_from(sent) {
        Ok(sent) if sent == frame.len() => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}
