//! Options that say how manifests are read, as clap sees them.

use crate::manifest::interface::Binding;
use crate::manifest::metadata::DEFAULT_NAMESPACE;
use crate::manifest::names;
use clap::{Args, ValueEnum};

/// What the files do not say themselves.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub struct PlanArgs {
    /// Name of the VM; required if the files describe several
    #[arg(long, value_name = "NAME", help_heading = "Manifests", value_parser = names::dns_subdomain)]
    pub vm: Option<String>,
    /// Namespace of the VM, and of objects without a namespace [default: default]
    #[arg(
        short = 'n',
        long,
        value_name = "NAMESPACE",
        help_heading = "Manifests",
        value_parser = names::dns_label
    )]
    pub namespace: Option<String>,
    /// Binding of the interface KubeVirt adds to a VM without interfaces and networks: the
    /// cluster's choice (KubeVirt's own default is bridge, OpenShift's masquerade)
    #[arg(
        long,
        value_name = "BINDING",
        help_heading = "Manifests",
        value_enum,
        default_value_t
    )]
    pub default_binding: DefaultBinding,
    /// Refuse networks of namespaces other than the VM's and default, as Multus does with
    /// namespaceIsolation
    #[arg(long, help_heading = "Manifests")]
    pub namespace_isolation: bool,
    /// Serve a VM that policies select (NetworkPolicy and others), without enforcing them
    #[arg(long, help_heading = "Manifests")]
    pub ignore_policies: bool,
}

/// `--default-binding`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DefaultBinding {
    /// NAT behind the pod's addresses.
    #[default]
    Masquerade,
    /// The guest takes over the pod's interface.
    Bridge,
}

impl DefaultBinding {
    /// As an interface says it.
    pub const fn binding(self) -> Binding {
        match self {
            Self::Masquerade => Binding::Masquerade,
            Self::Bridge => Binding::Bridge,
        }
    }
}

impl PlanArgs {
    /// Where objects are that name no namespace.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}
