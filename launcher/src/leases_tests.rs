//! From plans to claims, and from leases back into plans.

use super::*;
use crate::cli::Cli;
use crate::manifest::SourceFile;
use crate::store::Holder;
use clap::Parser as _;
use std::path::Path;

/// The plan of a VM with one interface on a network of this configuration.
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
    let checked = validate::check_sources(&[source], Path::new("/run/hawser"));
    checked.unwrap_or_else(|rejected| panic!("{:?}", rejected.errors)).plan
}

fn claim(interface: &str, config: &str) -> Claim {
    let vm: VmName = "default/vm".parse().unwrap();
    claim_of(&vm, &planned(interface, config).nics[0]).unwrap()
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
            (claim.segment.as_str(), claim.mac, claim.network.as_str()),
            (segment, mac, "default/lan")
        );
    }
    let explicit = claim(", macAddress: \"02:00:00:00:00:07\"", &bridge(""));
    assert_eq!(explicit.mac, MacClaim::Explicit("02:00:00:00:00:07".parse().unwrap()));
}

/// What the guest would be told of a lease of `address`.
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
        segment: "bridge cni0".into(),
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
            "interface lan: addresses of host-local ranges",
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
        let checked = validate::check_sources(&[SourceFile { name, text }], Path::new("/run/hawser"));
        let mut plan = checked.unwrap().plan;
        settle(&mut plan, &args.store).unwrap();
        plan.nics[0].mac.unwrap().to_string()
    };
    assert!(settled(format!("{POOL}{vm}"), &[]).starts_with("0a:00:00:00:00:0"));
    let option = ["--mac-range=0e:00:00:00:00:07-0e:00:00:00:00:07"];
    assert_eq!(settled(format!("{POOL}{vm}"), &option), "0e:00:00:00:00:07");
    assert!(settled(vm.into(), &[]).starts_with("02:"));
}
