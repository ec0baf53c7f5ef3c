//! What stands in `spec.config` of a NetworkAttachmentDefinition. CNI plugins take no
//! notice of fields they do not know, and neither is one refused here.

use crate::objects::reader::{Field, ObjectType, Unknown, honoured, ignored, later, passed_over, refused};

const LINK_IN_CONTAINER: Field = honoured(
    "linkInContainer",
    "`false` only: hawser has the lower device in its own namespace already",
);
const NAME: Field = passed_over("name", "the network goes by the NetworkAttachmentDefinition's name");
const VERSION: Field = passed_over("cniVersion", "");
const TYPE: Field = honoured("type", "which plugin, and so which of these tables");
const IPAM: Field = honoured("ipam", "by its `type`: see below");
const MTU: Field = honoured("mtu", "bytes, 68 to 65535; that of the segment if not given");
const MAC: Field = honoured("mac", "the guest's MAC where its interface has no macAddress");
const ARGUMENTS: Field = honoured("args", "`cni`: see below");
const RUNTIME: Field = honoured("runtimeConfig", "as if the runtime had given it: see below");
const CAPABILITIES: Field = passed_over("capabilities", "the cluster's affair");
const DNS: Field = honoured(
    "dns",
    "told to the guest by hawser's DHCP server (`static`, `host-local`, `whereabouts`); what is not given is that of the pod's \
     /etc/resolv.conf. Where the segment's own server answers, a warning says that it is not told",
);

/// `dns` of a configuration, or of `static` addresses.
pub static NAMES: ObjectType = ObjectType {
    name: "CNI dns",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "nameservers",
            "those of IPv4 by DHCPv4 (option 6), those of IPv6 by DHCPv6",
        ),
        honoured(
            "domain",
            "the guest's own domain, option 15; searched where `search` is not given",
        ),
        honoured("search", "domains that are searched, option 119"),
        ignored("options", "DHCP has nothing for them"),
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
            "of bridge and cnv-bridge: the guest's MAC where its interface has no macAddress",
        ),
        honoured(
            "ips",
            "`static`: in place of its addresses, each with its prefix; `host-local`: addresses of its ranges",
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
            "goes before `mac` and `args.cni.mac`, and the interface's macAddress before it",
        ),
        honoured("ips", "as those of `args.cni`, which they go before with `static`"),
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
            "the first makes the attachment; `tuning` and others after it are ignored with a warning",
        ),
        NAME,
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
        honoured("bridge", "a bridge that is there; `cni0` if not given"),
        honoured("vlan", "0 to 4094: the guest's untagged frames are of this VLAN"),
        honoured("vlanTrunk", "the VLANs the guest may tag its frames with"),
        honoured(
            "preserveDefaultVlan",
            "`false` if not given, as in CNI plugins 1.9; 1.3 to 1.7 had `true`",
        ),
        honoured(
            "macspoofchk",
            "only frames from the interface's own MAC leave it: its macAddress, or that of its lease",
        ),
        MTU,
        honoured("hairpinMode", "not together with promiscMode"),
        honoured("promiscMode", ""),
        honoured("portIsolation", ""),
        IPAM,
        honoured(
            "isGateway",
            "what of `ipam` has no gateway has the first host of its network as one. The bridge's addresses are the \
             node's affair: a warning says so",
        ),
        honoured(
            "isDefaultGateway",
            "as isGateway, and the gateway is the guest's router, unless `routes` names another",
        ),
        ignored("forceAddress", "the bridge's addresses are the node's affair"),
        ignored("ipMasq", "what leaves the node is the node's affair"),
        ignored("ipMasqBackend", "as ipMasq"),
        passed_over("enabledad", "addresses are the guest's"),
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
        honoured("maxID", "not less than minID"),
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
            "the lower device; must be given: hawser does not guess it from the default route",
        ),
        honoured(
            "mode",
            "`bridge` (also where nothing is given), `private`, `vepa`, `passthru`",
        ),
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
        honoured("master", "the lower device; must be given"),
        honoured("mode", "`l2` (also where nothing is given), `l3`, `l3s`"),
        MTU,
        LINK_IN_CONTAINER,
        IPAM,
        ignored(
            "mac",
            "an ipvlan has the MAC of the link below it, and the plugin takes none",
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
        honoured("bridge", "the bridge the TAP is put into; must be given"),
        MTU,
        IPAM,
        DNS,
        MAC,
        ARGUMENTS,
        RUNTIME,
        passed_over("multiQueue", "as many queues as the interface has"),
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
             `k8s.v1.cni.cncf.io/resourceName`, as in `macvtap.network.kubevirt.io/eth0`, or what the ConfigMap of the \
             device plugin says of it",
        ),
        ignored("deviceID", "the device is named by the resource"),
        CAPABILITIES,
    ],
};

/// `sriov`
pub static SRIOV: ObjectType = ObjectType {
    name: "CNI sriov",
    unknown: Unknown::PassedOver,
    fields: &[later("type", "an interface on it needs the mode sriov"), IPAM],
};

/// `ovn-k8s-cni-overlay`
pub static OVN: ObjectType = ObjectType {
    name: "CNI ovn-k8s-cni-overlay",
    unknown: Unknown::PassedOver,
    fields: &[
        later("type", "an interface on it needs the mode layer2"),
        honoured(
            "topology",
            "`layer2`, `layer3`, `localnet`; the cluster's default network if not given",
        ),
        honoured(
            "role",
            "a `primary` network takes the place of the pod network of its namespace: an interface on `pod` is refused \
             there until hawser has the mode layer2",
        ),
    ],
};

/// No address management.
pub static NO_IPAM: ObjectType = ObjectType {
    name: "IPAM without a type",
    unknown: Unknown::Refused,
    fields: &[honoured(
        "type",
        "`host-local`, `whereabouts`, `static`, `dhcp`; `{}` is no address management",
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
            "sets of ranges: an address of each is the interface's; the guest is told the first of each family, by DHCPv4 and DHCPv6",
        ),
        honoured("subnet", "one range, as older configurations write it"),
        honoured("rangeStart", "of it"),
        honoured("rangeEnd", "of it"),
        honoured("gateway", "of it"),
        honoured("routes", "by the gateway of the range if `gw` is not given"),
        ignored("dataDir", "leases are kept in hawser's own store"),
        ignored("resolvConf", "name servers are those of the pod's /etc/resolv.conf"),
    ],
};

/// `host-local` `ranges[][]`
pub static HOST_LOCAL_RANGE: ObjectType = ObjectType {
    name: "IPAM host-local ranges[][]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("subnet", "a network of /30 (/126) or wider, host bits zero"),
        honoured("rangeStart", "in the subnet; its first host if not given"),
        honoured(
            "rangeEnd",
            "in the subnet, not below rangeStart; its last host if not given",
        ),
        honoured(
            "gateway",
            "in the subnet; its first host if not given; never given out, and the guest's router only by a route",
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
            "`192.0.2.0/24`, whose host bits mean nothing, or `192.0.2.10-192.0.2.20/24`: the lowest free address is the \
             interface's. The store is the node's: nodes that share a segment need ranges of their own",
        ),
        honoured(
            "range_start",
            "the first; ignored with a warning if it is no host of the range",
        ),
        honoured("range_end", "the last; in the same way"),
        honoured("exclude", "networks and addresses that are not given out"),
        honoured("ipRanges", "more ranges: an address of each is the interface's"),
        honoured(
            "gateway",
            "never given out, and the guest's router only by a route, as that of host-local",
        ),
        honoured("routes", "by the gateway if `gw` is not given"),
        honoured("addresses", "as those of `static`, besides those of the ranges"),
        honoured("dns", "as that of the configuration, which goes before it"),
        honoured(
            "enable_overlapping_ranges",
            "with `true` (also where nothing is given) no address is given out that another lease has on any segment; \
             else only its own segment counts",
        ),
        honoured("network_name", "with a name only the own segment counts"),
        refused(
            "node_slice_size",
            "which slice is this node's is known to the cluster's controller: leave it out, and give each node a range",
        ),
        ignored(
            "configuration_path",
            "what is to be read has to be in the configuration",
        ),
        passed_over("datastore", "leases are kept in hawser's own store"),
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
        passed_over("log_file", "hawser's log is its own"),
        passed_over("log_level", "as log_file"),
    ],
};

/// `whereabouts` `ipRanges[]`
pub static WHEREABOUTS_RANGE: ObjectType = ObjectType {
    name: "IPAM whereabouts ipRanges[]",
    unknown: Unknown::Ignored,
    fields: &[
        honoured("range", "as above, and those below"),
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
            "one at least, on its segment nobody else's; the guest is told the first of each family, by DHCPv4 and DHCPv6",
        ),
        honoured("routes", ""),
        honoured("dns", "as that of the configuration, which goes before it"),
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
            "an address of that network; the guest's router only by a route",
        ),
    ],
};

/// `routes[]`
pub static ROUTE: ObjectType = ObjectType {
    name: "IPAM routes[]",
    unknown: Unknown::Ignored,
    fields: &[
        honoured("dst", "a network"),
        honoured("gw", "the next hop; the gateway of the first address if not given"),
        refused("table", "routes of the guest are in its main table"),
    ],
};

/// `dhcp`
pub static DHCP: ObjectType = ObjectType {
    name: "IPAM dhcp",
    unknown: Unknown::Ignored,
    fields: &[
        honoured(
            "type",
            "the guest asks the segment's server itself: no daemon is needed",
        ),
        ignored("daemonSocketPath", "there is no daemon"),
        ignored("request", "what to ask for is up to the guest"),
        ignored("provide", "as request"),
    ],
};
