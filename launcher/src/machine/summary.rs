//! Describes a port in one line.

use hawser_backend::config::PortConfig;
use hawser_backend::port::PortResources;
use std::fmt;

/// Describes a port in one line.
pub(super) struct Summary<'a> {
    pub config: &'a PortConfig,
    pub resources: &'a PortResources,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.config.mode.properties();
        mode.summarize(f)?;
        if let Some(queue) = self.resources.queues.first() {
            write!(f, ", device {}", queue.name())?;
        }
        write!(f, ", MTU {}", self.config.mtu)?;
        if let Some(mac) = self.config.mac {
            write!(f, ", MAC {mac}")?;
        }
        match self.config.queue_pairs.get() {
            1 => {}
            n => write!(f, ", {n} queue pairs")?,
        }
        let Some(inbound) = mode.inbound() else {
            return write!(f, ", {}", self.config.policy.vlan);
        };
        let mut separator = ", ports ";
        for forward in inbound.forwards {
            write!(f, "{separator}{forward}")?;
            separator = " ";
        }
        Ok(())
    }
}
