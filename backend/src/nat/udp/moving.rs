//! Moves flows between workers.

use super::held::Held;
use super::{Flow, UdpFlows};
use crate::nat::context::Context;
use crate::packet::FlowId;
use crate::poller::Poller;
use socket2::Socket;

/// A flow in transit between two workers, with its held datagrams.
pub struct MovedFlow {
    flow: Flow,
    held: Vec<Held>,
}

debug_fields!(MovedFlow {});

impl UdpFlows {
    /// The endpoints of any one of the flows, if there are any.
    pub fn any(&self) -> Option<FlowId> {
        self.table.any()
    }

    /// Removes a flow from the table and hands it over to another worker.
    pub fn release(&mut self, key: &FlowId, poller: &Poller) -> Option<MovedFlow> {
        let flow = self.table.find(key)?;
        let mut flow = self.table.take_out(flow)?;
        // Fails only for a descriptor that is not watched.
        let _ = poller.remove(&flow.socket);
        if let Some(claim) = flow.claim.take() {
            claim.pass_on();
        }
        flow.waiting = false;
        let held = self.receiver.delivery.take(key);
        Some(MovedFlow { flow, held })
    }

    /// Gives up a flow whose guest runs in another process now, and returns its socket.
    pub fn part(&mut self, key: &FlowId, poller: &Poller) -> Option<Socket> {
        let MovedFlow { flow, .. } = self.release(key, poller)?;
        Some(flow.socket)
    }

    /// Drops all flows.
    pub fn drop_all(&mut self) {
        while let Some(key) = self.any() {
            self.receiver.delivery.take(&key);
            let Some(flow) = self.table.find(&key) else { return };
            self.table.remove(flow);
        }
    }

    /// Adds a flow that another worker has released.
    pub fn take_in(&mut self, ctx: &mut Context<'_>, MovedFlow { flow, held }: MovedFlow) {
        if let Some(same) = self.table.find(&flow.key) {
            self.table.remove(same);
        }
        self.receiver.delivery.put(held);
        // A flow that cannot be watched is counted, and the guest's next datagram creates it again.
        let _ = self.watch(ctx, flow);
    }
}
