//! The options and the report that benches with guests share.

use crate::chart::{self, Panel};
use crate::machine::{self, Machine};
use crate::results::{Metric, Peer, Results, Verdict};
use crate::surroundings::Surroundings;
use clap::Args;
use hawser_testkit::{Result, failure};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Where the results go.
#[derive(Args, Clone, Debug)]
pub struct Files {
    /// File for all samples
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// File for the picture
    #[arg(long)]
    pub chart: Option<PathBuf>,
}

/// Options of a bench that measures several peers in rounds.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Rounds; each measures every peer once
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds of each TCP transfer
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Peers to measure, by their keys in the JSON file (default: all)
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// What to measure (default: all)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Conditions of guests and servers.
    #[command(flatten)]
    pub surroundings: Surroundings,
    /// Where the results go.
    #[command(flatten)]
    pub files: Files,
}

impl Options {
    /// Whether a part is to be measured.
    pub fn measures(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == what)
    }

    /// Duration of a transfer.
    pub const fn transfer(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Starts the chosen peers.
    ///
    /// # Errors
    /// A peer is unknown, or does not start.
    pub fn start<P: Peer, S>(&self, start: impl Fn(P) -> Result<S>) -> Result<Vec<S>> {
        let known = |key: &&String| P::ALL.iter().all(|peer| peer.key() != **key);
        if let Some(key) = self.peers.iter().find(known) {
            let keys: Vec<_> = P::ALL.iter().map(|peer| peer.key()).collect();
            return Err(failure(format!("no peer '{key}': choose from {}", keys.join(", "))));
        }
        let chosen = P::ALL
            .iter()
            .filter(|peer| self.peers.is_empty() || self.peers.iter().any(|key| key == peer.key()));
        let setups = chosen.map(|&peer| {
            eprintln!("starting {}", peer.title());
            start(peer)
        });
        setups.collect()
    }

    /// Runs the rounds, in which `measure` handles one peer.
    pub fn each_round<S>(&self, setups: &[S], title: impl Fn(&S) -> &'static str, mut measure: impl FnMut(&S)) {
        for number in 1..=self.rounds {
            for setup in setups {
                eprintln!("round {number} of {}: {}", self.rounds, title(setup));
                measure(setup);
            }
        }
    }
}

/// The circumstances of a run, noted at its start.
#[derive(Debug)]
pub struct Report {
    machine: Machine,
    load: f64,
    rounds: u32,
    surroundings: Surroundings,
}

impl Report {
    /// A run of this many rounds that begins now.
    pub fn start(rounds: u32, surroundings: &Surroundings) -> Self {
        Self {
            machine: Machine::this(),
            load: machine::load(),
            rounds,
            surroundings: surroundings.clone(),
        }
    }

    /// Prints the figures and the targets, and writes the files.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write<P: Peer, M: Metric>(
        &self,
        results: &Results<P, M>,
        panels: &[Panel],
        verdicts: &[Verdict],
        files: &Files,
    ) -> Result<()> {
        let note = format!(
            "{}; medians of {} interleaved rounds, whiskers: least and most",
            self.machine.describe(),
            self.rounds
        );
        println!("{note}\nload average before the run: {:.1}\n", self.load);
        println!("{}\n{}", results.table(), Verdict::table(verdicts));
        if let Some(path) = &files.chart {
            fs::write(path, chart::svg(panels, &note))?;
        }
        if let Some(path) = &files.json {
            fs::write(path, format!("{:#}\n", self.json(results.to_json(verdicts))))?;
        }
        Ok(())
    }

    fn json(&self, mut json: Value) -> Value {
        json["machine"] = self.machine.to_json();
        json["rounds"] = self.rounds.into();
        json["surroundings"] = self.surroundings.to_json();
        json["load_before"] = self.load.into();
        json
    }
}
