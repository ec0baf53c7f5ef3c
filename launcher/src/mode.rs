//! Modes by their names, as options, the API and the log write them.

use clap::ValueEnum;
use hawser_config::ModeConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A mode of a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// A private network behind NAT through ordinary sockets.
    Masquerade,
    /// An L2 segment of the host.
    Bridge,
    /// A network that spans nodes.
    Layer2,
    /// A virtual function, passed to the guest.
    #[value(skip)]
    Sriov,
}

impl Mode {
    /// The mode of a configuration.
    pub(crate) const fn of(config: &ModeConfig) -> Self {
        match config {
            ModeConfig::Masquerade(_) => Self::Masquerade,
            ModeConfig::Bridge(_) => Self::Bridge,
            ModeConfig::Layer2(_) => Self::Layer2,
        }
    }

    /// The mode of a NIC without a port.
    pub(crate) const fn without_port() -> Self {
        Self::Sriov
    }

    /// Name of the mode.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Masquerade => "masquerade",
            Self::Bridge => "bridge",
            Self::Layer2 => "layer2",
            Self::Sriov => "sriov",
        }
    }

    /// True if a NIC of the mode is attached to links of the host.
    pub(crate) const fn uses_links(self) -> bool {
        match self {
            Self::Masquerade | Self::Layer2 | Self::Sriov => false,
            Self::Bridge => true,
        }
    }

    /// True if echo requests of the guest leave through sockets of the host.
    pub(crate) const fn sends_echo(self) -> bool {
        match self {
            Self::Masquerade | Self::Layer2 => true,
            Self::Bridge | Self::Sriov => false,
        }
    }
}
