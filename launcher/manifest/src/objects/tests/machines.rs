//! Tests of VMs: KubeVirt's defaults, and the resulting interfaces.

use super::{machine, planned, problems, problems_with};
use crate::plan::options::{DefaultBinding, PlanOptions};
use crate::plan::{GuestNetwork, NicMode, VmPlan};
use crate::plan_text;

const POD: &str = "{name: default, pod: {}}";
const OPEN: &str = "{name: default, masquerade: {}, ports: [{port: 22}]}";

/// A VM with `domain` below `spec.domain`, in flow style, and no networks.
fn with_domain(kind: &str, domain: &str) -> String {
    let spec = format!("{{domain: {domain}}}");
    let spec = match kind {
        "VirtualMachine" => format!("{{template: {{spec: {spec}}}}}"),
        _ => spec,
    };
    format!("apiVersion: kubevirt.io/v1\nkind: {kind}\nmetadata: {{name: vm}}\nspec: {spec}\n")
}

fn plan(text: &str, args: &PlanOptions) -> VmPlan {
    planned(text, args)
        .unwrap_or_else(|rejected| panic!("{:?}", rejected.errors))
        .plan
}

#[test]
fn a_vm_without_interfaces_gets_the_one_kubevirt_adds() {
    for kind in ["VirtualMachine", "VirtualMachineInstance"] {
        for devices in [
            "{}",
            "{autoattachPodInterface: true}",
            "{interfaces: []}",
            "{disks: []}",
        ] {
            let text = with_domain(kind, &format!("{{devices: {devices}}}"));
            let added = plan(&text, &PlanOptions::default());
            assert_eq!(added.nics.len(), 1, "{devices}");
            let nic = &added.nics[0];
            assert_eq!((nic.name.as_str(), nic.network.as_str()), ("default", "pod"));
            let NicMode::Masquerade(masquerade) = &nic.mode else {
                panic!("{nic:?}")
            };
            assert!(masquerade.every_port);
            let told = plan_text::text(&added);
            assert!(told.contains("origin   added, as KubeVirt does"), "{told}");
        }
    }
    let text = with_domain("VirtualMachine", "{devices: {}}");
    let bridge = PlanOptions {
        default_binding: DefaultBinding::Bridge,
        ..PlanOptions::default()
    };
    assert!(matches!(plan(&text, &bridge).nics[0].mode, NicMode::Pod(_)));
    let written = plan_text::text(&plan(&machine(OPEN, POD), &bridge));
    assert!(!written.contains("origin"), "{written}");
}

#[test]
fn nothing_is_added_where_anything_is_written_or_it_is_declined() {
    let declined = with_domain("VirtualMachine", "{devices: {autoattachPodInterface: false}}");
    assert_eq!(
        problems(&declined),
        ["vm.yaml:1: it has no interfaces, and autoattachPodInterface: false adds none: there is nothing to serve"]
    );
    let network = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: vm}\nspec:\n  \
                   domain: {devices: {}}\n  networks: [{name: default, pod: {}}]\n";
    assert_eq!(
        problems(network),
        ["vm.yaml:6: spec.networks[0]: no interface is named \"default\": add it, or leave the network out"]
    );
    let interface = with_domain("VirtualMachine", "{devices: {interfaces: [{name: a, masquerade: {}}]}}");
    assert!(problems(&interface)[0].contains("no network is named \"a\": add it to spec.networks"));
}

#[test]
fn the_first_api_of_kubevirt_is_read_with_a_warning() {
    let vm = machine(OPEN, POD).replace("kubevirt.io/v1", "kubevirt.io/v1alpha3");
    assert_eq!(
        problems(&vm),
        [
            "vm.yaml:1: warning: apiVersion: \"kubevirt.io/v1alpha3\" is deprecated and will be dropped from the API: write \
             kubevirt.io/v1"
        ]
    );
}

#[test]
fn what_is_missing_or_wrong_at_the_top_hides_nothing_below() {
    let vm = machine("{name: default, masquerade: {}, bootOrder: 0}", POD);
    let below = "spec.domain.devices.interfaces[0].bootOrder: found \"0\"";
    for (from, to, expected) in [
        (
            "apiVersion: kubevirt.io/v1\n",
            "",
            "vm.yaml:1: apiVersion is missing: give kubevirt.io/v1",
        ),
        (
            "kubevirt.io/v1",
            "kubevirt.io/v2",
            "vm.yaml:1: apiVersion: \"kubevirt.io/v2\": this kind is read as kubevirt.io/v1",
        ),
        (
            "kubevirt.io/v1",
            "v1",
            "vm.yaml:1: apiVersion: \"v1\": this kind is read as kubevirt.io/v1",
        ),
        (
            "kubevirt.io/v1",
            "kubevirt/v1",
            "vm.yaml:1: apiVersion: \"kubevirt/v1\": this kind is read as kubevirt.io/v1",
        ),
        (
            "metadata: {name: vm}\n",
            "",
            "vm.yaml:1: metadata.name is missing: give the VM a name",
        ),
    ] {
        let found = problems(&vm.replacen(from, to, 1));
        assert!(found.iter().any(|p| p == expected), "{expected}: {found:?}");
        assert!(found.iter().any(|p| p.contains(below)), "{found:?}");
    }
    // If a part is missing, the rest of the files is still checked.
    let nad = "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: N}\n";
    for (text, expected) in [
        (
            "spec: {running: true}",
            "spec: template is missing: give the VirtualMachineInstance that it creates",
        ),
        (
            "spec: {template: {metadata: {}}}",
            "spec.template: spec is missing: give domain and networks",
        ),
        (
            "spec: {template: {spec: {networks: [{name: a b, pod: {}}]}}}",
            "spec.template.spec: domain is missing: give domain.devices",
        ),
        (
            "spec: {template: {spec: {hostname: A.b, domain: {cpu: {cores: x}}}}}",
            "spec.template.spec.domain: devices is missing",
        ),
        ("status: {}", "spec is missing: give spec.template"),
    ] {
        let vm = format!("apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {{name: Vm}}\n{text}\n");
        let found = problems(&(vm + nad)).join("\n");
        assert!(found.contains(expected), "{expected}: {found}");
        assert!(
            found.contains("metadata.name: \"Vm\": the API server refuses this name"),
            "{found}"
        );
        let inner = [("a b", "networks[0].name"), ("A.b", "hostname: \"A.b\"")];
        for (given, place) in inner.iter().filter(|(given, _)| text.contains(given)) {
            assert!(found.contains(place), "{given}: {found}");
        }
    }
}

#[test]
fn queues_are_as_many_as_kubevirt_makes() {
    for (domain, pairs) in [
        ("cpu: {cores: 3}", 3),
        ("cpu: {sockets: 2, cores: 3, threads: 2}", 12),
        // With only a model given, the requested CPUs count.
        ("cpu: {model: host-passthrough}, resources: {requests: {cpu: \"4\"}}", 4),
        (
            "cpu: {cores: 0, sockets: 0, threads: 0}, resources: {requests: {cpu: 3}}",
            3,
        ),
        ("cpu: {cores: 0, threads: 2}, resources: {requests: {cpu: 8}}", 2),
        ("cpu: {maxSockets: 8, sockets: 2}", 2),
        ("resources: {limits: {cpu: 1500m}, requests: {cpu: 7}}", 2),
        ("resources: {limits: {memory: 1Gi}, requests: {cpu: 2}}", 2),
        ("resources: {requests: {cpu: 0}}", 1),
        ("cpu: {model: host-model}", 1),
        ("memory: {guest: 1Gi}", 1),
    ] {
        let text = with_domain(
            "VirtualMachine",
            &format!("{{{domain}, devices: {{networkInterfaceMultiqueue: true}}}}"),
        );
        assert_eq!(
            plan(&text, &PlanOptions::default()).nics[0].queue_pairs.get(),
            pairs,
            "{domain}"
        );
        let off = text.replace("Multiqueue: true", "Multiqueue: false");
        assert_eq!(plan(&off, &PlanOptions::default()).nics[0].queue_pairs.get(), 1);
    }
    let wrong = with_domain(
        "VirtualMachine",
        "{resources: {requests: {cpu: four}}, devices: {networkInterfaceMultiqueue: true}}",
    );
    assert!(problems(&wrong)[0].contains("requests.cpu: \"four\": give a number of CPUs"));
}

#[test]
fn what_an_instance_type_or_preference_says_is_said_to_be_unknown() {
    let vm = with_domain("VirtualMachine", "{devices: {}}");
    let vm = vm.replace(
        "spec: {template",
        "spec: {instancetype: {name: u1}, preference: {name: p}, template",
    );
    let found = problems(&vm);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("warning: spec.instancetype: ignored: instance types are not read"));
    assert!(found[1].contains("warning: spec.preference: ignored: preferences are not read"));
}

#[test]
fn the_host_name_is_the_pods() {
    let named = |name: &str, more: &str| {
        machine(OPEN, POD)
            .replace("{name: vm}", &format!("{{name: {name}}}"))
            .replace("spec:\n", &format!("spec:\n{more}"))
    };
    let hostname = |text: &str| plan(text, &PlanOptions::default()).nics[0].hostname.clone();
    let long = "x".repeat(70);
    for (name, more, expected) in [
        ("web", "", "web"),
        ("web.shop", "", "web"),
        ("web", "  hostname: other\n", "other"),
        (long.as_str(), "", &long[..63]),
        (&format!("{}-b", "a".repeat(63)), "", &"a".repeat(63)),
    ] {
        assert_eq!(hostname(&named(name, more)).as_deref(), Some(expected), "{name}");
    }
    let cut = format!("{}-b", "a".repeat(62));
    assert_eq!(hostname(&named(&cut, "  hostname: other\n")).as_deref(), Some("other"));
    let refused = problems(&named(&cut, ""));
    assert!(refused.len() == 1 && refused[0].contains("which cannot end with a hyphen: give spec.hostname"));
    assert!(
        problems(&named("web", "  hostname: Web\n"))[0].contains("spec.hostname: \"Web\": give up to 63 lower-case")
    );
}

#[test]
fn names_that_no_api_server_takes_are_refused() {
    let vm = machine(OPEN, POD);
    for (metadata, expected) in [
        (
            "{name: web_1}",
            "metadata.name: \"web_1\": the API server refuses this name",
        ),
        ("{name: Web}", "metadata.name: \"Web\""),
        (&format!("{{name: {}}}", "x".repeat(254)), "metadata.name: \"xxx"),
        (
            "{name: vm, namespace: a.b}",
            "metadata.namespace: \"a.b\": give up to 63 lower-case letters",
        ),
        (
            "{name: vm, labels: {a/b/c: x}}",
            "metadata.labels[\"a/b/c\"]: \"a/b/c\" is not a key that the API server accepts",
        ),
        (
            "{name: vm, labels: {app: a b}}",
            "metadata.labels.app: the API server refuses this label value",
        ),
        (
            "{name: vm, annotations: {-a: x}}",
            "metadata.annotations.-a: \"-a\" is not a key that the API server accepts",
        ),
    ] {
        let found = problems(&vm.replace("{name: vm}", metadata));
        assert!(found.len() == 1 && found[0].contains(expected), "{metadata}: {found:?}");
    }
    let fine = "{name: vm, labels: {app.kubernetes.io/Name: \"\", a_b: x.y_Z}, annotations: {Example.com/a: any text}}";
    assert_eq!(problems(&vm.replace("{name: vm}", fine)), [""; 0]);
}

#[test]
fn a_name_that_the_api_server_finishes_is_not_known() {
    let vm = machine(OPEN, POD).replace("{name: vm}", "{generateName: web-}");
    assert_eq!(
        problems(&vm),
        [
            "vm.yaml:1: the API server completes generateName with letters that are not known here: give the VM \
             metadata.name"
        ]
    );
    let both = vm.replace("{generateName", "{name: web, generateName");
    assert_eq!(problems(&both), [""; 0]);
}

#[test]
fn istio_is_asked_for_as_kubevirt_reads_it() {
    let vm = machine("{name: default, masquerade: {}}", POD);
    for (inject, kept) in [
        ("\"true\"", 10),
        ("\"True\"", 10),
        ("\"TRUE\"", 10),
        ("\"false\"", 0),
        ("\"yes\"", 0),
    ] {
        let mesh = vm.replace(
            "{name: vm}",
            &format!("{{name: vm, annotations: {{sidecar.istio.io/inject: {inject}}}}}"),
        );
        let NicMode::Masquerade(masquerade) = plan(&mesh, &PlanOptions::default()).nics.remove(0).mode else {
            panic!("masquerade is planned")
        };
        assert_eq!(masquerade.kept.len(), kept, "{inject}");
    }
}

#[test]
fn a_binding_that_is_not_served_says_what_to_write_in_its_place() {
    for (binding, expected) in [
        (
            "binding: {name: macvtap}",
            "binding.name: \"macvtap\": write bridge: {} instead, on a network of type macvtap or macvlan",
        ),
        (
            "binding: {name: slirp}",
            "binding.name: \"slirp\": KubeVirt has removed it: write masquerade: {}",
        ),
        (
            "binding: {name: mine}",
            "binding.name: \"mine\": plugins of the cluster are not known here: write masquerade: {} for the pod",
        ),
        (
            "slirp: {}",
            ".slirp: not served: KubeVirt has removed it; use masquerade",
        ),
        (
            "macvtap: {}",
            ".macvtap: not served: KubeVirt has removed it; use bridge on a network of type macvtap",
        ),
        (
            "passt: {}",
            ".passt: not served: KubeVirt has removed it; use passtBinding",
        ),
    ] {
        let found = problems(&machine(&format!("{{name: default, {binding}}}"), POD));
        assert!(found.len() == 1 && found[0].contains(expected), "{binding}: {found:?}");
    }
}

#[test]
fn with_passt_the_guest_has_the_addresses_of_the_pod() {
    for binding in ["passtBinding: {}", "binding: {name: passt}"] {
        let vm = machine(&format!("{{name: default, {binding}, ports: [{{port: 80}}]}}"), POD);
        let NicMode::Masquerade(plan) = plan(&vm, &PlanOptions::default()).nics.remove(0).mode else {
            panic!("{binding}: not masquerade")
        };
        assert_eq!(plan.network, GuestNetwork::OfPod, "{binding}");
        assert_eq!((plan.forwards.len(), plan.every_port), (1, false), "{binding}");
    }
    let found = problems(&machine(
        "{name: default, passtBinding: {}}",
        "{name: default, pod: {vmNetworkCIDR: 10.9.0.0/24}}",
    ));
    assert!(
        found.len() == 1 && found[0].contains("the guest has the pod's address"),
        "{found:?}"
    );
}

/// VMs with these namespaces and names.
fn several(names: &[(&str, &str)]) -> String {
    let vm = |(namespace, name): &(&str, &str)| {
        machine(OPEN, POD).replace("{name: vm}", &format!("{{name: {name}, namespace: {namespace}}}"))
    };
    names.iter().map(vm).collect::<Vec<_>>().join("---\n")
}

#[test]
fn one_of_several_vms_is_chosen_and_the_others_do_not_matter() {
    let text = several(&[("shop", "web"), ("shop", "db"), ("lab", "web")]);
    let args = |vm: Option<&str>, namespace: Option<&str>| PlanOptions {
        vm: vm.map(str::to_owned),
        namespace: namespace.map(str::to_owned),
        ..PlanOptions::default()
    };
    assert_eq!(
        problems(&text),
        [
            "-f: 3 VMs are in the files, and one process serves one: choose one with --vm, or --namespace: shop/web, \
             shop/db, lab/web"
        ]
    );
    assert!(problems_with(&text, &args(Some("web"), None))[0].contains("2 VMs are in the files"));
    for (vm, namespace, chosen) in [
        (Some("db"), None, ("shop", "db")),
        (None, Some("lab"), ("lab", "web")),
        (Some("web"), Some("shop"), ("shop", "web")),
    ] {
        let plan = plan(&text, &args(vm, namespace));
        assert_eq!((plan.namespace.as_str(), plan.name.as_str()), chosen);
    }
    assert_eq!(
        problems_with(&text, &args(Some("x"), Some("shop"))),
        ["-f: none of the VMs in the files is that of --vm=x --namespace=shop: they have shop/web, shop/db, lab/web"]
    );
    // Problems of the other VM are not reported.
    let broken = text.replacen("port: 22", "port: 0", 1);
    assert_eq!(problems_with(&broken, &args(Some("db"), None)), [""; 0]);
    assert_eq!(problems_with(&broken, &args(Some("web"), Some("shop"))).len(), 1);
}

#[test]
fn objects_without_a_namespace_are_in_that_of_the_option() {
    let nad = "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: net}\nspec:\n  \
               config: '{\"type\": \"bridge\", \"bridge\": \"br0\"}'\n";
    let text = machine("{name: a, bridge: {}}", "{name: a, multus: {networkName: net}}") + nad;
    let args = PlanOptions {
        namespace: Some("shop".into()),
        ..PlanOptions::default()
    };
    let shop = plan(&text, &args);
    assert_eq!(
        (shop.namespace.as_str(), shop.nics[0].network.as_str()),
        ("shop", "shop/net")
    );
    assert_eq!(plan(&text, &PlanOptions::default()).nics[0].network, "default/net");
}
