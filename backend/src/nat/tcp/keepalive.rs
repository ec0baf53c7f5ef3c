//! The guest's keepalives (RFC 9293 3.8.4).
//!
//! A probe from the guest tests its peer, not hawser. So the probe is passed on, and it is answered once the peer has
//! answered. Hawser sets the kernel's keepalive time to the peer's current silence, so the kernel probes immediately.
//! It then checks the host socket a few times, because a peer's answer to a probe raises no event. A guest whose peer
//! is gone gets no answer. It probes again on its own schedule and gives up after its own number of probes, as on an
//! ordinary host. The kernel's setting stays, so the peer and any stateful middlebox see probes as often as the guest
//! sends them.
//!
//! In the other direction, no probe can be passed on: while the host socket is open, the host's kernel answers a peer's
//! keepalives and does not report them. Instead, hawser probes the guest after two hours of silence and when its link
//! comes up, regardless of the peer.

use super::connection::{Connection, Progress, State};
use super::receive::Segment;
use super::stream::HostStream;
use super::timer::Timer;
use crate::nat::context::Context;
use crate::packet::TcpFlags;
use crate::time::Instant;
use std::time::Duration;

/// A peer that sent something within this time counts as alive. The kernel accepts no shorter time (TCP_KEEPIDLE).
const SHORTEST_SILENCE: Duration = Duration::from_secs(1);
/// Delay of the first check of the host socket after a probe. Each later delay is twice as long. The kernel's timer
/// needs up to 10 ms to send.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// Time after which an answer of the peer is no longer expected. If the guest still waits, it probes again.
const LAST_LOOK: Duration = Duration::from_secs(10);

impl Connection {
    /// True if `segment`, whose sequence number is one less than expected, is only a keepalive. It carries no new data,
    /// but may carry a garbage byte, as keepalives of Windows do. A probe of a closed window (RFC 9293 3.8.6.1) looks
    /// the same and is answered immediately.
    pub(super) fn is_keepalive(&self, segment: &Segment) -> bool {
        const CONTROLS: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0 | TcpFlags::ACK.0;
        self.state == State::Established
            && self.rcv_edge != self.rcv_nxt
            && segment.payload_len <= 1
            && segment.header.flags.0 & CONTROLS == TcpFlags::ACK.0
    }

    /// Handles a keepalive of the guest.
    pub(super) fn on_keepalive(&mut self, ctx: &Context<'_>, stream: &mut impl HostStream) {
        let silence = stream.silence();
        // While bytes are in flight, the guest is not idle, because it has data to acknowledge.
        let is_idle = matches!(self.timer, Timer::Keepalive(_) | Timer::Answer { .. });
        if silence < SHORTEST_SILENCE || !is_idle {
            self.ack_due = true;
            return;
        }
        stream.probe_after(silence);
        self.timer = Timer::Answer {
            at: ctx.now + FIRST_LOOK,
            asked: ctx.now,
        };
    }

    /// Checks whether the peer has answered the probe that the guest sent at `asked`.
    pub(super) fn look_for_answer(
        &mut self,
        ctx: &mut Context<'_>,
        stream: &mut impl HostStream,
        asked: Instant,
    ) -> Progress {
        let waited = ctx.now.since(asked);
        self.wait_idle(ctx.now);
        if stream.silence() >= waited {
            if waited < LAST_LOOK {
                let at = ctx.now + waited;
                self.timer = Timer::Answer { at, asked };
            }
            return Progress::Done;
        }
        self.ack_due = true;
        self.answer(ctx, stream)
    }
}
