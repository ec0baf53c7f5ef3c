//! Fields of `spec.config` in a NetworkAttachmentDefinition. CNI plugins ignore unknown fields, so hawser does not
//! refuse them either.

use crate::objects::reader::{Field, ObjectType, Unknown, honoured, ignored, later, passed_over, refused};

const LINK_IN_CONTAINER: Field = honoured(
    "linkInContainer",
    "`false` only: hawser has the lower device in its own namespace already",
);
const NAME: Field = passed_over("name", "the name of the NetworkAttachmentDefinition is used");
const VERSION: Field = passed_over("cniVersion", "");
const TYPE: Field = honoured("type", "selects the plugin, and with it one of these tables");
const IPAM: Field = honoured("ipam", "by its `type`: see below");
const MTU: Field = honoured("mtu", "bytes, 68 to 65535; by default that of the segment");
const MAC: Field = honoured("mac", "the guest's MAC if its interface has no macAddress");
const ARGUMENTS: Field = honoured("args", "`cni`: see below");
const RUNTIME: Field = honoured("runtimeConfig", "as if from the runtime: see below");
const CAPABILITIES: Field = passed_over("capabilities", "handled by the cluster");
const DNS_PASSED_OVER: Field = passed_over("dns", "name servers are those of /etc/resolv.conf");
const DNS: Field = honoured(
    "dns",
    "handed out to the guest by hawser's DHCP server (`static`, `host-local`, `whereabouts`); \
     missing parts are those of the pod's /etc/resolv.conf. If the segment's own server answers, a \
     warning says that these settings are not handed out",
);

/// `dns` of a configuration, or of `static` addresses.
pub static NAMES: ObjectType = ObjectType {
    name: "CNI dns",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "nameservers",
            "IPv4 servers by DHCPv4 (option 6), IPv6 servers by DHCPv6",
        ),
        honoured(
            "domain",
            "the guest's own domain, option 15; also the search list if `search` is not given",
        ),
        honoured("search", "search domains, option 119"),
        ignored("options", "DHCP has no option for them"),
    ],
};

/// `args`
pub static ARGS: ObjectType = ObjectType {
    name: "CNI args",
    unknown: Unknown::Ignored,
    fields: &[honoured("cni", "")],
};

/// `args.cni`
pub static CNI_ARGS: ObjectType = ObjectType {
    name: "CNI args.cni",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "mac",
            "read by bridge and cnv-bridge: the guest's MAC if its interface has no macAddress",
        ),
        honoured(
            "ips",
            "`static`: replace its addresses, each with its prefix; `host-local`: addresses in its \
             ranges",
        ),
    ],
};

/// `runtimeConfig`
pub static RUNTIME_CONFIG: ObjectType = ObjectType {
    name: "CNI runtimeConfig",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "mac",
            "replaces `mac` and `args.cni.mac`; the interface's macAddress replaces it",
        ),
        honoured("ips", "the same as in `args.cni`, which they replace with `static`"),
        honoured("ipRanges", "sets of ranges before those of `host-local`"),
    ],
};

/// A list of plugins.
pub static CONF_LIST: ObjectType = ObjectType {
    name: "CNI list of plugins",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "plugins",
            "the first creates the attachment; `tuning` and other later ones are ignored with a warning",
        ),
        honoured(
            "name",
            "for `ovn-k8s-cni-overlay`, the name of the network; otherwise the name of the NetworkAttachmentDefinition is used",
        ),
        VERSION,
        passed_over("disableCheck", ""),
    ],
};

/// `bridge`, `cnv-bridge`
pub static BRIDGE: ObjectType = ObjectType {
    name: "CNI bridge, cnv-bridge",
    unknown: Unknown::Ignored,
    fields: &[
        TYPE,
        NAME,
        VERSION,
        honoured("bridge", "an existing bridge; `cni0` by default"),
        honoured("vlan", "0 to 4094: the VLAN of the guest's untagged frames"),
        honoured("vlanTrunk", "the VLANs with which the guest may tag its frames"),
        honoured(
            "preserveDefaultVlan",
            "`false` by default, as in CNI plugins 1.9; 1.3 to 1.7 had `true`",
        ),
        honoured(
            "macspoofchk",
            "only frames with the interface's own MAC may leave: its macAddress, or that of its lease",
        ),
        MTU,
        honoured("hairpinMode", "excludes promiscMode"),
        honoured("promiscMode", ""),
        honoured("portIsolation", ""),
        IPAM,
        honoured(
            "isGateway",
            "addresses of `ipam` without a gateway get the first host of their network as gateway. \
             The node configures the bridge's addresses: a warning says so",
        ),
        honoured(
            "isDefaultGateway",
            "the same as isGateway; in addition the gateway is the guest's router, unless `routes` names \
             another",
        ),
        ignored("forceAddress", "the node configures the bridge's addresses"),
        ignored("ipMasq", "the node configures traffic that leaves it"),
        ignored("ipMasqBackend", "as ipMasq"),
        passed_over("enabledad", "addresses belong to the guest"),
        passed_over("disableContainerInterface", "there is no container interface"),
        ARGUMENTS,
        RUNTIME,
        DNS,
        CAPABILITIES,
    ],
};

/// `vlanTrunk[]`
pub static VLAN_TRUNK: ObjectType = ObjectType {
    name: "CNI bridge vlanTrunk[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("id", "1 to 4094"),
        honoured("minID", "1 to 4094, with maxID"),
        honoured("maxID", "at least minID"),
    ],
};

/// `macvlan`
pub static MACVLAN: ObjectType = ObjectType {
    name: "CNI macvlan",
    unknown: Unknown::Ignored,
    fields: &[
        TYPE,
        NAME,
        VERSION,
        honoured(
            "master",
            "the lower device; required: hawser does not guess it from the default route",
        ),
        honoured("mode", "`bridge` (default), `private`, `vepa`, `passthru`"),
        MTU,
        LINK_IN_CONTAINER,
        IPAM,
        MAC,
        ARGUMENTS,
        RUNTIME,
        ignored("bcqueuelen", "the lower device's default is used"),
        DNS,
        CAPABILITIES,
    ],
};

/// `ipvlan`
pub static IPVLAN: ObjectType = ObjectType {
    name: "CNI ipvlan",
    unknown: Unknown::Ignored,
    fields: &[
        TYPE,
        NAME,
        VERSION,
        honoured("master", "the lower device; required"),
        honoured("mode", "`l2` (default), `l3`, `l3s`"),
        MTU,
        LINK_IN_CONTAINER,
        IPAM,
        ignored(
            "mac",
            "an ipvlan has the MAC of its lower link, and the plugin accepts no other",
        ),
        ARGUMENTS,
        RUNTIME,
        DNS,
        CAPABILITIES,
    ],
};

/// `tap`
pub static TAP: ObjectType = ObjectType {
    name: "CNI tap",
    unknown: Unknown::Ignored,
    fields: &[
        TYPE,
        NAME,
        VERSION,
        honoured("bridge", "the bridge for the TAP; required"),
        MTU,
        IPAM,
        DNS,
        MAC,
        ARGUMENTS,
        RUNTIME,
        passed_over("multiQueue", "the TAP has as many queues as the interface"),
        passed_over("owner", "hawser opens the TAP itself"),
        passed_over("group", "as owner"),
        passed_over("selinuxContext", "as owner"),
        CAPABILITIES,
    ],
};

/// `macvtap`
pub static MACVTAP: ObjectType = ObjectType {
    name: "CNI macvtap",
    unknown: Unknown::Ignored,
    fields: &[
        TYPE,
        NAME,
        VERSION,
        MTU,
        honoured(
            "promiscMode",
            "`false` only. The lower device is the last part of the annotation \
             `k8s.v1.cni.cncf.io/resourceName`, as in `macvtap.network.kubevirt.io/eth0`, or the \
             one that the ConfigMap of the device plugin names for it",
        ),
        ignored("deviceID", "the resource names the device"),
        CAPABILITIES,
    ],
};

/// `sriov`
pub static SRIOV: ObjectType = ObjectType {
    name: "CNI sriov",
    unknown: Unknown::PassedOver,
    fields: &[
        TYPE,
        honoured("vlan", "0 to 4094"),
        honoured("vlanQoS", "0 to 7, only with a vlan"),
        honoured("vlanProto", "`802.1q`, `802.1ad`, only with a vlan"),
        honoured("mac", "of an interface without macAddress"),
        honoured("spoofchk", "`on`, `off`"),
        honoured("trust", "`on`, `off`"),
        honoured("link_state", "`auto`, `enable`, `disable`"),
        honoured("min_tx_rate", "Mbit/s, not above max_tx_rate"),
        honoured("max_tx_rate", "Mbit/s; 0: no limit"),
        honoured(
            "deviceID",
            "PCI address of the VF; otherwise the annotation `k8s.v1.cni.cncf.io/resourceName` names its pool",
        ),
        IPAM,
    ],
};

/// `ovn-k8s-cni-overlay`
pub static OVN: ObjectType = ObjectType {
    name: "CNI ovn-k8s-cni-overlay",
    unknown: Unknown::Ignored,
    fields: &[
        TYPE,
        VERSION,
        honoured(
            "name",
            "the network: all NetworkAttachmentDefinitions of one name are one network, and must agree",
        ),
        honoured(
            "netAttachDefName",
            "namespace and name of the NetworkAttachmentDefinition",
        ),
        honoured(
            "topology",
            "`layer2`; `localnet`, as that of a ClusterUserDefinedNetwork; an interface on a `layer3` network is refused",
        ),
        honoured(
            "role",
            "`secondary` by default; a `primary` network replaces the pod network of its namespace",
        ),
        honoured("mtu", "bytes; by default what the route to other nodes carries"),
        honoured(
            "subnets",
            "separated by commas; the fields below are those of a UserDefinedNetwork",
        ),
        honoured("excludeSubnets", "networks whose addresses no guest has"),
        honoured("reservedSubnets", ""),
        honoured("infrastructureSubnets", ""),
        honoured("defaultGatewayIPs", ""),
        honoured("joinSubnet", "checked; not in `subnets`"),
        passed_over("transitSubnet", "hawser has no network between nodes and gateway"),
        honoured("vlanID", "of `localnet`, 1 to 4094"),
        honoured(
            "allowPersistentIPs",
            "refused for `layer3`; hawser keeps addresses in any case",
        ),
        honoured(
            "physicalNetworkName",
            "for `localnet`, a Linux bridge of the node; by default `name`",
        ),
        later(
            "transport",
            "`no-overlay` and `evpn` are transports between nodes other than Geneve",
        ),
        later("outboundSNAT", "as transport"),
        later("evpn", "as transport"),
        later(
            "uplink",
            "guests leave through the network namespace that hawser runs in",
        ),
        honoured("ipam", "refused: addresses come from `subnets`"),
        ignored("deviceID", "hawser passes no device to the guest"),
        passed_over("logFile", "hawser has its own log"),
        passed_over("logLevel", "as logFile"),
        passed_over("logfile-maxsize", "as logFile"),
        passed_over("logfile-maxbackups", "as logFile"),
        passed_over("logfile-maxage", "as logFile"),
        passed_over("prevResult", ""),
        CAPABILITIES,
        DNS_PASSED_OVER,
    ],
};

/// `ipam` of `ovn-k8s-cni-overlay`.
pub static OVN_IPAM: ObjectType = ObjectType {
    name: "CNI ovn-k8s-cni-overlay ipam",
    unknown: Unknown::PassedOver,
    fields: &[honoured("type", "refused: addresses come from `subnets`")],
};

/// An `ipam` without address management.
pub static NO_IPAM: ObjectType = ObjectType {
    name: "IPAM without a type",
    unknown: Unknown::Refused,
    fields: &[honoured(
        "type",
        "`host-local`, `whereabouts`, `static`, `dhcp`; `{}` means no address management",
    )],
};

/// `host-local`
pub static HOST_LOCAL: ObjectType = ObjectType {
    name: "IPAM host-local",
    unknown: Unknown::Ignored,
    fields: &[
        honoured("type", ""),
        honoured(
            "ranges",
            "sets of ranges: the interface gets an address of each; the guest receives the first \
             of each family, by DHCPv4 and DHCPv6",
        ),
        honoured("subnet", "one range, in the form of older configurations"),
        honoured("rangeStart", "of it"),
        honoured("rangeEnd", "of it"),
        honoured("gateway", "of it"),
        honoured("routes", "through the gateway of the range if `gw` is not given"),
        ignored("dataDir", "leases are in hawser's own store"),
        ignored("resolvConf", "name servers are those of the pod's /etc/resolv.conf"),
    ],
};

/// `host-local` `ranges[][]`
pub static HOST_LOCAL_RANGE: ObjectType = ObjectType {
    name: "IPAM host-local ranges[][]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("subnet", "a network of /30 (/126) or wider, host bits zero"),
        honoured("rangeStart", "in the subnet; by default its first host"),
        honoured(
            "rangeEnd",
            "in the subnet, not below rangeStart; by default its last host",
        ),
        honoured(
            "gateway",
            "in the subnet; by default its first host; never assigned, and the guest's router only \
             by a route",
        ),
    ],
};

/// `whereabouts`
pub static WHEREABOUTS: ObjectType = ObjectType {
    name: "IPAM whereabouts",
    unknown: Unknown::Ignored,
    fields: &[
        honoured("type", ""),
        honoured(
            "range",
            "`192.0.2.0/24`, whose host bits are ignored, or `192.0.2.10-192.0.2.20/24`: the \
             interface gets the lowest free address. The store belongs to the node: nodes that \
             share a segment need separate ranges",
        ),
        honoured(
            "range_start",
            "the first address; ignored with a warning if it is not a host of the range",
        ),
        honoured(
            "range_end",
            "the last address; ignored with a warning if it is not a host of the \
            range",
        ),
        honoured("exclude", "networks and addresses that are not assigned"),
        honoured("ipRanges", "more ranges: the interface gets an address of each"),
        honoured(
            "gateway",
            "never assigned, and the guest's router only by a route, as in host-local",
        ),
        honoured("routes", "through the gateway if `gw` is not given"),
        honoured("addresses", "as in `static`, in addition to those of the ranges"),
        honoured("dns", "as in the configuration, which has priority"),
        honoured(
            "enable_overlapping_ranges",
            "with `true` (default) an address that a lease on any segment has is not assigned; \
             otherwise only its own segment counts",
        ),
        honoured("network_name", "if given, only the own segment counts"),
        refused(
            "node_slice_size",
            "only the cluster's controller knows the node's slice: leave it out, and give each \
             node a range",
        ),
        ignored("configuration_path", "the configuration must contain all settings"),
        passed_over("datastore", "leases are in hawser's own store"),
        passed_over("kubernetes", "as datastore"),
        passed_over("etcd_host", "as datastore"),
        passed_over("etcd_username", "as datastore"),
        passed_over("etcd_password", "as datastore"),
        passed_over("etcd_key_file", "as datastore"),
        passed_over("etcd_cert_file", "as datastore"),
        passed_over("etcd_ca_cert_file", "as datastore"),
        passed_over("leader_lease_duration", "as datastore"),
        passed_over("leader_renew_deadline", "as datastore"),
        passed_over("leader_retry_period", "as datastore"),
        passed_over("reconciler_cron_expression", "as datastore"),
        passed_over("sleep_for_race", "as datastore"),
        passed_over("log_file", "hawser has its own log"),
        passed_over("log_level", "as log_file"),
    ],
};

/// `whereabouts` `ipRanges[]`
pub static WHEREABOUTS_RANGE: ObjectType = ObjectType {
    name: "IPAM whereabouts ipRanges[]",
    unknown: Unknown::Ignored,
    fields: &[
        honoured("range", "as above, and the fields below"),
        honoured("range_start", ""),
        honoured("range_end", ""),
        honoured("exclude", ""),
    ],
};

/// `static`
pub static STATIC: ObjectType = ObjectType {
    name: "IPAM static",
    unknown: Unknown::Ignored,
    fields: &[
        honoured("type", ""),
        honoured(
            "addresses",
            "at least one, unique on its segment; the guest receives the first of each family, by \
             DHCPv4 and DHCPv6",
        ),
        honoured("routes", ""),
        honoured("dns", "as in the configuration, which has priority"),
    ],
};

/// `static` `addresses[]`
pub static STATIC_ADDRESS: ObjectType = ObjectType {
    name: "IPAM static addresses[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("address", "with its prefix: 192.0.2.5/24"),
        honoured(
            "gateway",
            "an address in that network; the guest's router only by a route",
        ),
    ],
};

/// `routes[]`
pub static ROUTE: ObjectType = ObjectType {
    name: "IPAM routes[]",
    unknown: Unknown::Ignored,
    fields: &[
        honoured("dst", "a network"),
        honoured("gw", "the next hop; by default the gateway of the first address"),
        refused("table", "the guest has its routes in the main table"),
    ],
};

/// `dhcp`
pub static DHCP: ObjectType = ObjectType {
    name: "IPAM dhcp",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "type",
            "the guest requests it from the segment's server itself: no daemon is needed",
        ),
        ignored("daemonSocketPath", "there is no daemon"),
        ignored("request", "the guest chooses its requests"),
        ignored("provide", "as request"),
    ],
};
