//! What has happened to a VM on this node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

/// Number of events that are kept for each VM.
const KEPT: usize = 8;

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub(crate) enum EventKind {
    /// Its process was started.
    Started,
    /// Its process serves it.
    Running,
    /// Its process was requested to end.
    Stopping,
    /// Its process has ended without being requested to.
    Ended,
    /// It cannot be started, or a change cannot be applied.
    Waiting,
    /// The running process has applied changed NICs.
    Changed,
    /// Its guest has arrived from another node while it ran.
    Arrived,
}

impl EventKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 7] = [
        Self::Started,
        Self::Running,
        Self::Stopping,
        Self::Ended,
        Self::Waiting,
        Self::Changed,
        Self::Arrived,
    ];
}

/// An event of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Event {
    /// Seconds since 1970.
    pub time: u64,
    /// Kind of the event.
    pub kind: EventKind,
    /// Details.
    pub message: String,
    /// Number of times that it has happened in a row. `time` is the last of them.
    pub count: u64,
}

/// The current time for people, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// The newest events of a VM.
#[derive(Debug, Default)]
pub(crate) struct History {
    events: VecDeque<Event>,
    /// Kinds of events since the last call of [`take_new`](Self::take_new).
    new: Vec<EventKind>,
}

impl History {
    /// Records an event. The same event again only increases its count.
    pub(crate) fn record(&mut self, kind: EventKind, message: impl Into<String>) {
        let (message, time) = (message.into(), now());
        self.new.push(kind);
        if let Some(last) = self
            .events
            .back_mut()
            .filter(|last| last.kind == kind && last.message == message)
        {
            last.time = time;
            last.count += 1;
            return;
        }
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            time,
            kind,
            message,
            count: 1,
        });
    }

    /// The newest events, oldest first.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.iter().cloned().collect()
    }

    /// The kinds of the events since the last call.
    pub(crate) fn take_new(&mut self) -> Vec<EventKind> {
        std::mem::take(&mut self.new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_kept_and_repetitions_are_counted() {
        let mut history = History::default();
        for number in 0..KEPT {
            history.record(EventKind::Waiting, number.to_string());
        }
        history.record(EventKind::Ended, "x");
        history.record(EventKind::Ended, "x");
        let events = history.events();
        assert_eq!(events.len(), KEPT);
        assert_eq!(events[0].message, "1");
        assert_eq!((events[KEPT - 1].kind, events[KEPT - 1].count), (EventKind::Ended, 2));
        assert_eq!(history.take_new().len(), KEPT + 2);
        assert_eq!(history.take_new(), []);
    }
}
