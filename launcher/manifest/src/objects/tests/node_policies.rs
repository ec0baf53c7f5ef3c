//! Tests of SriovNetworkNodePolicy.

use crate::check::node_objects;
use crate::objects::SourceFile;
use crate::objects::node_policy::{DeviceType, NodePolicy};

/// The policy of the operator's manual, with these fields in place of its own `nicSelector` and the fields after it.
fn read(fields: &str) -> Result<NodePolicy, String> {
    let text = format!(
        "apiVersion: sriovnetwork.openshift.io/v1\nkind: SriovNetworkNodePolicy\nmetadata:\n  name: p\n  namespace: \
         openshift-sriov-network-operator\nspec:\n  resourceName: nics\n  nodeSelector:\n    \
         feature.node.kubernetes.io/network-sriov.capable: \"true\"\n  numVfs: 8\n  {fields}\n"
    );
    let file = SourceFile {
        name: "p.yaml".into(),
        text,
    };
    match node_objects(&[file], "default") {
        Ok(found) => Ok(found.policies.into_iter().next().unwrap()),
        Err(rejected) => {
            let lines: Vec<String> = rejected.errors.iter().map(ToString::to_string).collect();
            Err(lines.join("\n"))
        }
    }
}

#[test]
fn a_policy_is_read_with_its_defaults() {
    let policy = read(
        "priority: 10\n  mtu: 9000\n  nicSelector:\n    vendor: \"8086\"\n    deviceID: \"10C9\"\n    pfNames: \
         [\"eth0#2-5\", eth1]\n    rootDevices: [\"0000:02:00.1\"]\n  deviceType: vfio-pci\n  isRdma: false",
    );
    let policy = policy.unwrap();
    assert_eq!(
        (policy.resource.as_str(), policy.priority, policy.num_vfs),
        ("nics", 10, 8)
    );
    assert_eq!((policy.mtu, policy.device_type), (Some(9000), DeviceType::VfioPci));
    assert_eq!(policy.selector.vendor.as_deref(), Some("8086"));
    assert_eq!(policy.selector.device.as_deref(), Some("10c9"));
    let [part, whole] = &policy.selector.names[..] else {
        panic!("{:?}", policy.selector);
    };
    assert_eq!((part.of.as_str(), part.range.clone()), ("eth0", Some(2..=5)));
    assert_eq!((whole.of.as_str(), whole.range.clone()), ("eth1", None));
    let plain = read("nicSelector: {vendor: \"8086\"}").unwrap();
    assert_eq!((plain.priority, plain.device_type), (99, DeviceType::NetDevice));
    assert!(!plain.externally_managed);
}

#[test]
fn a_policy_that_hawser_does_not_serve_is_refused_by_the_name_of_its_field() {
    let nic = "nicSelector: {vendor: \"8086\"}";
    for (fields, words) in [
        (
            "nicSelector: {}",
            "at least one of vendor, deviceID, pfNames and rootDevices",
        ),
        ("nicSelector: {vendor: 8086x}", "four hexadecimal digits"),
        (
            "nicSelector: {pfNames: [\"eth0#5-2\"]}",
            "the range 5-2 is not in order",
        ),
        (
            "nicSelector: {pfNames: [\"eth0#2-8\"]}",
            "does not lie below numVfs (8)",
        ),
        ("nicSelector: {pfNames: [\"eth0#2\"]}", "NAME#FIRST-LAST"),
        ("nicSelector: {netFilter: \"openstack/NetworkID:x\"}", "netFilter"),
        (&format!("{nic}\n  isRdma: true"), "isRdma: true is not served"),
        (&format!("{nic}\n  linkType: IB"), "linkType: ib is not served"),
        (
            &format!("{nic}\n  eSwitchMode: switchdev"),
            "eSwitchMode: switchdev is not served",
        ),
        (&format!("{nic}\n  vdpaType: virtio"), "vdpaType"),
        (&format!("{nic}\n  priority: 100"), "priority"),
        (&format!("{nic}\n  deviceType: uio"), "deviceType"),
        (&format!("{nic}\n  vfNumber: 4"), "vfNumber"),
    ] {
        let error = read(fields).unwrap_err();
        assert!(error.contains(words), "{fields}: {error}");
        assert!(error.starts_with("p.yaml:1"), "with its line: {error}");
    }
}
