//! Counters, and a named reason for every frame that is dropped.
//!
//! Each counter has one writer (the worker) and many readers (status, metrics). So the packet path uses plain relaxed
//! stores, without locks or read-modify-write operations.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// All variants in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name shown to users.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// A sentence that describes what is counted.
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
    /// The reason why a frame or message was dropped.
    DropReason {
        /// The guest's frame ends inside a header.
        Truncated = "truncated",
        /// IP version and EtherType disagree.
        BadVersion = "bad_ip_version",
        /// A length field contradicts the frame.
        BadLength = "bad_length",
        /// Headers are longer than the part of a frame that is examined.
        HeadersTooLong = "headers_too_long",
        /// An offload request of the guest is not valid for its frame.
        BadOffload = "bad_offload",
        /// A frame is longer than 64 KiB and its headers.
        FrameTooLong = "frame_too_long",
        /// A chain of the guest is not a frame: it is empty or has the wrong direction.
        BadChain = "bad_chain",
        /// A descriptor or ring of the guest is malformed; the queue was stopped.
        BrokenRing = "broken_ring",
        /// A frame from the guest arrived on a disabled queue pair.
        PairOff = "queue_pair_off",
        /// The source MAC is not the guest's.
        SpoofedMac = "spoofed_mac",
        /// The source address is not the guest's.
        SpoofedAddress = "spoofed_address",
        /// The sender of an ARP packet is not the guest.
        SpoofedArp = "spoofed_arp",
        /// A neighbour message claims an address or a MAC that is not the guest's.
        SpoofedNeighbour = "spoofed_neighbour",
        /// A packet of an address family in which the guest has no address, so that the family is closed to it.
        ClosedFamily = "closed_family",
        /// The guest tried to act as a DHCP or DHCPv6 server.
        DhcpGuard = "dhcp_guard",
        /// The guest tried to act as a router, by an advertisement or a redirect.
        RouterGuard = "router_guard",
        /// The transport of the guest's frame cannot be determined, and a guard depends on it.
        HiddenTransport = "hidden_transport",
        /// A tagged frame on a port without VLANs.
        UnexpectedVlan = "unexpected_vlan",
        /// The guest sent into a VLAN of which its port is not a member.
        VlanNotMember = "vlan_not_member",
        /// A frame from the segment is in a VLAN of which the port is not a member; normal where VLANs share a segment.
        VlanOther = "vlan_other",
        /// An 802.1ad tag on a port with VLANs, in either direction.
        VlanProviderTag = "vlan_provider_tag",
        /// An EtherType that this mode does not handle.
        UnknownEtherType = "unknown_ethertype",
        /// An IP protocol that this mode does not handle.
        UnknownProtocol = "unknown_protocol",
        /// A destination address that a guest must not reach (loopback, …).
        ForbiddenDestination = "forbidden_destination",
        /// A destination on the private network that does not exist.
        NoSuchNeighbour = "no_such_neighbour",
        /// Multicast or broadcast without a receiver.
        Multicast = "multicast",
        /// A frame that the guest's driver has not requested (the filters of its NIC).
        NotAskedFor = "not_asked_for",
        /// The guest has no receive buffers.
        NoRoom = "no_room",
        /// A receive buffer of the guest is too small for any frame.
        BufferTooSmall = "buffer_too_small",
        /// A TCP segment that belongs to no connection (answered with RST).
        TcpNoConnection = "tcp_no_connection",
        /// A TCP segment outside the window, or a duplicate.
        TcpOutOfWindow = "tcp_out_of_window",
        /// TCP bytes after a gap; the guest sends them again.
        TcpOutOfOrder = "tcp_out_of_order",
        /// A segment of a TCP connection that is still on its way here with a migrating guest, which sends it again.
        TcpExpected = "tcp_expected",
        /// A datagram of a UDP flow that may still be on its way here with a migrating guest.
        UdpExpected = "udp_expected",
        /// A datagram that a host socket of the channel of a migration did not accept.
        ChannelFull = "channel_full",
        /// A frame that reached the process that the guest has left, beyond those that may wait for room.
        LateFull = "late_full",
        /// TCP bytes that the host socket did not accept; the guest sends them again.
        TcpSocketFull = "tcp_socket_full",
        /// No room or no file descriptor for another flow.
        FlowLimit = "flow_limit",
        /// A TCP connection that one side had closed was ended to make room for another.
        TcpHalfClosedEvicted = "tcp_half_closed_evicted",
        /// A TCP connection on which the guest did not answer was ended to make room for another.
        TcpUnansweredEvicted = "tcp_unanswered_evicted",
        /// A TCP connection still in its handshake was ended to make room for another.
        TcpOpeningEvicted = "tcp_opening_evicted",
        /// The host refused a socket operation.
        SocketError = "socket_error",
        /// The queue of handed-over frames for the worker that owns the flow is full.
        HandoverFull = "handover_full",
        /// A datagram that the host did not accept.
        UdpSendFailed = "udp_send_failed",
        /// A datagram from outside that belongs to no flow and no forward.
        UdpNoFlow = "udp_no_flow",
        /// A fragment that does not fit the others, or arrives too late.
        BadFragment = "bad_fragment",
        /// No room to reassemble another datagram.
        FragmentLimit = "fragment_limit",
        /// Fragments of a datagram did not arrive in time.
        FragmentTimeout = "fragment_timeout",
        /// A fragment of a datagram to a Service whose endpoint is on the network of the guest.
        ServiceFragment = "service_fragment",
        /// A malformed message to a service (ARP, NDP, DHCP, ICMP).
        BadService = "bad_service_message",
        /// The guest requested its address with a MAC other than that of the lease.
        LeaseOfOtherMac = "lease_of_other_mac",
        /// The host does not permit echo requests.
        EchoForbidden = "echo_forbidden",
        /// A datagram that the guest refused with an ICMP error (a closed port, a firewall); its flow has ended.
        UdpRefused = "udp_refused_by_guest",
        /// A packet from a link-local address of the guest to an address beyond its link.
        BeyondScope = "beyond_scope",
        /// An echo reply from a host to which the guest has sent no request.
        EchoNoFlow = "echo_no_flow",
        /// An ICMP message of the guest other than an echo request, which is not forwarded.
        IcmpNotServed = "icmp_not_served",
        /// The segment is unavailable: its device is down, or has been removed.
        SegmentDown = "segment_down",
        /// The segment delivered a frame in a form that the guest does not accept.
        NotSegmented = "not_segmented",
        /// The device to the segment does not accept the frame.
        SegmentRefused = "segment_refused",
        /// A datagram to the tunnel that is not Geneve, or whose headers contradict each other.
        TunnelMalformed = "tunnel_malformed",
        /// A datagram to the tunnel with an unknown critical option.
        TunnelOption = "tunnel_option",
        /// A control message to the tunnel, which is not supported.
        TunnelControl = "tunnel_control",
        /// A frame of another network arrived through the tunnel.
        TunnelOtherNetwork = "tunnel_other_network",
        /// A frame arrived through the tunnel from an address that is not a peer of the network.
        TunnelUnknownPeer = "tunnel_unknown_peer",
        /// A peer sent a frame from a MAC that is unknown in the network.
        TunnelUnknownMac = "tunnel_unknown_mac",
        /// A peer sent a frame from a MAC that is behind another peer.
        TunnelSpoofedMac = "tunnel_spoofed_mac",
        /// A peer sent a frame from a MAC that has since moved to another peer.
        TunnelStaleEpoch = "tunnel_stale_epoch",
        /// An ARP packet of a peer claims an address or a MAC that is not its sender's.
        TunnelSpoofedArp = "tunnel_spoofed_arp",
        /// A neighbour message of a peer claims an address or a MAC that is not its sender's.
        TunnelSpoofedNeighbour = "tunnel_spoofed_neighbour",
        /// A guest behind a peer tried to act as a DHCP or DHCPv6 server of a network that assigns addresses itself.
        TunnelDhcpGuard = "tunnel_dhcp_guard",
        /// A guest behind a peer tried to act as a router of a network that has a gateway.
        TunnelRouterGuard = "tunnel_router_guard",
        /// The transport of a frame from the tunnel cannot be determined, and a guard depends on it.
        TunnelHiddenTransport = "tunnel_hidden_transport",
        /// A frame in the tunnel has a router's congestion mark, which its sender does not understand (RFC 6040).
        TunnelCongestion = "tunnel_congestion",
        /// A frame is larger than the tunnel's path can carry.
        TunnelTooBig = "tunnel_too_big",
        /// A frame of or for a guest that has moved to another endpoint of the tunnel.
        MovedAway = "moved_away",
        /// The host's send buffer of the tunnel is full.
        TunnelFull = "tunnel_full",
        /// The host has no route to the peer.
        TunnelUnreachable = "tunnel_unreachable",
        /// A broadcast of the guest, or a multicast for all endpoints of the tunnel, above the permitted rate.
        TunnelFloodLimited = "tunnel_flood_limited",
        /// A multicast of the guest to a group that no endpoint of the tunnel wants.
        MulticastUnwanted = "multicast_unwanted",
        /// A frame to a group that bridges do not forward (01:80:c2:00:00:00 to 01:80:c2:00:00:0f), in either direction.
        ReservedGroup = "reserved_group",
        /// A malformed message about multicast groups (IGMP, MLD).
        BadGroupMessage = "bad_group_message",
    }
}

counters! {
    /// Events on the port.
    Count {
        /// Frames from the guest.
        TxFrames = "tx_frames",
        /// Bytes of frames from the guest.
        TxBytes = "tx_bytes",
        /// Frames of the guest that left together with others of their flow.
        TxMerged = "tx_merged_frames",
        /// Frames delivered to the guest.
        RxFrames = "rx_frames",
        /// Bytes of frames delivered to the guest.
        RxBytes = "rx_bytes",
        /// Times the guest was notified.
        Calls = "calls",
        /// Times the guest kicked.
        Kicks = "kicks",
        /// Times the guest's frames were left in the ring because of its rate limit.
        TxThrottled = "tx_throttled",
        /// Times frames to the guest waited because of its rate limit.
        RxThrottled = "rx_throttled",
        /// Times a frame for the guest waited because the guest had posted no buffers.
        RxStalls = "rx_stalls",
        /// Frames that arrived on a queue other than their flow's.
        Handovers = "handovers",
        /// Flows moved to another queue's worker, because their queue was disabled or the guest sends them on another
        /// queue.
        FlowsMoved = "flows_moved",
        /// TCP connections and UDP flows that left with a migrating guest; their host sockets stay as anchors.
        FlowsLeft = "flows_left",
        /// TCP connections and UDP flows that came with a migrating guest; their host sockets are in the other process.
        FlowsCame = "flows_came",
        /// TCP connections opened by the guest.
        TcpOut = "tcp_connections_out",
        /// TCP connections opened to the guest.
        TcpIn = "tcp_connections_in",
        /// TCP bytes sent again to the guest.
        TcpRetransmits = "tcp_retransmitted_bytes",
        /// TCP bytes of the guest kept until the host socket accepted them.
        TcpSpilled = "tcp_spilled_bytes",
        /// Connections ended by RST from either side.
        TcpResets = "tcp_resets",
        /// Connections ended because the guest went back in time, to an older snapshot.
        TcpRewound = "tcp_rewound",
        /// UDP flows created.
        UdpFlows = "udp_flows",
        /// Echo requests of the guest that were forwarded.
        Echos = "echos",
        /// Echo requests forwarded without their IP options (record route, timestamps).
        IpOptions = "ip_options_left_out",
        /// DHCPv4 leases granted or renewed.
        Dhcp4Leases = "dhcp4_leases",
        /// DHCPv4 addresses that the guest declined as in use by another host.
        Dhcp4Declines = "dhcp4_declines",
        /// DHCPv4 leases that the guest released.
        Dhcp4Releases = "dhcp4_releases",
        /// DHCPv6 leases granted or renewed.
        Dhcp6Leases = "dhcp6_leases",
        /// DHCPv6 addresses that the guest declined as in use by another host.
        Dhcp6Declines = "dhcp6_declines",
        /// DHCPv6 leases that the guest released.
        Dhcp6Releases = "dhcp6_releases",
        /// Router advertisements sent.
        RouterAdvertisements = "router_advertisements",
        /// Flows opened to endpoints of Services on the guest's own network.
        ServiceFlows = "service_flows",
        /// Datagrams sent through the tunnel.
        TunnelSent = "tunnel_sent",
        /// Datagrams received through the tunnel.
        TunnelReceived = "tunnel_received",
        /// Datagrams passed on to the endpoint to which the guest has moved.
        TunnelPassedOn = "tunnel_passed_on",
        /// Times the host did not split a batch of datagrams (EIO: no checksum offload); the peer gets them one by one
        /// from then on.
        TunnelCutIo = "tunnel_cut_eio",
        /// Times the host refused to split a batch of datagrams as invalid (EINVAL); the peer gets fewer at a time from
        /// then on.
        TunnelCutInvalid = "tunnel_cut_einval",
        /// Times a batch of datagrams was too large to be split (EMSGSIZE); the peer gets fewer at a time from then on.
        TunnelCutTooLarge = "tunnel_cut_emsgsize",
        /// Times a trial of splitting, at the start or on the path to a peer, produced wrong bytes or none; datagrams are
        /// sent one by one.
        TunnelCutProbeFailed = "tunnel_cut_probe_failed",
        /// Times the MTU of the path to a peer was found to have shrunk or grown back.
        TunnelPathChanged = "tunnel_path_changed",
        /// IPv4 packets of the guest that were sent through the tunnel in fragments.
        TunnelFragmented = "tunnel_fragmented",
        /// Times an endpoint of the tunnel joined a multicast group.
        MulticastJoins = "multicast_joins",
        /// Times an endpoint of the tunnel left a multicast group, or did not report it in time.
        MulticastLeaves = "multicast_leaves",
        /// Times the table of multicast groups had no room; every endpoint then gets all groups for a while.
        MulticastTableFull = "multicast_table_full",
        /// Announcements to the guest that another guest's address has a new MAC.
        NeighbourAnnouncements = "neighbour_announcements",
        /// MACs without a binding that were learned behind an endpoint with any MACs, moves included.
        LearnedMacs = "learned_macs",
        /// Frames whose MAC was not learned, because there are too many behind their endpoint, or in all.
        LearnedMacsFull = "learned_macs_full",
        /// Queries for multicast groups that the gateway sent.
        GroupQueries = "group_queries",
        /// Times the guest began to send on the standby of its failover pair, and its MAC was announced from there.
        StandbyTaken = "standby_taken",
    }
}

counters! {
    /// Current amounts.
    Gauge {
        /// Queue pairs in use by the guest's driver.
        QueuePairs = "queue_pairs",
        /// TCP connections of the guest, TIME-WAIT included.
        TcpFlows = "tcp_flows_open",
        /// UDP flows of the guest.
        UdpFlows = "udp_flows_open",
        /// Echo flows of the guest, one per address and identifier of its requests.
        EchoFlows = "echo_flows_open",
        /// Peers of the tunnel for which the host does not split batches of datagrams as it should.
        TunnelLimitedPeers = "tunnel_limited_peers",
    }
}

counters! {
    /// What a tunnel has carried to and from one peer.
    PeerCount {
        /// Datagrams sent to the peer.
        SentDatagrams = "sent_datagrams",
        /// Bytes of datagrams sent to the peer, with their tunnel headers.
        SentBytes = "sent_bytes",
        /// Frames and datagrams to the peer that were not sent.
        SendDrops = "send_drops",
        /// Datagrams received from the peer.
        ReceivedDatagrams = "received_datagrams",
        /// Bytes of datagrams received from the peer, with their tunnel headers.
        ReceivedBytes = "received_bytes",
        /// Datagrams received from the peer's address and dropped.
        ReceiveDrops = "receive_drops",
    }
}

counters! {
    /// The current state of the path to one peer.
    PeerLevel {
        /// Bytes of the longest IP packet that the path to the peer carries.
        PathMtu = "path_mtu",
        /// Datagrams that the host takes in one piece for the peer; 1 if it does not split.
        Batch = "batch_datagrams",
        /// Result of the probe of the path: 1 if batches that the host splits do not arrive as they were sent, 2 if they do,
        /// 3 if the peer does not answer, 4 while answers are awaited; 0 without a probe.
        Probe = "path_probe",
    }
}

/// The counters of one peer on one worker.
#[derive(Debug, Default)]
pub struct PeerCounters {
    counts: [AtomicU64; PeerCount::ALL.len()],
    levels: [AtomicU64; PeerLevel::ALL.len()],
}

impl PeerCounters {
    /// Adds `n` to a count.
    pub fn add(&self, count: PeerCount, n: u64) {
        bump(&self.counts[count as usize], n);
    }

    /// Value of a count.
    pub fn count(&self, count: PeerCount) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Sets a level.
    pub fn set(&self, level: PeerLevel, n: u64) {
        self.levels[level as usize].store(n, Ordering::Relaxed);
    }

    /// Value of a level.
    pub fn level(&self, level: PeerLevel) -> u64 {
        self.levels[level as usize].load(Ordering::Relaxed)
    }

    /// Adds the counts of another worker. For a level, the lowest known value is kept.
    pub fn merge(&self, other: &Self) {
        for &count in PeerCount::ALL {
            self.add(count, other.count(count));
        }
        for &level in PeerLevel::ALL {
            let known = [self.level(level), other.level(level)];
            self.set(level, known.into_iter().filter(|n| *n > 0).min().unwrap_or(0));
        }
    }
}

/// Counters by name, while they move between two processes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedCounters {
    drops: BTreeMap<String, u64>,
    counts: BTreeMap<String, u64>,
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters {
    drops: [AtomicU64; DropReason::ALL.len()],
    counts: [AtomicU64; Count::ALL.len()],
    gauges: [AtomicU64; Gauge::ALL.len()],
    /// Position of the reason that was counted last, or [`NO_DROP`].
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
    // There is only one writer, so a load and a store are enough. They are cheaper than a locked add.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    /// Counts one drop.
    pub fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// Counts `n` drops.
    pub fn count_drops(&self, reason: DropReason, n: u64) {
        bump(&self.drops[reason as usize], n);
        self.last_drop.store(reason as usize, Ordering::Relaxed);
    }

    /// Takes the reason of the last drop since the previous call, if there was one.
    pub fn take_last_drop(&self) -> Option<DropReason> {
        let last = self.last_drop.load(Ordering::Relaxed);
        self.last_drop.store(NO_DROP, Ordering::Relaxed);
        DropReason::ALL.get(last).copied()
    }

    /// Adds `n` to a count.
    pub fn add(&self, count: Count, n: u64) {
        bump(&self.counts[count as usize], n);
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Gauge, n: u64) {
        self.gauges[gauge as usize].store(n, Ordering::Relaxed);
    }

    /// Value of a gauge.
    pub fn level(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize].load(Ordering::Relaxed)
    }

    /// Adds the values of another set.
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

    /// The values that are not zero, for another process. Gauges are measured again there.
    pub fn save(&self) -> SavedCounters {
        let drops = DropReason::ALL
            .iter()
            .map(|&reason| (reason.name(), self.dropped(reason)));
        let counts = Count::ALL.iter().map(|&count| (count.name(), self.count(count)));
        let kept = |(name, value): (&str, u64)| (value != 0).then(|| (name.to_owned(), value));
        SavedCounters {
            drops: drops.filter_map(kept).collect(),
            counts: counts.filter_map(kept).collect(),
        }
    }

    /// Adds the values of another process. A counter that only one of two versions has starts at zero. Call this before
    /// the writer starts.
    pub fn load(&self, saved: &SavedCounters) {
        for &reason in DropReason::ALL {
            let value = saved.drops.get(reason.name()).copied();
            bump(&self.drops[reason as usize], value.unwrap_or_default());
        }
        for &count in Count::ALL {
            let value = saved.counts.get(count.name()).copied();
            self.add(count, value.unwrap_or_default());
        }
    }

    /// Number of drops for `reason`.
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
