//! Options for how a port's threads poll and sleep between turns.

use clap::Args;
use hawser_backend::config::PaceConfig;
use hawser_manifest::values;
use std::time::Duration;

/// Polling and sleeping options of every port.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Network card")]
pub(crate) struct PaceArgs {
    /// Longest time a thread polls for the next message of a rapid exchange, 0 to 1000; shortens round trips, costs
    /// processor time only during the exchange; 0: never
    #[arg(long, value_name = "MICROSECONDS", default_value = "200", value_parser = values::pause)]
    pub busy_poll: Duration,
    /// Longest time a thread sleeps between bursts of a transfer while that lowers its cost, 0 to
    /// 1000; fewer interrupts for the guest; 0: never
    #[arg(long, value_name = "MICROSECONDS", default_value = "150", value_parser = values::pause)]
    pub rest: Duration,
}

impl PaceArgs {
    /// Converts the options to the configuration of a port.
    pub(crate) const fn config(self) -> PaceConfig {
        PaceConfig {
            busy_poll: self.busy_poll,
            rest: self.rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        pace: PaceArgs,
    }

    #[test]
    fn without_options_the_pace_is_that_of_a_port() {
        let options = Options::parse_from(["hawser"]);
        assert_eq!(options.pace.config(), PaceConfig::default());
        let options = Options::parse_from(["hawser", "--busy-poll=0", "--rest=0"]);
        assert_eq!(options.pace.config(), PaceConfig::PLAIN);
    }
}
