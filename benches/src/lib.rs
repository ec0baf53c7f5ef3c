//! Benchmarks of hawser (see docs/performance.md).

pub mod bridge;
pub mod cases;
pub mod chart;
pub mod cluster;
pub mod engine;
pub mod instructions;
pub mod layer2;
pub mod machine;
pub mod measure;
pub mod metric;
pub mod migration;
pub mod numbers;
pub mod packets;
pub mod report;
pub mod results;
pub mod served;
pub mod setup;
pub mod surroundings;
pub mod tap;
pub mod tunnel;

use std::process::ExitCode;

/// Exit code of a bench. Prints an error to standard error.
pub fn exit(outcome: hawser_testkit::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
