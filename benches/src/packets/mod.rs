//! 64-byte packets between a synthetic guest and a TAP device, compared with a bare loop of one system call per frame.
//!
//! The guest ([`guest`]) keeps hawser's rings full of prepared frames, or empties them. The [`floor`] writes the same
//! frames to the same kind of device, or reads those of the same sender. On the other side of the device is the kernel:
//! a UDP socket whose buffer is full, or one that sends. The comparison therefore includes the kernel's path to the
//! socket.

pub mod floor;
mod frames;
pub mod guest;
pub mod sender;

use frames::Frames;
use hawser_testkit::Result;
use hawser_testkit::netns::Namespace;
use std::time::Duration;

/// Name of the device.
pub const TAP: &str = "tap0";
/// The host's address on the segment.
pub const HOST: &str = "192.0.2.1";
/// The guest's address on the segment.
pub const GUEST: &str = "192.0.2.2";
/// MAC of the guest.
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x68, 0x61, 0x77];
/// Port of the host's socket and of the guest's.
pub const PORT: u16 = 9000;
/// Length of the payload in a 64-byte frame, without the frame check sequence.
pub const PAYLOAD: usize = 22;
/// Length of the Ethernet, IPv4 and UDP headers in bytes.
pub const HEADERS: usize = 42;

/// The traffic of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The guest sends datagrams of one flow.
    OutOneFlow,
    /// The guest sends datagrams of 16 flows in turn.
    OutFlows,
    /// The guest sends datagrams without a checksum, which are never merged.
    OutAlone,
    /// The host sends a flow in batches (UDP_SEGMENT).
    InBatches,
    /// The host sends a flow one by one (sendmmsg).
    InAlone,
}

impl Load {
    /// All loads.
    pub const ALL: [Self; 5] = [
        Self::OutOneFlow,
        Self::OutFlows,
        Self::OutAlone,
        Self::InBatches,
        Self::InAlone,
    ];

    /// Name of the load in tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::OutOneFlow => "guest → TAP, one flow",
            Self::OutFlows => "guest → TAP, 16 flows in turn",
            Self::OutAlone => "guest → TAP, frames that cannot be merged",
            Self::InBatches => "TAP → guest, a flow sent with UDP_SEGMENT",
            Self::InAlone => "TAP → guest, a flow sent one by one",
        }
    }

    /// True if the guest sends.
    pub const fn is_out(self) -> bool {
        matches!(self, Self::OutOneFlow | Self::OutFlows | Self::OutAlone)
    }

    fn frames(self) -> Frames {
        match self {
            Self::OutFlows => Frames::Flows(16),
            Self::OutAlone => Frames::WithoutChecksum,
            _ => Frames::Flows(1),
        }
    }
}

/// Result of a run.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Number of packets.
    pub packets: u64,
    /// Duration of the run.
    pub time: Duration,
    /// Processor time of the measured thread.
    pub cpu: Duration,
}

impl Outcome {
    /// Rate in millions of packets per second.
    pub fn rate(&self) -> f64 {
        self.packets as f64 / 1e6 / self.time.as_secs_f64()
    }

    /// Cost in processor nanoseconds per packet.
    pub fn cost(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.packets.max(1) as f64
    }
}

/// Configures the host's side of the device, once it exists.
fn set_up(namespace: &Namespace) -> Result<[u8; 6]> {
    let mac: Vec<String> = MAC.iter().map(|byte| format!("{byte:02x}")).collect();
    for line in [
        format!("sysctl -qw net.ipv6.conf.{TAP}.disable_ipv6=1"),
        format!("ip addr add {HOST}/24 dev {TAP}"),
        format!("ip link set {TAP} up"),
        format!("ip neigh add {GUEST} lladdr {} dev {TAP}", mac.join(":")),
    ] {
        namespace.run(&line)?;
    }
    let shown = namespace.run(&format!("ip -o link show {TAP}"))?;
    let words: Vec<&str> = shown.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "link/ether");
    let text = at.and_then(|at| words.get(at + 1)).copied().unwrap_or_default();
    let mac: hawser_backend::packet::MacAddr = text.parse()?;
    Ok(mac.0)
}
