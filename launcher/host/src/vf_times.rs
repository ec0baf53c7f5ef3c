//! How long the set-up of a virtual function takes, and how much of that is the time of the kernel's drivers.

use std::fmt;
use std::time::{Duration, Instant};

/// Times of a set-up.
#[derive(Clone, Debug)]
pub struct VfTimes {
    start: Instant,
    drivers: Vec<(&'static str, Duration)>,
    whole: Duration,
}

impl VfTimes {
    /// Begins with a set-up.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            drivers: Vec::new(),
            whole: Duration::ZERO,
        }
    }

    /// Adds the time that a driver took for a step.
    pub fn add(&mut self, step: &'static str, took: Duration) {
        self.drivers.push((step, took));
    }

    /// Performs a step that a driver carries out.
    pub fn of_driver<T>(&mut self, step: &'static str, perform: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = perform();
        self.add(step, start.elapsed());
        done
    }

    /// Ends with the set-up.
    pub fn end(&mut self) {
        self.whole = self.start.elapsed();
    }

    /// Time of everything except the drivers.
    pub fn own(&self) -> Duration {
        let drivers: Duration = self.drivers.iter().map(|(_, took)| *took).sum();
        self.whole.saturating_sub(drivers)
    }
}

impl fmt::Display for VfTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, own) = (self.whole.as_millis(), self.own().as_millis());
        write!(f, "ready after {whole} ms: hawser {own} ms")?;
        for (step, took) in &self.drivers {
            write!(f, ", {step} {} ms", took.as_millis())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_drivers_is_not_that_of_hawser() {
        let times = VfTimes {
            start: Instant::now(),
            drivers: vec![("vlan", Duration::from_millis(30)), ("vfio", Duration::from_millis(50))],
            whole: Duration::from_millis(90),
        };
        assert_eq!(times.own(), Duration::from_millis(10));
        assert_eq!(
            times.to_string(),
            "ready after 90 ms: hawser 10 ms, vlan 30 ms, vfio 50 ms"
        );
    }
}
