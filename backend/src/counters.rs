//! Counters and named reasons for every frame that goes nowhere.
//!
//! One writer (the worker), many readers (status, metrics): plain relaxed stores,
//! no lock, no read-modify-write on the packet path.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// All of them, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name users see.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What it counts, in a sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

counters! {
    /// Why something went nowhere.
    DropReason {
        /// The guest's frame ends inside a header.
        Truncated = "truncated",
        /// IP version and EtherType disagree.
        BadVersion = "bad_ip_version",
        /// A length field contradicts the frame.
        BadLength = "bad_length",
        /// Headers longer than is looked at.
        HeadersTooLong = "headers_too_long",
        /// An offload request of the guest makes no sense for its frame.
        BadOffload = "bad_offload",
        /// A frame longer than 64 KiB and its headers.
        FrameTooLong = "frame_too_long",
        /// A chain of the guest that is no frame: empty, or of the wrong direction.
        BadChain = "bad_chain",
        /// A descriptor or ring of the guest is malformed; the queue was stopped.
        BrokenRing = "broken_ring",
        /// A frame of the guest on a queue pair that was switched off.
        PairOff = "queue_pair_off",
        /// Source MAC is not the guest's.
        SpoofedMac = "spoofed_mac",
        /// Source address is not the guest's.
        SpoofedAddress = "spoofed_address",
        /// The sender of an ARP packet is not the guest.
        SpoofedArp = "spoofed_arp",
        /// A neighbour message claims an address or a MAC that is not the guest's.
        SpoofedNeighbour = "spoofed_neighbour",
        /// The guest would serve DHCP or DHCPv6.
        DhcpGuard = "dhcp_guard",
        /// The guest would advertise a router or redirect to one.
        RouterGuard = "router_guard",
        /// What a frame of the guest carries cannot be told, and a guard would have to know.
        HiddenTransport = "hidden_transport",
        /// A tagged frame where tags are not in use.
        UnexpectedVlan = "unexpected_vlan",
        /// The guest sent into a VLAN its port is not in.
        VlanNotMember = "vlan_not_member",
        /// A frame of the segment is of a VLAN the port is not in; nothing unusual where VLANs share a segment.
        VlanOther = "vlan_other",
        /// An 802.1ad tag on a port with VLANs, in either direction.
        VlanProviderTag = "vlan_provider_tag",
        /// An EtherType nobody here speaks.
        UnknownEtherType = "unknown_ethertype",
        /// An IP protocol nobody here speaks.
        UnknownProtocol = "unknown_protocol",
        /// Destination address that must not be reached from a guest (loopback, …).
        ForbiddenDestination = "forbidden_destination",
        /// Destination on the private network where nobody lives.
        NoSuchNeighbour = "no_such_neighbour",
        /// Multicast or broadcast nobody here listens to.
        Multicast = "multicast",
        /// A frame the guest's driver has not asked for (its card's filters).
        NotAskedFor = "not_asked_for",
        /// The guest has no receive buffers.
        NoRoom = "no_room",
        /// A receive buffer of the guest is too small for any frame.
        BufferTooSmall = "buffer_too_small",
        /// A TCP segment for no connection (answered with RST).
        TcpNoConnection = "tcp_no_connection",
        /// A TCP segment outside the window, or a duplicate.
        TcpOutOfWindow = "tcp_out_of_window",
        /// TCP bytes after a hole; the guest sends them again.
        TcpOutOfOrder = "tcp_out_of_order",
        /// TCP bytes the host socket did not take; the guest sends them again.
        TcpSocketFull = "tcp_socket_full",
        /// No room for one more flow, or no file descriptor for it.
        FlowLimit = "flow_limit",
        /// A TCP connection one side had closed that gave way to another.
        TcpHalfClosedEvicted = "tcp_half_closed_evicted",
        /// A TCP connection the guest did not answer on that gave way to another.
        TcpUnansweredEvicted = "tcp_unanswered_evicted",
        /// A TCP connection that was being made and gave way to another.
        TcpOpeningEvicted = "tcp_opening_evicted",
        /// The host refused a socket operation.
        SocketError = "socket_error",
        /// The worker that owns the flow has more frames handed to it than it takes.
        HandoverFull = "handover_full",
        /// A datagram the host did not take.
        UdpSendFailed = "udp_send_failed",
        /// A datagram from the world that is no flow's and no forward's.
        UdpNoFlow = "udp_no_flow",
        /// A fragment that does not fit the others, or comes too late.
        BadFragment = "bad_fragment",
        /// No room for one more datagram in pieces.
        FragmentLimit = "fragment_limit",
        /// A datagram whose missing pieces did not come in time.
        FragmentTimeout = "fragment_timeout",
        /// A message of a service (ARP, NDP, DHCP, ICMP) that makes no sense.
        BadService = "bad_service_message",
        /// The guest asked for its address with another MAC than the one the lease is for.
        LeaseOfOtherMac = "lease_of_other_mac",
        /// The host does not let us send echo requests.
        EchoForbidden = "echo_forbidden",
        /// A datagram the guest refused with an ICMP error (a closed port, a firewall); its flow has ended.
        UdpRefused = "udp_refused_by_guest",
        /// A packet of a link-local address of the guest to an address beyond its link.
        BeyondScope = "beyond_scope",
        /// An echo reply of a host the guest has not asked.
        EchoNoFlow = "echo_no_flow",
        /// An ICMP message of the guest that goes no further: only echo requests do.
        IcmpNotServed = "icmp_not_served",
        /// The segment is not there: its device is down, or has gone.
        SegmentDown = "segment_down",
        /// The segment gave a frame in a form the guest does not take.
        NotSegmented = "not_segmented",
        /// The device to the segment does not take the frame.
        SegmentRefused = "segment_refused",
    }
}

counters! {
    /// What was moved and done.
    Count {
        /// Frames the guest sent.
        TxFrames = "tx_frames",
        /// Bytes of frames the guest sent.
        TxBytes = "tx_bytes",
        /// Of these, frames that left together with others of their flow.
        TxMerged = "tx_merged_frames",
        /// Frames given to the guest.
        RxFrames = "rx_frames",
        /// Bytes of frames given to the guest.
        RxBytes = "rx_bytes",
        /// Times the guest was notified.
        Calls = "calls",
        /// Times the guest kicked.
        Kicks = "kicks",
        /// Times the guest's frames were left in the ring because it had sent what it may.
        TxThrottled = "tx_throttled",
        /// Times the guest had been sent what it may while there was more.
        RxThrottled = "rx_throttled",
        /// Times there was something for the guest, and it had posted no buffers.
        RxStalls = "rx_stalls",
        /// Frames that came on another queue than their flow's.
        Handovers = "handovers",
        /// Flows given to another queue's worker: their own was switched off, or is not the one
        /// the guest sends them on.
        FlowsMoved = "flows_moved",
        /// TCP connections opened by the guest.
        TcpOut = "tcp_connections_out",
        /// TCP connections opened to the guest.
        TcpIn = "tcp_connections_in",
        /// TCP bytes sent again to the guest.
        TcpRetransmits = "tcp_retransmitted_bytes",
        /// TCP bytes of the guest kept until the host socket took them.
        TcpSpilled = "tcp_spilled_bytes",
        /// Connections ended by RST from either side.
        TcpResets = "tcp_resets",
        /// UDP flows made.
        UdpFlows = "udp_flows",
        /// Echo requests of the guest passed on.
        Echos = "echos",
        /// Echo requests passed on without their IP options (record route, timestamps).
        IpOptions = "ip_options_left_out",
        /// DHCPv4 leases given or renewed.
        Dhcp4Leases = "dhcp4_leases",
        /// DHCPv4 addresses the guest declined: it believes somebody else has them.
        Dhcp4Declines = "dhcp4_declines",
        /// DHCPv4 leases the guest gave back.
        Dhcp4Releases = "dhcp4_releases",
        /// DHCPv6 leases given or renewed.
        Dhcp6Leases = "dhcp6_leases",
        /// DHCPv6 addresses the guest declined: it believes somebody else has them.
        Dhcp6Declines = "dhcp6_declines",
        /// DHCPv6 leases the guest gave back.
        Dhcp6Releases = "dhcp6_releases",
        /// Router advertisements sent.
        RouterAdvertisements = "router_advertisements",
    }
}

counters! {
    /// What there is at the moment.
    Gauge {
        /// Queue pairs that the guest's driver runs.
        QueuePairs = "queue_pairs",
        /// TCP connections of the guest, TIME-WAIT included.
        TcpFlows = "tcp_flows_open",
        /// UDP flows of the guest.
        UdpFlows = "udp_flows_open",
        /// Conversations of echo requests of the guest.
        EchoFlows = "echo_flows_open",
    }
}

/// One set of counters: a worker's.
#[derive(Debug)]
pub struct Counters {
    drops: [AtomicU64; DropReason::ALL.len()],
    counts: [AtomicU64; Count::ALL.len()],
    gauges: [AtomicU64; Gauge::ALL.len()],
    /// Position of the reason counted last, or [`NO_DROP`].
    last_drop: AtomicUsize,
}

const NO_DROP: usize = usize::MAX;

impl Default for Counters {
    fn default() -> Self {
        Self {
            drops: [const { AtomicU64::new(0) }; DropReason::ALL.len()],
            counts: [const { AtomicU64::new(0) }; Count::ALL.len()],
            gauges: [const { AtomicU64::new(0) }; Gauge::ALL.len()],
            last_drop: AtomicUsize::new(NO_DROP),
        }
    }
}

fn bump(counter: &AtomicU64, n: u64) {
    // One writer: a load and a store are cheaper than a locked add.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    /// Counts one thing that went nowhere.
    pub fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// Counts `n` things that went nowhere.
    pub fn count_drops(&self, reason: DropReason, n: u64) {
        bump(&self.drops[reason as usize], n);
        self.last_drop.store(reason as usize, Ordering::Relaxed);
    }

    /// The reason that was counted last since the last call, if there was one.
    pub fn take_last_drop(&self) -> Option<DropReason> {
        let last = self.last_drop.load(Ordering::Relaxed);
        self.last_drop.store(NO_DROP, Ordering::Relaxed);
        DropReason::ALL.get(last).copied()
    }

    /// Adds `n` to a count.
    pub fn add(&self, count: Count, n: u64) {
        bump(&self.counts[count as usize], n);
    }

    /// Says how much of something there is now.
    pub fn set(&self, gauge: Gauge, n: u64) {
        self.gauges[gauge as usize].store(n, Ordering::Relaxed);
    }

    /// How much of something there is.
    pub fn level(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize].load(Ordering::Relaxed)
    }

    /// Adds what another has counted, and has.
    pub fn merge(&self, other: &Self) {
        for &reason in DropReason::ALL {
            bump(&self.drops[reason as usize], other.dropped(reason));
        }
        for &count in Count::ALL {
            self.add(count, other.count(count));
        }
        for &gauge in Gauge::ALL {
            bump(&self.gauges[gauge as usize], other.level(gauge));
        }
    }

    /// How often `reason` was met.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    /// Value of a count.
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }
}

impl From<crate::packet::Malformed> for DropReason {
    fn from(why: crate::packet::Malformed) -> Self {
        use crate::packet::Malformed as M;
        match why {
            M::Truncated => Self::Truncated,
            M::Version => Self::BadVersion,
            M::Length => Self::BadLength,
            M::HeadersTooLong => Self::HeadersTooLong,
        }
    }
}
