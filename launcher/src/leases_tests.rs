//! Tests of the claims of a plan, and of a plan with its leases.

use super::*;
use crate::cli::Cli;
use clap::Parser as _;
use hawser_leases::reserve;
use hawser_manifest::nic::StaticAddress;
use hawser_manifest::objects::SourceFile;
use hawser_manifest::plan::options::PlanOptions;
use hawser_manifest::plan::{NicMode, PlanSetup};
use hawser_packet::MacRange;
use hawser_store::Holder;
use hawser_store::Segment as LeaseSegment;
use hawser_store::claim::{Claim, MacClaim};
use std::path::Path;

/// The plan of a VM with one interface on a network with this configuration.
fn planned(interface: &str, config: &str) -> VmPlan {
    let text = format!(
        "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: lan}}\nspec:\n  config: \
         '{config}'\n---\napiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: vm}}\nspec:\n  \
         domain: {{devices: {{interfaces: [{{name: lan, bridge: {{}}{interface}}}]}}}}\n  networks: [{{name: lan, \
         multus: {{networkName: lan}}}}]\n"
    );
    let source = SourceFile {
        name: "vm.yaml".into(),
        text,
    };
    let checked = hawser_manifest::check::check_sources(
        &[source],
        &PlanSetup::new(Path::new("/run/hawser"), &PlanOptions::default()),
    );
    checked.unwrap_or_else(|rejected| panic!("{:?}", rejected.errors)).plan
}

fn claim(interface: &str, config: &str) -> Claim {
    hawser_leases::claims(&planned(interface, config)).remove(0)
}

#[test]
fn a_segment_is_the_same_whatever_its_networks_are_called() {
    let bridge = |options: &str| format!(r#"{{"type": "bridge", "bridge": "br1"{options}}}"#);
    for (config, segment, mac) in [
        (bridge(""), "bridge br1", MacClaim::Pool),
        (bridge(r#", "vlan": 7"#), "bridge br1 VLAN 7", MacClaim::Pool),
        (
            r#"{"type": "tap", "bridge": "br1"}"#.into(),
            "bridge br1",
            MacClaim::Pool,
        ),
        (
            r#"{"type": "macvlan", "master": "eth1"}"#.into(),
            "link eth1",
            MacClaim::Pool,
        ),
        (
            r#"{"type": "ipvlan", "master": "eth1"}"#.into(),
            "link eth1",
            MacClaim::Segment,
        ),
        (
            r#"{"type": "macvlan", "master": "eth1", "mode": "passthru"}"#.into(),
            "link eth1",
            MacClaim::Segment,
        ),
    ] {
        let claim = claim("", &config);
        assert_eq!(
            (claim.segment, claim.mac, claim.network.as_str()),
            (LeaseSegment::ThisNode(segment.into()), mac, "default/lan")
        );
    }
    let explicit = claim(", macAddress: \"02:00:00:00:00:07\"", &bridge(""));
    assert_eq!(explicit.mac, MacClaim::Explicit("02:00:00:00:00:07".parse().unwrap()));
}

/// The plan's IPAM after a lease of `address`, and the text of its first address.
fn told(ipam: &str, address: &str) -> (Ipam, Option<String>) {
    let mut plan = planned(
        "",
        &format!(r#"{{"type": "bridge", "ipam": {{"type": "host-local", {ipam}}}}}"#),
    );
    let lease = Lease {
        holder: Holder {
            vm: "default/vm".parse().unwrap(),
            interface: "lan".into(),
        },
        network: "default/lan".into(),
        segment: LeaseSegment::ThisNode("bridge cni0".into()),
        mac: Some("02:00:00:00:00:09".parse().unwrap()),
        addresses: vec![address.parse().unwrap()],
    };
    apply(&mut plan.nics[0], &lease);
    let mac = plan.nics[0].mac.map(|mac| mac.to_string());
    let NicMode::Bridge(segment) = plan.nics.remove(0).mode else {
        panic!("bridge was planned")
    };
    (segment.ipam, mac)
}

#[test]
fn a_lease_out_of_a_range_is_served_as_if_the_manifest_had_named_it() {
    let range = r#""subnet": "10.10.0.0/16", "gateway": "10.10.0.254""#;
    let (ipam, mac) = told(
        &format!(r#"{range}, "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "10.0.0.0/8"}}]"#),
        "10.10.1.20/16",
    );
    assert_eq!(mac.as_deref(), Some("02:00:00:00:00:09"));
    let Ipam::Static { addresses, routes } = ipam else {
        panic!("it is not fixed")
    };
    let gateway = Some("10.10.0.254".parse().unwrap());
    assert_eq!(
        addresses,
        [StaticAddress {
            address: "10.10.1.20/16".parse().unwrap(),
            gateway
        }]
    );
    assert_eq!(
        routes.iter().map(|route| route.via).collect::<Vec<_>>(),
        [gateway, gateway]
    );
}

#[test]
fn the_gateway_of_a_range_is_the_guests_router_only_if_a_route_says_so() {
    let router = |routes: &str| {
        let (ipam, _) = told(
            &format!(r#""ranges": [[{{"subnet": "10.10.0.0/16"}}]]{routes}"#),
            "10.10.1.20/16",
        );
        match ipam {
            Ipam::Static { addresses, .. } => addresses[0].gateway.map(|gateway| gateway.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(router(""), None);
    assert_eq!(router(r#", "routes": [{"dst": "192.168.0.0/16"}]"#), None);
    assert_eq!(
        router(r#", "routes": [{"dst": "0.0.0.0/0"}]"#).as_deref(),
        Some("10.10.0.1")
    );
    let elsewhere = r#", "routes": [{"dst": "0.0.0.0/0", "gw": "10.10.0.9"}]"#;
    assert_eq!(router(elsewhere).as_deref(), Some("10.10.0.9"));
}

#[test]
fn without_a_store_what_needs_one_is_refused_by_name() {
    let args = Cli::parse_from(["hawser", "run", "-f", "x", "--store=off"]);
    let Some(crate::cli::Command::Run(args)) = args.command else {
        panic!("run was parsed")
    };
    for (interface, config, why) in [
        (
            "",
            r#""ipam": {"type": "host-local", "subnet": "10.0.0.0/8"}"#,
            "interface lan: addresses of ranges are kept in the store",
        ),
        (
            "",
            r#""ipam": {"type": "static", "addresses": [{"address": "10.0.0.5/8"}]}"#,
            "interface lan: its address is given to a MAC",
        ),
        (
            "",
            r#""macspoofchk": true"#,
            "interface lan: its network has macspoofchk",
        ),
    ] {
        let mut plan = planned(interface, &format!(r#"{{"type": "bridge", {config}}}"#));
        let failure = settle(&mut plan, &args.store).unwrap_err();
        assert!(
            matches!(&failure, Failure::Usage(message) if message.starts_with(why)),
            "{failure}"
        );
    }
    let mut plan = planned("", r#"{"type": "bridge"}"#);
    settle(&mut plan, &args.store).unwrap();
    assert_eq!(plan.nics[0].mac, None);
}

#[test]
fn macs_come_from_the_option_else_from_kubemacpools_config_map() {
    const POOL: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kubemacpool-mac-range-config}\ndata:\n  \
                        RANGE_START: 0a:00:00:00:00:01\n  RANGE_END: 0a:00:00:00:00:02\n---\n";
    let vm = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: vm}\nspec:\n  domain: {devices: \
              {interfaces: [{name: default, masquerade: {}, ports: [{port: 22}]}]}}\n  networks: [{name: default, pod: {}}]\n";
    let settled = |manifest: String, option: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let store = format!("--store={}", folder.path().join("store.db").display());
        let words = ["hawser", "run", "-f", "x", &store]
            .into_iter()
            .chain(option.iter().copied());
        let Some(crate::cli::Command::Run(args)) = Cli::parse_from(words).command else {
            panic!("run was parsed")
        };
        let (name, text) = ("vm.yaml".into(), manifest);
        let checked = hawser_manifest::check::check_sources(
            &[SourceFile { name, text }],
            &PlanSetup::new(Path::new("/run/hawser"), &PlanOptions::default()),
        );
        let mut plan = checked.unwrap().plan;
        settle(&mut plan, &args.store).unwrap();
        plan.nics[0].mac.unwrap().to_string()
    };
    assert!(settled(format!("{POOL}{vm}"), &[]).starts_with("0a:00:00:00:00:0"));
    let option = ["--mac-range=0e:00:00:00:00:07-0e:00:00:00:00:07"];
    assert_eq!(settled(format!("{POOL}{vm}"), &option), "0e:00:00:00:00:07");
    assert!(settled(vm.into(), &[]).starts_with("02:"));
}

/// The addresses leased to VMs `vm0`, `vm1` … on networks with these configurations, one after another, from one store.
fn given(configs: &[String]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("--store={}", folder.path().join("store.db").display());
    let Some(crate::cli::Command::Run(args)) = Cli::parse_from(["hawser", "run", "-f", "x", &store]).command else {
        panic!("run was parsed")
    };
    let of = |(n, config): (usize, &String)| {
        let mut plan = planned("", config);
        plan.name = format!("vm{n}");
        match settle(&mut plan, &args.store) {
            Ok(()) => fixed_text(&plan),
            Err(failure) => failure.to_string(),
        }
    };
    configs.iter().enumerate().map(of).collect()
}

/// The values handed out to the guest: addresses, the router of each, and routes.
fn fixed_text(plan: &VmPlan) -> String {
    let NicMode::Bridge(segment) = &plan.nics[0].mode else {
        panic!("bridge was planned")
    };
    let Ipam::Static { addresses, routes } = &segment.ipam else {
        panic!("it is not fixed: {:?}", segment.ipam)
    };
    let via = |via: Option<std::net::IpAddr>| via.map(|via| format!(" via {via}")).unwrap_or_default();
    let addresses = addresses.iter().map(|a| format!("{}{}", a.address, via(a.gateway)));
    let routes = routes.iter().map(|r| format!("{}{}", r.destination, via(r.via)));
    let parts: Vec<String> = addresses.chain(routes).collect();
    parts.join(", ")
}

fn whereabouts(ipam: &str) -> String {
    format!(r#"{{"type": "macvlan", "master": "eth0", "ipam": {{"type": "whereabouts", {ipam}}}}}"#)
}

#[test]
fn whereabouts_ranges_are_those_of_its_documentation() {
    for (ipam, expected) in [
        // Host bits are ignored; .229/30 excludes .228 to .231.
        (
            r#""range": "192.168.2.225/28", "exclude": ["192.168.2.229/30", "192.168.2.236/32"]"#,
            &[
                "192.168.2.225/28",
                "192.168.2.226/28",
                "192.168.2.227/28",
                "192.168.2.232/28",
            ][..],
        ),
        (
            r#""range": "192.168.2.225-192.168.2.226/28""#,
            &[
                "192.168.2.225/28",
                "192.168.2.226/28",
                "every address of 192.168.2.225-192.168.2.226 is in use: widen the ranges, or release VMs that are \
                 gone (hawser leases list)",
            ],
        ),
        (
            r#""range": "10.0.0.0/24", "range_start": "10.0.0.9", "range_end": "10.0.0.10""#,
            &["10.0.0.9/24", "10.0.0.10/24"],
        ),
        (
            r#""range": "2001:db8::/116", "gateway": "2001:db8::1""#,
            &["2001:db8::2/116"],
        ),
        (
            r#""ipRanges": [{"range": "192.168.10.1/24"}, {"range": "fd00::1/64", "exclude": ["fd00::1"]}], "range": "172.16.0.0/16""#,
            &[
                "172.16.0.1/16, 192.168.10.1/24, fd00::2/64",
                "172.16.0.2/16, 192.168.10.2/24, fd00::3/64",
            ],
        ),
        // The gateway is not leased to a guest, and becomes the router only through a route.
        (r#""range": "10.0.0.0/24", "gateway": "10.0.0.1""#, &["10.0.0.2/24"]),
        (
            r#""range": "10.0.0.0/24", "gateway": "10.0.0.254", "routes": [{"dst": "0.0.0.0/0"}], "addresses": [{"address": "10.9.0.5/24"}]"#,
            &["10.0.0.1/24 via 10.0.0.254, 10.9.0.5/24 via 10.0.0.254, 0.0.0.0/0 via 10.0.0.254"],
        ),
    ] {
        let configs = vec![whereabouts(ipam); expected.len()];
        assert_eq!(given(&configs), expected, "{ipam}");
    }
}

#[test]
fn pools_of_whereabouts_know_of_each_other_unless_they_are_named() {
    let on = |master: &str, ipam: &str| whereabouts(ipam).replace("eth0", master);
    let range = r#""range": "10.0.0.0/24""#;
    let wider = r#""range": "10.0.0.0/16""#;
    let named = r#""range": "10.0.0.0/24", "network_name": "mine""#;
    let alone = r#""range": "10.0.0.0/24", "enable_overlapping_ranges": false"#;
    assert_eq!(
        given(&[
            on("eth0", range),
            on("eth1", wider),
            on("eth2", named),
            on("eth3", alone),
            on("eth1", range)
        ]),
        [
            "10.0.0.1/24",
            "10.0.0.2/16",
            "10.0.0.1/24",
            "10.0.0.1/24",
            "10.0.0.3/24"
        ]
    );
}

#[test]
fn with_is_default_gateway_the_guest_has_the_route_the_bridge_plugin_would_set() {
    let on_bridge = |fields: &str| format!(r#"{{"type": "bridge", {fields}}}"#);
    let local = r#""ipam": {"type": "host-local", "subnet": "10.22.0.0/16""#;
    let fixed = r#""ipam": {"type": "static", "addresses": [{"address": "10.22.0.9/16"}]"#;
    for (fields, expected) in [
        // This is the example in the plugin's documentation.
        (
            format!(r#""isDefaultGateway": true, {local}}}"#),
            "10.22.0.2/16 via 10.22.0.1, 0.0.0.0/0 via 10.22.0.1",
        ),
        (format!(r#""isDefaultGateway": false, {local}}}"#), "10.22.0.2/16"),
        (format!(r#""isGateway": true, {local}}}"#), "10.22.0.2/16"),
        // An existing default route keeps its own next hop.
        (
            format!(r#""isDefaultGateway": true, {local}, "routes": [{{"dst": "0.0.0.0/0", "gw": "10.22.9.9"}}]}}"#),
            "10.22.0.2/16 via 10.22.9.9, 0.0.0.0/0 via 10.22.9.9",
        ),
        (
            format!(r#""isDefaultGateway": true, {fixed}, "routes": [{{"dst": "10.0.0.0/8"}}]}}"#),
            "10.22.0.9/16, 10.0.0.0/8 via 10.22.0.1, 0.0.0.0/0 via 10.22.0.1",
        ),
        (
            format!(r#""isGateway": true, {fixed}, "routes": [{{"dst": "10.0.0.0/8"}}]}}"#),
            "10.22.0.9/16, 10.0.0.0/8 via 10.22.0.1",
        ),
    ] {
        assert_eq!(given(&[on_bridge(&fields)]), [expected], "{fields}");
    }
}

#[test]
fn addresses_a_configuration_asks_for_are_the_ones_given() {
    let on_bridge = |fields: &str| format!(r#"{{"type": "bridge", {fields}}}"#);
    let local =
        r#""ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/16"}], [{"subnet": "fd00::/64"}]]}"#;
    let fixed = r#""ipam": {"type": "static", "addresses": [{"address": "10.22.0.9/16", "gateway": "10.22.0.1"}]}"#;
    for (fields, expected) in [
        (
            format!(
                r#"{local}, "args": {{"cni": {{"ips": ["10.22.3.4"]}}}}, "runtimeConfig": {{"ips": ["fd00::5/64"]}}"#
            ),
            "10.22.3.4/16, fd00::5/64",
        ),
        (
            format!(r#"{local}, "runtimeConfig": {{"ipRanges": [[{{"subnet": "10.7.0.0/16"}}]]}}"#),
            "10.7.0.2/16, 10.22.0.2/16, fd00::2/64",
        ),
        (
            format!(r#"{fixed}, "args": {{"cni": {{"ips": ["10.22.3.4/16"]}}}}"#),
            "10.22.3.4/16",
        ),
        (
            format!(
                r#"{fixed}, "args": {{"cni": {{"ips": ["10.22.3.4/16"]}}}}, "runtimeConfig": {{"ips": ["10.22.3.5/16"]}}"#
            ),
            "10.22.3.5/16",
        ),
    ] {
        assert_eq!(given(&[on_bridge(&fields)]), [expected], "{fields}");
    }
}

#[test]
fn a_mac_of_the_configuration_is_that_of_an_interface_without_one() {
    let mac = |interface: &str, config: &str| {
        let mac = planned(interface, config).nics[0].mac;
        mac.map(|mac| mac.to_string()).unwrap_or_default()
    };
    let [a, b, c] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"];
    let args = format!(r#""args": {{"cni": {{"mac": "{a}"}}}}"#);
    let runtime = format!(r#""runtimeConfig": {{"mac": "{b}"}}"#);
    let own = format!(r#""mac": "{c}""#);
    let bridge = r#""type": "bridge""#;
    let macvlan = r#""type": "macvlan", "master": "eth0""#;
    let tap = r#""type": "tap", "bridge": "br0""#;
    let ipvlan = r#""type": "ipvlan", "master": "eth0""#;
    for (config, expected) in [
        (format!("{{{bridge}, {args}}}"), a),
        (format!("{{{bridge}, {args}, {runtime}}}"), b),
        (format!("{{{macvlan}, {own}}}"), c),
        (format!("{{{macvlan}, {own}, {runtime}}}"), b),
        (format!("{{{tap}, {own}}}"), c),
        // The plugin does not read these sources.
        (format!("{{{bridge}, {own}}}"), ""),
        (format!("{{{macvlan}, {args}}}"), ""),
        (format!("{{{ipvlan}, {own}, {args}}}"), ""),
    ] {
        assert_eq!(mac("", &config), expected, "{config}");
    }
    let given = mac(", macAddress: \"02:00:00:00:00:07\"", &format!("{{{bridge}, {args}}}"));
    assert_eq!(given, "02:00:00:00:00:07");
}

#[test]
fn a_preview_names_each_lease_that_is_not_kept_yet() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("--store={}", folder.path().join("store.db").display());
    let Some(crate::cli::Command::Run(args)) = Cli::parse_from(["hawser", "run", "-f", "x", &store]).command else {
        panic!("run was parsed")
    };
    let args = args.store;
    // The manifest contains the MAC, so there is nothing to choose.
    let mut plan = planned(
        ", macAddress: \"02:00:00:00:00:07\"",
        r#"{"type": "bridge", "bridge": "br1"}"#,
    );
    let holders = |plan: &VmPlan| -> Vec<String> {
        let preview = preview(plan, &args).unwrap();
        preview.new_holders().map(str::to_owned).collect()
    };
    assert_eq!(holders(&plan), ["lan"]);
    settle(&mut plan, &args).unwrap();
    assert_eq!(holders(&plan), [""; 0]);
}

/// The plan of a VM on the secondary network `name` with this identifier.
fn on_network(vm: &str, name: &str, vni: u32) -> VmPlan {
    use hawser_manifest::plan::layer2::{OfNetwork, TunnelOptions};
    let config = format!(
        r#"{{"type": "ovn-k8s-cni-overlay", "name": "{name}", "topology": "layer2", "subnets": "10.1.0.0/24", "excludeSubnets": "10.1.0.0/28"}}"#
    );
    let text = format!(
        "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: lan}}\nspec:\n  config: \
         '{config}'\n---\napiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: {vm}}}\nspec:\n  \
         domain: {{devices: {{interfaces: [{{name: lan, bridge: {{}}}}]}}}}\n  networks: [{{name: lan, multus: \
         {{networkName: lan}}}}]\n"
    );
    let source = SourceFile {
        name: "vm.yaml".into(),
        text,
    };
    let options = PlanOptions {
        tunnels: TunnelOptions {
            vnis: vec![OfNetwork {
                network: None,
                value: vni.try_into().unwrap(),
            }],
            ..TunnelOptions::default()
        },
        ..PlanOptions::default()
    };
    let setup = PlanSetup::new(Path::new("/run/hawser"), &options);
    let checked = hawser_manifest::check::check_sources(&[source], &setup);
    checked.unwrap_or_else(|rejected| panic!("{:?}", rejected.errors)).plan
}

#[test]
fn a_guest_of_a_network_that_spans_nodes_has_the_mac_of_its_leased_address() {
    use hawser_manifest::nic::ModeSpec;
    let folder = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(&folder.path().join("store.db"), Access::Make).unwrap();
    let mut plan = on_network("a", "blue", 7);
    let leases = reserve(&mut store, &plan, &MacRange::DEFAULT).unwrap();
    assert_eq!(leases[0].segment, LeaseSegment::Network("blue".into()));
    assert_eq!(held(&leases[0]), "0a:58:0a:01:00:10 10.1.0.16/24");
    apply(&mut plan.nics[0], &leases[0]);
    let ModeSpec::Layer2(spec) = plan.nics[0].spec().unwrap().mode else {
        panic!("{plan:?}")
    };
    assert_eq!(spec.guests, [std::net::IpAddr::from([10, 1, 0, 16])]);
    assert_eq!(plan.nics[0].mac.unwrap().to_string(), "0a:58:0a:01:00:10");
    // The next VM gets another address, and each keeps its own.
    let next = reserve(&mut store, &on_network("b", "blue", 7), &MacRange::DEFAULT).unwrap();
    assert_eq!(held(&next[0]), "0a:58:0a:01:00:11 10.1.0.17/24");
    let again = reserve(&mut store, &on_network("a", "blue", 7), &MacRange::DEFAULT).unwrap();
    assert_eq!(again, leases);
}

#[test]
fn networks_of_one_node_have_identifiers_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Sqlite::open(&folder.path().join("store.db"), Access::Make).unwrap();
    reserve(&mut store, &on_network("a", "blue", 7), &MacRange::DEFAULT).unwrap();
    let taken = reserve(&mut store, &on_network("b", "red", 7), &MacRange::DEFAULT).unwrap_err();
    let taken = taken.to_string();
    assert!(taken.contains("which is that of network blue"), "{taken}");
    let other = reserve(&mut store, &on_network("b", "blue", 8), &MacRange::DEFAULT).unwrap_err();
    let other = other.to_string();
    assert!(other.contains("all VMs of a network must agree"), "{other}");
    reserve(&mut store, &on_network("b", "red", 8), &MacRange::DEFAULT).unwrap();
}

#[test]
fn a_preview_refuses_an_identifier_that_the_store_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("--store={}", folder.path().join("store.db").display());
    let Some(crate::cli::Command::Run(args)) = Cli::parse_from(["hawser", "run", "-f", "x", &store]).command else {
        panic!("run was parsed")
    };
    let args = args.store;
    preview(&on_network("a", "blue", 7), &args).unwrap();
    settle(&mut on_network("a", "blue", 7), &args).unwrap();
    preview(&on_network("b", "blue", 7), &args).unwrap();
    for (plan, words) in [
        (on_network("b", "red", 7), "which is that of network blue"),
        (on_network("b", "blue", 8), "network blue has identifier 8"),
    ] {
        let refused = preview(&plan, &args).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
    // The store has only what was settled.
    settle(&mut on_network("b", "red", 9), &args).unwrap();
}
