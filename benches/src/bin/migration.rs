//! Measures live migrations of a real guest: see `hawser_benches::migration`.
//!
//! Run by `hack/bench --migration` and `hack/demo --migrate`.

use clap::{Parser, ValueEnum};
use hawser_benches::machine::{self, Machine};
use hawser_benches::migration::{BackEnd, Load, Outcome, Quantity, TARGETS, run, svg};
use hawser_benches::results::{Peer as _, Results, Verdict};
use hawser_testkit::{Result, failure};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures live migrations of a real guest to a node with another address.
#[derive(Debug, Parser)]
struct Options {
    /// Number of rounds, each with every back end
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Connections that are silent during a migration
    #[arg(long, default_value_t = 1000)]
    idle: usize,
    /// Connections in which the guest sends as fast as it can, in a migration of their own
    #[arg(long, default_value_t = 10)]
    busy: usize,
    /// What to run
    #[arg(long, value_enum, default_value_t = What::Table)]
    what: What,
    /// File for a picture of the last migration with busy connections
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Every back end, compared with the targets
    Table,
    /// One migration with busy connections, for a person
    Demo,
}

fn demonstrate(options: &Options) -> Result<Outcome> {
    let load = Load {
        idle: options.idle,
        busy: options.busy,
    };
    let outcome = run(BackEnd::Hawser, load)?;
    println!("{}", outcome.summary());
    if outcome.is_whole() {
        Ok(outcome)
    } else {
        Err(failure("not every connection went on"))
    }
}

fn measure(options: &Options) -> Result<Option<Outcome>> {
    println!("load average before the run: {:.1}\n", machine::load());
    let mut results = Results::<BackEnd, Quantity>::default();
    let mut last = None;
    for round in 1..=options.rounds {
        for &back_end in BackEnd::ALL {
            let silent = Load {
                idle: options.idle,
                busy: 0,
            };
            let mut loads = vec![silent];
            // Connections of another back end do not move to another address, so that it needs no busy migration.
            if back_end == BackEnd::Hawser && options.busy > 0 {
                loads.push(Load {
                    busy: options.busy,
                    ..silent
                });
            }
            for load in loads {
                let outcome = run(back_end, load)?;
                println!("round {round}, {}: {}", back_end.key(), outcome.summary());
                for (quantity, value) in outcome.quantities() {
                    results.add(back_end, quantity, value);
                }
                if load.busy > 0 {
                    last = Some(outcome);
                }
            }
        }
    }
    println!("\n{}\n{}", results.table(), Verdict::table(&results.verdicts(TARGETS)));
    Ok(last)
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.what {
        What::Table => measure(&options),
        What::Demo => demonstrate(&options).map(Some),
    };
    let drawn = outcome.and_then(|outcome| {
        if let Some((file, outcome)) = options.picture.as_ref().zip(outcome) {
            std::fs::write(file, svg(&outcome, &Machine::this().describe()))?;
            println!("the picture is in {}", file.display());
        }
        Ok(())
    });
    hawser_benches::exit(drawn)
}
