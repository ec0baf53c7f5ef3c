//! Sends the guest's datagrams to the host sockets of their flows. One system call sends all datagrams of a flow in a
//! burst. Runs of equal size form one message.

use super::flow::Flow;
use super::{Datagram, errors};
use crate::counters::DropReason;
use crate::frame::{Gather, GuestBurst};
use crate::nat::context::Context;
use crate::nat::icmp::{IcmpError, refuse};
use crate::nat::ip_options::IpOptions;
use crate::nat::link::Link;
use crate::packet::{EthernetHeader, UdpHeader};
use crate::sys::datagram::{MAX_PAYLOAD, MAX_SEGMENTS};
use crate::sys::send_batch::SendBatch;
use std::io;

/// The datagrams of one flow in a burst, in order.
#[derive(Clone, Copy)]
pub(super) struct FlowBurst<'a> {
    /// All frames of the burst.
    pub burst: &'a GuestBurst<'a>,
    /// All datagrams of the burst.
    pub datagrams: &'a [Datagram],
    /// Indices of the flow's datagrams.
    pub members: &'a [u32],
}

impl<'a> FlowBurst<'a> {
    fn datagram(&self, member: usize) -> &'a Datagram {
        &self.datagrams[self.members[member] as usize]
    }

    fn len(&self) -> usize {
        self.members.len()
    }

    /// The flow's datagrams, starting at number `from`.
    pub(super) fn from(&self, from: usize) -> Self {
        self.part(from, self.len())
    }

    fn part(&self, from: usize, to: usize) -> Self {
        Self {
            members: &self.members[from..to],
            ..*self
        }
    }

    #[inline]
    fn gather(&self, message: &Message, gather: &mut Gather<'_, 'a>) {
        for member in message.first..message.first + message.count {
            let datagram = self.datagram(member);
            let frame = &self.burst[datagram.frame];
            let len = message.len_of_each(datagram);
            frame.gather(datagram.payload_offset + message.offset, len, gather);
        }
    }
}

/// A message for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    /// Position of the message's first datagram in the flow's burst.
    first: usize,
    /// Number of datagrams in the message.
    count: usize,
    /// Offset in the datagram, if the message is a part of one.
    offset: usize,
    /// Length of the part, if the message is a part of a datagram.
    part: Option<usize>,
    /// Total payload bytes.
    bytes: usize,
    /// Size of each datagram, if there are several.
    segment: Option<u16>,
    /// False once no more datagrams may join the message.
    open: bool,
}

impl Message {
    fn len_of_each(&self, datagram: &Datagram) -> usize {
        self.part.unwrap_or(datagram.payload_len)
    }
}

/// Sends bursts, with buffers that are reused.
#[derive(Default)]
pub(super) struct Transmitter {
    batch: SendBatch,
    messages: Vec<Message>,
    /// Batch for messages that the kernel refused to segment.
    single_batch: SendBatch,
    singles: Vec<Message>,
}

/// Whether a flow may get a new socket and try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Try {
    /// A new socket may be tried.
    First,
    /// The flow already has a new socket, or a new socket would not help.
    Last,
}

/// The flow's local address has been removed from the host. The datagrams of the burst from number `from` were not
/// sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stranded {
    /// Number of the first datagram that was not sent.
    pub from: usize,
}

/// How to continue after a message was refused.
enum Verdict {
    Stranded,
    Again,
    OneByOne,
    Skip,
    Stop,
}

impl Transmitter {
    /// Sends one flow's part of a burst. Datagrams that the kernel refuses are counted, and
    /// reported to the guest by ICMP where it can react.
    ///
    /// # Errors
    /// [`Stranded`], only with [`Try::First`].
    pub(super) fn send(
        &mut self,
        flow: &mut Flow,
        ctx: &mut Context<'_>,
        work: FlowBurst<'_>,
        attempt: Try,
    ) -> Result<(), Stranded> {
        let mut from = 0;
        while from < work.len() {
            let how = ip_options(&work, from, ctx.link);
            let alike = (from + 1..work.len()).take_while(|i| ip_options(&work, *i, ctx.link) == how);
            let to = from + 1 + alike.count();
            flow.ip_options.adapt(&flow.socket, flow.domain, how);
            self.send_alike(flow, ctx, work.part(from, to), attempt)
                .map_err(|stranded| Stranded {
                    from: from + stranded.from,
                })?;
            from = to;
        }
        Ok(())
    }

    fn send_alike(
        &mut self,
        flow: &mut Flow,
        ctx: &mut Context<'_>,
        work: FlowBurst<'_>,
        attempt: Try,
    ) -> Result<(), Stranded> {
        plan(&mut self.messages, &work, flow, ctx.link);
        let mut out = self.batch.start();
        for message in &self.messages {
            out.push(message.segment, |gather| work.gather(message, gather));
        }
        let (mut done, mut attempts) = (0, 0);
        while done < self.messages.len() {
            match out.transmit(&flow.socket, done) {
                Ok(taken) => (done, attempts) = (done + taken, 0),
                Err(error) => {
                    let message = &self.messages[done];
                    match judge(flow, ctx, &work, message, &error, attempts) {
                        Verdict::Stranded if attempt == Try::First && message.offset == 0 => {
                            return Err(Stranded { from: message.first });
                        }
                        Verdict::Stranded => {
                            tell(ctx, &work, message, news_of(&error));
                            ctx.counters.count_drops(DropReason::UdpSendFailed, message.datagrams());
                            (done, attempts) = (done + 1, 0);
                        }
                        Verdict::Again => attempts += 1,
                        Verdict::OneByOne => {
                            split(&mut self.singles, &work, message);
                            send_singly(&mut self.single_batch, &self.singles, flow, ctx, &work);
                            (done, attempts) = (done + 1, 0);
                        }
                        Verdict::Skip => {
                            ctx.counters.count_drops(DropReason::UdpSendFailed, message.datagrams());
                            (done, attempts) = (done + 1, 0);
                        }
                        Verdict::Stop => {
                            let lost = self.messages[done..].iter().map(Message::datagrams).sum();
                            ctx.counters.count_drops(DropReason::UdpSendFailed, lost);
                            return Ok(());
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl Message {
    /// Number of datagrams in the message.
    fn datagrams(&self) -> u64 {
        let n = self.segment.map_or(1, |s| self.bytes.div_ceil(usize::from(s)));
        u64::try_from(n).unwrap_or(u64::MAX)
    }
}

/// Sends datagrams that the kernel would not segment.
fn send_singly(
    batch: &mut SendBatch,
    messages: &[Message],
    flow: &mut Flow,
    ctx: &mut Context<'_>,
    work: &FlowBurst<'_>,
) {
    let mut out = batch.start();
    for message in messages {
        out.push(None, |gather| work.gather(message, gather));
    }
    let (mut done, mut attempts) = (0, 0);
    while done < messages.len() {
        match out.transmit(&flow.socket, done) {
            Ok(taken) => (done, attempts) = (done + taken, 0),
            Err(error) => match judge(flow, ctx, work, &messages[done], &error, attempts) {
                Verdict::Again => attempts += 1,
                Verdict::Stranded => {
                    tell(ctx, work, &messages[done], news_of(&error));
                    ctx.counters.count_drop(DropReason::UdpSendFailed);
                    (done, attempts) = (done + 1, 0);
                }
                Verdict::OneByOne | Verdict::Skip => {
                    ctx.counters.count_drop(DropReason::UdpSendFailed);
                    (done, attempts) = (done + 1, 0);
                }
                Verdict::Stop => {
                    let lost = u64::try_from(messages.len() - done).unwrap_or(u64::MAX);
                    ctx.counters.count_drops(DropReason::UdpSendFailed, lost);
                    return;
                }
            },
        }
    }
}

#[inline]
fn ip_options(work: &FlowBurst<'_>, member: usize, link: &Link) -> IpOptions {
    let datagram = work.datagram(member);
    let frame = &work.burst[datagram.frame];
    let segmented = datagram.segment_size.is_some();
    IpOptions::of(frame, segmented, link)
}

/// Combines datagrams into messages.
fn plan(messages: &mut Vec<Message>, work: &FlowBurst<'_>, flow: &Flow, link: &Link) {
    let network = Link::header_len(flow.key.guest) - EthernetHeader::LEN;
    let largest_segment = usize::from(link.mtu).saturating_sub(network + UdpHeader::LEN);
    messages.clear();
    for member in 0..work.len() {
        let datagram = work.datagram(member);
        let len = datagram.payload_len;
        if let Some(size) = datagram.segment_size.filter(|s| usize::from(*s) < len && *s > 0) {
            cut(messages, member, len, size, flow.segmenting);
            continue;
        }
        let may_join = flow.segmenting && len > 0 && len <= largest_segment;
        if may_join && messages.last_mut().is_some_and(|m| m.join(len)) {
            continue;
        }
        messages.push(Message {
            first: member,
            count: 1,
            offset: 0,
            part: None,
            bytes: len,
            segment: None,
            open: may_join,
        });
    }
}

impl Message {
    /// Adds a datagram if the message remains a run of datagrams of equal size, of which only the last may be shorter.
    fn join(&mut self, len: usize) -> bool {
        let size = match self.segment {
            Some(size) => usize::from(size),
            None => self.bytes,
        };
        let fits = self.count < MAX_SEGMENTS && self.bytes + len <= MAX_PAYLOAD;
        let Ok(segment) = u16::try_from(size) else { return false };
        if !self.open || !fits || len > size {
            return false;
        }
        self.segment = Some(segment);
        self.count += 1;
        self.bytes += len;
        self.open = len == size;
        true
    }
}

/// Splits a frame with several datagrams into messages that the kernel accepts.
fn cut(messages: &mut Vec<Message>, member: usize, len: usize, size: u16, segmenting: bool) {
    let step = match usize::from(size) {
        size if segmenting => size * MAX_SEGMENTS.min(MAX_PAYLOAD / size).max(1),
        size => size,
    };
    for offset in (0..len).step_by(step) {
        let bytes = step.min(len - offset);
        messages.push(Message {
            first: member,
            count: 1,
            offset,
            part: Some(bytes),
            bytes,
            segment: (bytes > usize::from(size)).then_some(size),
            open: false,
        });
    }
}

/// Makes a separate message of each datagram in a message.
fn split(singles: &mut Vec<Message>, work: &FlowBurst<'_>, message: &Message) {
    singles.clear();
    if message.part.is_some() {
        let size = message.segment.unwrap_or(u16::MAX);
        cut(singles, message.first, message.offset + message.bytes, size, false);
        singles.retain(|m| m.offset >= message.offset);
        return;
    }
    for member in message.first..message.first + message.count {
        let len = work.datagram(member).payload_len;
        singles.push(Message {
            first: member,
            count: 1,
            bytes: len,
            segment: None,
            ..*message
        });
    }
}

fn judge(
    flow: &mut Flow,
    ctx: &mut Context<'_>,
    work: &FlowBurst<'_>,
    message: &Message,
    error: &io::Error,
    attempts: u32,
) -> Verdict {
    let errno = error.raw_os_error().unwrap_or(0);
    match errno {
        libc::EINTR if attempts == 0 => return Verdict::Again,
        // The socket's buffer is full, so the rest of the burst would not fit either.
        libc::EAGAIN => return Verdict::Stop,
        libc::EMSGSIZE | libc::EINVAL | libc::EIO if message.segment.is_some() => {
            // EMSGSIZE concerns the size. The other errors concern the kernel or the route.
            flow.segmenting &= errno == libc::EMSGSIZE;
            return Verdict::OneByOne;
        }
        _ => {}
    }
    // The error may concern an earlier send. The network's answer is in the error queue, and the socket reports it
    // once.
    let own = errors::report(flow, ctx);
    match errno {
        libc::EMSGSIZE if own.is_some() => {
            tell(ctx, work, message, own);
            Verdict::Skip
        }
        libc::ENETUNREACH | libc::EINVAL | libc::EADDRNOTAVAIL if attempts > 0 => Verdict::Stranded,
        libc::EINVAL => Verdict::Again,
        _ if IcmpError::from_errno(errno).is_none() => Verdict::Skip,
        _ if attempts == 0 => Verdict::Again,
        _ => {
            tell(ctx, work, message, IcmpError::from_errno(errno));
            Verdict::Skip
        }
    }
}

/// Reports the host's error about a datagram to the guest, unless the guest already knows it.
fn tell(ctx: &mut Context<'_>, work: &FlowBurst<'_>, message: &Message, news: Option<IcmpError>) {
    let frame = &work.burst[work.datagram(message.first).frame];
    if let Some(news) = news
        && refuse(ctx, news, frame).is_err()
    {
        ctx.counters.count_drop(DropReason::NoRoom);
    }
}

/// The ICMP error for a failed send.
fn news_of(error: &io::Error) -> Option<IcmpError> {
    error.raw_os_error().and_then(IcmpError::from_errno)
}
