//! Tests of refusals. Each message names the line, the field and the allowed values.

use super::{machine, problems};

const POD: &str = "{name: default, pod: {}}";
const PORTS: &str = "ports: [{port: 22}]";

/// The problems of an interface on the pod network, without their common prefix.
fn of_interface(fields: &str) -> Vec<String> {
    let text = machine(&format!("{{name: default, masquerade: {{}}, {fields}}}"), POD);
    let head = "vm.yaml:8: spec.domain.devices.interfaces[0]";
    problems(&text)
        .into_iter()
        .map(|p| p.strip_prefix(head).map_or(p.clone(), str::to_owned))
        .collect()
}

#[test]
fn every_field_of_an_interface_is_checked_and_every_problem_reported() {
    let cases = [
        (
            "macAddress: 02:00:00:00:00:00",
            ".macAddress: \"02:00:00:00:00:00\": this is the MAC of the gateway; choose another for the guest",
        ),
        (
            "macAddress: 01:00:00:00:00:01",
            ".macAddress: \"01:00:00:00:00:01\": this is a multicast address; the first byte of a NIC's MAC is even",
        ),
        (
            "model: e1000",
            ".model: \"e1000\": only virtio can be served over vhost-user: write virtio, or leave it out",
        ),
        (
            "state: off",
            ".state: off is false to kubectl; write it in quotes: \"off\"",
        ),
        (
            "state: gone",
            ".state: \"gone\": choose one of \"up\", \"down\", \"absent\"",
        ),
        (
            "state: absent",
            ": state absent is for interfaces bound with bridge: remove this one from the manifest instead",
        ),
        (
            "bridge: {}",
            ": it has several bindings to its network: keep one of them",
        ),
        (
            "pciAddress: 81:01.0",
            ".pciAddress: \"81:01.0\": give domain:bus:slot.function in hexadecimal, such as 0000:81:01.0",
        ),
        (
            "bootOrder: 0",
            ".bootOrder: found \"0\"; it must be a whole number from 1 to 4294967295, without quotes",
        ),
        (
            "macAdress: x",
            ".macAdress: there is no such field in spec.domain.devices.interfaces[]; its fields are name, masquerade, passtBinding, bridge, sriov, failover, teaming, fallback, binding, ports, portRanges, macAddress, model, state, dhcpOptions, pciAddress, bootOrder, acpiIndex",
        ),
        (
            "passt: {}",
            ".passt: not served: KubeVirt has removed it; use passtBinding",
        ),
        (
            "dhcpOptions: {privateOptions: [{option: 12, value: x}]}",
            ".dhcpOptions.privateOptions[0].option: found \"12\"; it must be a whole number from 224 to 254, without quotes",
        ),
        (
            "dhcpOptions: {ntpServers: [fd00::1]}",
            ".dhcpOptions.ntpServers[0]: \"fd00::1\": give an IPv4 address",
        ),
        (
            "portRanges: [{start: 1, end: 2, protocol: TCP}]",
            ".portRanges: ports is given too: write only one of them",
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(of_interface(&format!("{PORTS}, {fields}")), [expected], "{fields}");
    }
    let all: Vec<&str> = cases.iter().map(|(fields, _)| *fields).take(3).collect();
    let several = "model: e1000, bootOrder: 0, pciAddress: x";
    assert_eq!((all.len(), of_interface(&format!("{PORTS}, {several}")).len()), (3, 3));
}

#[test]
fn ports_are_checked() {
    let cases = [
        (
            "ports: [{port: 65536}]",
            ".ports[0].port: found \"65536\"; it must be a whole number from 1 to 65535, without quotes",
        ),
        (
            "ports: [{port: 1}, {port: \"2\"}]",
            ".ports[1].port: found \"2\"; it must be a whole number from 1 to 65535, without quotes",
        ),
        (
            "ports: [{port: 1, protocol: SCTP}]",
            ".ports[0].protocol: \"SCTP\": choose one of \"TCP\", \"UDP\"",
        ),
        (
            "ports: [{port: 7}, {port: 7, protocol: TCP}]",
            ".ports[1]: these ports are already in the list: remove them here",
        ),
        (
            "ports: [{port: 7, name: a}, {port: 8, name: a}]",
            ".ports[1]: another port has the same name: give each its own",
        ),
        (
            "ports: [{port: 7, name: Web_1}]",
            ".ports[0].name: \"Web_1\": give up to 15 lower-case letters, digits and hyphens, such as http",
        ),
        (
            "ports: [{protocol: UDP}]",
            ".ports[0]: port is missing: give the port's number",
        ),
        (
            "portRanges: [{start: 3, end: 9}]",
            ".portRanges[0]: protocol is missing: give TCP or UDP, which is required for a range",
        ),
        (
            "portRanges: [{start: 3, end: 9, protocol: TCP, name: a}]",
            ".portRanges[0].name: there is no such field in interfaces[].portRanges[]; its fields are start, end, protocol",
        ),
        (
            "portRanges: [{start: 9, end: 3, protocol: UDP}]",
            ".portRanges[0]: the range ends (3) before it starts (9)",
        ),
        (
            "portRanges: [{start: 1, end: 9, protocol: TCP}, {start: 9, end: 9, protocol: TCP}]",
            ".portRanges[1]: these ports are already in the list: remove them here",
        ),
    ];
    for (fields, expected) in cases {
        let problems = of_interface(fields);
        assert_eq!(
            problems.first().map(String::as_str),
            Some(expected),
            "{fields}: {problems:?}"
        );
    }
    assert_eq!(of_interface("ports: [{port: 7}, {port: 7, protocol: UDP}]"), [""; 0]);
    let ranges = "{start: 1, end: 1, protocol: UDP}, ".repeat(11);
    assert!(of_interface(&format!("portRanges: [{ranges}]"))[0].contains("11 ranges are too many"));
}

#[test]
fn an_interface_without_ports_has_every_one() {
    assert_eq!(of_interface("ports: []"), [""; 0]);
    assert_eq!(of_interface("portRanges: []"), [""; 0]);
}

#[test]
fn interfaces_and_networks_must_meet() {
    let text = machine("{name: a, masquerade: {}, ports: [{port: 1}]}", "{name: b, pod: {}}");
    assert_eq!(
        problems(&text),
        [
            "vm.yaml:8: spec.domain.devices.interfaces[0]: no network is named \"a\": add it to spec.networks",
            "vm.yaml:10: spec.networks[0]: no interface is named \"b\": add it, or leave the network out",
        ]
    );
    let two = machine(
        "{name: a, bridge: {}}\n      - {name: a, bridge: {}, bootOrder: 1}",
        "{name: a, multus: {networkName: other/net}}\n  - {name: c}",
    );
    let found = problems(&two).join("\n");
    for expected in [
        "vm.yaml:9: spec.domain.devices.interfaces[1]: another interface is also named \"a\": give each its own name",
        "vm.yaml:11: spec.networks[0].multus.networkName: the files contain no NetworkAttachmentDefinition other/net: give it with -f too",
        "vm.yaml:12: spec.networks[1]: it has no source: give pod: {} or multus.networkName",
        "vm.yaml:12: spec.networks[1]: no interface is named \"c\": add it, or leave the network out",
    ] {
        assert!(found.contains(expected), "{expected}\nnot in\n{found}");
    }
}

#[test]
fn modes_that_are_not_built_are_refused_by_name() {
    let nad = |config: &str| {
        format!(
            "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: net}}\nspec:\n  \
             config: '{config}'\n"
        )
    };
    let on = |binding: &str, config: &str| {
        let vm = machine(
            &format!("{{name: a, {binding}}}"),
            "{name: a, multus: {networkName: net}}",
        );
        problems(&(vm + &nad(config))).join("\n")
    };
    let overlay =
        r#"{"type": "ovn-k8s-cni-overlay", "topology": "layer3", "name": "net", "subnets": "10.1.0.0/16/24"}"#;
    assert!(on("bridge: {}", overlay).contains("needs the mode layer3, which hawser does not have yet"));
    assert!(on("sriov: {}", r#"{"type": "sriov"}"#).contains("which virtual functions? Give the annotation"));
    assert!(on("sriov: {}", r#"{"type": "macvlan", "master": "e"}"#).contains("its network \"net\" has no VFs"));
    let named = r#"{"type": "sriov", "deviceID": "0000:01:10.0", "vlan": 7, "min_tx_rate": 9, "max_tx_rate": 3}"#;
    assert!(on("sriov: {}", named).contains("min_tx_rate 9 is above max_tx_rate 3"));
    assert!(on("bridge: {}", r#"{"type": "sriov", "deviceID": "0000:01:10.0"}"#).contains("give sriov: {}"));
    assert!(on("sriov: {}", r#"{"type": "sriov", "deviceID": "1:10.0"}"#).contains("such as 0000:01:10.0"));
    assert!(
        on(
            "sriov: {}, state: down",
            r#"{"type": "sriov", "deviceID": "0000:01:10.0"}"#
        )
        .contains("linkState: disable")
    );
    assert!(on("masquerade: {}", overlay).contains("this binding is for the pod network"));
    assert!(on("bridge: {}", r#"{"type": "calico"}"#).contains("type \"calico\" is not served: choose bridge"));
}

#[test]
fn a_cni_configuration_is_answered_at_its_own_lines() {
    let text = "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: net}\nspec:\n  config: |\n    {\n      \
                \"type\": \"cnv-bridge\",\n      \"vlan\": 5000,\n      \"vlanTrunk\": [{\"id\": 7},\n        {\"minID\": 1, \"maxID\": 9}],\n      \
                \"macspoofchk\": \"yes\",\n      \"speed\": 1\n    }\n";
    assert_eq!(
        problems(text),
        [
            "vm.yaml:8: spec.config.vlan: found \"5000\"; it must be a whole number from 0 to 4094, without quotes",
            "vm.yaml:10: spec.config.vlanTrunk[1]: VLANs of this entry are also in an earlier one: name each once",
            "vm.yaml:11: spec.config.macspoofchk: found \"yes\"; it must be true or false, without quotes",
            "vm.yaml:12: warning: spec.config.speed: ignored: not a known field of CNI bridge, cnv-bridge",
        ]
    );
    let broken = text.replace("5000,", "5000");
    assert!(
        problems(&broken)[0].starts_with("vm.yaml:9: spec.config: this is not JSON"),
        "{:?}",
        problems(&broken)
    );
}

#[test]
fn what_a_bridge_port_cannot_be_is_refused_at_its_field() {
    let of = |fields: &str| {
        let text = format!(
            "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: net}}\nspec:\n  config: |\n    \
             {{\"type\": \"cnv-bridge\", \"bridge\": \"br0\",\n    {fields}}}\n"
        );
        problems(&text)
    };
    for (fields, expected) in [
        (
            r#""hairpinMode": true, "promiscMode": true"#,
            "promiscMode: it cannot be combined with hairpinMode: leave out one of them",
        ),
        (
            r#""vlan": 5, "vlanTrunk": [{"minID": 1, "maxID": 9}]"#,
            "vlan: 5 is also in vlanTrunk, and cannot be both tagged and untagged: remove it from one",
        ),
        (
            r#""vlanTrunk": [{"minID": 9, "maxID": 1}]"#,
            "vlanTrunk[0]: maxID 1 is less than minID 9: swap them",
        ),
        (
            r#""vlanTrunk": [{"id": 4095}]"#,
            "vlanTrunk[0].id: found \"4095\"; it must be a whole number from 1 to 4094, without quotes",
        ),
        (r#""mtu": 10"#, "mtu: 10: give 68 to 65535"),
    ] {
        assert_eq!(of(fields), [format!("vm.yaml:7: spec.config.{expected}")], "{fields}");
    }
}

#[test]
fn addresses_are_checked_as_their_plugins_do() {
    let of = |ipam: &str| {
        let text = format!(
            "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: net}}\nspec:\n  \
             config: '{{\"type\": \"macvlan\", \"master\": \"eth1\", \"ipam\": {ipam}}}'\n"
        );
        problems(&text).join("\n")
    };
    for (ipam, expected) in [
        (
            r#"{"type": "spiderpool"}"#,
            "config.ipam: type \"spiderpool\" is not served: choose host-local, whereabouts, static or dhcp",
        ),
        (r#"{"type": "static"}"#, "config.ipam: addresses is missing or empty"),
        (
            r#"{"type": "static", "addresses": [{"address": "10.0.0.1"}]}"#,
            "addresses[0].address: \"10.0.0.1\": give an address with its prefix",
        ),
        (
            r#"{"type": "static", "addresses": [{"address": "10.0.0.1/24", "gateway": "10.1.0.1"}]}"#,
            "10.1.0.1 is not in the network of 10.0.0.1/24",
        ),
        (
            r#"{"type": "dhcp"}, "dns": {"nameservers": ["ns1"]}"#,
            "config.dns.nameservers[0]: \"ns1\": give an IPv4 or IPv6 address",
        ),
        (
            r#"{"type": "dhcp"}, "dns": {"domain": "a b", "search": ["c..d"]}"#,
            "config.dns.domain: \"a b\": give a domain name such as example.com",
        ),
        (r#"{"type": "host-local"}"#, "config.ipam: it has no range"),
        (
            r#"{"type": "host-local", "ranges": [[]]}"#,
            "ranges[0]: this set is empty",
        ),
        (
            r#"{"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}"#,
            "ranges[0]: this set has ranges of both families",
        ),
        (
            r#"{"type": "host-local", "ranges": [[{"subnet": "10.0.0.1/24"}]]}"#,
            "it has host bits: give 10.0.0.0/24",
        ),
        (
            r#"{"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/31"}]]}"#,
            "it is too narrow: give /30 or wider",
        ),
        (
            r#"{"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}]]}"#,
            "10.0.1.1 is not a host of 10.0.0.0/24: give 10.0.0.1 to 10.0.0.254",
        ),
        (
            r#"{"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.3"}]]}"#,
            "rangeEnd 10.0.0.3 is below rangeStart 10.0.0.9",
        ),
        (
            r#"{"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]}"#,
            "ranges of 10.0.0.0/24 and 10.0.0.0/25 overlap",
        ),
    ] {
        assert!(of(ipam).contains(expected), "{ipam}: {}", of(ipam));
    }
}

#[test]
fn what_a_segment_needs_of_its_interface_is_asked_for() {
    let on = |interface: &str, config: &str| {
        let vm = machine(
            &format!("{{name: a, bridge: {{}}{interface}}}"),
            "{name: a, multus: {networkName: net}}",
        );
        let nad = format!(
            "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: net}}\nspec:\n  \
             config: '{config}'\n"
        );
        problems(&(vm + &nad)).join("\n")
    };
    let checked = r#"{"type": "cnv-bridge", "bridge": "b", "macspoofchk": true}"#;
    // If the manifest has no MAC, one is assigned.
    assert_eq!(on("", checked), "");
    let fixed = |kind: &str, addresses: &str| {
        format!(
            r#"{{"type": "{kind}", "bridge": "b", "master": "e", "ipam": {{"type": "static", "addresses": [{addresses}]}}}}"#
        )
    };
    let v4 = r#"{"address": "192.0.2.5/24"}"#;
    assert!(!on("", &fixed("bridge", v4)).contains("macAddress"));
    let both = format!(r#"{v4}, {{"address": "2001:db8::5/64"}}"#);
    assert!(!on("", &fixed("bridge", &both)).contains("the guest gets"));
    let more = format!(r#"{both}, {{"address": "2001:db8::6/64", "gateway": "2001:db8::1"}}"#);
    let told = on("", &fixed("bridge", &more));
    assert!(
        told.contains("the guest gets only the first address of each family"),
        "{told}"
    );
    assert!(told.contains("no IPv6 routes or gateway from hawser"), "{told}");
    let ranges = r#"{"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}}"#;
    assert_eq!(on("", ranges), "");
    assert!(on(", state: absent", checked).contains("every interface is absent"));
}

#[test]
fn a_bridge_on_the_pod_network_takes_over_the_pods_interface() {
    let text = machine("{name: a, bridge: {}}", "{name: a, pod: {}}");
    assert_eq!(problems(&text), [""; 0]);
}

#[test]
fn services_lead_to_ports_the_guest_has() {
    let service = |port: &str| {
        let vm = machine(
            "{name: d, masquerade: {}, ports: [{port: 22, name: ssh}]}",
            "{name: d, pod: {}}",
        );
        let vm = vm.replace("{name: vm}", "{name: vm, labels: {app: x}}");
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec:\n  type: NodePort\n  selector: {{app: x}}\n  \
             ports:\n  - {port}\n"
        );
        problems(&(vm + &service)).join("\n")
    };
    assert_eq!(service("{port: 22, nodePort: 30022}"), "");
    assert_eq!(service("{port: 1, targetPort: ssh, nodePort: 30022}"), "");
    let more = "{port: 22, nodePort: 30022}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: t}\nspec:\n  \
                type: LoadBalancer\n  selector: {app: x}\n  ports: [{port: 1, targetPort: 22, nodePort: NODE}]";
    assert_eq!(service(&more.replace("NODE", "30023")), "");
    assert!(service(&more.replace("NODE", "30022")).contains("hawser already listens on this port for vm.yaml:"));
    for (port, expected) in [
        (
            "{port: 80, nodePort: 30080}",
            "targetPort 80 is not among the ports of interface \"d\"",
        ),
        (
            "{port: 80, targetPort: web, nodePort: 30080}",
            "targetPort \"web\" is not the name of a tcp port of interface \"d\"",
        ),
        (
            "{port: 22, nodePort: 22}",
            "hawser already listens on this port for vm.yaml:8",
        ),
        (
            "{port: 22}",
            "warning: spec.ports[0]: not served: the cluster would choose a nodePort; give one",
        ),
        (
            "{port: 22, protocol: SCTP}",
            "spec.ports[0].protocol: \"SCTP\": choose one of",
        ),
    ] {
        assert!(service(port).contains(expected), "{port}: {}", service(port));
    }
}

#[test]
fn istio_keeps_its_ports() {
    let vm = machine(
        "{name: d, masquerade: {}, portRanges: [{start: 15000, end: 15010, protocol: TCP}]}",
        "{name: d, pod: {}}",
    );
    let mesh = vm.replace(
        "{name: vm}",
        "{name: vm, annotations: {sidecar.istio.io/inject: \"true\"}}",
    );
    assert_eq!(problems(&vm), [""; 0]);
    assert!(problems(&mesh)[0].contains("portRanges[0]: TCP port 15000 belongs to Istio's proxy"));
    let unquoted = vm.replace("{name: vm}", "{name: vm, annotations: {sidecar.istio.io/inject: true}}");
    assert!(
        problems(&unquoted)[0]
            .contains("metadata.annotations[\"sidecar.istio.io/inject\"]: true is true to kubectl; write it in quotes")
    );
}

#[test]
fn sriov_networks_are_checked_without_a_vm_on_them() {
    let text = "apiVersion: sriovnetwork.openshift.io/v1\nkind: SriovNetwork\nmetadata: {name: s}\nspec:\n  resourceName: r\n  \
                vlan: 4095\n  spoofChk: on\n  vlanQoS: 9\n  linkState: up\n  minTxRate: 9\n  maxTxRate: 3\n";
    assert_eq!(
        problems(text),
        [
            "vm.yaml:4: spec: minTxRate 9 is above maxTxRate 3",
            "vm.yaml:6: spec.vlan: found \"4095\"; it must be a whole number from 0 to 4094, without quotes",
            "vm.yaml:7: spec.spoofChk: on is true to kubectl; write it in quotes: \"on\"",
            "vm.yaml:8: spec.vlanQoS: found \"9\"; it must be a whole number from 0 to 7, without quotes",
            "vm.yaml:9: spec.linkState: \"up\": choose one of \"auto\", \"enable\", \"disable\"",
        ]
    );
    let untagged = "apiVersion: sriovnetwork.openshift.io/v1\nkind: SriovNetwork\nmetadata: {name: s}\n\
                    spec: {resourceName: r, vlanQoS: 3, vlanProto: 802.1ad}\n";
    assert_eq!(
        problems(untagged),
        [
            "vm.yaml:4: spec: vlanQoS needs a vlan: give one from 1 to 4094, or leave out vlanQoS",
            "vm.yaml:4: spec: vlanProto needs a vlan: give one from 1 to 4094, or leave out vlanProto",
        ]
    );
}

#[test]
fn there_is_one_vm() {
    let vm = machine("{name: d, masquerade: {}, ports: [{port: 1}]}", POD);
    assert!(
        problems("kind: Secret\napiVersion: v1\n")[0]
            .contains("the files contain no VirtualMachine or VirtualMachineInstance")
    );
    assert!(
        problems(&format!("{vm}---\n{vm}"))
            .iter()
            .any(|p| p.starts_with("vm.yaml:12: a VM of this name is already at vm.yaml:1"))
    );
    assert!(problems("[1]")[0].starts_with("vm.yaml:1: this is not a Kubernetes object"));
    assert!(problems("").len() == 1 && problems("\u{0}").len() == 1);
}

#[test]
fn a_socket_that_has_no_room_for_its_name_is_refused() {
    let name = "x".repeat(63);
    let vm = machine(
        &format!("{{name: {name}, masquerade: {{}}, ports: [{{port: 1}}]}}"),
        &format!("{{name: {name}, pod: {{}}}}"),
    );
    let file = super::SourceFile {
        name: "vm.yaml".into(),
        text: vm,
    };
    let long = format!("/run/{}", "d".repeat(60));
    let rejected = super::check_sources(
        &[file],
        &super::PlanSetup::new(std::path::Path::new(&long), &super::PlanOptions::default()),
    )
    .unwrap_err();
    assert!(
        rejected.errors[0]
            .message
            .contains("too long for the path of a Unix socket")
    );
}

proptest::proptest! {
    #[test]
    fn a_manifest_broken_anywhere_never_makes_it_panic(at in 0usize..2000, len in 0usize..40, with in "([ \n:{}\\[\\],'\"|-]|[a-z0-9]){0,12}") {
        let mut text = String::new();
        for example in super::examples::sources() {
            text.push_str(&example.text);
            text.push_str("---\n");
        }
        let at = at * 7 % text.len();
        let end = (at + len).min(text.len());
        if text.is_char_boundary(at) && text.is_char_boundary(end) {
            text.replace_range(at..end, &with);
        }
        let _ = problems(&text);
    }
}

/// KubeMacPool's ConfigMap with this data.
fn mac_pool(data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kubemacpool-mac-range-config, namespace: k}}\ndata:\n{data}"
    )
}

#[test]
fn the_range_of_kubemacpool_is_checked_as_kubemacpool_does_and_said_at_its_line() {
    let ends = |first: &str, last: &str| format!("  RANGE_START: {first}\n  RANGE_END: {last}\n");
    let vm = machine("{name: default, masquerade: {}, ports: [{port: 22}]}", POD);
    for (data, expected) in [
        (
            ends("02:00:00:00:00:10", "02:00:00:00:00:0F"),
            "vm.yaml:6: data.RANGE_END: the range ends before it begins: give the lower MAC first",
        ),
        (
            ends("02:00:00:00:00:10", "02:00:00:00:00:10"),
            "vm.yaml:6: data.RANGE_END: it is RANGE_START: give a higher MAC",
        ),
        (
            ends("03:00:00:00:00:00", "03:00:00:00:00:10"),
            "vm.yaml:5: data.RANGE_START: \"03:00:00:00:00:00\": this is a multicast address; the first byte of a NIC's MAC is even",
        ),
        (
            ends("02:00:00:00:00:00", "06:00:00:00:00:00"),
            "vm.yaml:6: data.RANGE_END: the first bytes differ, so the range includes multicast addresses: use the same first byte for both",
        ),
        (
            "  RANGE_END: \"02:00:00:00:00:00\"\n".into(),
            "vm.yaml:4: data: RANGE_START is missing: give a MAC, such as 02:00:00:00:00:00",
        ),
    ] {
        let problems = problems(&format!("{}---\n{vm}", mac_pool(&data)));
        let first = problems.first().map(String::as_str).unwrap_or_default();
        assert_eq!(first, expected, "{data}");
    }
    let twice = format!(
        "{0}---\n{0}---\n{vm}",
        mac_pool(&ends("02:00:00:00:00:00", "02:00:00:00:00:01"))
    );
    assert_eq!(
        problems(&twice),
        ["vm.yaml:8: KubeMacPool's range is already given at vm.yaml:1: leave one out"]
    );
    let other = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: other}}\n---\n{vm}");
    assert_eq!(
        problems(&other),
        [
            "vm.yaml:1: warning: ignored: of ConfigMaps only kubemacpool-mac-range-config and macvtap-deviceplugin-config are read here"
        ]
    );
}

#[test]
fn a_field_of_the_network_that_is_misspelt_is_no_field_of_another() {
    let text = |field: &str| {
        machine("{name: default, masquerade: {}}", POD)
            .replace("  networks:", &format!("  {field}\n  networks:"))
            .replace(
                "    devices:",
                "    cpu: {coresx: 4, model: host-model}\n    devices:\n      networkInterfaceMultiqueue: true",
            )
    };
    let said = problems(&text("hostnamex: vm"));
    let expected = [
        ".cpu.coresx: there is no such field in spec.domain.cpu: write cores if you mean that",
        "spec.hostnamex: there is no such field in VirtualMachineInstance spec: write hostname if you mean that",
    ];
    assert_eq!(said.len(), expected.len(), "{said:?}");
    for expected in expected {
        assert!(said.iter().any(|said| said.ends_with(expected)), "{said:?}");
    }
    assert!(problems(&text("evictionStrategy: LiveMigrate")).len() == 1);
}
