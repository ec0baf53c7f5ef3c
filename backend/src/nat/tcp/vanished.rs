//! Ends connections from an address that the pod no longer has.
//!
//! Neither their packets nor the answers arrive. The kernel retransmits for a quarter of an hour
//! (net.ipv4.tcp_retries2), and an idle connection notices nothing. Linux's masquerade removes the flows of an address
//! together with it (net/netfilter/nf_nat_masquerade.c, `masq_inet_event`), so that the guest's next segment is
//! answered with RST. Hawser sends RST to the guest immediately. A connection that is still being opened is dropped
//! silently instead: the guest sends SYN again after a second, and the new connection uses an address that exists.

use super::connection::{Progress, State};
use super::{Flow, TcpFlows};
use crate::nat::addresses::{FLOWS_PER_TURN, LocalAddresses, Walk};
use crate::nat::context::Context;

impl TcpFlows {
    /// Call this when the pod has lost one or more addresses. Ends the connections from those addresses.
    pub fn on_addresses_removed(&mut self, ctx: &mut Context<'_>) {
        // A walk in progress starts again with the current addresses.
        self.walk = Some(Walk::begin(ctx.now));
        self.walk_on(ctx);
    }

    /// Checks some more connections if a walk is in progress.
    pub(super) fn walk_on(&mut self, ctx: &mut Context<'_>) {
        let Some(mut walk) = self.walk.take() else { return };
        let end = self.flows.capacity().min(walk.next + FLOWS_PER_TURN);
        for slot in walk.next..end {
            let Some(flow) = self.flows.get_mut(slot) else { continue };
            if has_address(flow, &mut walk.addresses) {
                continue;
            }
            if flow.connection.state() == State::Connecting {
                flow.connection.refuse();
            } else {
                flow.connection.abort(ctx);
            }
            self.settle(ctx, slot, Progress::Done);
        }
        walk.next = end;
        walk.at = ctx.now;
        self.walk = (end < self.flows.capacity()).then_some(walk);
    }
}

fn has_address(flow: &Flow, addresses: &mut LocalAddresses) -> bool {
    let stream = flow.stream.as_ref();
    let local = stream.and_then(|stream| stream.local_addr().ok()?.as_socket());
    local.is_none_or(|local| addresses.have(local))
}
