//! Tests that compare network data with plans: the messages, and the data that is written.

use super::write;
use crate::check::{Checked, Rejected, check_sources};
use crate::objects::SourceFile;
use crate::plan::PlanSetup;
use crate::plan::options::PlanOptions;
use std::path::Path;

const MASQUERADE: &str = "{name: default, macAddress: '02:00:00:00:00:05', masquerade: {}}";
const BRIDGE: &str = "{name: default, macAddress: '02:00:00:00:00:05', bridge: {}}";
/// A pod that is known to have both families.
const POD: &str = "pod: {vmNetworkCIDR: 10.0.2.0/24, vmIPv6NetworkCIDR: 'fd10:0:2::/120'}";
const ANY_POD: &str = "pod: {}";
const LAN: &str = "multus: {networkName: lan}";

/// A VM with one NIC, and with its network if `network` contains one. The volume begins in line 8.
fn manifest(interface: &str, network: &str, volume: &str, config: &str) -> String {
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: vm}}\nspec:\n  networks: [{{name: \
         default, {network}}}]\n  domain: {{devices: {{interfaces: [{interface}]}}}}\n  volumes:\n  - \
         {volume}\n---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: \
         lan}}\nspec:\n  config: |\n    {{\"type\": \"bridge\", \"bridge\": \"br0\",\n     {config}\n    }}\n"
    )
}

/// Network data in a volume. Its first line is line 10 of the file.
fn volume(data: &str) -> String {
    let lines: Vec<String> = data.lines().map(|line| format!("        {line}")).collect();
    format!("cloudInitNoCloud:\n      networkData: |\n{}", lines.join("\n"))
}

fn checked(text: &str) -> Result<Checked, Rejected> {
    let file = SourceFile {
        name: "vm.yaml".into(),
        text: text.into(),
    };
    check_sources(
        &[file],
        &PlanSetup::new(Path::new("/run/hawser"), &PlanOptions::default()),
    )
}

/// Errors, prefixed with "!", followed by warnings.
fn said(text: &str) -> Vec<String> {
    let (errors, warnings) = match checked(text) {
        Ok(checked) => (Vec::new(), checked.warnings),
        Err(rejected) => (rejected.errors, rejected.warnings),
    };
    let errors = errors.iter().map(|problem| format!("! {problem}"));
    let problems = errors.chain(warnings.iter().map(ToString::to_string));
    let shorter = |problem: String| {
        let data = "spec.volumes[0].cloudInitNoCloud.networkData";
        let within = problem.replace(&format!("{data}."), "DATA.");
        within.replace(&format!("{data}:"), "DATA:")
    };
    problems.map(shorter).collect()
}

fn of_masquerade(data: &str) -> Vec<String> {
    said(&manifest(MASQUERADE, POD, &volume(data), ""))
}

fn of_bridge(config: &str, data: &str) -> Vec<String> {
    let config = config.replace('\n', "\n     ");
    said(&manifest(BRIDGE, LAN, &volume(data), &config))
}

const HERE: &str = "(vm.yaml:6: spec.domain.devices.interfaces[0])";

#[test]
fn addresses_that_cut_a_masqueraded_guest_off_are_errors() {
    let other_subnet = "version: 2\nethernets:\n  eth0:\n    addresses: [10.200.0.1/24]\n    gateway4: 10.0.2.1";
    assert_eq!(
        of_masquerade(other_subnet),
        [format!(
            "! vm.yaml:13: DATA.ethernets.eth0.addresses[0]: the network of interface \"default\" is 10.0.2.0/24 {HERE}; \
             the guest reaches nothing from 10.200.0.1/24: give 10.0.2.2/24, or dhcp4: true alone"
        )]
    );
    // The gateway is not on the link.
    let narrow = "version: 2\nethernets:\n  eth0:\n    addresses: [10.0.2.2/32]\n    gateway4: 10.0.2.1";
    assert!(
        of_masquerade(narrow)[0].starts_with("! vm.yaml:13:"),
        "{:?}",
        of_masquerade(narrow)
    );
    // A static default route takes precedence over the one from DHCP, in both families.
    let gateways = "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    routes:\n    - {to: default, via: \
                    10.0.2.254}\n    gateway6: 'fd10:0:2::fe'";
    assert_eq!(
        of_masquerade(gateways),
        [
            format!(
                "! vm.yaml:15: DATA.ethernets.eth0.routes[0].via: the gateway of interface \"default\" is 10.0.2.1 {HERE}; \
                 the guest reaches nothing through 10.0.2.254: give 10.0.2.1, or none"
            ),
            format!(
                "! vm.yaml:16: DATA.ethernets.eth0.gateway6: the gateway of interface \"default\" is fd10:0:2::1 {HERE}; \
                 the guest reaches nothing through fd10:0:2::fe: give fd10:0:2::1, or none"
            )
        ]
    );
    let own_network = manifest(
        MASQUERADE,
        "pod: {vmNetworkCIDR: 10.9.0.0/16}",
        &volume("version: 2\nethernets:\n  eth0:\n    addresses: [10.9.0.2/16]\n    gateway4: 10.9.0.1"),
        "",
    );
    assert_eq!(said(&own_network), Vec::<String>::new());
}

#[test]
fn what_leaves_the_guest_some_network_is_a_warning() {
    for (data, expected) in [
        // DHCP also gives the device the right address.
        (
            "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    addresses: [10.200.0.1/24]",
            "vm.yaml:14: warning: DATA.ethernets.eth0.addresses[0]: the network of interface",
        ),
        (
            "version: 2\nethernets:\n  eth0:\n    addresses: [10.0.2.7/24]\n    gateway4: 10.0.2.1",
            "vm.yaml:13: warning: DATA.ethernets.eth0.addresses[0]: the guest of interface \"default\" is 10.0.2.2/24 \
             (vm.yaml:6: spec.domain.devices.interfaces[0]): incoming traffic goes there, not to 10.0.2.7",
        ),
        (
            "version: 2\nethernets:\n  eth0:\n    addresses: [10.0.2.2/24]",
            "vm.yaml:13: warning: DATA.ethernets.eth0.addresses[0]: no gateway is given or requested",
        ),
        (
            "version: 2\nethernets:\n  eth0:\n    dhcp4: false",
            "vm.yaml:12: warning: DATA.ethernets.eth0: the guest has no address of IPv4 and does not request the one that",
        ),
        (
            "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    accept-ra: false",
            "vm.yaml:12: warning: DATA.ethernets.eth0: the guest has no address of IPv6 and does not request the one that",
        ),
        (
            "version: 2\nethernets:\n  lan:\n    match: {macaddress: '02:00:00:00:00:06'}\n    dhcp4: true",
            "vm.yaml:13: warning: DATA.ethernets.lan.match.macaddress: no interface has this MAC, so cloud-init finds \
             none: 02:00:00:00:00:05 is that of \"default\" (vm.yaml:6: spec.domain.devices.interfaces[0].macAddress)",
        ),
        (
            "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    macaddress: '02:00:00:00:00:06'",
            "vm.yaml:14: warning: DATA.ethernets.eth0.macaddress: interface \"default\" has 02:00:00:00:00:05 (vm.yaml:6: \
             spec.domain.devices.interfaces[0].macAddress)",
        ),
        (
            "version: 2\nethernets:\n  eth1: {dhcp4: true}",
            "vm.yaml:12: warning: DATA.ethernets.eth1: a guest with 1 NICs (\"default\") has no eth1",
        ),
    ] {
        let said = of_masquerade(data);
        assert_eq!(said.len(), 1, "{data}: {said:?}");
        assert!(said[0].starts_with(expected), "{data}: {said:?}");
    }
}

#[test]
fn ipv6_that_the_pod_may_be_without_is_never_an_error() {
    let of_any_pod = |data: &str| said(&manifest(MASQUERADE, ANY_POD, &volume(data), ""));
    for (data, expected) in [
        (
            "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    accept-ra: false\n    addresses: ['2001:db8::5/64']",
            "vm.yaml:15: warning: DATA.ethernets.eth0.addresses[0]: if the pod has IPv6: the network of interface",
        ),
        (
            "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    gateway6: 'fd10:0:2::fe'",
            "vm.yaml:14: warning: DATA.ethernets.eth0.gateway6: if the pod has IPv6: the gateway of interface",
        ),
    ] {
        let said = of_any_pod(data);
        assert!(said[0].starts_with(expected), "{data}: {said:?}");
        assert!(said.iter().all(|problem| !problem.starts_with('!')), "{said:?}");
    }
    // Almost every pod has IPv4.
    let wrong = "version: 2\nethernets:\n  eth0:\n    addresses: [10.200.0.1/24]\n    gateway4: 10.0.2.1";
    assert!(of_any_pod(wrong).iter().any(|problem| problem.starts_with('!')));
    let deaf = "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    accept-ra: false";
    let expected = format!(
        "vm.yaml:12: warning: DATA.ethernets.eth0: the guest has no address of IPv6 and does not request \
         the one that interface \"default\" {HERE} offers, if the pod has IPv6: give dhcp6: true, or leave out accept-ra: false"
    );
    for binding in [MASQUERADE, BRIDGE] {
        assert_eq!(
            said(&manifest(binding, ANY_POD, &volume(deaf), "")),
            [expected.as_str()]
        );
    }
}

#[test]
fn a_part_of_a_bond_bridge_or_vlan_need_not_ask() {
    let v2 = "version: 2\nethernets: {eth0: {dhcp4: false, accept-ra: false}}\n";
    let v1 = "version: 1\nconfig:\n- {type: physical, name: eth0}\n";
    for (head, made) in [
        (v2, "bridges: {br0: {interfaces: [eth0], dhcp4: true}}"),
        (v2, "bonds: {bond0: {interfaces: [eth0], dhcp4: true}}"),
        (v2, "vlans: {vlan7: {id: 7, link: eth0, dhcp4: true}}"),
        (v1, "- {type: bond, name: bond0, bond_interfaces: [eth0]}"),
        (v1, "- {type: bridge, name: br0, bridge_interfaces: [eth0]}"),
        (v1, "- {type: vlan, name: vlan7, vlan_id: 7, vlan_link: eth0}"),
    ] {
        assert_eq!(of_masquerade(&format!("{head}{made}")), Vec::<String>::new(), "{made}");
        let other = of_masquerade(&format!("{head}{}", made.replace("eth0", "eth1")));
        assert!(
            other.iter().any(|s| s.contains("does not request the one")),
            "{made}: {other:?}"
        );
    }
}

#[test]
fn which_nic_a_name_means_is_not_certain_among_several() {
    let data = "version: 2\nethernets:\n  eth0:\n    addresses: [10.200.0.1/24]\n    gateway4: 10.200.0.254\n  \
                eth1: {dhcp4: true}";
    let text = manifest(
        &format!("{MASQUERADE}, {{name: second, bridge: {{}}}}"),
        &format!("{POD}}}, {{name: second, {LAN}"),
        &volume(data),
        "\"vlan\": 7",
    );
    let said = said(&text);
    assert_eq!(said.len(), 2, "{said:?}");
    for problem in &said {
        assert!(
            problem.contains("warning") && problem.contains("if this is interface \"default\": the "),
            "{said:?}"
        );
    }
    // With a MAC, the match is certain.
    let data = data.replace("eth0:", "eth0:\n    match: {macaddress: '02:00:00:00:00:05'}");
    let text = manifest(
        &format!("{MASQUERADE}, {{name: second, bridge: {{}}}}"),
        &format!("{POD}}}, {{name: second, {LAN}"),
        &volume(&data),
        "\"vlan\": 7",
    );
    assert!(self::said(&text).iter().all(|problem| problem.starts_with("! ")));
}

#[test]
fn a_segment_hands_out_what_its_ipam_says() {
    let fixed = "\"mtu\": 1400, \"ipam\": {\"type\": \"static\", \"addresses\": [{\"address\": \"192.0.2.5/24\",\n\
                 \"gateway\": \"192.0.2.1\"}], \"routes\": [{\"dst\": \"0.0.0.0/0\"}]}";
    let data =
        "version: 2\nethernets:\n  eth0:\n    mtu: 9000\n    addresses: [192.0.2.6/24]\n    gateway4: 192.0.2.254";
    let place = "(vm.yaml:23: spec.config.ipam)";
    assert_eq!(
        of_bridge(fixed, data),
        [
            "vm.yaml:13: warning: DATA.ethernets.eth0.mtu: 9000 is above the MTU 1400 of its network (vm.yaml:23: \
             spec.config.mtu): larger frames are lost"
                .to_owned(),
            format!(
                "vm.yaml:14: warning: DATA.ethernets.eth0.addresses[0]: the guest of interface \"default\" gets \
                 192.0.2.5/24 {place}, and another VM may get 192.0.2.6"
            ),
            format!(
                "vm.yaml:15: warning: DATA.ethernets.eth0.gateway4: the network of interface \"default\" has the \
                 gateway 192.0.2.1 {place}"
            ),
        ]
    );
    let ranges = "\"ipam\": {\"type\": \"host-local\", \"subnet\": \"192.0.2.0/24\"}";
    let said = of_bridge(ranges, data);
    assert!(
        said.iter()
            .any(|s| s.contains("gets one of 192.0.2.1 to 192.0.2.254") || s.contains("192.0.2.2 to 192.0.2.254")),
        "{said:?}"
    );
    // On such a network, only the segment's own servers determine the addresses.
    for elsewhere in ["\"ipam\": {}", "\"ipam\": {\"type\": \"dhcp\"}"] {
        let data = "version: 2\nethernets:\n  eth0:\n    addresses: [192.0.2.6/24]\n    gateway4: 192.0.2.254";
        assert_eq!(of_bridge(elsewhere, data), Vec::<String>::new());
    }
}

#[test]
fn version_1_says_the_same_as_version_2() {
    let config = |subnets: &str| {
        format!(
            "network:\n  version: 1\n  config:\n  - type: physical\n    name: eth0\n    mac_address: \
             '02:00:00:00:00:05'\n    subnets:\n    {subnets}\n  - {{type: nameserver, address: 192.0.2.53}}"
        )
    };
    let fits = "- {type: static, address: 10.0.2.2, netmask: 255.255.255.0, gateway: 10.0.2.1}\n    - {type: dhcp6}";
    assert_eq!(of_masquerade(&config(fits)), Vec::<String>::new());
    let routes = "- {type: static, address: 10.200.0.1/24, routes: [{network: 0.0.0.0, netmask: 0.0.0.0, gateway: \
                  10.200.0.254}]}";
    let said = of_masquerade(&config(routes));
    assert_eq!(said.len(), 2, "{said:?}");
    let path = "! vm.yaml:17: DATA.network.config[0].subnets[0]";
    assert!(
        said[0].starts_with(&format!("{path}.address: the network of interface")),
        "{said:?}"
    );
    assert!(
        said[1].starts_with(&format!("{path}.routes[0].gateway: the gateway of")),
        "{said:?}"
    );
    assert_eq!(of_masquerade("version: 1\nconfig: disabled"), Vec::<String>::new());
}

/// The order of keys in cloud-init's `_normalize_net_keys` (cloudinit/net/network_state.py).
#[test]
fn version_1_takes_a_prefix_from_where_cloud_init_does() {
    let fits = "10.0.2.2, gateway: 10.0.2.1";
    for (subnet, fit) in [
        (fits.to_owned(), true),
        ("'fd10:0:2::2', gateway: 'fd10:0:2::1'".to_owned(), true),
        (fits.replace(".2,", ".2/255.255.255.0,"), true),
        (format!("{fits}, prefix: 24"), true),
        (format!("{fits}, prefix: 24, netmask: 255.255.255.255"), true),
        (fits.replace(".2,", ".2/24, prefix: 32,"), true),
        (format!("{fits}, prefix: 32"), false),
        (format!("{fits}, prefix: 32, netmask: 255.255.255.0"), false),
        (format!("{fits}, netmask: 255.255.255.255"), false),
        (fits.replace(".2,", ".2/32, prefix: 24,"), false),
    ] {
        let data = format!(
            "version: 1\nconfig:\n- type: physical\n  name: eth0\n  subnets: [{{type: dhcp}}, {{type: static, address: \
             {subnet}}}]"
        );
        let said = of_masquerade(&data);
        let cut_off = said.iter().any(|problem| problem.contains("the guest reaches nothing"));
        assert!(cut_off != fit && said.is_empty() == fit, "{subnet}: {said:?}");
    }
    let route = "version: 1\nconfig:\n- type: physical\n  name: eth0\n  subnets: [{type: dhcp, routes: [{network: 0.0.0.0, \
                 prefix: 0, gateway: 10.0.2.9}]}]";
    assert!(of_masquerade(route)[0].contains("the guest reaches nothing through 10.0.2.9"));
}

#[test]
fn only_a_mac_the_store_gives_opens_it() {
    let without_mac = |interface: &str| interface.replace("macAddress: '02:00:00:00:00:05', ", "");
    for (interface, network, open) in [
        (without_mac(MASQUERADE), POD, true),
        (MASQUERADE.to_owned(), POD, false),
        (without_mac(BRIDGE), LAN, true),
        (without_mac(BRIDGE), ANY_POD, false),
    ] {
        let text = manifest(&interface, network, "containerDisk: {image: a}", "\"vlan\": 7");
        let plan = checked(&text).map_err(|rejected| rejected.errors).unwrap().plan;
        assert_eq!(super::leaves_open(&plan), open, "{interface} {network}");
    }
}

#[test]
fn what_fits_is_not_spoken_of() {
    for data in [
        // The network data of KubeVirt's examples/vmi-masquerade.yaml, and of its earlier version.
        "version: 2\nethernets:\n  eth0:\n    addresses: [ fd10:0:2::2/120 ]\n    dhcp4: true\n    routes:\n    - to: \
         ::/0\n      via: fd10:0:2::1",
        "version: 2\nethernets:\n  eth0:\n    addresses: [ fd10:0:2::2/120 ]\n    dhcp4: true\n    gateway6: fd10:0:2::1",
        "version: 2\nethernets:\n  enp1s0:\n    dhcp4: true\n    dhcp6: false",
        "version: 2\nethernets:\n  all:\n    match: {name: 'e*'}\n    dhcp4: yes\n    addresses: [fe80::5/64, \
         169.254.3.3/16]",
        "version: 2\nbonds: {bond0: {interfaces: [eth0]}}",
    ] {
        assert_eq!(of_masquerade(data), Vec::<String>::new(), "{data}");
    }
}

#[test]
fn every_source_of_network_data_is_read() {
    let data = "version: 2\nethernets: {eth0: {addresses: [10.200.0.1/24], gateway4: 10.0.2.1}}\n";
    let encoded = data_encoding::BASE64.encode(data.as_bytes());
    for kind in ["cloudInitNoCloud", "cloudInitConfigDrive"] {
        let volume = format!("{kind}: {{networkDataBase64: {encoded}}}");
        let said = said(&manifest(MASQUERADE, POD, &volume, ""));
        let place =
            format!("! vm.yaml:8: spec.volumes[0].{kind}.networkDataBase64.ethernets.eth0.addresses[0]: the network");
        assert!(said.len() == 1 && said[0].starts_with(&place), "{said:?}");
    }
    for (volume, expected) in [
        (
            "cloudInitNoCloud: {networkDataSecretRef: {name: secret}}",
            "vm.yaml:8: warning: spec.volumes[0].cloudInitNoCloud.networkDataSecretRef: not compared: the guest's network \
             configuration is in the Secret \"secret\", which is not known here",
        ),
        (
            "cloudInitNoCloud: {networkData: a, networkDataBase64: YQ==}",
            "! vm.yaml:8: spec.volumes[0].cloudInitNoCloud: networkData, networkDataBase64 and networkDataSecretRef exclude \
             each other: give one of them",
        ),
        (
            "cloudInitNoCloud: {networkDataBase64: '?'}",
            "! vm.yaml:8: spec.volumes[0].cloudInitNoCloud.networkDataBase64: this is not base64 of a text",
        ),
        (
            "cloudInitNoCloud: {networkdata: a}",
            "! vm.yaml:8: spec.volumes[0].cloudInitNoCloud.networkdata: there is no such field in cloudInitNoCloud, \
             cloudInitConfigDrive; its fields are networkData, networkDataBase64, networkDataSecretRef",
        ),
        ("cloudInitNoCloud: {userDataBase64: YQ==}", ""),
        ("cloudInitNoCloud: {secretRef: {name: a}}", ""),
        ("cloudInitNoCloud: {userData: a}", ""),
        ("containerDisk: {image: a}", ""),
    ] {
        assert_eq!(
            said(&manifest(MASQUERADE, POD, volume, "")).join("\n"),
            expected.replace("spec.volumes[0].cloudInitNoCloud.networkData:", "DATA:")
        );
    }
}

#[test]
fn network_data_of_an_unknown_form_is_a_warning_at_its_line() {
    for (data, place) in [
        ("version: 2\nethernets: [", "vm.yaml:1"),
        (
            "version: 3",
            "vm.yaml:10: warning: DATA.version: not compared: found \"3\"",
        ),
        (
            "ethernets: {}",
            "vm.yaml:9: warning: DATA: not compared: version is missing: give 1 or 2",
        ),
        (
            "version: 2\nethernets:\n  eth0:\n    dhcp4: maybe",
            "vm.yaml:13: warning: DATA.ethernets.eth0.dhcp4: not compared: found \"maybe\"",
        ),
        (
            "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    addresses: [10.0.2.2]",
            "vm.yaml:14: warning: DATA.ethernets.eth0.addresses[0]: not compared: \"10.0.2.2\": this is not an address with a \
             prefix",
        ),
        (
            "just text",
            "vm.yaml:9: warning: DATA: not compared: found \"just text\"",
        ),
    ] {
        let said = of_masquerade(data);
        assert!(
            !said.is_empty() && said.iter().all(|s| !s.starts_with('!')),
            "{data}: {said:?}"
        );
        assert!(said.iter().any(|s| s.starts_with(place)), "{data}: {said:?}");
    }
}

#[test]
fn network_data_without_end_are_refused_as_kubevirt_does_or_read_in_part() {
    let long = format!("version: 2\n# {}", "a".repeat(2048));
    let said = of_masquerade(&long);
    let expected =
        "! vm.yaml:9: DATA: KubeVirt accepts 2048 bytes here, and this is longer: give a networkDataSecretRef";
    assert_eq!(said, [expected]);
    let bomb = "version: 1\na: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c \
                [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nconfig: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]";
    let said = of_masquerade(bomb);
    assert!(
        said.len() == 1 && said[0].contains("warning: DATA: not compared: "),
        "{said:?}"
    );
}

/// The network data written for a VM with one NIC. They are checked against that VM.
fn written(interface: &str, network: &str, config: &str) -> String {
    let plain = manifest(interface, network, "containerDisk: {image: a}", config);
    let plan = checked(&plain).map_err(|rejected| rejected.errors).unwrap().plan;
    let macs: Vec<_> = plan.nics.iter().map(|nic| nic.mac).collect();
    let data = write::network_data(&plan, &macs).unwrap();
    let again = manifest(interface, network, &volume(&data), config);
    assert_eq!(said(&again), Vec::<String>::new(), "{data}");
    data
}

const HEAD: &str = "# For VM default/vm: spec.volumes[].cloudInitNoCloud.networkData\nversion: 2\nethernets:\n  \
                    eth0: # interface \"default\"\n    match:\n      macaddress: \"02:00:00:00:00:05\"\n";

#[test]
fn what_is_written_fits_and_asks_for_what_is_handed_out() {
    let asks = "    dhcp4: true\n    dhcp6: true\n    accept-ra: true\n";
    assert_eq!(written(MASQUERADE, POD, "\"vlan\": 7"), format!("{HEAD}{asks}"));
    assert_eq!(written(BRIDGE, POD, "\"vlan\": 7"), format!("{HEAD}{asks}"));
    let ranges = "\"mtu\": 1400, \"ipam\": {\"type\": \"host-local\", \"subnet\": \"192.0.2.0/24\"}";
    let only4 = "    dhcp4: true\n    dhcp6: false\n    accept-ra: true\n";
    assert_eq!(written(BRIDGE, LAN, ranges), format!("{HEAD}{only4}    mtu: 1400\n"));
    let dhcp = "\"ipam\": {\"type\": \"dhcp\"}";
    assert_eq!(written(BRIDGE, LAN, dhcp), format!("{HEAD}{only4}"));
    let nobody = "    # hawser does not know what addresses are handed out here: give addresses, or dhcp4: \
        true.\n    dhcp4: \
                  false\n    dhcp6: false\n    accept-ra: true\n";
    assert_eq!(written(BRIDGE, LAN, "\"vlan\": 7"), format!("{HEAD}{nobody}"));
}

#[test]
fn static_addresses_are_written_with_their_routers_and_names() {
    let config = r#""ipam": {"type": "static", "addresses": [{"address": "192.0.2.5/24", "gateway": "192.0.2.1"},
     {"address": "192.0.2.6/24"}], "routes": [{"dst": "198.51.100.0/24"}]},
     "dns": {"nameservers": ["192.0.2.53"], "domain": "example.com"}"#;
    let plain = manifest(BRIDGE, LAN, "containerDisk: {image: a}", config);
    let plan = checked(&plain).map_err(|rejected| rejected.errors).unwrap().plan;
    let data = write::network_data(&plan, &[plan.nics[0].mac]).unwrap();
    let expected = "    dhcp4: false\n    dhcp6: false\n    accept-ra: true\n    addresses:\n      - \"192.0.2.5/24\"\n      - \
                    \"192.0.2.6/24\"\n    routes:\n      - to: \"198.51.100.0/24\"\n        via: \"192.0.2.1\"\n      - to: \
                    \"0.0.0.0/0\"\n        via: \"192.0.2.1\"\n    nameservers:\n      addresses: [\"192.0.2.53\"]\n      \
                    search: [\"example.com\"]\n";
    assert_eq!(data, format!("{HEAD}{expected}"));
    let ipv6 = r#""ipam": {"type": "static", "addresses": [{"address": "2001:db8::5/64", "gateway": "2001:db8::1"}]}"#;
    let plain = manifest(BRIDGE, LAN, "containerDisk: {image: a}", ipv6);
    let plan = checked(&plain).map_err(|rejected| rejected.errors).unwrap().plan;
    let data = write::network_data(&plan, &[plan.nics[0].mac]).unwrap();
    let expected = "    dhcp4: false\n    dhcp6: false\n    accept-ra: false\n    addresses:\n      - \
                    \"2001:db8::5/64\"\n    routes:\n      - to: \"::/0\"\n        via: \"2001:db8::1\"\n";
    assert_eq!(data, format!("{HEAD}{expected}"));
}

#[test]
fn several_nics_need_macs() {
    let second = "{name: second, bridge: {}}";
    let text = manifest(
        &format!("{MASQUERADE}, {second}"),
        &format!("{POD}}}, {{name: second, {LAN}"),
        "containerDisk: {image: a}",
        "\"vlan\": 7",
    );
    let plan = checked(&text).map_err(|rejected| rejected.errors).unwrap().plan;
    let macs: Vec<_> = plan.nics.iter().map(|nic| nic.mac).collect();
    let refused = write::network_data(&plan, &macs).unwrap_err();
    assert!(
        refused.starts_with("interface \"second\": its MAC is only known when it is served"),
        "{refused}"
    );
    let alone = MASQUERADE.replace("macAddress: '02:00:00:00:00:05', ", "");
    let text = manifest(&alone, POD, "containerDisk: {image: a}", "");
    let plan = checked(&text).map_err(|rejected| rejected.errors).unwrap().plan;
    let data = write::network_data(&plan, &[None]).unwrap();
    assert!(
        data.contains("    match:\n      name: \"e*\"\n    dhcp4: true\n"),
        "{data}"
    );
}
