//! Describes the machine of a measurement.

use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::thread;

/// The class of a machine, without its name.
#[derive(Clone, Debug)]
pub struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    date: String,
}

impl Machine {
    /// Describes this machine in its current state.
    pub fn this() -> Self {
        let output = |program: &str, argument: &str| {
            let output = Command::new(program).arg(argument).output().ok();
            output.map_or_else(String::new, |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        };
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = output("uname", "-r");
        let version: Vec<_> = kernel.split(['.', '-']).take(2).collect();
        Self {
            processor: model.map_or("unknown processor", |(_, name)| name).to_owned(),
            processors: thread::available_parallelism().map_or(1, usize::from),
            kernel: version.join("."),
            date: output("date", "+%Y-%m-%d"),
        }
    }

    /// The description in one line.
    pub fn describe(&self) -> String {
        format!(
            "{}, {} processors ({}), Linux {}",
            self.date, self.processors, self.processor, self.kernel
        )
    }

    /// The description as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "date": self.date, "processor": self.processor, "processors": self.processors, "kernel": self.kernel,
        })
    }
}

/// Load average of the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}
