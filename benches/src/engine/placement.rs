//! Who runs where: the measured thread has a processor, everybody else has the others.
//!
//! Left to the scheduler, three busy threads on two processors are in each other's way in
//! another manner in each run, and a figure differs by a third from the one before.

use super::thread_in;
use hawser_testkit::Result;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// The processors this process may use, in order.
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

/// Where the measured thread runs, once everybody else has been moved away.
#[derive(Clone, Copy, Debug)]
pub struct Reserved(usize);

impl Reserved {
    /// Holds the calling thread, and whatever it starts, to all processors but one; `None` where
    /// there is one only.
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

    /// Moves a thread of a process (a number, or self) to the processor kept for it.
    ///
    /// # Errors
    /// There is no such thread.
    pub fn give_to(self, process: &str, name: &str) -> Result<()> {
        hold(Some(thread_in(process, name)?.0), &[self.0])
    }
}
