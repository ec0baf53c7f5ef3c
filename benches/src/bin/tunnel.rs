//! Measures the overlay without a VM, compared with the floor: see `hawser_benches::tunnel`.
//!
//! Run by `hack/bench --tunnel`.

use clap::{Parser, ValueEnum};
use hawser_benches::machine;
use hawser_benches::results::Verdict;
use hawser_benches::tunnel::compare::{SEGMENTS, against_floors, line, round_trips};
use hawser_benches::tunnel::{Burst, Floor, Pair, WholeFloor, run};
use hawser_testkit::Result;
use hawser_testkit::netns::Namespace;
use std::process::ExitCode;
use std::time::Duration;

/// Measures the overlay without a VM, compared with a floor of bare system calls.
#[derive(Debug, Parser)]
struct Options {
    /// Number of runs of each
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// Run only one part: for a profiler
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
}

/// What a profiler may look at alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Segments of an underlay of 1500 bytes
    Cut,
    /// Their floor
    CutFloor,
    /// Segments of an underlay of 9000 bytes
    Large,
    /// Their floor
    LargeFloor,
    /// Whole frames between processes of one node
    Whole,
    /// Their floor
    WholeFloor,
    /// Round trips, compared with bridges
    RoundTrip,
}

impl Part {
    /// What moves bytes; `None` for round trips.
    fn make(self) -> Result<Option<Box<dyn Burst>>> {
        let [mss, large] = SEGMENTS;
        Ok(Some(match self {
            Self::Cut => Box::new(Pair::new(mss, 0)?),
            Self::CutFloor => Box::new(Floor::new(mss.into())?),
            Self::Large => Box::new(Pair::new(large, 0)?),
            Self::LargeFloor => Box::new(Floor::new(large.into())?),
            Self::Whole => Box::new(Pair::whole(mss)?),
            Self::WholeFloor => Box::new(WholeFloor::new()?),
            Self::RoundTrip => return Ok(None),
        }))
    }
}

fn measure(options: &Options) -> Result<()> {
    let time = Duration::from_millis(options.millis);
    if let Some(part) = options.only {
        match part.make()? {
            Some(mut part) => println!("{}", line("alone", &[run(&mut *part, time)?]).unwrap_or_default()),
            None => print!("{}", Verdict::table(&[round_trips(options.rounds)?])),
        }
        return Ok(());
    }
    println!("load average before the run: {:.1}\n", machine::load());
    let mut found = against_floors(options.rounds, time)?;
    found.verdicts.push(round_trips(options.rounds)?);
    println!("| | Gbit/s of one processor | its time for both ends, s/GB |\n|---|---|---|");
    println!("{}\n\n{}", found.lines.join("\n"), Verdict::table(&found.verdicts));
    Ok(())
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = Namespace::new().and_then(|namespace| namespace.inside(|| measure(&options))?);
    hawser_benches::exit(outcome)
}
