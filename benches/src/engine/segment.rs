//! TCP over IPv4 in Ethernet, reduced to what one flow of a synthetic guest needs.

use hawser_backend::config::GATEWAY_MAC;
use hawser_backend::packet::MacAddr;
use std::net::SocketAddrV4;

/// Length of the virtio header in bytes.
pub(super) const VIRTIO: usize = 12;
const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;
/// Length of all headers without TCP options, in bytes.
pub(super) const HEADERS: usize = ETHERNET + IP + TCP;
/// Maximum length of TCP options in bytes.
pub(super) const OPTIONS: usize = 40;
/// The options MSS and window scale of a SYN.
const SYN_OPTIONS: [u8; 8] = [2, 4, 0x05, 0xb4, 1, 3, 3, WINDOW_SCALE];
/// Shift of the guest's window.
pub(super) const WINDOW_SCALE: u8 = 9;
const MSS: u16 = 1460;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;

/// Both endpoints of a flow, beginning with the guest's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub mac: MacAddr,
    pub guest: SocketAddrV4,
    pub far: SocketAddrV4,
}

/// Fields that differ between segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    /// Window as it is written, without scaling.
    pub window: u16,
    /// Length of the payload in bytes. If it is more than one MSS, the segment uses TSO.
    pub payload: usize,
}

/// The virtio header and all protocol headers. The checksum is left to the device.
pub(super) fn emit(ends: &Ends, segment: Segment) -> Vec<u8> {
    let options: &[u8] = if segment.flags & SYN != 0 { &SYN_OPTIONS } else { &[] };
    let tcp_len = TCP + options.len();
    let mut out = Vec::with_capacity(VIRTIO + HEADERS + options.len());
    let is_large = segment.payload > usize::from(MSS);
    // NEEDS_CSUM, and GSO_TCPV4 or none.
    out.extend_from_slice(&[1, u8::from(is_large)]);
    let lengths = [
        ETHERNET + IP + tcp_len,
        if is_large { MSS.into() } else { 0 },
        ETHERNET + IP,
        16,
        0,
    ];
    for word in lengths {
        out.extend_from_slice(&low(word).to_le_bytes());
    }
    out.extend_from_slice(&GATEWAY_MAC.0);
    out.extend_from_slice(&ends.mac.0);
    out.extend_from_slice(&[8, 0]);
    ip(&mut out, ends, IP + tcp_len + segment.payload);
    out.extend_from_slice(&ends.guest.port().to_be_bytes());
    out.extend_from_slice(&ends.far.port().to_be_bytes());
    out.extend_from_slice(&segment.seq.to_be_bytes());
    out.extend_from_slice(&segment.ack.to_be_bytes());
    out.extend_from_slice(&[low(tcp_len << 2).to_le_bytes()[0], segment.flags]);
    out.extend_from_slice(&segment.window.to_be_bytes());
    // The checksum field should contain the sum over the pseudo-header, but a back end that terminates TCP does not
    // need it.
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(options);
    out
}

fn ip(out: &mut Vec<u8>, ends: &Ends, len: usize) {
    let start = out.len();
    out.extend_from_slice(&[0x45, 0]);
    out.extend_from_slice(&low(len).to_be_bytes());
    // Identification, don't fragment, TTL, protocol and checksum.
    out.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
    out.extend_from_slice(&ends.guest.ip().octets());
    out.extend_from_slice(&ends.far.ip().octets());
    let sum = hawser_backend::packet::checksum::of(&out[start..]);
    out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
}

fn low(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// The fields that the guest reads in a received segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Port of the guest.
    pub port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// Window scale option of a SYN.
    pub scale: u8,
    pub payload: usize,
}

/// Number of receive buffers of a frame, from its virtio header (`num_buffers`).
pub(super) fn buffers(header: &[u8; VIRTIO + HEADERS + OPTIONS]) -> u16 {
    u16::from_le_bytes([header[10], header[11]])
}

/// Parses the first bytes of a frame, including the virtio header. `None` if the frame is not TCP.
pub(super) fn parse(bytes: &[u8]) -> Option<Received> {
    let ip = bytes.get(VIRTIO + ETHERNET..)?;
    if bytes.get(VIRTIO + 12..VIRTIO + 14)? != [8, 0] || *ip.get(9)? != 6 {
        return None;
    }
    let word = |from: &[u8], at: usize| Some(u16::from_be_bytes([*from.get(at)?, *from.get(at + 1)?]));
    let long = |from: &[u8], at: usize| Some(u32::from(word(from, at)?) << 16 | u32::from(word(from, at + 2)?));
    let ip_len = usize::from(ip[0] & 15) * 4;
    let tcp = ip.get(ip_len..)?;
    let tcp_len = usize::from(*tcp.get(12)? >> 4) * 4;
    let options = tcp.get(TCP..tcp_len).unwrap_or_default();
    Some(Received {
        port: word(tcp, 2)?,
        seq: long(tcp, 4)?,
        ack: long(tcp, 8)?,
        flags: tcp[13],
        window: word(tcp, 14)?,
        scale: scale(options),
        payload: usize::from(word(ip, 2)?).checked_sub(ip_len + tcp_len)?,
    })
}

fn scale(mut options: &[u8]) -> u8 {
    while let [kind, rest @ ..] = options {
        match (kind, rest) {
            (0, _) => return 0,
            (1, _) => options = rest,
            (3, [_, shift, ..]) => return *shift,
            (_, [len, ..]) => options = options.get(usize::from(*len).max(2)..).unwrap_or_default(),
            _ => return 0,
        }
    }
    0
}
