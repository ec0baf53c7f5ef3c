//! What is served, in one line.

use hawser_backend::config::{MasqueradeConfig, ModeConfig, PortConfig};
use std::fmt;

/// One line that says what is served.
pub(super) struct Summary<'a>(pub &'a PortConfig);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.mode {
            ModeConfig::Masquerade(config) => {
                write!(f, "masquerade, guest ")?;
                write_addresses(f, config)?;
            }
            ModeConfig::Bridge(config) => {
                let device = config.queues.first().map(|queue| queue.name());
                write!(f, "bridge, device {}", device.unwrap_or_default())?;
            }
        }
        write!(f, ", MTU {}", self.0.mtu)?;
        if let Some(mac) = self.0.mac {
            write!(f, ", MAC {mac}")?;
        }
        match self.0.queue_pairs.get() {
            1 => {}
            n => write!(f, ", {n} queue pairs")?,
        }
        let ModeConfig::Masquerade(config) = &self.0.mode else {
            return write!(f, ", {}", self.0.policy.vlan);
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
