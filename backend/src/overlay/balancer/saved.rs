//! Flows to Services as plain values, for a live upgrade.

use super::flows::{Flow, MAX_FLOWS, STATES};
use super::{Balancer, SWEEP};
use crate::config::payload::Payload;
use crate::nat::saved::{LoadError, Nanos, ensure, within};
use crate::packet::{FlowId, protocol};
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// A flow to an endpoint in the network.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::overlay) struct SavedServiceFlow {
    /// TCP or UDP.
    protocol: u8,
    guest: SocketAddr,
    /// The virtual address and port.
    service: SocketAddr,
    endpoint: SocketAddr,
    /// The guest as the endpoint sees it.
    client: SocketAddr,
    /// Time since the last packet.
    idle: Nanos,
    /// 1: the guest has sent FIN; 2: the endpoint has; 4: the endpoint has answered; 8: reset.
    state: u8,
}

impl Payload for SavedServiceFlow {
    const KIND: &'static str = "service-flow";
    const VERSION: u32 = 1;
}

impl SavedServiceFlow {
    fn of(flow: &Flow, now: Instant) -> Self {
        Self {
            protocol: flow.key.protocol,
            guest: flow.key.guest_end(),
            service: flow.key.remote_end(),
            endpoint: flow.endpoint,
            client: flow.client,
            idle: Nanos::since(flow.last(), now),
            state: flow.state(),
        }
    }

    fn flow(&self, now: Instant) -> Result<Flow, LoadError> {
        let key = match self.protocol {
            protocol::TCP => FlowId::tcp(self.guest, self.service),
            _ => FlowId::udp(self.guest, self.service),
        };
        ensure(key.protocol == self.protocol, "its protocol has no ports")?;
        let ends = [self.endpoint, self.client];
        let others = [self.service].into_iter().chain(ends);
        let is_same = |other: SocketAddr| other.is_ipv4() == self.guest.is_ipv4();
        ensure(others.into_iter().all(is_same), "its addresses are of two families")?;
        within("state", self.state, 0..=STATES)?;
        Ok(Flow::restored(key, ends, self.idle.before(now), self.state))
    }
}

impl Balancer {
    /// The flows of all workers, if this is the first of them.
    pub(in crate::overlay) fn save(&mut self, now: Instant) -> Vec<SavedServiceFlow> {
        if self.worker != 0 {
            return Vec::new();
        }
        self.renew(now);
        self.flows.sweep(now);
        self.flows.all().map(|flow| SavedServiceFlow::of(flow, now)).collect()
    }

    /// Adds flows of another process, for all workers.
    ///
    /// # Errors
    /// [`LoadError`]. Some may have been added.
    pub(in crate::overlay) fn load(&mut self, now: Instant, flows: &[SavedServiceFlow]) -> Result<(), LoadError> {
        if flows.len() > MAX_FLOWS {
            return Err(LoadError::Full { limit: MAX_FLOWS });
        }
        let balancing = Arc::clone(&self.balancing);
        let mut shared = balancing.lock();
        for flow in flows {
            self.enter(now, &mut shared, Arc::new(flow.flow(now)?));
        }
        self.sweep_at = (!flows.is_empty()).then(|| now + SWEEP);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::saved::golden;
    use serde_json::{Value, json};
    use std::time::Duration;

    /// A flow that the endpoint has answered, and that the guest has begun to close.
    fn sample() -> Value {
        json!({
            "protocol": 6, "guest": "192.0.2.9:40000", "service": "10.96.0.1:80", "endpoint": "192.0.2.1:8080",
            "client": "192.0.2.9:40001", "idle": 1_500_000_000, "state": 5,
        })
    }

    #[test]
    fn golden_files_of_all_versions_load() {
        let sample: SavedServiceFlow = serde_json::from_value(sample()).unwrap();
        golden::check("closing", std::slice::from_ref(&sample));
        let now = Instant::default() + Duration::from_secs(100);
        for (name, flows) in golden::all::<SavedServiceFlow>() {
            for saved in flows {
                let flow = saved.flow(now).unwrap();
                assert_eq!(SavedServiceFlow::of(&flow, now), saved, "{name}");
            }
        }
    }

    #[test]
    fn a_flow_that_cannot_be_is_refused() {
        for (field, value, why) in [
            ("protocol", json!(1), "no ports"),
            ("endpoint", json!("[fd00::1]:80"), "two families"),
            ("state", json!(16), "state 16"),
        ] {
            let mut damaged = sample();
            damaged[field] = value;
            let saved: SavedServiceFlow = serde_json::from_value(damaged).unwrap();
            let error = saved.flow(Instant::default()).unwrap_err().to_string();
            assert!(error.contains(why), "{field}: {error}");
        }
    }
}
