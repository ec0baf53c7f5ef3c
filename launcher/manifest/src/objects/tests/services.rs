//! Tests of Services: which of them select the VM, and how they are served.

use super::{machine, planned, problems};
use crate::plan::NicMode;
use crate::plan::options::PlanOptions;

/// A masqueraded VM with this metadata in the namespace `default`. Its port 22 is named ssh.
fn vm(metadata: &str) -> String {
    machine(
        "{name: d, masquerade: {}, ports: [{port: 22, name: ssh}]}",
        "{name: d, pod: {}}",
    )
    .replace("{name: vm}", metadata)
}

fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// A NodePort Service on port 30022 with this selector and additional fields.
fn node_port(selector: &str, more: &str) -> String {
    service(
        "s",
        &format!("{{type: NodePort, selector: {selector}, ports: [{{port: 22, nodePort: 30022}}]{more}}}"),
    )
}

/// The forwards in the plan of a file.
fn forwards(text: &str) -> Vec<String> {
    let plan = planned(text, &PlanOptions::default())
        .unwrap_or_else(|rejected| panic!("{:?}", rejected.errors))
        .plan;
    let NicMode::Masquerade(masquerade) = &plan.nics[0].mode else {
        panic!("masquerade is planned")
    };
    masquerade.forwards.iter().map(ToString::to_string).collect()
}

#[test]
fn the_labels_kubevirt_puts_on_a_pod_are_selected_by() {
    let long = "v".repeat(70);
    for (metadata, selector) in [
        ("{name: web}", "{vmi.kubevirt.io/id: web}".to_owned()),
        ("{name: web}", "{vm.kubevirt.io/name: web}".into()),
        ("{name: web}", "{kubevirt.io: virt-launcher}".into()),
        (
            "{name: web, labels: {app: x}}",
            "{app: x, vmi.kubevirt.io/id: web, kubevirt.io: virt-launcher}".into(),
        ),
        // KubeVirt's label replaces the one in the manifest.
        (
            "{name: web, labels: {kubevirt.io: mine}}",
            "{kubevirt.io: virt-launcher}".into(),
        ),
        (
            "{name: web, annotations: {sidecar.istio.io/inject: \"false\"}}",
            "{sidecar.istio.io/inject: \"false\"}".into(),
        ),
        (
            "{name: web.shop}",
            "{vmi.kubevirt.io/id: web.shop, vm.kubevirt.io/name: web}".into(),
        ),
        // The label has 54 bytes of the name and 8 digits of its SHA-1.
        (
            &format!("{{name: {long}}}"),
            format!("{{vmi.kubevirt.io/id: {}-fc1fb688}}", "v".repeat(54)),
        ),
    ] {
        let text = vm(metadata) + &node_port(&selector, "");
        assert_eq!(forwards(&text), ["tcp:22", "tcp:30022:22"], "{metadata} {selector}");
        assert_eq!(problems(&text), [""; 0], "{metadata} {selector}");
    }
    let hostname = vm("{name: web}").replace("spec:\n", "spec:\n  hostname: other\n");
    assert_eq!(
        forwards(&(hostname + &node_port("{vm.kubevirt.io/name: other}", ""))).len(),
        2
    );
    let mine = vm("{name: web, labels: {kubevirt.io: mine}}") + &node_port("{kubevirt.io: mine}", "");
    assert_eq!(forwards(&mine), ["tcp:22"]);
}

#[test]
fn services_that_lead_nowhere_are_named() {
    let web = vm("{name: web, labels: {app: x}}");
    let leads_nowhere = "vm.yaml:12: warning: Service default/s leads nowhere: no VM of the files has the labels app=z";
    for selector in ["{app: z}", "{app: z, kubevirt.io: virt-launcher}"] {
        let found = problems(&(web.clone() + &node_port(selector, "")));
        assert!(found.len() == 1 && found[0].starts_with(leads_nowhere), "{found:?}");
    }
    // These are Services of another namespace, without a selector, with an external name, or for another VM.
    let elsewhere = node_port("{app: z}", "").replace("{name: s}", "{name: s, namespace: other}");
    assert_eq!(problems(&(web.clone() + &elsewhere)), [""; 0]);
    assert_eq!(
        problems(&(web.clone() + &service("s", "{ports: [{port: 1}]}"))),
        [""; 0]
    );
    let external = service(
        "s",
        "{type: ExternalName, externalName: example.com, selector: {app: z}}",
    );
    assert_eq!(problems(&(web.clone() + &external)), [""; 0]);
    let two = format!(
        "{web}---\n{}{}",
        vm("{name: db, labels: {app: z}}"),
        node_port("{app: z}", "")
    );
    let args = PlanOptions {
        vm: Some("web".into()),
        ..PlanOptions::default()
    };
    assert_eq!(planned(&two, &args).unwrap().warnings, []);
}

#[test]
fn a_service_of_another_workload_is_no_problem_whatever_it_says() {
    let web = vm("{name: web, labels: {app: x}}");
    let other = service(
        "other",
        "{type: NodePort, selector: {app: z}, ports: [{port: 1, protocol: SCTP, nodePort: 99999}, {port: x}]}",
    );
    let found = problems(&(web.clone() + &other));
    assert!(found.len() == 1 && found[0].contains("leads nowhere"), "{found:?}");
    let own = problems(&(web + &other.replace("app: z", "app: x"))).join("\n");
    assert!(own.contains("spec.ports[0].protocol: \"SCTP\": choose one of"), "{own}");
    assert!(own.contains("spec.ports[0].nodePort: found \"99999\""), "{own}");
    // Knative's Service is another kind, and not a version of this one.
    let knative = "---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\nspec: {template: {}}\n";
    let found = problems(&(vm("{name: web}") + knative));
    assert!(found.len() == 1 && found[0].contains("warning: ignored: kind Service of serving.knative.dev/v1"));
}

#[test]
fn a_service_of_one_family_is_listened_for_in_that_one() {
    let web = vm("{name: web, labels: {app: x}}");
    for (more, expected) in [
        ("", "tcp:30022:22"),
        (", ipFamilies: [IPv4]", "tcp:0.0.0.0:30022:22"),
        (", ipFamilies: [IPv6]", "tcp:[::]:30022:22"),
        (", ipFamilies: [IPv6], ipFamilyPolicy: SingleStack", "tcp:[::]:30022:22"),
        (", ipFamilies: [IPv4, IPv6]", "tcp:30022:22"),
        (", ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack", "tcp:30022:22"),
        (", ipFamilies: [IPv4], ipFamilyPolicy: RequireDualStack", "tcp:30022:22"),
        (", ipFamilyPolicy: SingleStack", "tcp:30022:22"),
        (", sessionAffinity: ClientIP", "tcp:30022:22"),
    ] {
        let text = web.clone() + &node_port("{app: x}", more);
        assert_eq!(forwards(&text), ["tcp:22", expected], "{more}");
        assert_eq!(problems(&text), [""; 0], "{more}");
    }
}

#[test]
fn fields_of_a_service_are_checked() {
    let web = vm("{name: web, labels: {app: x}}");
    for (more, expected) in [
        (
            ", ipFamilies: [IPv5]",
            "spec.ipFamilies[0]: \"IPv5\": choose one of \"IPv4\", \"IPv6\"",
        ),
        (
            ", ipFamilies: [IPv4, IPv4]",
            "spec.ipFamilies: a family is in the list twice",
        ),
        (
            ", ipFamilies: [IPv4, IPv6], ipFamilyPolicy: SingleStack",
            "spec.ipFamilies: two families contradict ipFamilyPolicy SingleStack",
        ),
        (", ipFamilyPolicy: Dual", "spec.ipFamilyPolicy: \"Dual\": choose one of"),
        (
            ", sessionAffinity: Cookie",
            "spec.sessionAffinity: \"Cookie\": choose one of \"None\", \"ClientIP\"",
        ),
        (
            ", loadBalancerSourceRanges: [10.0.0.0/8]",
            "spec.loadBalancerSourceRanges: only a Service of type LoadBalancer has clients of a load balancer",
        ),
    ] {
        let found = problems(&(web.clone() + &node_port("{app: x}", more)));
        assert!(found.len() == 1 && found[0].contains(expected), "{more}: {found:?}");
    }
    let balanced = |ranges: &str| {
        let service = node_port("{app: x}", &format!(", loadBalancerSourceRanges: [{ranges}]"));
        problems(&(web.clone() + &service.replace("NodePort", "LoadBalancer")))
    };
    let warned = balanced("10.0.0.0/8, fd00::/8");
    assert!(warned.len() == 1 && warned[0].contains("warning: spec.loadBalancerSourceRanges: not enforced"));
    assert!(balanced("10.0.0.0/33")[0].contains("loadBalancerSourceRanges[0]: \"10.0.0.0/33\": give a network"));
    let of_ports = |ports: &str| {
        let spec = format!("{{type: NodePort, selector: {{app: x}}, ports: [{ports}]}}");
        problems(&(web.clone() + &service("s", &spec)))
    };
    let ssh = "port: 22, nodePort: 30022";
    for (ports, expected) in [
        (
            format!("{{{ssh}}}, {{port: 22, nodePort: 30023, name: b}}"),
            "spec.ports[0]: name is missing: each of several ports needs one",
        ),
        (
            format!("{{{ssh}, name: b}}, {{port: 22, nodePort: 30023, name: b}}"),
            "spec.ports[1].name: another port has the same name",
        ),
        (
            format!("{{{ssh}, name: B}}"),
            "spec.ports[0].name: \"B\": give up to 63 lower-case letters",
        ),
        (
            format!("{{{ssh}, targetPort: \"22\"}}"),
            "spec.ports[0].targetPort: \"22\": give up to 15 lower-case letters, digits and hyphens",
        ),
    ] {
        let found = of_ports(&ports);
        assert!(found.len() == 1 && found[0].contains(expected), "{ports}: {found:?}");
    }
    assert_eq!(of_ports(&format!("{{{ssh}, targetPort: 0}}")), [""; 0]);
    let unnamed = service("Bad_Name", "{type: NodePort, selector: {app: x}, ports: []}");
    assert!(problems(&(web.clone() + &unnamed))[0].contains("metadata.name: \"Bad_Name\": the API server refuses"));
}

#[test]
fn sctp_is_an_error_only_where_nodes_listen_for_it() {
    let sctp = |kind: &str| {
        let spec = format!("{{type: {kind}, selector: {{app: x}}, ports: [{{port: 1, protocol: SCTP}}]}}");
        problems(&(vm("{name: web, labels: {app: x}}") + &service("s", &spec))).join("\n")
    };
    assert_eq!(
        sctp("ClusterIP"),
        "vm.yaml:15: warning: spec.ports[0].protocol: not served: hawser carries TCP and UDP"
    );
    for kind in ["NodePort", "LoadBalancer"] {
        assert!(
            sctp(kind).contains("protocol: \"SCTP\": choose one of"),
            "{}",
            sctp(kind)
        );
    }
}

#[test]
fn ports_on_a_primary_network_only_name_the_targets_of_services() {
    let interface = "{name: lan, binding: {name: l2bridge}, ports: [{name: web, port: 8080}]}";
    let vm = machine(interface, "{name: lan, pod: {}}");
    let network = "---\napiVersion: k8s.ovn.org/v1\nkind: UserDefinedNetwork\nmetadata: {name: net}\nspec: {topology: \
                   Layer2, layer2: {role: Primary, subnets: [10.1.0.0/24]}}\n";
    let service = |target: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{type: NodePort, selector: {{app: vm}}, \
             ports: [{{port: 80, nodePort: 30080, targetPort: {target}}}]}}\n"
        )
    };
    let labelled = vm.replace("{name: vm}", "{name: vm, labels: {app: vm}}");
    for (target, port) in [("web", 8080), ("22", 22)] {
        let checked = planned(
            &format!("{labelled}{network}{}", service(target)),
            &PlanOptions::default(),
        )
        .unwrap();
        let NicMode::Layer2(plan) = &checked.plan.nics[0].mode else {
            panic!("{:?}", checked.plan)
        };
        assert_eq!(plan.forwards.len(), 1, "{:?}", checked.warnings);
        assert_eq!((plan.forwards[0].host_port, plan.forwards[0].guest_port), (30080, port));
        let words = "every port of the guest is reachable on its network";
        assert!(checked.warnings.iter().any(|warning| warning.message.contains(words)));
    }
    let ranges = labelled.replace(
        "ports: [{name: web, port: 8080}]",
        "portRanges: [{start: 1, end: 2, protocol: TCP}]",
    );
    assert!(problems(&(ranges + network))[0].contains("only an interface bound with masquerade"));
}
