//! The names by which commands and requests refer to kinds of objects.

/// A kind of object in the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// `kind` in manifests.
    pub kind: &'static str,
    /// Name in the plural, followed by short names.
    names: &'static [&'static str],
    /// True if its objects have a namespace.
    pub is_namespaced: bool,
    /// True if agents write its objects, to report a state.
    pub is_report: bool,
}

const fn resource(kind: &'static str, names: &'static [&'static str]) -> Resource {
    Resource {
        kind,
        names,
        is_namespaced: true,
        is_report: false,
    }
}

const fn of_cluster(kind: &'static str, names: &'static [&'static str]) -> Resource {
    Resource {
        is_namespaced: false,
        ..resource(kind, names)
    }
}

const fn report(kind: &'static str, names: &'static [&'static str]) -> Resource {
    Resource {
        is_report: true,
        ..of_cluster(kind, names)
    }
}

/// A VM, whichever of KubeVirt's two kinds describes it.
pub(crate) static VM: Resource = resource(
    "VirtualMachine",
    &[
        "virtualmachines",
        "vm",
        "vms",
        "virtualmachineinstances",
        "vmi",
        "vmis",
        "virtualmachineinstance",
    ],
);
/// A node, which its agent creates.
pub(crate) static NODE: Resource = of_cluster("Node", &["nodes", "no"]);

/// A policy for the links of nodes.
pub(crate) static LINK_POLICY: Resource = of_cluster(
    "NodeNetworkConfigurationPolicy",
    &["nodenetworkconfigurationpolicies", "nncp", "nncps"],
);
/// How far a policy is on a node.
pub(crate) static ENACTMENT: Resource = report(
    "NodeNetworkConfigurationEnactment",
    &["nodenetworkconfigurationenactments", "nnce", "nnces"],
);
/// The links of a node.
pub(crate) static LINKS: Resource = report("NodeNetworkState", &["nodenetworkstates", "nns"]);

static OTHERS: &[Resource] = &[
    resource("UserDefinedNetwork", &["userdefinednetworks", "udn", "udns"]),
    of_cluster(
        "ClusterUserDefinedNetwork",
        &["clusteruserdefinednetworks", "cudn", "cudns"],
    ),
    resource(
        "NetworkAttachmentDefinition",
        &["network-attachment-definitions", "nad", "nads", "net-attach-def"],
    ),
    resource("SriovNetwork", &["sriovnetworks"]),
    resource("SriovNetworkNodePolicy", &["sriovnetworknodepolicies"]),
    resource("Service", &["services", "svc"]),
    resource("EndpointSlice", &["endpointslices"]),
    resource("ConfigMap", &["configmaps", "cm"]),
    of_cluster("Namespace", &["namespaces", "ns"]),
    resource("IPAMClaim", &["ipamclaims"]),
    resource("NetworkPolicy", &["networkpolicies", "netpol"]),
    resource("MultiNetworkPolicy", &["multi-networkpolicies"]),
    of_cluster("AdminNetworkPolicy", &["adminnetworkpolicies", "anp"]),
    of_cluster("BaselineAdminNetworkPolicy", &["baselineadminnetworkpolicies", "banp"]),
    of_cluster("ClusterNetworkPolicy", &["clusternetworkpolicies", "cnp"]),
    resource("EgressFirewall", &["egressfirewalls"]),
];

/// Finds a kind by its name in the singular or plural, or by a short name, in any case.
pub(crate) fn find(name: &str) -> Result<&'static Resource, String> {
    let name = name.to_ascii_lowercase();
    let is_named =
        |resource: &&Resource| resource.kind.to_ascii_lowercase() == name || resource.names.contains(&name.as_str());
    let all = || [&VM, &NODE, &LINK_POLICY, &ENACTMENT, &LINKS].into_iter().chain(OTHERS);
    all().find(is_named).ok_or_else(|| {
        let names: Vec<&str> = all().map(|resource| resource.names[0]).collect();
        format!("there is no kind {name:?}: give one of {}", names.join(", "))
    })
}

/// The kind as stored, of a kind in a manifest. `None` if the store does not keep such objects.
pub(crate) fn of_manifest(kind: &str) -> Option<&'static Resource> {
    match kind {
        "VirtualMachineInstance" => Some(&VM),
        _ => [&VM, &LINK_POLICY]
            .into_iter()
            .chain(OTHERS)
            .find(|resource| resource.kind == kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_every_name_that_kubectl_knows() {
        for name in ["vm", "VMs", "VirtualMachine", "vmi", "virtualmachines"] {
            assert_eq!(find(name), Ok(&VM), "{name}");
        }
        assert_eq!(find("udn").unwrap().kind, "UserDefinedNetwork");
        assert_eq!(find("no"), Ok(&NODE));
        let error = find("pods").unwrap_err();
        assert!(
            error.contains("\"pods\"") && error.contains("userdefinednetworks"),
            "{error}"
        );
    }

    #[test]
    fn no_name_has_two_kinds() {
        let mut names: Vec<&str> = [&VM, &NODE]
            .into_iter()
            .chain(OTHERS)
            .flat_map(|resource| resource.names.iter().copied())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
