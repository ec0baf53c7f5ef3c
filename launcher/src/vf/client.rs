//! The connection to the keeper.

use super::keeper::COMMAND;
use super::{Answer, Cluster, Report, Request, Vf};
use crate::failure::Failure;
use hawser_host::passthrough::PfSegment;
use hawser_host::pci::PciAddress;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

const NO_ANSWER: &str = "the keeper of VFs does not answer";

/// The keeper of a VM's virtual functions. They are put back when this is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// A file, because its reads and writes are those that every thread of the process may make.
    line: Mutex<BufReader<File>>,
    /// Where a cluster tells which functions the VM has.
    pub(super) cluster: Cluster,
}

impl Keeper {
    /// Starts the keeper, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(crate) fn start(runtime_folder: &Path, cluster: Cluster) -> Result<Self, Failure> {
        let start = || -> io::Result<File> {
            let (ours, theirs) = UnixStream::pair()?;
            let output = theirs.try_clone()?;
            Command::new(std::env::current_exe()?)
                .arg(COMMAND)
                .arg(runtime_folder)
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::from(OwnedFd::from(output)))
                .process_group(0)
                .spawn()?;
            Ok(OwnedFd::from(ours).into())
        };
        let line =
            start().map_err(|error| Failure::runtime(format_args!("cannot start the keeper of VFs: {error}")))?;
        Ok(Self {
            line: Mutex::new(BufReader::new(line)),
            cluster,
        })
    }

    fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let ask = || -> io::Result<Answer> {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            let mut text = serde_json::to_string(request)?;
            text.push('\n');
            line.get_mut().write_all(text.as_bytes())?;
            let mut answer = String::new();
            line.read_line(&mut answer)?;
            Ok(serde_json::from_str(&answer)?)
        };
        match ask() {
            Ok(Answer::Refused(why)) => Err(Failure::runtime(why)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(Failure::runtime(format_args!("{NO_ANSWER}: {error}"))),
        }
    }

    /// The functions of a pool on this node, by number; `pools` is the record of the node.
    ///
    /// # Errors
    /// The record cannot be read.
    pub(crate) fn candidates(&self, resource: &str, pools: &Path) -> Result<Vec<PciAddress>, Failure> {
        let request = Request::Candidates {
            resource: resource.to_owned(),
            pools: pools.to_owned(),
        };
        match self.ask(&request)? {
            Answer::Candidates(found) => Ok(found),
            _ => Ok(Vec::new()),
        }
    }

    /// The segment of a function's physical function.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn segment(&self, vf: PciAddress) -> Result<PfSegment, Failure> {
        match self.ask(&Request::Segment { vf })? {
            Answer::Segment(segment) => Ok(segment),
            _ => Err(Failure::runtime(NO_ANSWER)),
        }
    }

    /// Checks that a function can be passed, without changing anything.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn check(&self, vf: &Vf) -> Result<(), Failure> {
        let request = Request::Check {
            vf: vf.address,
            attributes: vf.attributes.clone(),
            is_paired: vf.device.teaming.standby().is_some(),
        };
        self.ask(&request).map(drop).map_err(|failure| placed(&failure, vf))
    }

    /// Sets a function up and binds it to vfio-pci.
    ///
    /// # Errors
    /// The step that failed; the function is as it was.
    pub(crate) fn pass(&self, vf: &Vf) -> Result<(), Failure> {
        let request = Request::Pass {
            name: vf.name.clone(),
            vf: vf.address,
            attributes: vf.attributes.clone(),
        };
        match self.ask(&request).map_err(|failure| placed(&failure, vf))? {
            Answer::Passed(times) => log::info!("interface {}: VF {} is {times}", vf.name, vf.address),
            _ => log::warn!("interface {}: {NO_ANSWER}", vf.name),
        }
        Ok(())
    }

    /// Puts a function back.
    pub(crate) fn give_back(&self, name: &str) {
        let request = Request::GiveBack { name: name.to_owned() };
        if let Err(failure) = self.ask(&request) {
            log::error!("interface {name}: {failure}");
        }
    }

    /// The state of a passed function.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub(crate) fn report(&self, name: &str) -> Result<Report, Failure> {
        match self.ask(&Request::Report { name: name.to_owned() })? {
            Answer::Report(report) => Ok(*report),
            _ => Ok(Report::default()),
        }
    }
}

fn placed(failure: &Failure, vf: &Vf) -> Failure {
    Failure::runtime(format_args!("{}: {failure}", vf.place))
}
