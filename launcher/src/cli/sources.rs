//! Options that name files with manifests, as kubectl's do, or without `-f`.

use clap::Args;
use std::path::PathBuf;

/// Files with manifests.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct SourceArgs {
    /// Manifests (VirtualMachine, NetworkAttachmentDefinition, Service, …): a file, a directory, or - for
    /// standard input; may be repeated
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE",
        required_unless_present = "manifests"
    )]
    named: Vec<PathBuf>,
    /// The same as -f
    #[arg(id = "manifests", value_name = "FILE")]
    plain: Vec<PathBuf>,
}

impl SourceArgs {
    /// The files, those of options first.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.named.iter().chain(&self.plain).cloned().collect()
    }
}
