//! What a byte costs hawser's worker while clients hammer the API, and while nobody does.
//!
//! Run by `hack/bench --api`. A synthetic guest (see `hawser_benches::engine`) moves a flow
//! through a hawser as users run it, confined and all; what is measured is processor time of
//! its worker by payload, in turns with and without the clients.

use clap::Parser;
use hawser_benches::engine::{FAR, Outcome, Way, guest};
use hawser_benches::machine;
use hawser_benches::numbers::Spread;
use hawser_testkit::hawser::Hawser;
use hawser_testkit::netns::Namespace;
use hawser_testkit::{Result, failure};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Target: a byte's cost with the API hammered, as a part of that without.
const MOST: f64 = 1.05;
/// Clients that ask all the time.
const CLIENTS: usize = 4;
/// They are not what is measured.
const NICENESS: libc::c_int = 19;
const ASKED: [&str; 2] = ["/v1/metrics", "/v1/status"];

/// Measures what a byte costs with the API hammered, and without.
#[derive(Debug, Parser)]
struct Options {
    /// Pairs of runs, one with the clients and one without
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 700)]
    millis: u64,
}

/// Asks until told to end.
fn hammer(api: &Path, path: &str, ending: &AtomicBool, answered: &AtomicU64) {
    // SAFETY: changes the calling thread's niceness, nothing else; 0 names the thread.
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

/// What `work` comes to while the API is hammered, and how many requests were answered meanwhile.
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

fn compare(title: &str, way: Way, options: &Options, namespace: &Namespace) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("hawser-bench-").tempdir()?;
    let socket = folder.path().join(guest::NAME).with_extension("sock");
    let api = folder.path().join("api.sock");
    let mut arguments = guest::OPTIONS_OF_PORT.to_vec();
    let api_socket = format!("--api-socket={}", api.display());
    arguments.push(&api_socket);
    let mut hawser = Hawser::start(namespace, &socket, &arguments)?;
    let process = hawser.process().id();
    let time = Duration::from_millis(options.millis);
    let run = || guest::run_against(&socket, process, way, time);
    let (mut quiet, mut loud, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        eprintln!("{title}: round {round} of {}", options.rounds);
        let beside = |loud: &mut Vec<Outcome>, requests: &mut Vec<f64>| -> Result<()> {
            let (outcome, answered) = hammered(&api, run)?;
            requests.push(answered as f64 / outcome.time.as_secs_f64());
            loud.push(outcome);
            Ok(())
        };
        // Whatever changes slowly falls on both.
        if round % 2 == 0 {
            beside(&mut loud, &mut requests)?;
            quiet.push(run()?);
        } else {
            quiet.push(run()?);
            beside(&mut loud, &mut requests)?;
        }
    }
    let costs = |outcomes: &[Outcome]| outcomes.iter().map(Outcome::cost).collect::<Vec<_>>();
    let (quiet, loud) = (costs(&quiet), costs(&loud));
    let none = || failure("no rounds");
    let ratio = Spread::of_ratios(&loud, &quiet).ok_or_else(none)?;
    let text = |values: &[f64], digits: usize| {
        let spread = Spread::of(values).ok_or_else(none)?;
        let (median, min, max) = (spread.median, spread.min, spread.max);
        Ok::<_, hawser_testkit::Failure>(format!("{median:.digits$} ({min:.digits$}–{max:.digits$})"))
    };
    let mark = if ratio.median <= MOST { "met" } else { "**missed**" };
    println!(
        "| {title} | {} | {} | {} | {:.2}× ({:.2}–{:.2}) | {mark} |",
        text(&quiet, 3)?,
        text(&loud, 3)?,
        text(&requests, 0)?,
        ratio.median,
        ratio.min,
        ratio.max
    );
    hawser.stop()
}

fn measure(options: &Options, namespace: &Namespace) -> Result<()> {
    println!("load average before the run: {:.1}\n", machine::load());
    println!(
        "| | ns of the worker a byte, nobody asks | {CLIENTS} clients ask | answers/s | ratio, ≤ {MOST}× | |\n\
         |---|---|---|---|---|---|"
    );
    compare("guest → host", Way::Out, options, namespace)?;
    compare("host → guest", Way::In, options, namespace)
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
