//! Tests that each example in docs/examples is served as it states.

use super::SourceFile;
use crate::check::{Checked, check_sources};
use crate::plan::PlanSetup;
use crate::plan::options::PlanOptions;
use crate::plan_text;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples")
}

/// Sources of all examples.
pub(super) fn sources() -> Vec<SourceFile> {
    let entries = std::fs::read_dir(directory()).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &PathBuf| SourceFile {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        text: std::fs::read_to_string(path).unwrap(),
    };
    paths.iter().map(read).collect()
}

fn planned(name: &str) -> Checked {
    let source = sources().into_iter().find(|source| source.name == name).unwrap();
    check_sources(
        &[source],
        &PlanSetup::new(Path::new("/run/hawser"), &PlanOptions::default()),
    )
    .unwrap_or_else(|rejected| panic!("{name}: {:?}", rejected.errors))
}

#[test]
fn every_example_is_valid() {
    let sources = sources();
    assert!(sources.len() >= 8);
    for source in sources {
        let name = source.name.clone();
        let warnings = planned(&name).warnings;
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
        assert!(source.text.starts_with("# "), "{name} says at its top what it shows");
    }
}

#[test]
fn the_examples_mean_what_they_say() {
    for (name, expected) in [
        (
            "masquerade-ports.yaml",
            "IPv6     the usual network if the pod has IPv6\n  ports    tcp:80 tcp:22 udp:53 tcp:30022:22\n",
        ),
        (
            "dual-stack.yaml",
            "IPv4     10.11.12.0/24\n  IPv6     fd10:11:12::/120\n  ports    tcp:8000-8009 udp:5000\n",
        ),
        ("istio.yaml", "  ports    tcp:8080 tcp:22\n"),
        (
            "istio-every-port.yaml",
            "  ports    every one tcp:30023:22\n  kept     tcp:15000 tcp:15001 tcp:15004 tcp:15006 tcp:15008 tcp:15009 \
             tcp:15020 tcp:15021 tcp:15053 tcp:15090\n",
        ),
        (
            "cnv-bridge-vlan.yaml",
            "MAC      02:00:00:00:01:00\n  mode     bridge: a TAP in br1, VLAN 100, MAC spoof check\n",
        ),
        (
            "bridge-host-local.yaml",
            "MAC      one of the pool, kept for the VM\n  hostname in-a-range\n  mode     bridge: a TAP in test-bridge\n  address  one of 10.10.1.20 to 10.10.3.50\n",
        ),
        (
            "macvlan-dhcp.yaml",
            "mode     bridge: macvtap on eth1, mode bridge\n  address  from the segment's DHCP server\n",
        ),
        (
            "macvlan-whereabouts.yaml",
            "address  one of 192.168.2.225 to 192.168.2.227 or 192.168.2.232 to 192.168.2.235 or 192.168.2.237 to \
             192.168.2.238, and one of fd00:2::100 to fd00:2::ffff:ffff:ffff:fffe\n",
        ),
        (
            "ipvlan-static.yaml",
            "hostname shares-a-mac\n  mode     bridge: ipvtap on eth1, mode l3\n  address  192.168.10.10/24\n",
        ),
        (
            "layer2-primary.yaml",
            "MAC      0a:58:c0:a8:fe:0a\n  hostname fedora-udn\n  mode     layer2: the primary network \
             vmexamples-udn_primary-udn\n  VNI      not given: --vni\n  VTEP     the default route's address, port 6081\n  subnets  \
             192.168.254.0/24\n  gateway  192.168.254.1\n  address  192.168.254.10/24\n",
        ),
        (
            "localnet-vlan.yaml",
            "mode     bridge: a TAP in br-machines, VLAN 30, MAC spoof check\n  address  one of 172.20.30.64 to \
             172.20.30.254\n",
        ),
        (
            "three-nics.yaml",
            "queues   2 pairs\n  mode     bridge: a TAP in br2\n  MTU      9000\n",
        ),
    ] {
        let text = plan_text::text(&planned(name).plan);
        assert!(text.contains(expected), "{name}:\n{text}");
    }
}

#[test]
fn a_plan_for_programs_says_the_same() {
    let checked = planned("three-nics.yaml");
    let json: serde_json::Value = serde_json::from_str(&plan_text::json(Ok(&checked)).unwrap()).unwrap();
    let nics = json["plan"]["interfaces"].as_array().unwrap();
    assert_eq!((json["plan"]["name"].as_str(), nics.len()), (Some("three"), 3));
    assert_eq!(nics[0]["masquerade"]["forwards"], serde_json::json!(["tcp:22"]));
    assert_eq!(nics[1]["socket"], "/run/hawser/trunk.sock");
    assert_eq!(nics[1]["bridge"]["trunk"][1]["end"], 199);
    assert_eq!(
        (&nics[2]["name"], &nics[2]["bridge"]["mtu"]),
        (&"storage".into(), &9000.into())
    );
}
