//! Times parts of the packet path, or runs one of them for a tool that counts.
//!
//! `hack/bench --cases` and `hack/bench --instructions` run this.

use clap::Parser;
use hawser_benches::cases;
use hawser_benches::numbers::Spread;
use std::error::Error;

/// Times parts of the packet path: nanoseconds per frame or call, the median of many rounds.
#[derive(Debug, Parser)]
struct Options {
    /// Run only this case
    #[arg(long)]
    case: Option<String>,
    /// Rounds
    #[arg(long, default_value_t = 2000)]
    rounds: u32,
    /// Print the names
    #[arg(long)]
    list: bool,
    /// Print the number of frames or calls instead of their time
    #[arg(long)]
    count: bool,
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let options = Options::parse();
    let wanted = |name: &str| options.case.as_ref().is_none_or(|case| case == name);
    for (name, make) in cases::ALL.into_iter().filter(|(name, _)| wanted(name)) {
        if options.list {
            println!("{name}");
            continue;
        }
        let (mut round, mut frames, mut costs) = (make()?, 0, Vec::new());
        for _ in 0..options.rounds {
            let (time, n) = round();
            frames += n;
            costs.push(time.as_secs_f64() * 1e9 / f64::from(n));
        }
        match Spread::of(&costs) {
            _ if options.count => println!("{frames}"),
            Some(cost) => println!("{name:30} {:9.1} ns", cost.median),
            None => {}
        }
    }
    Ok(())
}
