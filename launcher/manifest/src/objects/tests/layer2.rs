//! Tests of networks that span nodes: their plans, and each rule of the API with its message.

use super::{machine, planned, problems};
use crate::nic::{GatewaySpec, ModeSpec, SourceSpec, UnderlaySpec};
use crate::plan::layer2::{OfNetwork, OtherPorts, TunnelOptions};
use crate::plan::options::PlanOptions;
use crate::plan::{NicMode, VmPlan};
use crate::{plan_text, values};
use hawser_packet::geneve::Vni;

/// The VM of the tutorials, with an interface in place of the pod network.
fn vm(more: &str) -> String {
    let text = machine(
        "{name: primary-udn, binding: {name: l2bridge}}",
        "{name: primary-udn, pod: {}}",
    );
    text.replace("{name: vm}", &format!("{{name: vm, namespace: shop{more}}}"))
}

/// A UserDefinedNetwork. The fields of `layer2` are in line 17.
fn network(fields: &str) -> String {
    format!(
        "---\napiVersion: k8s.ovn.org/v1\nkind: UserDefinedNetwork\nmetadata: {{name: primary-udn, namespace: shop}}\nspec: \
         {{topology: Layer2, layer2: {{\n  role: Primary,\n  {fields}}}}}\n"
    )
}

const SUBNETS: &str = "subnets: [192.168.254.0/24]";

fn plan(text: &str) -> VmPlan {
    planned(text, &PlanOptions::default())
        .unwrap_or_else(|rejected| panic!("{text}{:#?}", rejected.errors))
        .plan
}

/// The addresses that are assigned, as printed in the plan.
fn addresses(fields: &str) -> String {
    let text = plan_text::text(&plan(&(vm("") + &network(fields))));
    let line = text.lines().find_map(|line| line.strip_prefix("  address  "));
    line.unwrap_or_default().to_owned()
}

#[test]
fn the_vm_of_the_tutorials_is_on_its_primary_network() {
    let plan = plan(&(vm("") + &network(SUBNETS)));
    let text = plan_text::text(&plan);
    for line in [
        "primary-udn on shop/primary-udn\n",
        "  MAC      follows from the address\n",
        "  mode     layer2: the primary network shop_primary-udn\n",
        "  VNI      not given: --vni\n",
        "  VTEP     the default route's address, port 6081\n",
        "  subnets  192.168.254.0/24\n",
        "  gateway  192.168.254.1\n",
        // The second host is the node's in OVN-Kubernetes.
        "  address  one of 192.168.254.3 to 192.168.254.254\n",
    ] {
        assert!(text.contains(line), "{line}not in\n{text}");
    }
    let ModeSpec::Layer2(spec) = plan.nics[0].spec().unwrap().mode else {
        panic!("{text}")
    };
    assert_eq!(
        (spec.vni, spec.gateway),
        (None, GatewaySpec::At(vec![[192, 168, 254, 1].into()]))
    );
    let managed = vm("").replace("l2bridge", "managedtap") + &network(SUBNETS);
    assert_eq!(self::plan(&managed).nics[0].mode, plan.nics[0].mode);
}

#[test]
fn addresses_that_are_not_for_guests_are_not_assigned() {
    for (fields, expected) in [
        (
            "subnets: [192.168.254.0/24, \"fd00:254::/64\"]",
            "one of 192.168.254.3 to 192.168.254.254, and one of fd00:254::3 to fd00:254::ffff",
        ),
        (
            "subnets: [10.0.0.0/24], reservedSubnets: [10.0.0.0/28, 10.0.0.128/25]",
            "one of 10.0.0.16 to 10.0.0.127",
        ),
        (
            "subnets: [10.0.0.0/24], infrastructureSubnets: [10.0.0.0/30], reservedSubnets: [10.0.0.64/26]",
            "one of 10.0.0.4 to 10.0.0.63 or 10.0.0.128 to 10.0.0.254",
        ),
    ] {
        assert_eq!(addresses(fields), expected, "{fields}");
    }
}

/// Fields of a primary network that the API or OVN-Kubernetes refuses, with the field named in the message, and the
/// message.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "mtu: 500",
        "mtu",
        "found \"500\"; it must be a whole number from 576 to 65536, without quotes",
    ),
    (
        "ipam: {mode: Enabled}",
        "",
        "Subnets is required with ipam.mode is Enabled or unset",
    ),
    (
        "subnets: []",
        "subnets",
        "it must have at least 1 items: name one, or leave the field out",
    ),
    (
        "subnets: [10.0.0.0/24, 10.1.0.0/24]",
        "subnets",
        "When 2 CIDRs are set, they must be from different IP families",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\", 10.1.0.0/24]",
        "subnets",
        "Too many: 3: must have at most 2 items",
    ),
    (
        "subnets: [10.0.0.0]",
        "subnets[0]",
        "\"10.0.0.0\": CIDR is invalid: give a network such as 192.168.254.0/24",
    ),
    (
        "subnets: [10.0.0.0/31]",
        "subnets[0]",
        "\"10.0.0.0/31\": it is too narrow: give /30 or wider",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], mtu: 1200",
        "mtu",
        "MTU should be greater than or equal to 1280 when IPv6 subnet is used",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], reservedSubnets: [10.1.0.0/24]",
        "reservedSubnets[0]",
        "reservedSubnets must be subnetworks of the networks specified in the subnets field",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], reservedSubnets: [10.0.0.1/28]",
        "reservedSubnets",
        "reservedSubnets must be a masked network address (no host bits set)",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], infrastructureSubnets: [10.1.0.0/24]",
        "infrastructureSubnets[0]",
        "infrastructureSubnets must be subnetworks of the networks specified in the subnets field",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], infrastructureSubnets: [10.0.0.1/28]",
        "infrastructureSubnets",
        "infrastructureSubnets must be a masked network address (no host bits set)",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], infrastructureSubnets: [10.0.0.0/28], reservedSubnets: [10.0.0.0/27]",
        "infrastructureSubnets[0]",
        "infrastructureSubnets and reservedSubnets must not overlap",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], defaultGatewayIPs: [10.0.1.1, \"fd00::1\"]",
        "defaultGatewayIPs[0]",
        "defaultGatewayIPs must belong to one of the subnets specified in the subnets field",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], defaultGatewayIPs: [10.0.0.1]",
        "defaultGatewayIPs",
        "defaultGatewayIPs must be specified for all IP families",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], defaultGatewayIPs: [10.0.0.1, 10.0.0.2]",
        "defaultGatewayIPs",
        "When 2 IPs are set, they must be from different IP families",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], defaultGatewayIPs: [here]",
        "defaultGatewayIPs[0]",
        "\"here\": IP is invalid",
    ),
    (
        "subnets: [10.0.0.0/24], infrastructureSubnets: [10.0.0.0/28], defaultGatewayIPs: [10.0.0.20]",
        "defaultGatewayIPs[0]",
        "defaultGatewayIPs have to belong to infrastructureSubnets",
    ),
    (
        "subnets: [10.0.0.0/24], defaultGatewayIPs: [10.0.0.255]",
        "defaultGatewayIPs[0]",
        "10.0.0.255 is not a host address of 10.0.0.0/24: choose 10.0.0.1 to 10.0.0.254",
    ),
    (
        "ipam: {mode: Disabled}",
        "ipam.mode",
        "Disabled ipam.mode is only supported for Secondary network",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], ipam: {}",
        "ipam",
        "it must have at least 1 properties: give mode or lifecycle, or leave it out",
    ),
    (
        "ipam: {mode: Disabled, lifecycle: Persistent}",
        "ipam.lifecycle",
        "lifecycle Persistent is only supported when ipam.mode is Enabled",
    ),
    (
        "subnets: [10.0.0.0/24, \"fd00::/64\"], ipam: {lifecycle: Brief}",
        "ipam.lifecycle",
        "\"Brief\": choose one of \"Persistent\"",
    ),
    (
        "subnets: [10.0.0.0/29], reservedSubnets: [10.0.0.0/29]",
        "subnets",
        "no address is left for guests: exclude and reserve fewer addresses of the subnets",
    ),
];

/// Fields of a secondary network that are refused, in the same form.
const REFUSED_SECONDARY: &[(&str, &str, &str)] = &[
    (
        "ipam: {mode: Disabled}, subnets: [10.0.0.0/24]",
        "subnets",
        "Subnets must be unset when ipam.mode is Disabled",
    ),
    (
        "ipam: {mode: Disabled}, reservedSubnets: [10.0.0.0/28]",
        "reservedSubnets",
        "reservedSubnets must be unset when subnets is unset",
    ),
    (
        "subnets: [10.0.0.0/24], reservedSubnets: [10.0.0.0/28]",
        "reservedSubnets",
        "reservedSubnets is only supported for Primary network",
    ),
    (
        "subnets: [10.0.0.0/24], infrastructureSubnets: [10.0.0.0/28]",
        "infrastructureSubnets",
        "infrastructureSubnets is only supported for Primary network",
    ),
    (
        "subnets: [10.0.0.0/24], defaultGatewayIPs: [10.0.0.1]",
        "defaultGatewayIPs",
        "defaultGatewayIPs is only supported for Primary network",
    ),
    (
        "subnets: [10.0.0.0/24], joinSubnets: [100.65.0.0/16]",
        "joinSubnets",
        "JoinSubnets is only supported for Primary network",
    ),
];

#[test]
fn each_rule_of_the_api_is_kept_in_its_own_words() {
    for (fields, at, expected) in REFUSED {
        let found = problems(&(vm("") + &network(fields)));
        let (line, dot) = if at.is_empty() { (15, "") } else { (17, ".") };
        let expected = format!("vm.yaml:{line}: spec.layer2{dot}{at}: {expected}");
        assert!(found.contains(&expected), "{fields}: {expected}\nnot in {found:#?}");
    }
    for (fields, at, expected) in REFUSED_SECONDARY {
        // The API server refuses it whether or not a VM is on it.
        let secondary = network(fields).replace("role: Primary", "role: Secondary");
        let found = problems(&(machine("{name: a, masquerade: {}}", "{name: a, pod: {}}") + &secondary));
        let expected = format!("vm.yaml:17: spec.layer2.{at}: {expected}");
        assert!(found.contains(&expected), "{fields}: {expected}\nnot in {found:#?}");
    }
}

#[test]
fn a_configuration_of_ovn_kubernetes_is_refused_as_ovn_kubernetes_does() {
    let of = |config: &str| {
        let nad = format!(
            "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: net, namespace: \
             shop}}\nspec:\n  config: '{config}'\n"
        );
        let vm = machine("{name: a, bridge: {}}", "{name: a, multus: {networkName: net}}");
        problems(&(vm.replace("{name: vm}", "{name: vm, namespace: shop}") + &nad)).join("\n")
    };
    for (more, expected) in [
        (
            r#""name": "n", "topology": "layer4""#,
            "config.topology: \"layer4\": choose one of",
        ),
        (r#""name": "n""#, "config: topology is missing"),
        (r#""topology": "layer2""#, "config: name is missing"),
        (
            r#""name": "default", "topology": "layer2""#,
            "config.name: invalid name in in secondary network netconf (default)",
        ),
        (
            r#""name": "n", "topology": "layer2", "netAttachDefName": "shop/other""#,
            "config.netAttachDefName: net-attach-def name (shop/net) is inconsistent with config (shop/other)",
        ),
        (
            r#""name": "n", "topology": "layer2", "ipam": {"type": "host-local"}"#,
            "config: IPAM key is not supported. Use OVN-K provided IPAM via the `subnets` attribute",
        ),
        (
            r#""name": "n", "topology": "layer2", "role": "third""#,
            "config.role: invalid network role value third",
        ),
        (
            r#""name": "n", "topology": "layer2", "role": "primary""#,
            "config: the subnet attribute must be defined for layer2 primary user defined networks",
        ),
        (
            r#""name": "n", "topology": "layer3", "allowPersistentIPs": true"#,
            "config.allowPersistentIPs: layer3 topology does not allow persistent IPs",
        ),
        (
            r#""name": "n", "topology": "layer3", "reservedSubnets": "10.0.0.0/24""#,
            "config.reservedSubnets: reservedSubnets is only supported for layer2 topology",
        ),
        (
            r#""name": "n", "topology": "localnet", "role": "primary""#,
            "localnet topology does not allow network roles to be set since its always a secondary network",
        ),
        (
            r#""name": "n", "topology": "localnet", "joinSubnet": "10.0.0.0/24""#,
            "config.joinSubnet: localnet topology does not allow specifying join-subnet as services are not supported",
        ),
        (
            r#""name": "a-physical-network", "topology": "localnet""#,
            "hawser looks for a Linux bridge of this name",
        ),
        (
            r#""name": "n", "topology": "layer2", "subnets": "10.0.0.0/24", "joinSubnet": "10.0.0.0/28""#,
            "config.joinSubnet: pod or join subnet overlaps with already configured internal subnets",
        ),
        (
            r#""name": "n", "topology": "layer2", "subnets": "10.0.0.0/24", "excludeSubnets": "10.1.0.0/28""#,
            "config.excludeSubnets: excludeSubnets must be subnetworks of the networks specified in the subnets field",
        ),
        (
            r#""name": "n", "topology": "layer2", "transport": "evpn""#,
            "config.transport: not supported yet, so the network is refused",
        ),
    ] {
        let found = of(&format!(r#"{{"type": "ovn-k8s-cni-overlay", {more}}}"#));
        assert!(found.contains(expected), "{more}: {expected}\nnot in {found}");
    }
    let chained =
        r#"{"name": "n", "plugins": [{"type": "ovn-k8s-cni-overlay", "topology": "layer2"}, {"type": "tuning"}]}"#;
    assert!(
        of(chained).contains("config.plugins[0]: CNI plugin chaining is not supported"),
        "{}",
        of(chained)
    );
}

#[test]
fn a_localnet_is_a_bridge_with_its_vlan_and_ranges() {
    let vm = machine("{name: a, bridge: {}}", "{name: a, multus: {networkName: net}}");
    let cluster = "---\napiVersion: k8s.ovn.org/v1\nkind: ClusterUserDefinedNetwork\nmetadata: {name: net}\nspec:\n  \
                   namespaceSelector: {}\n  network:\n    topology: Localnet\n    localnet: {role: Secondary, \
                   physicalNetworkName: br-flat, subnets: [10.0.0.0/24], excludeSubnets: [10.0.0.0/25], mtu: 1400, \
                   vlan: {mode: Access, access: {id: 7}}}\n";
    let written = r#"{"type": "ovn-k8s-cni-overlay", "name": "flat", "topology": "localnet", "physicalNetworkName":
  "br-flat", "subnets": "10.0.0.0/24", "excludeSubnets": "10.0.0.0/25", "mtu": 1400, "vlanID": 7}"#;
    let attachment = format!(
        "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: net}}\nspec:\n  config: \
         '{written}'\n"
    );
    for network in [cluster, &attachment] {
        let text = plan_text::text(&plan(&(vm.clone() + network)));
        let expected = "  mode     bridge: a TAP in br-flat, VLAN 7, MAC spoof check\n  MTU      1400\n  address  one of \
                        10.0.0.128 to 10.0.0.254\n";
        assert!(text.contains(expected), "{text}");
    }
}

/// The planned NIC of a VM that requests addresses.
fn asking(annotation: &str, network: &str) -> Vec<String> {
    let vm = vm(&format!(
        ", annotations: {{network.kubevirt.io/addresses: '{annotation}'}}"
    ));
    problems(&(vm + network))
}

#[test]
fn a_vm_gets_the_addresses_it_names_and_its_mac_follows() {
    let dual = network("subnets: [192.168.254.0/24, \"fd00:254::/64\"], reservedSubnets: [192.168.254.128/25]");
    let annotation = r#"{"primary-udn": ["192.168.254.200/24", "fd00:254::c8"]}"#;
    let vm = vm(&format!(
        ", annotations: {{network.kubevirt.io/addresses: '{annotation}'}}"
    ));
    let plan = plan(&(vm.clone() + &dual));
    assert_eq!(plan.nics[0].mac.unwrap().to_string(), "0a:58:c0:a8:fe:c8");
    let ModeSpec::Layer2(spec) = plan.nics[0].spec().unwrap().mode else {
        panic!()
    };
    let guests: Vec<String> = spec.guests.iter().map(ToString::to_string).collect();
    assert_eq!(guests, ["192.168.254.200", "fd00:254::c8"]);
    // Addresses reserved by the cluster have priority.
    let claim = "---\napiVersion: k8s.cni.cncf.io/v1alpha1\nkind: IPAMClaim\nmetadata: {name: vm.primary-udn, namespace: \
                 shop}\nspec: {network: primary-udn, interface: ovn-udn1}\nstatus: {ips: [192.168.254.7/24, \
                 \"fd00:254::7/64\"]}\n";
    let checked = planned(&(vm + &dual + claim), &PlanOptions::default()).unwrap();
    assert_eq!(checked.plan.nics[0].mac.unwrap().to_string(), "0a:58:c0:a8:fe:07");
    assert!(
        checked.warnings[0]
            .message
            .contains("the IPAMClaim vm.primary-udn has other addresses")
    );
}

#[test]
fn an_address_that_a_vm_cannot_have_is_refused_at_its_line() {
    let infrastructure = network("subnets: [192.168.254.0/24], infrastructureSubnets: [192.168.254.0/28]");
    for (annotation, expected) in [
        (
            r#"{"primary-udn": ["10.0.0.5"]}"#,
            "10.0.0.5 is in no subnet of the network: choose an address from one of them",
        ),
        (
            r#"{"primary-udn": ["192.168.254.0"]}"#,
            "192.168.254.0 is not a host address of 192.168.254.0/24: choose 192.168.254.1 to 192.168.254.254",
        ),
        (
            r#"{"primary-udn": ["192.168.254.1"]}"#,
            "192.168.254.1 is the gateway: choose another",
        ),
        (
            r#"{"primary-udn": ["192.168.254.9"]}"#,
            "192.168.254.9 is in 192.168.254.0/28, which the network reserves for itself: choose another",
        ),
        (
            r#"{"primary-udn": ["192.168.254.20", "192.168.254.21"]}"#,
            "\"primary-udn\" has two addresses of one family: give",
        ),
        (r#"{"primary-udn": ["here"]}"#, "\"here\" is no address: give"),
        (
            r#"{"primary-udn": "here"}"#,
            "invalid type: string \"here\", expected a sequence at line 1 column 22: give",
        ),
    ] {
        let found = asking(annotation, &infrastructure);
        let at = "vm.yaml:3: metadata.annotations[\"network.kubevirt.io/addresses\"]: ";
        assert!(
            found.len() == 1 && found[0].starts_with(&format!("{at}{expected}")),
            "{annotation}: {found:#?}"
        );
    }
    let node = asking(r#"{"primary-udn": ["192.168.254.2"]}"#, &network(SUBNETS));
    assert!(
        node[0].ends_with("192.168.254.2 is the node's address in OVN-Kubernetes: choose another"),
        "{node:?}"
    );
}

#[test]
fn bindings_and_primary_networks_must_meet() {
    let alone = problems(&vm(""));
    assert!(
        alone[0].contains("its binding is for the primary user-defined network of the namespace"),
        "{alone:?}"
    );
    let masquerade = vm("").replace("binding: {name: l2bridge}", "masquerade: {}") + &network(SUBNETS);
    assert!(problems(&masquerade)[0].contains("to which binding: {name: l2bridge} leads: write that"));
    let multus = vm("").replace("pod: {}", "multus: {networkName: primary-udn}") + &network(SUBNETS);
    assert!(problems(&multus)[0].contains("takes the place of the pod network: give pod: {} and binding"));
    let second = network("subnets: [10.9.0.0/24]").replace("name: primary-udn", "name: other");
    let two = problems(&(vm("") + &network(SUBNETS) + &second));
    assert_eq!(
        two,
        ["vm.yaml:19: primary network already exist in namespace shop: it is at vm.yaml:12, leave one out"]
    );
    // The object that OVN-Kubernetes generates from the network may be among the files and adds nothing.
    let made = "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: primary-udn, \
                namespace: shop, labels: {k8s.ovn.org/user-defined-network: \"\"}}\nspec: {config: '{\"type\": \
                \"ovn-k8s-cni-overlay\", \"name\": \"shop_primary-udn\", \"netAttachDefName\": \"shop/primary-udn\", \
                \"topology\": \"layer2\", \"role\": \"primary\", \"subnets\": \"192.168.254.0/24\"}'}\n";
    assert_eq!(problems(&(vm("") + &network(SUBNETS) + made)), [""; 0]);
    let from_made = plan(&(vm("") + made));
    let from_written = plan(&(vm("") + &network(SUBNETS)));
    assert_eq!(from_made.nics[0].mode, from_written.nics[0].mode);
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let unlabelled = problems(&(vm("") + &network(SUBNETS) + namespace));
    assert!(
        unlabelled[0].contains("has no label k8s.ovn.org/primary-user-defined-network"),
        "{unlabelled:?}"
    );
}

#[test]
fn options_give_a_network_its_place_in_the_tunnel() {
    let number = |network: Option<&str>, value: u32| OfNetwork {
        network: network.map(str::to_owned),
        value: Vni::try_from(value).unwrap(),
    };
    let text = vm("") + &network(SUBNETS);
    for name in [
        None,
        Some("primary-udn"),
        Some("shop/primary-udn"),
        Some("shop_primary-udn"),
    ] {
        let tunnels = TunnelOptions {
            address: Some(UnderlaySpec::Address([198, 51, 100, 1].into())),
            vnis: vec![number(Some("other"), 1), number(name, 4711)],
            ..TunnelOptions::default()
        };
        let options = PlanOptions {
            tunnels,
            ..PlanOptions::default()
        };
        let plan = planned(&text, &options).unwrap().plan;
        let NicMode::Layer2(layer2) = &plan.nics[0].mode else {
            panic!()
        };
        assert_eq!(
            layer2.tunnel.vni.map(|vni| vni.to_string()).as_deref(),
            Some("4711"),
            "{name:?}"
        );
        assert!(plan_text::text(&plan).contains("  VTEP     198.51.100.1:6081\n"));
    }
}

#[test]
fn an_option_gives_the_guest_of_a_network_more_source_addresses_or_all() {
    let text = vm("") + &network(SUBNETS);
    let sources = |values: &[(Option<&str>, SourceSpec)]| {
        let values = values.iter().map(|(network, value)| OfNetwork {
            network: network.map(str::to_owned),
            value: value.clone(),
        });
        let options = PlanOptions {
            tunnels: TunnelOptions {
                sources: values.collect(),
                ..TunnelOptions::default()
            },
            ..PlanOptions::default()
        };
        let plan = planned(&text, &options).unwrap().plan;
        match plan.nics[0].spec().unwrap().mode {
            ModeSpec::Layer2(mode) => mode.sources,
            _ => panic!(),
        }
    };
    let more = values::sources("10.0.0.200,fd00::/64").unwrap();
    assert_eq!(sources(&[]), SourceSpec::default());
    assert_eq!(sources(&[(None, more.clone())]), more);
    let named = [
        (Some("other"), more),
        (Some("primary-udn"), values::sources("off").unwrap()),
    ];
    assert_eq!(sources(&named), SourceSpec::Any);
}

/// A VM with the interfaces `a` and `b` on two secondary networks.
fn on_two_networks() -> String {
    let vm = machine(
        "{name: a, bridge: {}}\n      - {name: b, bridge: {}}",
        "{name: a, multus: {networkName: red}}\n  - {name: b, multus: {networkName: blue}}",
    );
    let secondary = |name: &str, subnet: &str| {
        network(subnet)
            .replace("role: Primary", "role: Secondary")
            .replace("name: primary-udn, namespace: shop", &format!("name: {name}"))
    };
    vm + &secondary("red", "subnets: [10.1.0.0/24]") + &secondary("blue", "ipam: {mode: Disabled}")
}

#[test]
fn any_mac_is_for_the_networks_that_an_option_names_and_none_with_a_gateway() {
    let with = |text: &str, network: &str| {
        let options = PlanOptions {
            tunnels: TunnelOptions {
                ports: vec![OfNetwork {
                    network: Some("blue".into()),
                    value: 6082,
                }],
                any_mac: vec![network.into()],
                ..TunnelOptions::default()
            },
            ..PlanOptions::default()
        };
        let checked = planned(text, &options);
        let any = |mode| matches!(mode, ModeSpec::Layer2(mode) if mode.any_mac);
        checked.map(|checked| {
            checked
                .plan
                .nics
                .iter()
                .map(|nic| any(nic.spec().unwrap().mode))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(with(&on_two_networks(), "default/blue").unwrap(), [false, true]);
    let primary = vm("") + &network(SUBNETS);
    let errors = with(&primary, "primary-udn").unwrap_err().errors;
    let message = format!("{:?}", errors[0]);
    assert!(
        message.contains("--any-mac") && message.contains("has a gateway"),
        "{message}"
    );
}

#[test]
fn networks_of_one_vm_have_identifiers_and_ports_of_their_own() {
    let of = |network: Option<&str>, value| OfNetwork {
        network: network.map(str::to_owned),
        value,
    };
    let number = |network, value: u32| of(network, Vni::try_from(value).unwrap());
    let port = |network: &str, value: u16| OfNetwork {
        network: Some(network.to_owned()),
        value,
    };
    let with = |vnis, ports| PlanOptions {
        tunnels: TunnelOptions {
            vnis,
            ports,
            ..TunnelOptions::default()
        },
        ..PlanOptions::default()
    };
    let text = on_two_networks();
    let checked = planned(
        &text,
        &with(
            vec![number(Some("red"), 1), number(Some("default/blue"), 2)],
            vec![port("blue", 6082)],
        ),
    );
    let plan = checked.unwrap_or_else(|rejected| panic!("{:#?}", rejected.errors)).plan;
    let specs: Vec<_> = plan.nics.iter().map(|nic| nic.spec().unwrap().mode).collect();
    let [ModeSpec::Layer2(red), ModeSpec::Layer2(blue)] = &specs[..] else {
        panic!("{specs:?}")
    };
    assert_eq!((red.vtep.port, blue.vtep.port), (6081, 6082));
    assert_eq!((&red.gateway, &blue.gateway), (&GatewaySpec::Off, &GatewaySpec::Off));
    assert_eq!((red.ipv4.is_some(), blue.ipv4.is_some()), (true, false));
    let text_of = plan_text::text(&plan);
    for line in [
        "  mode     layer2: the secondary network default_red\n",
        // All hosts are assigned, because there is no gateway.
        "  address  one of 10.1.0.1 to 10.1.0.254\n",
        "  MAC      one of the pool, kept for the VM\n",
    ] {
        assert!(text_of.contains(line), "{line}not in\n{text_of}");
    }
    for (vnis, ports, expected) in [
        (
            vec![number(None, 1)],
            vec![port("blue", 6082)],
            "--vni: the VM is on several networks that span nodes: give --vni=NETWORK=… for each of default/red, \
             default/blue",
        ),
        (
            vec![number(Some("red"), 1), number(Some("blue"), 1)],
            vec![port("blue", 6082)],
            "--vni: default/red and default/blue have the same identifier: give each its own",
        ),
        (
            vec![number(Some("red"), 1), number(Some("blue"), 2)],
            Vec::new(),
            "--vtep-port: default/red and default/blue both have UDP port 6081: give each interface's network its own, \
             with --vtep-port=NETWORK=PORT",
        ),
    ] {
        let rejected = planned(&text, &with(vnis, ports)).unwrap_err();
        let errors: Vec<String> = rejected.errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, [expected]);
    }
    // An agent that chooses the ports needs no options.
    let mut chosen = PlanOptions::default();
    chosen.tunnels.other_ports = OtherPorts::Later;
    planned(&text, &chosen).unwrap();
    let twice = text.replace("networkName: blue", "networkName: red");
    let rejected = planned(&twice, &chosen).unwrap_err();
    assert!(
        rejected.errors[0].to_string().contains("two interfaces on default/red"),
        "{:?}",
        rejected.errors
    );
}
