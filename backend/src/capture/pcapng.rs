//! Writes pcapng files (draft-ietf-opsawg-pcapng) with one interface and its packets.
//!
//! Blocks are written in the machine's byte order, which a reader detects from the first block.

use super::{Direction, Packet};
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const VERSION: [u16; 2] = [1, 0];
/// The section's length is not known in advance.
const UNKNOWN_LENGTH: u64 = u64::MAX;
const LINKTYPE_ETHERNET: u16 = 1;

/// Option codes.
const END: u16 = 0;
const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
/// Value of `if_tsresol` for nanoseconds.
const NANOSECONDS: u8 = 9;
/// Value of `epb_flags`, from the point of view of the guest's NIC.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writes a section with one interface.
#[derive(Debug)]
pub struct PcapngWriter<W> {
    out: W,
    block: Vec<u8>,
}

impl<W: Write> PcapngWriter<W> {
    /// Writes the section and interface headers for the interface `name`, whose packets are cut to `snap_length`.
    ///
    /// # Errors
    /// The write error.
    pub fn new(out: W, name: &str, snap_length: usize) -> io::Result<Self> {
        let mut writer = Self { out, block: Vec::new() };
        writer.put(&BYTE_ORDER_MAGIC.to_ne_bytes());
        VERSION.iter().for_each(|part| writer.put(&part.to_ne_bytes()));
        writer.put(&UNKNOWN_LENGTH.to_ne_bytes());
        writer.option(SHB_USERAPPL, b"hawser");
        writer.option(END, &[]);
        writer.end_block(SECTION_HEADER)?;
        writer.put(&LINKTYPE_ETHERNET.to_ne_bytes());
        writer.put(&[0; 2]);
        writer.put(&narrow(snap_length).to_ne_bytes());
        writer.option(IF_NAME, name.as_bytes());
        writer.option(IF_TSRESOL, &[NANOSECONDS]);
        writer.option(END, &[]);
        writer.end_block(INTERFACE_DESCRIPTION)?;
        Ok(writer)
    }

    /// Writes one packet.
    ///
    /// # Errors
    /// The write error.
    pub fn packet(&mut self, packet: &Packet) -> io::Result<()> {
        self.stamp(packet.at);
        self.put(&narrow(packet.bytes.len()).to_ne_bytes());
        self.put(&narrow(packet.len).to_ne_bytes());
        self.put(&packet.bytes);
        self.pad();
        let flags = match packet.direction {
            Direction::FromGuest => OUTBOUND,
            Direction::ToGuest => INBOUND,
        };
        self.option(EPB_FLAGS, &flags.to_ne_bytes());
        if packet.lost > 0 {
            self.option(EPB_DROPCOUNT, &packet.lost.to_ne_bytes());
        }
        if let Some(reason) = packet.dropped {
            self.option(COMMENT, format!("dropped: {reason}").as_bytes());
        }
        self.option(END, &[]);
        self.end_block(ENHANCED_PACKET)
    }

    /// Writes statistics without figures. They state that no packet has arrived so far.
    ///
    /// # Errors
    /// The write error. It reveals a reader that has gone away.
    pub fn idle(&mut self, now: SystemTime) -> io::Result<()> {
        self.stamp(now);
        self.option(END, &[]);
        self.end_block(INTERFACE_STATISTICS)
    }

    /// Adds the interface number and a timestamp.
    fn stamp(&mut self, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.put(&0_u32.to_ne_bytes());
        for half in [nanos >> 32, nanos & u64::from(u32::MAX)] {
            self.put(&u32::try_from(half).unwrap_or(u32::MAX).to_ne_bytes());
        }
    }

    /// Flushes the output.
    ///
    /// # Errors
    /// The write error.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        // Values longer than 65535 bytes are cut. The values of hawser are short names.
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.put(&code.to_ne_bytes());
        self.put(&len.to_ne_bytes());
        self.put(&value[..usize::from(len)]);
        self.pad();
    }

    /// Writes the block's type, length, body, and length again.
    fn end_block(&mut self, kind: u32) -> io::Result<()> {
        let len = narrow(self.block.len() + 12);
        for part in [kind, len] {
            self.out.write_all(&part.to_ne_bytes())?;
        }
        self.out.write_all(&self.block)?;
        self.block.clear();
        self.out.write_all(&len.to_ne_bytes())
    }
}

fn narrow(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
