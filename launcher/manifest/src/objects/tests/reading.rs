//! Tests that objects are recognised, and of the warnings about ignored ones.

use super::{machine, problems};
use std::time::Duration;

const INTERFACE: &str = "{name: default, masquerade: {}, ports: [{port: 22}]}";
const NETWORK: &str = "{name: default, pod: {}}";

fn vm() -> String {
    machine(INTERFACE, NETWORK)
}

#[test]
fn whatever_has_items_is_a_list_as_for_kubectl() {
    // This is a list as the API server returns it: its items have no kind and apiVersion.
    let bare = "kind: VirtualMachineInstanceList\napiVersion: kubevirt.io/v1\nitems:\n- metadata: {name: vm}\n  spec:\n    \
                domain: {devices: {interfaces: [{name: default, masquerade: {}}]}}\n    networks: [{name: default, pod: {}}]\n";
    assert_eq!(problems(bare), [""; 0]);
    let wrong = problems(&bare.replace("masquerade: {}", "masquerade: 1"));
    assert!(
        wrong[0].starts_with("vm.yaml:6: items[0].spec.domain.devices.interfaces[0].masquerade"),
        "{wrong:?}"
    );
    let wrong = problems(&bare.replace("io/v1", "io/v7"));
    assert_eq!(
        wrong,
        ["vm.yaml:4: items[0]: \"kubevirt.io/v7\": this kind is read as kubevirt.io/v1"]
    );
    let indented: String = vm().lines().map(|line| format!("  {line}\n")).collect();
    let indented = format!("-{}", &indented[1..]);
    for kind in ["List", "VirtualMachineInstanceList", "Foo"] {
        let list = format!("kind: {kind}\napiVersion: v1\nitems:\n{indented}");
        assert_eq!(problems(&list), [""; 0], "{kind}");
        let wrong = list.replace("port: 22", "port: 0");
        assert!(
            problems(&wrong)[0].starts_with("vm.yaml:11: items[0].spec.domain.devices.interfaces[0].ports[0].port"),
            "{:?}",
            problems(&wrong)
        );
    }
}

#[test]
fn objects_that_are_not_read_are_said_once_for_each_kind() {
    let secret = "---\nkind: Secret\napiVersion: v1\n".repeat(3);
    let other = "---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n".repeat(2);
    assert_eq!(
        problems(&format!("{}{secret}{other}", vm())),
        [
            "vm.yaml:12: warning: ignored: kind Secret of v1 is not read here (3 objects, this is the first)",
            "vm.yaml:21: warning: ignored: of ConfigMaps only kubemacpool-mac-range-config and macvtap-deviceplugin-config \
             are read here (2 objects, this is the first)",
        ]
    );
}

#[test]
fn a_wrong_version_hides_no_other_problem() {
    let text = vm()
        .replace("kubevirt.io/v1", "kubevirt.io/v9")
        .replace("port: 22", "port: 0");
    assert_eq!(problems(&text).len(), 2, "{:?}", problems(&text));
    let missing = vm()
        .replace("apiVersion: kubevirt.io/v1\n", "")
        .replace("port: 22", "port: 0");
    assert_eq!(problems(&missing).len(), 2, "{:?}", problems(&missing));
}

#[test]
fn what_kubectl_makes_something_else_of_is_refused_with_what_it_makes() {
    let of = |interface: &str| problems(&machine(interface, NETWORK));
    assert_eq!(
        of("{name: default, masquerade: {}, ports: [{port: 0120}]}"),
        [
            "vm.yaml:8: spec.domain.devices.interfaces[0].ports[0].port: 0120 is octal to kubectl, which reads 80: write 80 \
             or 120"
        ]
    );
    // A number that has the same value in either reading is accepted.
    for port in ["0x50", "8_0", "80.0", "8e1", "0o120"] {
        assert_eq!(
            of(&format!(
                "{{name: default, masquerade: {{}}, ports: [{{port: {port}}}]}}"
            )),
            [""; 0],
            "{port}"
        );
    }
    let labelled = |label: &str| problems(&vm().replace("{name: vm}", &format!("{{name: vm, labels: {{{label}}}}}")));
    assert!(labelled("on: x")[0].contains("the key on is true to kubectl: write it in quotes"));
    assert!(labelled("a: y")[0].contains("y is true to kubectl; write it in quotes: \"y\""));
    let merged = vm().replace(
        "kind: Virt",
        "x-common: &c {masquerade: {}, ports: [{port: 22}]}\nkind: Virt",
    );
    let merged = merged.replace("masquerade: {}, ports: [{port: 22}]}\n  net", "<<: *c}\n  net");
    assert_eq!(problems(&merged), [""; 0], "{merged}");
}

#[test]
fn a_plugin_finds_its_keys_without_regard_to_case() {
    let config = |fields: &str| {
        let nad = format!(
            "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: lan}}\nspec:\n  \
             config: '{{\"Type\": \"bridge\", \"BRIDGE\": \"br0\"{fields}}}'\n"
        );
        let vm = machine("{name: a, bridge: {}}", "{name: a, multus: {networkName: lan}}");
        problems(&(vm + &nad))
    };
    assert_eq!(config(""), [""; 0]);
    assert!(
        config(", \"Vlan\": 7000")[0].contains("spec.config.vlan: found \"7000\""),
        "{:?}",
        config(", \"Vlan\": 7000")
    );
    assert!(config(", \"vlan\": 7, \"Vlan\": 8")[0].contains("\"Vlan\" is here twice, first on line 16"));
    // The API server's own fields are case-sensitive.
    assert!(problems(&vm().replace("ports:", "Ports:"))[0].contains("there is no such field"));
}

/// Processor time of this thread, which does not depend on other load of the machine.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap()
}

#[test]
fn a_manifest_of_any_length_is_answered_soon_and_briefly() {
    let started = cpu_time();
    let many = |item: &str, count: usize| format!("[{}]", [item].repeat(count).join(","));
    let with_ports = |ports: String| {
        problems(&machine(
            &format!("{{name: default, masquerade: {{}}, ports: {ports}}}"),
            NETWORK,
        ))
    };
    let wrong = with_ports(many("x", 90_000));
    assert_eq!(wrong.len(), 501);
    assert_eq!(wrong[500], "the manifests: 89500 more errors that are not shown");
    let same = with_ports(many("{port: 7}", 10_000));
    assert!(same.len() <= 501, "{}", same.len());
    let labels: Vec<String> = (0..40_000).map(|n| format!("l{n}: x")).collect();
    let vm = machine("{name: default, masquerade: {}, ports: [{port: 1}]}", NETWORK);
    let labelled = vm.replace("{name: vm}", &format!("{{name: vm, labels: {{{}}}}}", labels.join(",")));
    assert_eq!(problems(&labelled), [""; 0]);
    let taken = cpu_time() - started;
    assert!(taken < Duration::from_secs(30), "{taken:?}");
}
