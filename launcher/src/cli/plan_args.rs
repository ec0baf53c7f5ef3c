//! Options for reading manifests, in the form that clap parses.

use super::tunnel::TunnelArgs;
use clap::{Args, ValueEnum};
use hawser_manifest::objects::names;
use hawser_manifest::plan::options::{DefaultBinding, PlanOptions};

/// Options that complete the manifests.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub(crate) struct PlanArgs {
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
    /// Binding of the interface that KubeVirt adds to a VM without interfaces and networks: the cluster's choice
    /// (KubeVirt's own default is bridge, OpenShift's masquerade)
    #[arg(
        long,
        value_name = "BINDING",
        help_heading = "Manifests",
        value_enum,
        default_value_t
    )]
    pub default_binding: BindingArg,
    /// Refuse networks of namespaces other than the VM's and default, as Multus does with
    /// namespaceIsolation
    #[arg(long, help_heading = "Manifests")]
    pub namespace_isolation: bool,
    /// Serve a VM that policies select (NetworkPolicy and others), without enforcing them
    #[arg(long, help_heading = "Manifests")]
    pub ignore_policies: bool,
    /// Options of tunnels.
    #[command(flatten)]
    pub tunnels: TunnelArgs,
}

/// Values of `--default-binding`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BindingArg {
    /// NAT behind the pod's addresses.
    #[default]
    Masquerade,
    /// The guest takes over the pod's interface.
    Bridge,
}

impl PlanArgs {
    /// Converts the options to those of the planner.
    pub(crate) fn options(&self) -> PlanOptions {
        PlanOptions {
            vm: self.vm.clone(),
            namespace: self.namespace.clone(),
            default_binding: match self.default_binding {
                BindingArg::Masquerade => DefaultBinding::Masquerade,
                BindingArg::Bridge => DefaultBinding::Bridge,
            },
            namespace_isolation: self.namespace_isolation,
            ignore_policies: self.ignore_policies,
            tunnels: self.tunnels.options(),
        }
    }
}
