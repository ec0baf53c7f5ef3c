//! Places threads: the measured thread has its own processor, and all others share the rest.
//!
//! If the scheduler decides, three busy threads on two processors disturb each other differently in each run, and
//! results differ by a third.

use super::thread_in;
use hawser_testkit::Result;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// The processors that the calling thread may use, in order.
fn processors() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&n| set.is_set(n)).collect())
}

fn hold(thread: Option<Pid>, processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &n in processors {
        set.set(n);
    }
    Ok(sched_setaffinity(thread, &set)?)
}

/// Restricts the calling thread to the processor with this number among those that it may use, or to the last one.
///
/// # Errors
/// The kernel refuses.
pub fn pin_to(number: usize) -> Result<()> {
    let all = processors()?;
    let chosen = all.get(number).or(all.last());
    hold(None, &chosen.copied().into_iter().collect::<Vec<_>>())
}

/// The processor of the measured thread, once all others have been moved away.
#[derive(Clone, Copy, Debug)]
pub struct Reserved(usize);

impl Reserved {
    /// Restricts the calling thread, and threads that it starts, to all processors except one. `None` if there is only
    /// one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> Result<Option<Self>> {
        let processors = processors()?;
        let Some((&last, others)) = processors.split_last().filter(|(_, others)| !others.is_empty()) else {
            return Ok(None);
        };
        hold(None, others)?;
        Ok(Some(Self(last)))
    }

    /// Moves a thread of a process (an id, or self) to the reserved processor.
    ///
    /// # Errors
    /// The thread does not exist.
    pub fn give_to(self, process: &str, name: &str) -> Result<()> {
        hold(Some(thread_in(process, name)?.0), &[self.0])
    }
}
