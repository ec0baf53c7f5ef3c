//! Moves connections between workers.

use super::{Flow, Progress, TcpFlows};
use crate::nat::context::Context;
use crate::packet::FlowId;
use crate::poller::Poller;

/// A connection in transit between two workers.
pub struct MovedFlow(Flow);

debug_fields!(MovedFlow {});

impl TcpFlows {
    /// Any one of the connections, if there are any.
    pub fn any(&self) -> Option<FlowId> {
        self.flows.iter().next().map(|(_, flow)| flow.key())
    }

    /// Removes a connection from the table and hands it over to another worker.
    pub fn release(&mut self, key: &FlowId, poller: &Poller) -> Option<MovedFlow> {
        let slot = self.slot_of(key)?;
        let mut flow = self.take_out(slot);
        if let Some(stream) = &flow.stream {
            // Fails only for a descriptor that is not watched.
            let _ = poller.remove(stream);
        }
        if let Some(claim) = flow.claim.take() {
            claim.pass_on();
        }
        Some(MovedFlow(flow))
    }

    /// Adds a connection that another worker has released.
    pub fn take_in(&mut self, ctx: &mut Context<'_>, MovedFlow(flow): MovedFlow) {
        if let Some(slot) = self.slot_of(&flow.key()) {
            self.remove(slot);
        }
        let had_more = flow.is_queued;
        let slot = self.put_in(ctx, flow);
        // The poller reports readable bytes, but not segments for which the guest had no buffer.
        let progress = if had_more {
            Progress::More
        } else {
            self.flows[slot].connection.progress()
        };
        self.settle(ctx, slot, progress);
    }
}
