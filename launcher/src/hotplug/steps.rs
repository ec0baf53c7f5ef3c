//! The steps that lead from the served NICs to those of the manifests, and the lines that report them.

use super::HotplugError;
use hawser_manifest::objects::interface::LinkState;
use hawser_manifest::plan::NicPlan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A step of a change.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Plug(NicPlan),
    Unplug(NicPlan),
    Link(String, LinkState),
}

impl Step {
    pub(super) fn undoing(&self) -> Self {
        match self {
            Self::Plug(nic) => Self::Unplug(nic.clone()),
            Self::Unplug(nic) => Self::Plug(nic.clone()),
            Self::Link(name, LinkState::Up) => Self::Link(name.clone(), LinkState::Down),
            Self::Link(name, _) => Self::Link(name.clone(), LinkState::Up),
        }
    }
}

/// Result of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Changes {
    /// Interfaces that were plugged.
    pub plugged: Vec<String>,
    /// Interfaces that were unplugged.
    pub unplugged: Vec<String>,
    /// Interfaces with a link that was set up.
    pub up: Vec<String>,
    /// Interfaces with a link that was set down.
    pub down: Vec<String>,
    /// Differences from the manifests that remain.
    pub warnings: Vec<String>,
}

/// The plan being served, with one interface replaced by its desired state.
pub(super) fn merged(served: &[NicPlan], wanted: &[NicPlan], name: &str) -> Result<Vec<NicPlan>, HotplugError> {
    let is_it = |nic: &&NicPlan| nic.name == name;
    let wanted = wanted.iter().find(is_it);
    if wanted.is_none() && !served.iter().any(|nic| nic.name == name) {
        return Err(HotplugError::Unknown(name.to_owned()));
    }
    let others = served.iter().filter(|nic| nic.name != name);
    Ok(others.chain(wanted).cloned().collect())
}

/// The steps that lead from the served NICs to the desired ones.
pub(super) fn steps(served: &[NicPlan], wanted: &[NicPlan]) -> Result<Vec<Step>, HotplugError> {
    let find = |nics: &[NicPlan], name: &str| nics.iter().find(|nic| nic.name == name).cloned();
    // The primary of a failover pair follows its standby in the list, and leaves before it.
    let gone = served.iter().rev().filter(|nic| find(wanted, &nic.name).is_none());
    let mut steps: Vec<Step> = gone.cloned().map(Step::Unplug).collect();
    for nic in wanted {
        let Some(mut now) = find(served, &nic.name) else {
            steps.push(Step::Plug(nic.clone()));
            continue;
        };
        if now.state != nic.state {
            steps.push(Step::Link(nic.name.clone(), nic.state));
            now.state = nic.state;
        }
        if now != *nic {
            return Err(HotplugError::Changed(nic.name.clone()));
        }
    }
    Ok(steps)
}

impl Changes {
    pub(super) fn note(&mut self, step: &Step) {
        match step {
            Step::Plug(nic) => self.plugged.push(nic.name.clone()),
            Step::Unplug(nic) => self.unplugged.push(nic.name.clone()),
            Step::Link(name, LinkState::Up) => self.up.push(name.clone()),
            Step::Link(name, _) => self.down.push(name.clone()),
        }
    }

    /// One line per change made.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines_with(["plugged", "unplugged", "link up", "link down"])
    }

    /// One line per change that a dry run would make.
    pub(crate) fn lines_to_be(&self) -> Vec<String> {
        self.lines_with([
            "would be plugged",
            "would be unplugged",
            "link would go up",
            "link would go down",
        ])
    }

    fn lines_with(&self, words: [&str; 4]) -> Vec<String> {
        let all = [&self.plugged, &self.unplugged, &self.up, &self.down];
        all.iter()
            .zip(words)
            .flat_map(|(names, what)| names.iter().map(move |name| format!("{name}: {what}")))
            .collect()
    }

    pub(super) fn log(&self) {
        self.lines().iter().for_each(|line| log::info!("interface {line}"));
        self.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    }
}
