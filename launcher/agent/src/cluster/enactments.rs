//! How far the policies for links are on their nodes.

use super::{Cluster, ObjectView, Refused};
use crate::objects::{self, OtherObject};
use crate::resources::ENACTMENT;
use hawser_store::records::Records as _;
use serde_json::{Value, json};

/// The type of the condition that holds.
fn condition(enactment: &Value) -> &str {
    let conditions = enactment["status"]["conditions"].as_array();
    let holds = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["status"] == "True");
    holds.and_then(|condition| condition["type"].as_str()).unwrap_or("")
}

impl Cluster {
    /// Adds a status to policies: `Available` if all nodes that it selects have it, as kubernetes-nmstate shows it.
    pub(super) fn add_enactments(&self, policies: &mut [ObjectView]) -> Result<(), Refused> {
        let mut enactments = Vec::new();
        for record in self.store.list(&objects::reports_of(ENACTMENT.kind))? {
            enactments.push(objects::value::<OtherObject>(&record).map_err(Refused::Store)?.manifest);
        }
        for policy in policies {
            let own = |enactment: &&Value| enactment["metadata"]["labels"]["nmstate.io/policy"] == policy.name.as_str();
            let own: Vec<&Value> = enactments.iter().filter(own).collect();
            let count = |kind| own.iter().filter(|enactment| condition(enactment) == kind).count();
            let (all, done, failing) = (own.len(), count("Available"), count("Failing"));
            let (kind, reason) = match () {
                () if all == 0 => ("Ignored", "NoMatchingNode"),
                () if failing > 0 => ("Degraded", "FailedToConfigure"),
                () if done == all => ("Available", "SuccessfullyConfigured"),
                () => ("Progressing", "ConfigurationProgressing"),
            };
            policy.manifest["status"] = json!({"conditions": [{
                "type": kind,
                "status": "True",
                "reason": reason,
                "message": format!("{done}/{all} nodes successfully configured"),
            }]});
        }
        Ok(())
    }
}
