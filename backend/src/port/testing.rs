//! Configurations for tests.

use crate::config::{MasqueradeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use std::num::NonZeroU16;

/// A masquerade configuration without any address, with this many queue pairs.
pub(crate) fn config(queue_pairs: u16) -> PortConfig {
    PortConfig {
        name: "test".into(),
        mac: None,
        mtu: 1500,
        queue_pairs: NonZeroU16::new(queue_pairs).unwrap(),
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        mode: ModeConfig::Masquerade(MasqueradeConfig::default()),
    }
}
