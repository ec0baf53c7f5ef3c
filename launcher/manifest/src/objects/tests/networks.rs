//! Tests of networks: the ones that concern the VM, and the messages about them.

use super::{machine, planned, problems, problems_with};
use crate::nic::{AttachmentSpec, Teaming};
use crate::plan::options::PlanOptions;
use crate::plan_text;

const POD: &str = "{name: default, pod: {}}";

/// A VM on the pod network only.
fn on_pod() -> String {
    machine("{name: default, masquerade: {}, ports: [{port: 22}]}", POD)
}

/// A VM bound with bridge to the network `n`.
fn on_n() -> String {
    machine("{name: a, bridge: {}}", "{name: a, multus: {networkName: net}}")
}

/// The NetworkAttachmentDefinition `n` with this configuration.
fn attachment(config: &str) -> String {
    format!(
        "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: net}}\nspec:\n  \
         config: '{config}'\n"
    )
}

#[test]
fn a_network_that_no_interface_names_is_no_problem() {
    for (config, expected) in [
        (r#"{"type": "calico"}"#, "spec.config: type \"calico\" is not served"),
        (
            r#"{"type": "bridge", "ipam": {"type": "spiderpool"}}"#,
            "spec.config.ipam: type \"spiderpool\" is not served",
        ),
        (
            r#"{"type": "bridge", "vlan": 5000}"#,
            "spec.config.vlan: found \"5000\"",
        ),
        (r#"{"type": "bridge", "speed": 1}"#, "spec.config.speed: ignored"),
        ("{", "spec.config: this is not JSON"),
    ] {
        assert_eq!(problems(&(on_pod() + &attachment(config))), [""; 0], "{config}");
        let named = problems(&(on_n() + &attachment(config)));
        assert!(named.len() == 1 && named[0].contains(expected), "{config}: {named:?}");
        // Without a VM, the network itself is checked.
        let alone = problems(&attachment(config));
        assert!(alone.iter().any(|p| p.contains(expected)), "{config}: {alone:?}");
    }
    let without = "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: net}\n";
    assert_eq!(problems(&(on_pod() + without)), [""; 0]);
    assert_eq!(
        problems(&(on_n() + without)),
        ["vm.yaml:12: spec.config is missing: give the CNI configuration"]
    );
}

/// A SriovNetwork `n` with these fields. The first of them is in line 17.
fn sriov(fields: &str) -> String {
    format!(
        "---\napiVersion: sriovnetwork.openshift.io/v1\nkind: SriovNetwork\nmetadata: {{name: net}}\nspec:\n  \
         resourceName: r\n  {fields}\n"
    )
}

#[test]
fn ipam_of_a_sriov_network_is_a_string_of_json() {
    let string = r#"ipam: '{"type": "host-local", "subnet": "10.0.0.0/24"}'"#;
    let mode = "vm.yaml:8: spec.domain.devices.interfaces[0]: its network \"net\" consists of VFs: give sriov: {} in \
                place of the binding";
    for ipam in ["ipam: ''", "ipam: |\n    {\"type\": \"dhcp\"}", "ipam: '{}'"] {
        assert_eq!(problems(&(on_pod() + &sriov(ipam))), [""; 0], "{ipam}");
        assert_eq!(problems(&(on_n() + &sriov(ipam))), [mode], "{ipam}");
    }
    let told = problems(&(on_n() + &sriov(string)));
    assert!(
        told.iter()
            .any(|p| p.contains("hawser gives no addresses to the guest of a VF")),
        "{told:?}"
    );
    // The API server refuses an object, whether or not a VM names the network.
    assert_eq!(
        problems(&(on_pod() + &sriov("ipam: {type: dhcp}"))),
        [
            "vm.yaml:17: spec.ipam: found fields; it must be a JSON string, and the API server refuses an object: write \
             '{\"type\": …}'"
        ]
    );
    // The content of the string concerns only a plugin.
    for (ipam, expected) in [
        ("ipam: '{'", "vm.yaml:17: spec.ipam: this is not JSON"),
        (
            r#"ipam: '{"type": "static"}'"#,
            "vm.yaml:17: spec.ipam: addresses is missing or empty",
        ),
        (
            "metaPlugins: '{\"type\": \"tuning\"}'",
            "vm.yaml:17: warning: spec.metaPlugins: ignored: hawser runs",
        ),
    ] {
        assert_eq!(problems(&(on_pod() + &sriov(ipam))), [""; 0], "{ipam}");
        let named = problems(&(on_n() + &sriov(ipam)));
        assert!(
            named.len() == 2 && named.iter().any(|p| p.starts_with(expected)),
            "{ipam}: {named:?}"
        );
    }
    let object = "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: net}\nspec: {config: {type: bridge}}\n";
    assert!(problems(&(on_pod() + object))[0].contains("spec.config: found fields; it must be a JSON string"));
}

#[test]
fn a_primary_network_may_be_given_as_what_ovn_kubernetes_makes_of_it() {
    let of = |role: &str| {
        let config = format!(
            r#"{{"cniVersion": "1.0.0", "type": "ovn-k8s-cni-overlay", "name": "net", "netAttachDefName": "default/net", "topology": "layer2", "subnets": "10.100.0.0/16"{role}}}"#
        );
        problems(&(on_pod() + &attachment(&config)))
    };
    assert_eq!(
        of(r#", "role": "primary""#),
        [
            "vm.yaml:8: spec.domain.devices.interfaces[0]: the pod network of this namespace is \"net\" (vm.yaml:12), to \
             which binding: {name: l2bridge} leads: write that"
        ]
    );
    for role in ["", r#", "role": """#, r#", "role": "secondary""#] {
        assert_eq!(of(role), [""; 0], "{role}");
    }
    // A network of another namespace does not concern this VM.
    let elsewhere = attachment(r#"{"type": "ovn-k8s-cni-overlay", "topology": "layer2", "role": "primary"}"#)
        .replace("{name: net}", "{name: net, namespace: other}");
    assert_eq!(problems(&(on_pod() + &elsewhere)), [""; 0]);
}

/// The ClusterUserDefinedNetwork `n` with this spec.
fn cluster_network(spec: &str) -> String {
    format!(
        "---\napiVersion: k8s.ovn.org/v1\nkind: ClusterUserDefinedNetwork\nmetadata: {{name: net}}\nspec:\n  \
         namespaceSelector: {{}}\n  {spec}\n"
    )
}

#[test]
fn a_field_of_the_api_that_needs_a_mode_is_no_unknown_field() {
    let evpn = "network: {topology: Layer2, layer2: {role: Secondary, subnets: [10.0.0.0/24]}, transport: EVPN, \
                evpn: {vtep: v}, noOverlay: {}}\n  uplinks: [u]";
    assert_eq!(problems(&(on_pod() + &cluster_network(evpn))), [""; 0]);
    let named = problems(&(on_n() + &cluster_network(evpn)));
    let starts = [
        "vm.yaml:17: spec.network.transport: not supported yet, so the network is refused: ",
        "vm.yaml:17: spec.network.noOverlay: not supported yet, so the network is refused: ",
        "vm.yaml:17: spec.network.evpn: not supported yet, so the network is refused: ",
        "vm.yaml:18: spec.uplinks: not supported yet, so the network is refused: ",
    ];
    assert!(
        named.len() == 4 && starts.iter().all(|start| named.iter().any(|p| p.starts_with(start))),
        "{named:#?}"
    );
}

#[test]
fn every_field_of_a_topology_is_known_and_others_are_not() {
    let layer3 = "network: {topology: Layer3, layer3: {role: Secondary, mtu: 1400, subnets: [{cidr: 10.0.0.0/16, hostSubnet: 24}]}}";
    let layer2 = "network: {topology: Layer2, layer2: {role: Secondary, mtu: 1400, subnets: [10.0.0.0/16], \
                  ipam: {mode: Enabled}}}";
    let localnet = "network: {topology: Localnet, localnet: {role: Secondary, physicalNetworkName: p, \
                    subnets: [10.0.0.0/24], excludeSubnets: [10.0.0.0/28], ipam: {mode: Enabled}, mtu: 1500, \
                    vlan: {mode: Access, access: {id: 7}}}}";
    for spec in [layer2, layer3, localnet] {
        assert_eq!(problems(&(on_pod() + &cluster_network(spec))), [""; 0], "{spec}");
    }
    for (spec, expected) in [
        (
            "network: {topology: Layer2, layer2: {role: Secondary, subnets: [10.0.0.0/24], subnet: x}}",
            "spec.network.layer2.subnet: there is no such field",
        ),
        (
            "network: {topology: Layer2, layer2: {role: Secondary, subnets: [10.0.0.0/24]}, layer3: {}}",
            "spec.network.layer3: spec.layer3 is required when topology is Layer3 and forbidden otherwise",
        ),
        (
            "network: {topology: Localnet, localnet: {role: Primary}}",
            "spec.network.localnet.role: \"Primary\": choose one of \"Secondary\"",
        ),
    ] {
        let problems = problems(&(on_pod() + &cluster_network(spec)));
        assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:?}");
    }
}

#[test]
fn what_whereabouts_takes_no_notice_of_is_said() {
    let of = |ipam: &str| {
        let config = format!(r#"{{"type": "macvlan", "master": "e", "ipam": {{"type": "whereabouts", {ipam}}}}}"#);
        problems(&(on_n() + &attachment(&config)))
    };
    for ipam in [
        r#""range": "10.0.0.0/24", "log_file": "/tmp/w.log", "kubernetes": {"kubeconfig": "/k"}, "datastore": "kubernetes""#,
        r#""range": "10.0.0.0-10.0.0.255/24", "exclude": []"#,
        r#""range": "10.0.0.0/24", "network_name": "", "enable_overlapping_ranges": true"#,
    ] {
        assert_eq!(of(ipam), [""; 0], "{ipam}");
    }
    for (ipam, expected) in [
        (
            r#""range": "10.0.0.0/24", "range_start": "10.0.1.5""#,
            "warning: spec.config.ipam.range_start: its start 10.0.1.5 is ignored, as in whereabouts: it is not in \
             10.0.0.1 to 10.0.0.254",
        ),
        (
            r#""range": "10.0.0.9-10.0.0.5/24""#,
            "warning: spec.config.ipam.range: its end 10.0.0.5 is ignored, as in whereabouts: it is not in 10.0.0.9 \
             to 10.0.0.254",
        ),
        (
            r#""range": "10.0.0.0/24", "range_end": "last""#,
            "warning: spec.config.ipam.range_end: ignored, as in whereabouts: it is not an address",
        ),
        (
            r#""range": "10.0.0.1-10.0.0.5/24", "range_end": "10.0.0.9""#,
            "warning: spec.config.ipam.range_end: ignored: range itself has a first and a last address",
        ),
        (
            r#""ipRanges": [{"range": "10.0.0.0/24"}], "exclude": ["10.0.0.1"]"#,
            "warning: spec.config.ipam.exclude: ignored: it belongs to range, which is not given",
        ),
        (
            r#""range": "10.0.0.0/31""#,
            "spec.config.ipam.range: \"10.0.0.0/31\": it is too narrow: give /30 or wider",
        ),
        (
            r#""range": "10.1.0.1-10.0.0.5/24""#,
            "spec.config.ipam.range: \"10.1.0.1-10.0.0.5/24\": 10.1.0.1 is not in 10.0.0.0/24: give a first address in it",
        ),
        (
            r#""range": "10.0.0.0/30", "exclude": ["10.0.0.0/24"]"#,
            "spec.config.ipam: exclude leaves no address of 10.0.0.1 to 10.0.0.2",
        ),
        (
            r#""range": "10.0.0.0/24", "exclude": ["all"]"#,
            "spec.config.ipam.exclude[0]: \"all\": give a network or an address, such as 192.0.2.16/28",
        ),
        (
            r#""range": "10.0.0.0/24", "node_slice_size": "/26""#,
            "spec.config.ipam.node_slice_size: not served: only the cluster's controller knows the \
             node's slice: leave it out, and give each node a range",
        ),
        (
            r#""gateway": "10.0.0.1""#,
            "spec.config.ipam: it has no range: give range, such as 192.0.2.0/24, or ipRanges",
        ),
    ] {
        assert_eq!(of(ipam), [format!("vm.yaml:16: {expected}")], "{ipam}");
    }
}

#[test]
fn many_excluded_networks_are_no_burden() {
    let exclude: Vec<String> = (0..20_000)
        .map(|n| format!("\"10.{}.{}.9\"", n / 256, n % 256))
        .collect();
    let config = format!(
        r#"{{"type": "macvlan", "master": "e", "ipam": {{"type": "whereabouts", "range": "10.0.0.0/8", "exclude": [{}]}}}}"#,
        exclude.join(",")
    );
    let started = std::time::Instant::now();
    assert_eq!(problems(&(on_n() + &attachment(&config))), [""; 0]);
    assert!(
        started.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn what_a_configuration_asks_for_in_vain_is_said() {
    let of = |fields: &str| {
        let config = format!(r#"{{"type": "bridge", {fields}}}"#);
        problems(&(on_n() + &attachment(&config)))
    };
    let local = r#""ipam": {"type": "host-local", "subnet": "10.22.0.0/16"}"#;
    for (fields, expected) in [
        (
            format!(r#"{local}, "args": {{"cni": {{"ips": ["10.9.0.1"]}}}}"#),
            "spec.config.args.cni.ips[0]: 10.9.0.1 is in no range of ipam: request one that is, or leave it out",
        ),
        (
            format!(r#"{local}, "runtimeConfig": {{"ips": ["10.22.0.1"]}}"#),
            "spec.config.runtimeConfig.ips[0]: 10.22.0.1 is the gateway: request another, or leave it out",
        ),
        (
            r#""ipam": {"type": "dhcp"}, "runtimeConfig": {"ips": ["10.22.0.1"]}"#.into(),
            "warning: spec.config.runtimeConfig.ips[0]: ignored: only ipam of type static or host-local reads it",
        ),
        (
            r#""args": {"cni": {"mac": "03:00:00:00:00:01"}}"#.into(),
            "spec.config.args.cni.mac: \"03:00:00:00:00:01\": this is a multicast address; the first byte of a NIC's \
             MAC is even",
        ),
        (
            format!(r#"{local}, "isDefaultGateway": true"#),
            "warning: spec.config.isDefaultGateway: hawser adds no address to the bridge: check that it has the gateway's",
        ),
    ] {
        assert_eq!(of(&fields), [format!("vm.yaml:16: {expected}")], "{fields}");
    }
    // A gateway without a route is not the guest's router.
    let ipam = |addresses: &str, routes: &str| {
        of(&format!(
            r#""ipam": {{"type": "static", "addresses": [{addresses}], "routes": [{routes}]}}"#
        ))
    };
    let with_gateway = r#"{"address": "10.22.0.9/16", "gateway": "10.22.0.1"}"#;
    for routes in ["", r#"{"dst": "10.0.0.0/8", "gw": "10.22.0.7"}"#] {
        let [said] = &ipam(with_gateway, routes)[..] else {
            panic!("{routes}")
        };
        assert!(said.starts_with("vm.yaml:16: warning: spec.config.ipam: no route uses the gateway 10.22.0.1"));
    }
    assert_eq!(ipam(with_gateway, r#"{"dst": "10.0.0.0/8"}"#), [""; 0]);
    assert_eq!(ipam(r#"{"address": "10.22.0.9/16"}"#, ""), [""; 0]);
    // A network without room for a gateway is not an error.
    for address in [
        "0.0.0.0/32",
        "255.255.255.255/32",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
    ] {
        let ipam = format!(r#""ipam": {{"type": "static", "addresses": [{{"address": "{address}"}}]}}"#);
        of(&format!(r#"{ipam}, "isDefaultGateway": true"#));
    }
    // If hawser assigns no address, it assigns no router either.
    assert_eq!(of(r#""isDefaultGateway": true"#), [""; 0]);
}

/// The IPAMClaim of the VM's interface `network` with these addresses.
fn ipam_claim(network: &str, ips: &str) -> String {
    format!(
        "---\napiVersion: k8s.cni.cncf.io/v1alpha1\nkind: IPAMClaim\nmetadata: {{name: vm.{network}}}\nspec: {{network: net, \
         interface: net1}}\nstatus:\n  ips: {ips}\n"
    )
}

/// The plan of a manifest without a warning.
fn plan_of(text: &str) -> String {
    let checked = planned(text, &PlanOptions::default()).unwrap_or_else(|rejected| panic!("{rejected:?}"));
    assert_eq!(checked.warnings, []);
    plan_text::text(&checked.plan)
}

/// The lines about addresses in the plan of the VM on network `n`.
fn planned_addresses(config: &str, claim: &str) -> String {
    let text = plan_of(&(on_n() + &attachment(config) + claim));
    let lines = text.lines().filter_map(|line| line.strip_prefix("  address  "));
    lines.collect()
}

#[test]
fn an_interface_has_the_addresses_of_its_ipam_claim() {
    let claim = ipam_claim("a", "[10.0.0.7/24, \"fd00::7/64\"]");
    let both = "10.0.0.7/24, fd00::7/64";
    assert_eq!(
        planned_addresses(r#"{"type": "cnv-bridge", "bridge": "b"}"#, &claim),
        both
    );
    let ranges = r#"{"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}}"#;
    assert_eq!(
        planned_addresses(ranges, &claim),
        "one of 10.0.0.7 to 10.0.0.7, and one of fd00::7 to fd00::7"
    );
    let whereabouts =
        r#"{"type": "bridge", "ipam": {"type": "whereabouts", "range": "10.0.0.0/24", "exclude": ["10.0.0.0/29"]}}"#;
    let nine = ipam_claim("a", "[10.0.0.9/24]");
    assert_eq!(planned_addresses(whereabouts, &nine), "one of 10.0.0.9 to 10.0.0.9");
    // The files contain a claim of another interface, and a claim without addresses yet.
    assert_eq!(
        planned_addresses(r#"{"type": "bridge"}"#, &ipam_claim("b", "[10.0.0.7/24]")),
        ""
    );
    assert_eq!(planned_addresses(r#"{"type": "bridge"}"#, &ipam_claim("a", "[]")), "");
}

#[test]
fn an_ipam_claim_that_cannot_be_met_is_said_at_its_line() {
    let of = |config: &str, ips: &str| problems(&(on_n() + &attachment(config) + &ipam_claim("a", ips)));
    let local = r#"{"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}"#;
    for (config, ips, expected) in [
        (
            local,
            "[10.0.1.7/24]",
            "status.ips: 10.0.1.7/24 of vm.a: 10.0.1.7 is in no range of ipam: request one that is, or leave it out",
        ),
        (
            local,
            "[10.0.0.1/24]",
            "status.ips: 10.0.0.1/24 of vm.a: 10.0.0.1 is the gateway: request another, or leave it out",
        ),
        (
            local,
            "[10.0.0.7]",
            "status.ips[0]: \"10.0.0.7\": give an address with its prefix, such as 192.0.2.5/24",
        ),
    ] {
        assert_eq!(of(config, ips), [format!("vm.yaml:23: {expected}")], "{ips}");
    }
    assert_eq!(
        of(r#"{"type": "bridge", "ipam": {"type": "dhcp"}}"#, "[10.0.0.7/24]"),
        ["vm.yaml:23: warning: status.ips: ignored: the segment's DHCP server gives the interface its addresses"]
    );
    let on_pod = on_pod() + &ipam_claim("default", "[10.0.0.7/24]");
    assert_eq!(
        problems(&on_pod),
        [
            "vm.yaml:17: warning: status.ips: ignored: the interface is on the pod network, whose addresses are the pod's"
        ]
    );
}

/// A VM in the namespace shop on a network of this name.
fn in_shop(network: &str) -> String {
    machine(
        "{name: a, bridge: {}}",
        &format!("{{name: a, multus: {{networkName: {network}}}}}"),
    )
    .replace("{name: vm}", "{name: vm, namespace: shop}")
}

#[test]
fn a_network_of_another_namespace_is_named_unless_namespaces_are_isolated() {
    let isolated = PlanOptions {
        namespace_isolation: true,
        ..PlanOptions::default()
    };
    let of = |namespace: &str| {
        attachment(r#"{"type": "bridge", "bridge": "br0"}"#)
            .replace("{name: net}", &format!("{{name: net, namespace: {namespace}}}"))
    };
    for (namespace, refused) in [("shop", false), ("default", false), ("infra", true)] {
        let text = in_shop(&format!("{namespace}/net")) + &of(namespace);
        assert_eq!(problems(&text), [""; 0], "{namespace}");
        let found = problems_with(&text, &isolated);
        assert_eq!(found.len(), usize::from(refused), "{found:?}");
        if refused {
            assert!(found[0].contains(
                "networkName: namespace infra is neither the VM's (shop) nor default: with --namespace-isolation"
            ));
        }
    }
    // In another namespace the same name means a different network, even if it occurs twice.
    assert_eq!(
        problems(&(in_shop("net") + &of("shop") + &of("infra") + &of("infra"))),
        [""; 0]
    );
    let twice = problems(&(in_shop("net") + &of("shop") + &of("shop")));
    assert_eq!(
        twice,
        ["vm.yaml:18: a network of this name is already at vm.yaml:12: leave one out"]
    );
}

#[test]
fn a_network_of_the_cluster_is_in_the_namespaces_it_selects() {
    let network = |selector: &str, role: &str| {
        format!(
            "---\napiVersion: k8s.ovn.org/v1\nkind: ClusterUserDefinedNetwork\nmetadata: {{name: net}}\nspec:\n  \
             namespaceSelector: {selector}\n  network: {{topology: Layer2, layer2: {{role: {role}, subnets: [10.1.0.0/24]}}}}\n"
        )
    };
    let on_pod = on_pod().replace("{name: vm}", "{name: vm, namespace: shop}");
    for (selector, selects) in [
        ("{matchLabels: {kubernetes.io/metadata.name: shop}}", true),
        ("{matchLabels: {kubernetes.io/metadata.name: other}}", false),
        (
            "{matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [a, shop]}]}",
            true,
        ),
        (
            "{matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [a, b]}]}",
            false,
        ),
        ("{}", true),
        // The label is unknown, so the selector is assumed to match.
        ("{matchLabels: {env: prod}}", true),
    ] {
        let primary = problems(&(on_pod.clone() + &network(selector, "Primary")));
        assert_eq!(primary.len(), usize::from(selects), "{selector}: {primary:?}");
        let secondary = problems(&(in_shop("net") + &network(selector, "Secondary"))).join("\n");
        let missing = secondary.contains("the files contain no NetworkAttachmentDefinition shop/net");
        assert_eq!(missing, !selects, "{selector}: {secondary}");
        assert_eq!(secondary.is_empty(), selects, "{selector}: {secondary}");
    }
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {env: test}}\n";
    let by_label = on_pod + &network("{matchLabels: {env: prod}}", "Primary");
    assert_eq!(
        problems(&by_label),
        [
            "vm.yaml:8: spec.domain.devices.interfaces[0]: the pod network of this namespace may be \"net\" (vm.yaml:12), \
             to which binding: {name: l2bridge} leads: write that; labels of the namespace shop decide, which are not \
             known: give its Namespace with -f"
        ]
    );
    let labelled = by_label + namespace;
    assert_eq!(problems(&labelled), [""; 0]);
}

/// A network of type macvtap that names this resource.
fn of_resource(name: &str) -> String {
    let annotated =
        format!("{{name: net, annotations: {{k8s.v1.cni.cncf.io/resourceName: macvtap.network.kubevirt.io/{name}}}}}");
    attachment(r#"{"type": "macvtap"}"#).replace("{name: net}", &annotated)
}

/// The ConfigMap of macvtap's device plugin.
fn device_plugin(json: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: macvtap-deviceplugin-config}}\ndata:\n  DP_MACVTAP_CONF: \
         '{json}'\n"
    )
}

#[test]
fn a_resource_of_macvtap_is_on_the_device_its_plugin_says() {
    // The configuration is that of macvtap-cni's README, with another mode.
    let list = r#"[{"name": "dataplane-network-1", "lowerDevice": "eth0", "mode": "vepa", "capacity": 50}]"#;
    for (resource, plugin, expected) in [
        ("eth1", String::new(), "macvtap on eth1, mode bridge"),
        ("eth1", device_plugin("[]"), "macvtap on eth1, mode bridge"),
        ("dataplane-network-1", device_plugin(list), "macvtap on eth0, mode vepa"),
    ] {
        // The order of the files does not matter.
        let first = format!("{plugin}---\n{}{}", on_n(), of_resource(resource));
        let last = on_n() + &of_resource(resource) + &plugin;
        for text in [first, last] {
            assert!(plan_of(&text).contains(expected), "{text}");
        }
    }
    let named = |resource: &str, plugin: &str| problems(&(on_n() + &of_resource(resource) + plugin));
    assert_eq!(
        named("eth1", &device_plugin(list)),
        [
            "vm.yaml:16: spec.config: the device plugin has no resource \"eth1\" (vm.yaml:18): it has dataplane-network-1"
        ]
    );
    assert_eq!(
        named("dataplane-network-1", ""),
        [
            "vm.yaml:16: spec.config: the lower device of \"dataplane-network-1\" is not known: name it in the annotation \
             k8s.v1.cni.cncf.io/resourceName: macvtap.network.kubevirt.io/DEVICE, or also give the ConfigMap \
             macvtap-deviceplugin-config with -f"
        ]
    );
    let broken = named("eth1", &device_plugin("{"));
    assert!(
        broken
            .iter()
            .any(|p| p.starts_with("vm.yaml:22: data.DP_MACVTAP_CONF: ")),
        "{broken:?}"
    );
    // It does not affect other networks.
    assert_eq!(
        problems(&(on_pod() + &of_resource("eth1") + &device_plugin("{"))),
        [""; 0]
    );
}

/// A VM bound with sriov to the network `net`, with further fields of its interface.
fn on_vf(fields: &str) -> String {
    machine(
        &format!("{{name: a, sriov: {{}}{fields}}}"),
        "{name: a, multus: {networkName: net}}",
    )
}

#[test]
fn the_standby_of_a_failover_pair_follows_from_the_interface_of_its_function() {
    let standby = |fields: &str, network: &str| {
        let checked = planned(&(on_vf(fields) + &sriov(network)), &PlanOptions::default()).unwrap();
        let attachment = AttachmentSpec::Tap { name: "t".into() };
        checked.plan.nics[0].standby(attachment)
    };
    let pair = standby(", macAddress: 02:00:00:00:00:07, failover: true", "vlan: 100").unwrap();
    assert_eq!((&*pair.name, pair.mac.map(|mac| mac.0[5])), ("a-standby", Some(7)));
    assert_eq!(pair.device.teaming, Teaming::Persistent);
    let rules = pair.mode.segment().and_then(|segment| segment.rules.clone()).unwrap();
    assert_eq!((rules.vlan, rules.mac_spoof_check), (Some(100), false));
    assert!(pair.socket.ends_with("a-standby.sock"));
    let named = standby(", teaming: {type: transient, persistent: ua-b}", "spoofChk: \"on\"");
    let named = named.unwrap();
    let rules = named.mode.segment().and_then(|segment| segment.rules.clone()).unwrap();
    assert_eq!((&*named.name, rules.vlan, rules.mac_spoof_check), ("ua-b", None, true));
    assert_eq!(standby(", failover: false", "vlan: 100"), None);
}

#[test]
fn a_pair_that_cannot_be_is_refused() {
    for (fields, network, expected) in [
        (
            ", failover: true, teaming: {type: transient, persistent: b}",
            "vlan: 1",
            "keep one of them",
        ),
        (
            ", teaming: {type: persistent}",
            "vlan: 1",
            "hawser adds the persistent interface itself",
        ),
        (", teaming: {type: transient}", "vlan: 1", "name the standby"),
        (
            ", teaming: {type: transient, persistent: a}",
            "vlan: 1",
            "give teaming with another name",
        ),
        (
            ", failover: true",
            "{vlan: 1, vlanProto: 802.1ad}",
            "the standby tags with 802.1q only",
        ),
    ] {
        let network = network.trim_matches(['{', '}']).replace(", ", "\n  ");
        let told = problems(&(on_vf(fields) + &sriov(&network)));
        assert!(
            told.iter().any(|problem| problem.contains(expected)),
            "{fields}: {told:?}"
        );
    }
    let other = machine("{name: a, masquerade: {}, failover: true}", "{name: a, pod: {}}");
    assert!(problems(&other)[0].contains("failover is for interfaces bound with sriov"));
}

#[test]
fn an_interface_without_a_function_gets_a_port_of_its_network_if_it_asks_for_one() {
    let plan = |fields: &str| {
        let checked = planned(&(on_vf(fields) + &sriov("vlan: 100")), &PlanOptions::default()).unwrap();
        checked.plan.nics[0].clone()
    };
    assert!(!plan("").lacks_function());
    let nic = plan(", macAddress: 02:00:00:00:00:07, bootOrder: 1, fallback: macvtap");
    assert!(nic.lacks_function());
    let port = nic
        .in_place_of_function(AttachmentSpec::Tap { name: "t".into() })
        .unwrap();
    assert_eq!((&port.name, port.mac, &port.device), (&nic.name, nic.mac, &nic.device));
    let rules = port.mode.segment().and_then(|segment| segment.rules.clone()).unwrap();
    assert_eq!(rules.vlan, Some(100));
    for (fields, network, expected) in [
        (", fallback: bridge", "vlan: 1", "choose one of \"macvtap\""),
        (", fallback: macvtap, failover: true", "vlan: 1", "keep one of them"),
        (", fallback: macvtap", "maxTxRate: 9", "a macvtap has no maxTxRate"),
        (
            ", fallback: macvtap",
            "{vlan: 1, vlanQoS: 2}",
            "a macvtap has no vlanQoS",
        ),
    ] {
        let network = network.trim_matches(['{', '}']).replace(", ", "\n  ");
        let told = problems(&(on_vf(fields) + &sriov(&network)));
        assert!(
            told.iter().any(|problem| problem.contains(expected)),
            "{fields}: {told:?}"
        );
    }
    let other = machine("{name: a, masquerade: {}, fallback: macvtap}", "{name: a, pod: {}}");
    assert!(problems(&other)[0].contains("it is for interfaces bound with sriov"));
}
