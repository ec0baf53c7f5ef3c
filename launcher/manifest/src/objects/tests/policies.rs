//! Tests of policies. A VM that a policy selects is not served without enforcement unless an option requests it.

use super::{machine, problems, problems_with};
use crate::plan::options::PlanOptions;

/// A VM with labels on the pod network, in the namespace shop.
fn vm() -> String {
    machine("{name: d, masquerade: {}, ports: [{port: 22}]}", "{name: d, pod: {}}").replace(
        "{name: vm}",
        "{name: vm, namespace: shop, labels: {app: web, tier: front}}",
    )
}

/// A VM on the network shop/net only.
fn on_segment() -> String {
    let nad = "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: net, namespace: \
               shop}\nspec:\n  config: '{\"type\": \"bridge\", \"bridge\": \"br0\"}'\n";
    machine("{name: a, bridge: {}}", "{name: a, multus: {networkName: net}}")
        .replace("{name: vm}", "{name: vm, namespace: shop, labels: {app: web}}")
        + nad
}

fn policy(version: &str, kind: &str, metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n")
}

fn network_policy(metadata: &str, selector: &str) -> String {
    let spec = format!("{{podSelector: {selector}, policyTypes: [Ingress]}}");
    policy("networking.k8s.io/v1", "NetworkPolicy", metadata, &spec)
}

fn cluster_policy(kind: &str, version: &str, subject: &str) -> String {
    let version = format!("policy.networking.k8s.io/{version}");
    policy(
        &version,
        kind,
        "{name: p}",
        &format!("{{priority: 1, subject: {subject}}}"),
    )
}

fn ignoring() -> PlanOptions {
    PlanOptions {
        ignore_policies: true,
        ..PlanOptions::default()
    }
}

const OWN: &str = "{name: p, namespace: shop}";

#[test]
fn a_policy_that_selects_the_vm_is_an_error_that_an_option_waives() {
    for (text, title) in [
        (network_policy(OWN, "{}"), "NetworkPolicy shop/p"),
        (network_policy(OWN, "{matchLabels: {app: web}}"), "NetworkPolicy shop/p"),
        (
            network_policy(
                OWN,
                "{matchLabels: {vmi.kubevirt.io/id: vm, kubevirt.io: virt-launcher}}",
            ),
            "NetworkPolicy shop/p",
        ),
        (
            network_policy(
                OWN,
                "{matchExpressions: [{key: app, operator: In, values: [db, web]}, {key: x, operator: DoesNotExist}, \
                 {key: tier, operator: NotIn, values: [back]}, {key: tier, operator: Exists}]}",
            ),
            "NetworkPolicy shop/p",
        ),
        (
            policy(
                "k8s.ovn.org/v1",
                "EgressFirewall",
                "{name: default, namespace: shop}",
                "{egress: []}",
            ),
            "EgressFirewall shop/default",
        ),
        (
            cluster_policy("AdminNetworkPolicy", "v1alpha1", "{namespaces: {}}"),
            "AdminNetworkPolicy p",
        ),
        (
            cluster_policy(
                "BaselineAdminNetworkPolicy",
                "v1alpha1",
                "{namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}",
            ),
            "BaselineAdminNetworkPolicy p",
        ),
        (
            cluster_policy(
                "ClusterNetworkPolicy",
                "v1alpha2",
                "{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}",
            ),
            "ClusterNetworkPolicy p",
        ),
    ] {
        assert_eq!(
            problems(&(vm() + &text)),
            [format!(
                "vm.yaml:12: {title} selects VM shop/vm. hawser enforces no policies: leave it out, or serve the VM \
                 open with --ignore-policies"
            )]
        );
        assert_eq!(
            problems_with(&(vm() + &text), &ignoring()),
            [format!(
                "vm.yaml:12: warning: {title} selects VM shop/vm, and is not enforced: --ignore-policies"
            )]
        );
    }
}

#[test]
fn a_policy_that_selects_something_else_is_no_problem() {
    for text in [
        network_policy("{name: p}", "{}"),
        network_policy("{name: p, namespace: other}", "{}"),
        network_policy(OWN, "{matchLabels: {app: db}}"),
        network_policy(OWN, "{matchLabels: {app: web, tier: back}}"),
        network_policy(OWN, "{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}"),
        network_policy(OWN, "{matchExpressions: [{key: x, operator: Exists}]}"),
        network_policy(OWN, "{matchExpressions: [{key: app, operator: DoesNotExist}]}"),
        // Errors of a policy that does not select the VM do not matter either.
        network_policy("{name: p, namespace: other}", "{matchLabels: [x]}"),
        policy(
            "k8s.ovn.org/v1",
            "EgressFirewall",
            "{name: default, namespace: other}",
            "{egress: []}",
        ),
        cluster_policy(
            "AdminNetworkPolicy",
            "v1alpha1",
            "{namespaces: {matchLabels: {kubernetes.io/metadata.name: other}}}",
        ),
        cluster_policy(
            "AdminNetworkPolicy",
            "v1alpha1",
            "{pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchLabels: {app: db}}}}",
        ),
        policy(
            "cilium.io/v2",
            "CiliumNetworkPolicy",
            "{name: p, namespace: other}",
            "{}",
        ),
    ] {
        assert_eq!(problems(&(vm() + &text)), [""; 0], "{text}");
    }
    // The guest is not on the pod network, to which these policies apply.
    for text in [
        network_policy(OWN, "{}"),
        cluster_policy("AdminNetworkPolicy", "v1alpha1", "{namespaces: {}}"),
    ] {
        assert_eq!(problems(&(on_segment() + &text)), [""; 0], "{text}");
    }
}

#[test]
fn a_policy_of_other_networks_selects_vms_on_those() {
    let multi = |networks: &str, selector: &str| {
        let metadata =
            format!("{{name: p, namespace: shop, annotations: {{k8s.v1.cni.cncf.io/policy-for: \"{networks}\"}}}}");
        let spec = format!("{{podSelector: {selector}}}");
        policy("k8s.cni.cncf.io/v1beta2", "MultiNetworkPolicy", &metadata, &spec)
    };
    for networks in ["net", "shop/net", "m, net", "other/x,shop/net"] {
        let found = problems(&(on_segment() + &multi(networks, "{}")));
        assert!(
            found.len() == 1 && found[0].contains("MultiNetworkPolicy shop/p selects VM shop/vm. hawser enforces"),
            "{networks}: {found:?}"
        );
    }
    for (networks, selector) in [
        ("m", "{}"),
        ("other/net", "{}"),
        ("", "{}"),
        ("net", "{matchLabels: {app: db}}"),
    ] {
        assert_eq!(
            problems(&(on_segment() + &multi(networks, selector))),
            [""; 0],
            "{networks}"
        );
    }
    assert_eq!(problems(&(vm() + &multi("net", "{}"))), [""; 0]);
}

#[test]
fn a_policy_that_may_select_the_vm_is_an_error_until_that_is_known() {
    let by_label = cluster_policy(
        "AdminNetworkPolicy",
        "v1alpha1",
        "{namespaces: {matchLabels: {env: prod}}}",
    );
    let found = problems(&(vm() + &by_label));
    assert_eq!(
        found,
        [
            "vm.yaml:12: AdminNetworkPolicy p may select VM shop/vm; labels of the namespace shop decide, which are not \
             known: give its Namespace with -f. hawser enforces no policies: leave it out, or serve the VM open with \
             --ignore-policies"
        ]
    );
    let namespace =
        |labels: &str| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {labels}}}\n");
    assert_eq!(problems(&(vm() + &by_label + &namespace("{env: test}"))), [""; 0]);
    assert!(problems(&(vm() + &by_label + &namespace("{env: prod}")))[0].contains("p selects VM shop/vm"));
    for (version, kind, metadata, title) in [
        ("cilium.io/v2", "CiliumNetworkPolicy", OWN, "CiliumNetworkPolicy shop/p"),
        (
            "cilium.io/v2",
            "CiliumClusterwideNetworkPolicy",
            "{name: p}",
            "CiliumClusterwideNetworkPolicy p",
        ),
        ("projectcalico.org/v3", "NetworkPolicy", OWN, "NetworkPolicy shop/p"),
        (
            "projectcalico.org/v3",
            "GlobalNetworkPolicy",
            "{name: p}",
            "GlobalNetworkPolicy p",
        ),
    ] {
        let text = vm() + &policy(version, kind, metadata, "{selector: all()}");
        let found = problems(&text);
        let expected = format!("vm.yaml:12: {title} may select VM shop/vm; its selectors are not read here.");
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
        let waived = problems_with(&text, &ignoring());
        assert!(waived.len() == 1 && waived[0].contains("warning"), "{waived:?}");
    }
}

#[test]
fn selectors_are_checked_where_they_concern_the_vm() {
    for (selector, expected) in [
        (
            "{matchlabel: {app: web}}",
            "spec.podSelector.matchlabel: there is no such field in a selector",
        ),
        (
            "{matchExpressions: [{key: app, operator: Is, values: [web]}]}",
            "matchExpressions[0].operator: \"Is\": choose one of",
        ),
        (
            "{matchExpressions: [{key: app, operator: In}]}",
            "matchExpressions[0]: values are for In and NotIn, which need at least one",
        ),
        (
            "{matchExpressions: [{key: app, operator: Exists, values: [x]}]}",
            "matchExpressions[0]: values are for In and NotIn",
        ),
        (
            "{matchExpressions: [{key: a b, operator: Exists}]}",
            "matchExpressions[0].key: \"a b\": is not a key that the API server accepts",
        ),
    ] {
        let found = problems(&(vm() + &network_policy(OWN, selector))).join("\n");
        assert!(found.contains(expected), "{selector}: {found}");
    }
}

#[test]
fn the_option_waives_also_what_is_wrong_with_a_policy() {
    let typo = network_policy(OWN, "{matchlabel: {app: web}}");
    let version = typo.replace("networking.k8s.io/v1", "networking.k8s.io/v7");
    for text in [typo, version] {
        let found = problems(&(vm() + &text));
        assert!(found.iter().all(|p| !p.contains(": warning: ")), "{found:?}");
        let waived = problems_with(&(vm() + &text), &ignoring());
        assert_eq!(waived.len(), found.len(), "{waived:?}");
        assert!(waived.iter().all(|p| p.contains(": warning: ")), "{waived:?}");
    }
}

#[test]
fn a_policy_by_labels_the_cluster_puts_on_the_pod_may_select_the_vm() {
    for selector in [
        "{matchExpressions: [{key: kubevirt.io/created-by, operator: Exists}]}",
        "{matchLabels: {topology.kubernetes.io/zone: a}}",
        "{matchExpressions: [{key: kubevirt.io/migrationJobUID, operator: DoesNotExist}]}",
    ] {
        assert_eq!(
            problems(&(vm() + &network_policy(OWN, selector))),
            [
                "vm.yaml:12: NetworkPolicy shop/p may select VM shop/vm; labels that the cluster puts on its pod decide, \
                 which are not known. hawser enforces no policies: leave it out, or serve the VM open with \
                 --ignore-policies"
            ],
            "{selector}"
        );
    }
    let other = "{matchLabels: {app: db}, matchExpressions: [{key: kubevirt.io/created-by, operator: Exists}]}";
    assert_eq!(problems(&(vm() + &network_policy(OWN, other))), [""; 0]);
}
