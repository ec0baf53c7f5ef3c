//! The guest's keepalives (RFC 9293 3.8.4).
//!
//! A guest that probes asks for its peer, not for us. So its probe is passed on, and answered
//! when the peer has been heard: the kernel is told to probe a peer that has been silent for as
//! long as this one, which it then does at once, and the host socket is looked at a few times,
//! since a peer's answer to a probe is no event. A guest whose peer is gone hears nothing,
//! probes again in its own time, and gives up after its own number of probes, when one on a
//! plain host would. What the kernel was told stays, so the peer and whatever keeps state on
//! the way see probes as often as the guest sends them.
//!
//! The other way there is nothing to pass on: a peer's keepalives are answered by the host's
//! kernel, which tells nobody of them, as long as the host socket is open. The guest is probed
//! after two hours instead, whatever its peer does, and when its link comes up.

use super::connection::{Connection, Progress, State, Timer};
use super::receive::Segment;
use super::stream::HostStream;
use crate::nat::context::Context;
use crate::packet::TcpFlags;
use crate::time::Instant;
use std::time::Duration;

/// A peer heard within this time is there: the kernel takes no shorter time (TCP_KEEPIDLE).
const SHORTEST_SILENCE: Duration = Duration::from_secs(1);
/// The host socket is looked at this long after a probe, then after twice that time, and so on.
/// The kernel's timer needs up to 10 ms until it sends.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// A peer that has not answered by then will not. A guest that still waits asks again.
const LAST_LOOK: Duration = Duration::from_secs(10);

impl Connection {
    /// True if `segment`, one number before the next, asks only whether somebody is there: it
    /// has nothing new, but may have a byte of garbage, as those of Windows have. One that
    /// meets a closed window asks for that too (RFC 9293 3.8.6.1), and is answered at once.
    pub(super) fn is_keepalive(&self, segment: &Segment) -> bool {
        const CONTROLS: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0 | TcpFlags::ACK.0;
        self.state == State::Established
            && self.rcv_edge != self.rcv_nxt
            && segment.payload_len <= 1
            && segment.header.flags.0 & CONTROLS == TcpFlags::ACK.0
    }

    /// The guest asks whether its peer is there.
    pub(super) fn on_keepalive(&mut self, ctx: &Context<'_>, stream: &mut impl HostStream) {
        let silence = stream.silence();
        // With bytes under way the guest is not idle: it has something to acknowledge.
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

    /// Has the peer answered what was `asked` then?
    pub(super) fn look_for_answer(
        &mut self,
        ctx: &mut Context<'_>,
        stream: &mut impl HostStream,
        asked: Instant,
    ) -> Progress {
        let waited = ctx.now.since(asked);
        self.rest(ctx.now);
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
