//! Describes a port in one line.

use hawser_backend::config::{MasqueradeConfig, ModeConfig, PortConfig};
use hawser_backend::port::PortResources;
use std::fmt;

/// Describes a port in one line.
pub(super) struct Summary<'a> {
    pub config: &'a PortConfig,
    pub resources: &'a PortResources,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.config.mode {
            ModeConfig::Masquerade(config) => {
                write!(f, "masquerade, guest ")?;
                write_addresses(f, config)?;
            }
            ModeConfig::Bridge(_) => {
                let device = self.resources.queues.first().map(|queue| queue.name());
                write!(f, "bridge, device {}", device.unwrap_or_default())?;
            }
        }
        write!(f, ", MTU {}", self.config.mtu)?;
        if let Some(mac) = self.config.mac {
            write!(f, ", MAC {mac}")?;
        }
        match self.config.queue_pairs.get() {
            1 => {}
            n => write!(f, ", {n} queue pairs")?,
        }
        let ModeConfig::Masquerade(config) = &self.config.mode else {
            return write!(f, ", {}", self.config.policy.vlan);
        };
        let mut separator = ", ports ";
        for forward in &config.forwards {
            write!(f, "{separator}{forward}")?;
            separator = " ";
        }
        Ok(())
    }
}

fn write_addresses(f: &mut fmt::Formatter<'_>, config: &MasqueradeConfig) -> fmt::Result {
    let v4 = config.ipv4.map(|l| format!("{}/{}", l.guest, l.network.prefix_len()));
    let v6 = config.ipv6.map(|l| format!("{}/{}", l.guest, l.network.prefix_len()));
    let addresses: Vec<String> = [v4, v6].into_iter().flatten().collect();
    f.write_str(&addresses.join(" and "))
}
