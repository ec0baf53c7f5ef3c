//! Live migrations by real QEMU, seen from outside the guest.
//!
//! A guest migrates between two nodes with different addresses, while connections of a world to it are open, and while it
//! sends a numbered datagram every few milliseconds on two NICs: the back end's, and a *witness*, which is an emulated NIC
//! on a socket of this process. The witness shows how long the guest was silent because of QEMU and the machine. What the
//! back end's NIC was silent for beyond that is the back end's part.

mod place;
mod timeline;
mod watch;

pub use place::BackEnd;
pub use timeline::svg;

use crate::results::{About, Bound, Metric, Target};
use hawser_testkit::Result;
use hawser_testkit::guest::{Guest, Lasting};
use place::Place;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use watch::{Arrival, Rate, RoundTrip, Watch};

/// What the guest does during a migration.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections of the world to the guest that are silent while it migrates.
    pub idle: usize,
    /// Connections in which the guest sends as fast as it can.
    pub busy: usize,
}

/// What a migration took, and what was seen of it. Times are since 1970.
#[derive(Debug)]
pub struct Outcome {
    /// Load of the guest.
    pub load: Load,
    /// Start of the migration.
    began: Duration,
    /// Stop of the guest in the source.
    stopped: Duration,
    /// Start of the guest in the target.
    resumed: Duration,
    /// Idle connections on which data was exchanged afterwards.
    idle_kept: usize,
    /// Busy connections whose data arrived whole.
    busy_kept: usize,
    /// Echo requests of the guest without a reply.
    pings_lost: u64,
    datagrams: Vec<Arrival>,
    witnessed: Vec<Arrival>,
    rates: Vec<Rate>,
    round_trips: Vec<RoundTrip>,
}

/// A quantity of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Time in which the guest ran nowhere.
    Downtime,
    /// Longest silence of the witness.
    Witness,
    /// Longest silence of the back end's NIC, less that of the witness.
    Added,
    /// Echo requests without a reply.
    PingsLost,
    /// Share of the idle connections that go on.
    IdleKept,
    /// Share of the busy connections that go on.
    BusyKept,
    /// Rate while memory is copied, compared with that before.
    RateDuring,
    /// Rate afterwards, compared with that before.
    RateAfter,
}

impl Metric for Quantity {
    const ALL: &'static [Self] = &[
        Self::Downtime,
        Self::Witness,
        Self::Added,
        Self::PingsLost,
        Self::IdleKept,
        Self::BusyKept,
        Self::RateDuring,
        Self::RateAfter,
    ];

    fn about(self) -> About {
        let (key, title, unit, digits, more_is_better) = match self {
            Self::Downtime => ("downtime", "guest stopped, by QEMU", "ms", 1, false),
            Self::Witness => ("witness_gap", "longest silence of the witness", "ms", 1, false),
            Self::Added => ("added_gap", "longest silence beyond the witness", "ms", 1, false),
            Self::PingsLost => ("pings_lost", "pings lost, at 10 ms", "pings", 0, false),
            Self::IdleKept => ("idle_kept", "idle connections kept, other address", "%", 1, true),
            Self::BusyKept => ("busy_kept", "busy connections kept, other address", "%", 1, true),
            Self::RateDuring => ("rate_during", "rate while memory is copied", "× before", 2, true),
            Self::RateAfter => ("rate_after", "rate afterwards", "× before", 2, true),
        };
        About {
            key,
            title,
            unit,
            digits,
            more_is_better,
        }
    }
}

/// The targets of a migration.
pub const TARGETS: &[Target<BackEnd, Quantity>] = &[
    Target::alone(Quantity::Added, 3.0),
    Target::of(Quantity::Added, BackEnd::Passt, Bound::AtMostMore(0.0)),
    Target::alone(Quantity::PingsLost, 1.0),
    Target::of(Quantity::IdleKept, BackEnd::Hawser, Bound::AlwaysAtLeast(100.0)),
    Target::of(Quantity::BusyKept, BackEnd::Hawser, Bound::AlwaysAtLeast(100.0)),
    Target::of(Quantity::RateDuring, BackEnd::Hawser, Bound::AtLeast(0.9)),
    Target::of(Quantity::RateAfter, BackEnd::Hawser, Bound::AtLeast(0.5)),
];

impl Outcome {
    /// The quantities that this load shows.
    pub fn quantities(&self) -> BTreeMap<Quantity, f64> {
        let mut found = BTreeMap::new();
        if self.load.idle > 0 {
            found.insert(Quantity::IdleKept, percent(self.idle_kept, self.load.idle));
        }
        if self.load.busy > 0 {
            found.insert(Quantity::BusyKept, percent(self.busy_kept, self.load.busy));
            let before = self.rate(self.began.saturating_sub(BEFORE), self.began);
            found.insert(Quantity::RateDuring, self.rate(self.began, self.stopped) / before);
            found.insert(
                Quantity::RateAfter,
                self.rate(self.resumed, self.resumed + AFTER) / before,
            );
            return found;
        }
        // A busy guest is silent because its streams have the processor.
        found.insert(Quantity::Downtime, millis(self.resumed.saturating_sub(self.stopped)));
        let silences = [&self.witnessed, &self.datagrams].map(|arrivals| self.longest_silence(arrivals));
        if let [Some(witness), Some(nic)] = silences {
            found.insert(Quantity::Witness, millis(witness));
            found.insert(Quantity::Added, millis(nic) - millis(witness));
        }
        found.insert(Quantity::PingsLost, count(self.pings_lost));
        found
    }

    /// Longest time without a datagram around the migration. `None` unless datagrams came before and after it.
    fn longest_silence(&self, arrivals: &[Arrival]) -> Option<Duration> {
        let end = self.resumed + AFTER;
        let within: Vec<_> = arrivals
            .iter()
            .filter(|one| (self.began..end).contains(&one.at))
            .collect();
        let gaps = within.windows(2).map(|pair| pair[1].at.saturating_sub(pair[0].at));
        let spans = within.first()?.at < self.stopped && within.last()?.at > self.resumed;
        gaps.max().filter(|_| spans)
    }

    /// Mean rate in a time, in bytes per second.
    fn rate(&self, from: Duration, to: Duration) -> f64 {
        let total = |at: Duration| {
            let before = self.rates.iter().take_while(|rate| rate.at <= at);
            before.last().map_or(0.0, |rate| count(rate.bytes))
        };
        (total(to) - total(from)) / (to.saturating_sub(from)).as_secs_f64()
    }

    /// True if every connection went on.
    pub const fn is_whole(&self) -> bool {
        self.idle_kept == self.load.idle && self.busy_kept == self.load.busy
    }

    /// One line about this migration.
    pub fn summary(&self) -> String {
        let Load { idle, busy } = self.load;
        format!(
            "the guest was stopped for {:.1} ms; {} of {idle} idle and {} of {busy} busy connections go on; pings lost: {}",
            millis(self.resumed.saturating_sub(self.stopped)),
            self.idle_kept,
            self.busy_kept,
            self.pings_lost,
        )
    }
}

/// Time before a migration in which rates are measured.
const BEFORE: Duration = Duration::from_secs(2);
/// Time after it that belongs to it.
const AFTER: Duration = Duration::from_secs(3);
/// Longest time until every idle connection has answered afterwards.
const ANSWER: Duration = Duration::from_secs(10);
/// Rate of the migration's stream in bytes per second: memory takes a few seconds.
const STREAM: u64 = 64 << 20;

/// Migrates a guest with this load between two nodes.
///
/// # Errors
/// If a program is missing, or the guest does not boot or migrate.
pub fn run(back_end: BackEnd, load: Load) -> Result<Outcome> {
    let place = Place::new(back_end)?;
    let witnessed = Watch::frames(&place.witness()?)?;
    let datagrams = Watch::datagrams(&place.beat()?)?;
    let mut guest = place.boot()?;
    let mut clients = (0..load.idle).map(|_| place.client()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.exchange("before")?;
    }
    let round_trips = Watch::round_trips(place.client()?)?;
    let streams = (0..load.busy)
        .map(|_| guest.traffic_lasting(&format!("send to={}", place.world)))
        .collect::<Result<Vec<Lasting>>>()?;
    guest.sh("ping -i 0.01 198.51.100.254 >/run/pings 2>&1 </dev/null & echo $! >/run/ping.pid")?;
    let rates = Watch::rates(place.counters()?);
    std::thread::sleep(BEFORE);

    place.prepare()?;
    let target = place.incoming(&guest)?;
    guest.limit_migration(STREAM)?;
    let began = now();
    let stopped = guest.migrate(target)?;
    std::thread::sleep(AFTER);

    let round_trips = round_trips.end();
    let pings_lost = pings_lost(&guest)?;
    // The streams end first: beside them, an emulated guest takes long to answer on every connection.
    let mut busy_kept = 0;
    for stream in &streams {
        busy_kept += usize::from(stream.end(&guest).is_ok());
    }
    let sent: Vec<_> = clients.iter_mut().map(|client| client.send("after").is_ok()).collect();
    let deadline = Instant::now() + ANSWER;
    let answered = clients.iter_mut().zip(sent);
    let answered =
        answered.filter_map(|(client, sent)| (sent && client.receive("after", deadline).is_ok()).then_some(()));
    let idle_kept = answered.count();
    Ok(Outcome {
        load,
        began,
        stopped: stopped.at,
        resumed: stopped.at + stopped.time,
        idle_kept,
        busy_kept,
        pings_lost,
        datagrams: datagrams.end(),
        witnessed: witnessed.end(),
        rates: rates.end(),
        round_trips,
    })
}

/// Ends the guest's ping. Returns the number of requests without a reply.
fn pings_lost(guest: &Guest) -> Result<u64> {
    let said = guest.sh("kill -INT $(cat /run/ping.pid); sleep 1; tail -n 3 /run/pings")?;
    let mut numbers = said.split(" packets transmitted, ");
    let number = |text: Option<&str>, last: bool| {
        let mut words = text?.split_whitespace();
        if last { words.next_back() } else { words.next() }?.parse::<u64>().ok()
    };
    let (sent, got) = (number(numbers.next(), true), number(numbers.next(), false));
    let lost = sent.zip(got).map(|(sent, got)| sent.saturating_sub(got));
    lost.ok_or_else(|| hawser_testkit::failure(format!("the guest's ping says: {said}")))
}

/// Time since 1970, which QEMU's events have.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn percent(part: usize, whole: usize) -> f64 {
    count(u64::try_from(part).unwrap_or(u64::MAX)) / count(u64::try_from(whole).unwrap_or(u64::MAX)) * 100.0
}

/// The number in floating point, which is exact enough for bytes of a bench.
#[expect(clippy::cast_precision_loss, reason = "no count here has 53 bits")]
fn count(n: u64) -> f64 {
    n as f64
}
