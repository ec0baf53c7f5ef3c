//! Policies, namespaces and selectors.

use crate::objects::reader::{ObjectType, Unknown, honoured, passed_over};

const METADATA: crate::objects::reader::Field = honoured("metadata", "name and namespace");
const KIND: crate::objects::reader::Field = honoured("kind", "");

/// `networking.k8s.io/v1`
pub static NETWORK_POLICY: ObjectType = ObjectType {
    name: "NetworkPolicy",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`networking.k8s.io/v1`"),
        KIND,
        METADATA,
        honoured(
            "spec",
            "a VM that the policy's `podSelector` selects is refused, unless --ignore-policies is given",
        ),
    ],
};

/// `k8s.cni.cncf.io/v1beta1`, `v1beta2`
pub static MULTI_NETWORK_POLICY: ObjectType = ObjectType {
    name: "MultiNetworkPolicy",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`k8s.cni.cncf.io/v1beta1` or `v1beta2`"),
        KIND,
        honoured(
            "metadata",
            "the annotation `k8s.v1.cni.cncf.io/policy-for` names the networks; without it nothing \
             is selected",
        ),
        honoured("spec", "as in a NetworkPolicy, for VMs on those networks"),
    ],
};

/// `spec` of both.
pub static POLICY_SPEC: ObjectType = ObjectType {
    name: "NetworkPolicy, MultiNetworkPolicy spec",
    unknown: Unknown::PassedOver,
    fields: &[honoured(
        "podSelector",
        "labels of the VM's pod; all pods of the namespace if it is empty",
    )],
};

/// `policy.networking.k8s.io`
pub static CLUSTER_POLICY: ObjectType = ObjectType {
    name: "AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured(
            "apiVersion",
            "`policy.networking.k8s.io/v1alpha1`, of a ClusterNetworkPolicy `v1alpha2`",
        ),
        KIND,
        honoured("metadata", "name"),
        honoured(
            "spec",
            "a VM that its subject selects is refused, unless --ignore-policies is given",
        ),
    ],
};

/// `spec` of a cluster policy.
pub static CLUSTER_POLICY_SPEC: ObjectType = ObjectType {
    name: "AdminNetworkPolicy spec",
    unknown: Unknown::PassedOver,
    fields: &[honoured("subject", "")],
};

/// `spec.subject`
pub static SUBJECT: ObjectType = ObjectType {
    name: "AdminNetworkPolicy spec.subject",
    unknown: Unknown::Refused,
    fields: &[
        honoured(
            "namespaces",
            "labels of the VM's namespace: `kubernetes.io/metadata.name`, and those of its \
             Namespace if that is in the files; a selector that depends on others may select the VM",
        ),
        honoured("pods", ""),
    ],
};

/// `spec.subject.pods`
pub static SUBJECT_PODS: ObjectType = ObjectType {
    name: "AdminNetworkPolicy spec.subject.pods",
    unknown: Unknown::Refused,
    fields: &[
        honoured("namespaceSelector", "as `namespaces`"),
        honoured("podSelector", "labels of the VM's pod"),
    ],
};

/// `k8s.ovn.org/v1`
pub static EGRESS_FIREWALL: ObjectType = ObjectType {
    name: "EgressFirewall",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`k8s.ovn.org/v1`"),
        KIND,
        honoured(
            "metadata",
            "it selects every VM of its namespace, and each is refused, unless --ignore-policies is given",
        ),
        passed_over("spec", "no part is enforced"),
    ],
};

/// Policies of Cilium, Calico and OpenShift SDN.
pub static OTHER_POLICY: ObjectType = ObjectType {
    name: "CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, Calico's NetworkPolicy and GlobalNetworkPolicy, EgressNetworkPolicy",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured(
            "apiVersion",
            "any of `cilium.io`, `projectcalico.org`, `crd.projectcalico.org`, `network.openshift.io`",
        ),
        KIND,
        honoured(
            "metadata",
            "it may select any VM of its namespace (of any namespace, if it has none), and each is \
             refused, unless --ignore-policies is given",
        ),
        passed_over("spec", "its selectors are not read"),
    ],
};

/// A Namespace.
pub static NAMESPACE: ObjectType = ObjectType {
    name: "Namespace",
    unknown: Unknown::PassedOver,
    fields: &[
        honoured("apiVersion", "`v1`"),
        KIND,
        honoured(
            "metadata",
            "policies and ClusterUserDefinedNetworks select it by its labels",
        ),
    ],
};

/// A label selector.
pub static SELECTOR: ObjectType = ObjectType {
    name: "a selector",
    unknown: Unknown::Refused,
    fields: &[honoured("matchLabels", ""), honoured("matchExpressions", "")],
};

/// `matchExpressions[]`
pub static REQUIREMENT: ObjectType = ObjectType {
    name: "a selector's matchExpressions[]",
    unknown: Unknown::Refused,
    fields: &[
        honoured("key", ""),
        honoured("operator", "`In`, `NotIn`, `Exists`, `DoesNotExist`"),
        honoured("values", "of `In` and `NotIn`"),
    ],
};
