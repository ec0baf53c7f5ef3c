//! Measures the cost per byte of hawser's worker with and without clients that hammer the API.
//!
//! `hack/bench --api` runs this. A synthetic guest (see `hawser_benches::engine`) moves a flow through hawser as users
//! run it, including the sandbox. The bench measures the worker's processor time per byte of payload, alternately with
//! and without the clients. The worker has its own processor. Guest, far end, clients and the API thread share the
//! others.

use clap::Parser;
use hawser_benches::engine::placement::Reserved;
use hawser_benches::engine::{FAR, Outcome, Run, Way, guest};
use hawser_benches::machine;
use hawser_benches::numbers::Spread;
use hawser_testkit::hawser::Hawser;
use hawser_testkit::netns::Namespace;
use hawser_testkit::{Failure, Result, failure};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Target for the cost per byte with the API hammered, relative to the cost without.
const MOST: f64 = 1.05;
/// Number of clients that send requests continuously.
const CLIENTS: usize = 4;
/// The clients have a low priority, because they are not measured.
const NICENESS: libc::c_int = 19;
const ASKED: [&str; 2] = ["/v1/metrics", "/v1/status"];

/// Measures the cost per byte with and without clients that hammer the API.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds: with the clients, without, and without again
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

/// Sends requests until `ending` is set.
fn hammer(api: &Path, path: &str, ending: &AtomicBool, answered: &AtomicU64) {
    // SAFETY: changes only the niceness of the calling thread, which 0 names.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    let ask = || -> std::io::Result<usize> {
        let mut stream = UnixStream::connect(api)?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
        stream.read_to_end(&mut Vec::new())
    };
    while !ending.load(Ordering::Relaxed) {
        let is_answered = ask().is_ok_and(|length| length > 0);
        answered.fetch_add(u64::from(is_answered), Ordering::Relaxed);
    }
}

/// The result of `work` while the API is hammered, and the number of requests answered meanwhile.
fn hammered<T>(api: &Path, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let (ending, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcome = thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (ending, answered) = (&ending, &answered);
            scope.spawn(move || hammer(api, ASKED[n % ASKED.len()], ending, answered));
        }
        let outcome = work();
        ending.store(true, Ordering::Relaxed);
        outcome
    })?;
    Ok((outcome, answered.into_inner()))
}

/// Cost per byte of each run, and answers per second.
#[derive(Default)]
struct Costs {
    /// Costs without clients.
    quiet: Vec<f64>,
    /// Costs without clients, measured again. They show the normal difference between two runs.
    control: Vec<f64>,
    /// Costs with clients.
    loud: Vec<f64>,
    answers: Vec<f64>,
}

impl Costs {
    fn measure(api: &Path, rounds: u32, title: &str, run: impl Fn() -> Result<Outcome>) -> Result<Self> {
        let mut costs = Self::default();
        for round in 0..rounds {
            eprintln!("{title}: round {} of {rounds}", round + 1);
            // The runs are interleaved, so that slow changes affect all kinds equally.
            for kind in 0..3 {
                match (kind + round) % 3 {
                    0 => costs.quiet.push(run()?.cost()),
                    1 => costs.control.push(run()?.cost()),
                    _ => {
                        let (outcome, answered) = hammered(api, &run)?;
                        costs.loud.push(outcome.cost());
                        costs.answers.push(answered as f64 / outcome.time.as_secs_f64());
                    }
                }
            }
        }
        Ok(costs)
    }

    fn print(&self, title: &str) -> Result<()> {
        let none = || failure("no rounds");
        let text = |spread: Option<Spread>, digits: usize| Ok::<_, Failure>(spread.ok_or_else(none)?.text(digits));
        let of = |values: &[f64], digits| text(Spread::of(values), digits);
        let ratio = Spread::of_ratios(&self.loud, &self.quiet);
        let mark = if ratio.is_some_and(|ratio| ratio.median <= MOST) {
            "met"
        } else {
            "**missed**"
        };
        println!(
            "| {title} | {} | {} | {} | {} | {} | {mark} |",
            of(&self.quiet, 3)?,
            of(&self.loud, 3)?,
            of(&self.answers, 0)?,
            text(Spread::of_ratios(&self.control, &self.quiet), 2)?,
            text(ratio, 2)?,
        );
        Ok(())
    }
}

fn compare(title: &str, run: Run, options: &Options, namespace: &Namespace) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("hawser-bench-").tempdir()?;
    let socket = folder.path().join(guest::NAME).with_extension("sock");
    let api = folder.path().join("api.sock");
    let mut arguments = guest::OPTIONS_OF_PORT.to_vec();
    let api_socket = format!("--api-socket={}", api.display());
    arguments.push(&api_socket);
    let mut hawser = Hawser::start(namespace, &socket, &arguments)?;
    let process = hawser.process().id();
    let measured = || guest::run_against(&socket, process, run);
    Costs::measure(&api, options.rounds, title, measured)?.print(title)?;
    hawser.stop()
}

fn measure(options: &Options, namespace: &Namespace) -> Result<()> {
    println!("load average before the run: {:.1}\n", machine::load());
    println!(
        "| | worker time per byte in ns, no clients | {CLIENTS} clients | answers/s | control | ratio, ≤ {MOST}× | |\n\
         |---|---|---|---|---|---|---|"
    );
    let (time, reserved) = (Duration::from_millis(options.millis), Reserved::new()?);
    for (title, way) in [("guest → host", Way::Out), ("host → guest", Way::In)] {
        compare(title, Run { way, time, reserved }, options, namespace)?;
    }
    Ok(())
}

fn run() -> Result<()> {
    let options = Options::parse();
    let namespace = Namespace::new()?;
    namespace.run(&format!("ip addr add {FAR}/32 dev lo"))?;
    namespace.inside(|| measure(&options, &namespace))?
}

fn main() -> ExitCode {
    hawser_benches::exit(run())
}
