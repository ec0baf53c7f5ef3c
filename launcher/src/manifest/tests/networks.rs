//! Networks: what concerns the VM, and what is said about it.

use super::{machine, problems};

const POD: &str = "{name: default, pod: {}}";

/// A VM on the pod network alone.
fn on_pod() -> String {
    machine("{name: default, masquerade: {}, ports: [{port: 22}]}", POD)
}

/// A VM bound with bridge to the network `n`.
fn on_n() -> String {
    machine("{name: a, bridge: {}}", "{name: a, multus: {networkName: n}}")
}

/// The NetworkAttachmentDefinition `n` with such a configuration.
fn attachment(config: &str) -> String {
    format!(
        "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: n}}\nspec:\n  \
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
        ("{", "spec.config: this is no JSON"),
    ] {
        assert_eq!(problems(&(on_pod() + &attachment(config))), [""; 0], "{config}");
        let named = problems(&(on_n() + &attachment(config)));
        assert!(named.len() == 1 && named[0].contains(expected), "{config}: {named:?}");
        // Without a VM it is the network that is to be checked.
        let alone = problems(&attachment(config));
        assert!(alone.iter().any(|p| p.contains(expected)), "{config}: {alone:?}");
    }
    let without = "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: n}\n";
    assert_eq!(problems(&(on_pod() + without)), [""; 0]);
    assert_eq!(
        problems(&(on_n() + without)),
        ["vm.yaml:12: spec.config is missing: give the CNI configuration"]
    );
}
