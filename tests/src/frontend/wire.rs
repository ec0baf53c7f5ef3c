//! Sends vhost-user messages one by one, as a front end does.

use super::{DirtyLog, Region};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Numbers of the requests (vhost-user "Front-end message types").
#[allow(missing_docs, reason = "the names are the specification's")]
pub mod code {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SEND_RARP: u32 = 19;
    pub const NET_SET_MTU: u32 = 20;
    pub const GET_CONFIG: u32 = 24;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;
/// Longest time that a back end may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Number of the request that it answers.
    pub code: u32,
    /// Version and flags.
    pub flags: u32,
    /// Body of the answer.
    pub body: Vec<u8>,
}

impl Reply {
    /// The answer as one number.
    pub fn value(&self) -> io::Result<u64> {
        let bytes = self.body.as_slice().try_into();
        bytes.map(u64::from_ne_bytes).map_err(io::Error::other)
    }
}

/// A front end's end of the connection.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    /// True once REPLY_ACK is negotiated. Requests without an answer are then acknowledged.
    pub acknowledged: bool,
}

impl Wire {
    /// Creates a front end that has not sent anything.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            acknowledged: false,
        })
    }

    /// A second handle to the socket, for another implementation of the protocol.
    pub fn try_clone_stream(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// Sets the longest time to wait for an answer.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    /// Sends any bytes with any descriptors.
    pub fn send_raw(&self, bytes: &[u8], files: &[RawFd]) -> io::Result<()> {
        let sent = self.stream.send_with_fds(&[bytes], files);
        let sent = sent.map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        // The rest, if there is any, is sent without descriptors.
        (&self.stream).write_all(&bytes[sent..])
    }

    fn send(&self, code: u32, flags: u32, body: &[u8], files: &[RawFd]) -> io::Result<()> {
        let size = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut bytes = [code, VERSION | flags, size].map(u32::to_ne_bytes).concat();
        bytes.extend_from_slice(body);
        self.send_raw(&bytes, files)
    }

    /// Waits for an answer. `UnexpectedEof`: the back end has disconnected.
    pub fn receive(&self) -> io::Result<Reply> {
        let mut header = [0; 12];
        (&self.stream).read_exact(&mut header)?;
        let word = |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let len = usize::try_from(word(8)).map_err(io::Error::other)?;
        let mut body = vec![0; len];
        (&self.stream).read_exact(&mut body)?;
        Ok(Reply {
            code: word(0),
            flags: word(4),
            body,
        })
    }

    /// Sends a request that has an answer, and waits for it.
    pub fn ask(&self, code: u32, body: &[u8]) -> io::Result<Reply> {
        self.send(code, 0, body, &[])?;
        let reply = self.receive()?;
        if reply.code == code {
            Ok(reply)
        } else {
            Err(io::Error::other(format!("request {code} was answered by {reply:?}")))
        }
    }

    /// Sends a request without an answer. If acknowledgements are negotiated, waits for one.
    pub fn tell(&self, code: u32, body: &[u8], files: &[RawFd]) -> io::Result<()> {
        if !self.acknowledged {
            return self.send(code, 0, body, files);
        }
        self.send(code, NEED_REPLY, body, files)?;
        let reply = self.receive()?;
        match (reply.code == code, reply.value()?) {
            (true, 0) => Ok(()),
            (true, refusal) => Err(io::Error::other(format!("request {code} was refused with {refusal}"))),
            (false, _) => Err(io::Error::other(format!("request {code} was answered by {reply:?}"))),
        }
    }

    /// Calls [`tell`](Self::tell) with one 64-bit number.
    pub fn tell_u64(&self, code: u32, value: u64) -> io::Result<()> {
        self.tell(code, &value.to_ne_bytes(), &[])
    }

    /// Calls [`tell`](Self::tell) with a ring and a number (NUM, BASE, ENABLE).
    pub fn tell_ring(&self, code: u32, ring: u32, value: u32) -> io::Result<()> {
        self.tell(code, &[ring, value].map(u32::to_ne_bytes).concat(), &[])
    }

    /// Calls [`tell`](Self::tell) with a ring's event descriptor (KICK, CALL, ERR). `None` for polling.
    pub fn tell_event(&self, code: u32, ring: u32, event: Option<&impl AsRawFd>) -> io::Result<()> {
        const NO_DESCRIPTOR: u64 = 1 << 8;
        let (flag, files) = match event {
            Some(event) => (0, vec![event.as_raw_fd()]),
            None => (NO_DESCRIPTOR, Vec::new()),
        };
        self.tell(code, &(u64::from(ring) | flag).to_ne_bytes(), &files)
    }

    /// SET_MEM_TABLE
    pub fn set_mem_table(&self, regions: &[Region], file: RawFd) -> io::Result<()> {
        let count = u64::try_from(regions.len()).map_err(io::Error::other)?;
        let mut body = count.to_ne_bytes().to_vec();
        for region in regions {
            body.extend_from_slice(&region_bytes(region));
        }
        self.tell(code::SET_MEM_TABLE, &body, &vec![file; regions.len()])
    }

    /// ADD_MEM_REG
    pub fn add_mem_region(&self, region: &Region, file: RawFd) -> io::Result<()> {
        let body = [&[0; 8], &region_bytes(region)[..]].concat();
        self.tell(code::ADD_MEM_REG, &body, &[file])
    }

    /// REM_MEM_REG
    pub fn remove_mem_region(&self, region: &Region) -> io::Result<()> {
        let body = [&[0; 8], &region_bytes(region)[..]].concat();
        self.tell(code::REM_MEM_REG, &body, &[])
    }

    /// SET_LOG_BASE, which is always answered.
    pub fn set_log_base(&self, log: &DirtyLog) -> io::Result<()> {
        let body = [log.len, 0].map(u64::to_ne_bytes).concat();
        self.send(code::SET_LOG_BASE, 0, &body, &[log.fd()])?;
        self.receive().map(drop)
    }

    /// GET_VRING_BASE: stops the ring, and returns its index.
    pub fn get_vring_base(&self, ring: u32) -> io::Result<u16> {
        let body = [ring, 0].map(u32::to_ne_bytes).concat();
        let reply = self.ask(code::GET_VRING_BASE, &body)?.value()?.to_ne_bytes();
        Ok(u16::from_ne_bytes([reply[4], reply[5]]))
    }

    /// GET_CONFIG of `len` bytes from the start.
    pub fn get_config(&self, len: u32) -> io::Result<Vec<u8>> {
        let mut body = [0, len, 0].map(u32::to_ne_bytes).concat();
        let head = body.len();
        body.resize(head + usize::try_from(len).map_err(io::Error::other)?, 0);
        let reply = self.ask(code::GET_CONFIG, &body)?;
        Ok(reply.body.get(head..).unwrap_or_default().to_vec())
    }
}

fn region_bytes(region: &Region) -> Vec<u8> {
    [region.guest, region.len, region.host, region.offset]
        .map(u64::to_ne_bytes)
        .concat()
}
