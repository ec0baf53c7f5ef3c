//! Settings that the manifests do not contain.

use super::layer2::TunnelOptions;
use crate::objects::interface::Binding;
use crate::objects::metadata::DEFAULT_NAMESPACE;

/// Options for reading manifests.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// VM to plan. It is required if the files contain several.
    pub vm: Option<String>,
    /// Namespace of the VM and of objects without one. `None` means `default`.
    pub namespace: Option<String>,
    /// Binding of the interface that KubeVirt adds to a VM without interfaces and networks.
    pub default_binding: DefaultBinding,
    /// True to refuse networks of namespaces other than the VM's and `default` (`namespaceIsolation` of Multus).
    pub namespace_isolation: bool,
    /// True to plan a VM that policies select, with a warning in place of an error.
    pub ignore_policies: bool,
    /// Settings of tunnels.
    pub tunnels: TunnelOptions,
}

/// The cluster's choice for an interface that KubeVirt adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultBinding {
    /// NAT behind the addresses of the pod.
    #[default]
    Masquerade,
    /// The guest takes over the pod's interface.
    Bridge,
}

impl DefaultBinding {
    /// The binding of an interface that has the same effect.
    pub const fn binding(self) -> Binding {
        match self {
            Self::Masquerade => Binding::Masquerade,
            Self::Bridge => Binding::Bridge,
        }
    }
}

impl PlanOptions {
    /// The namespace of objects that name none.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}
