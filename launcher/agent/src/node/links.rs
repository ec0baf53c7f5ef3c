//! The links of the node, by the NodeNetworkConfigurationPolicy objects in the store that select it.
//!
//! ```text
//!  policies ── those that select this node ── hawser node apply, one at a time ── enactment
//!                                             hawser node status --links ──────── NodeNetworkState
//! ```
//!
//! `hawser node apply` makes the changes of a policy completely or not at all, and puts them back if the default gateways
//! or etcd are lost. A policy is applied when it is new or changed. After a failure it is not tried again until then,
//! because it may have cut off the node for a time; only one that could not be tried is.

use super::Node;
use crate::cli::{ServeArgs, StorePlace};
use crate::cluster::random;
use crate::objects::{self, OtherObject};
use crate::resources::{ENACTMENT, LINK_POLICY, LINKS};
use hawser_store::records::{Batch, RecordKey, Records as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Interval at which the state of the links is read.
const LOOK: Duration = Duration::from_secs(60);
/// Interval at which a policy is tried again that could not be tried.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for a connection to a member of etcd.
const CONNECT: Duration = Duration::from_secs(1);
/// Version of the objects that agents write.
const VERSION: &str = "nmstate.io/v1beta1";

/// The policies of this node, and how far each of them is.
#[derive(Debug, Default)]
pub(super) struct Links {
    stamp: Option<i64>,
    /// Policies that select this node, by their names.
    wanted: BTreeMap<String, Value>,
    /// Policies as they were tried last.
    tried: BTreeMap<String, Value>,
    running: Option<Running>,
    /// No policy is tried before.
    rests_until: Option<Instant>,
    /// Time at which the state of the links is read.
    look: Option<Instant>,
    /// Records as they were written last.
    told: BTreeMap<RecordKey, Value>,
}

/// A policy that is being applied.
#[derive(Debug)]
struct Running {
    name: String,
    policy: Value,
    child: Child,
    errors: File,
}

/// How far a policy is on this node, with the words of kubernetes-nmstate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enactment {
    Progressing,
    Available,
    Failing,
}

impl Enactment {
    const fn reason(self) -> &'static str {
        match self {
            Self::Progressing => "ConfigurationProgressing",
            Self::Available => "SuccessfullyConfigured",
            Self::Failing => "FailedToConfigure",
        }
    }
}

impl Running {
    /// The result, once there is one.
    fn ended(&mut self) -> Option<(Enactment, String)> {
        let status = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) if status.success() => {
                return Some((Enactment::Available, "the links are as the policy says".to_owned()));
            }
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let mut text = String::new();
        // Without its messages, the status remains.
        let _ = self
            .errors
            .rewind()
            .and_then(|()| self.errors.read_to_string(&mut text));
        let last = text.lines().rev().find_map(|line| line.strip_prefix("hawser: "));
        Some((Enactment::Failing, last.map_or(status, str::to_owned)))
    }
}

impl Node<'_> {
    /// Applies policies that are new, and reports the state of the links.
    pub(super) fn serve_links(&mut self, now: Instant) -> Result<(), String> {
        self.list_policies()?;
        if let Some((enactment, message)) = self.links.running.as_mut().and_then(Running::ended)
            && let Some(Running { name, policy, .. }) = self.links.running.take()
        {
            log::info!("policy {name}: {enactment:?}: {message}");
            self.links.look = Some(now);
            self.enact(&name, &policy, enactment, &message)?;
        }
        if self.links.running.is_none() && self.links.rests_until.is_none_or(|until| now >= until) {
            self.begin_policy(now)?;
        }
        if self.links.look.is_none_or(|look| now >= look) {
            // Not all nodes look at once.
            self.links.look = Some(now + LOOK + Duration::from_millis(random() % 1000));
            self.report_links()?;
        }
        Ok(())
    }

    /// Reads the policies if they have changed.
    fn list_policies(&mut self) -> Result<(), String> {
        let folder = objects::objects_of(LINK_POLICY.kind);
        let failed = |error: hawser_store::StoreError| error.to_string();
        let stamp = self.cluster.store.stamp(&folder).map_err(failed)?;
        if self.links.stamp == Some(stamp) {
            return Ok(());
        }
        let mut wanted = BTreeMap::new();
        for record in self.cluster.store.list(&folder).map_err(failed)? {
            let policy = objects::value::<OtherObject>(&record)?.manifest;
            let name = policy["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if selects(&policy, self.membership.labels()) {
                wanted.insert(name, policy);
            }
        }
        self.links.stamp = Some(stamp);
        self.links.wanted = wanted;
        // As with NMState, what a policy has changed stays when the policy is removed.
        let gone = self
            .links
            .tried
            .keys()
            .filter(|name| !self.links.wanted.contains_key(*name));
        for name in gone.cloned().collect::<Vec<String>>() {
            let key = objects::report_key(ENACTMENT.kind, &enactment_name(self.node, &name));
            self.cluster
                .store
                .change(&Batch::default().delete(&key))
                .map_err(failed)?;
            self.links.told.remove(&key);
            self.links.tried.remove(&name);
        }
        Ok(())
    }

    /// Begins to apply the first policy that has not been tried as it is.
    fn begin_policy(&mut self, now: Instant) -> Result<(), String> {
        let new = |(name, policy): &(&String, &Value)| {
            self.links.tried.get(*name).map(|tried| &tried["spec"]) != Some(&policy["spec"])
        };
        let Some((name, policy)) = self.links.wanted.iter().find(new) else {
            return Ok(());
        };
        let (name, policy) = (name.clone(), policy.clone());
        let started = start(self.args, &name, &policy);
        match started {
            Ok(running) => {
                self.links.running = Some(running);
                self.links.tried.insert(name.clone(), policy.clone());
                self.enact(&name, &policy, Enactment::Progressing, "hawser node apply runs")
            }
            Err(problem) => {
                self.links.rests_until = Some(now + RETRY);
                self.enact(&name, &policy, Enactment::Progressing, &problem)
            }
        }
    }

    fn enact(&mut self, policy: &str, object: &Value, enactment: Enactment, message: &str) -> Result<(), String> {
        let name = enactment_name(self.node, policy);
        let all = [Enactment::Failing, Enactment::Available, Enactment::Progressing];
        let conditions = all.map(|kind| {
            let holds = kind == enactment;
            json!({
                "type": format!("{kind:?}"),
                "status": if holds { "True" } else { "False" },
                "reason": enactment.reason(),
                "message": if holds { message } else { "" },
            })
        });
        let value = json!({
            "apiVersion": VERSION,
            "kind": ENACTMENT.kind,
            "metadata": {
                "name": name,
                "labels": {"nmstate.io/policy": policy, "nmstate.io/node": self.node},
            },
            "status": {"desiredState": object["spec"]["desiredState"], "conditions": conditions},
        });
        self.tell_report(objects::report_key(ENACTMENT.kind, &name), value)
    }

    fn report_links(&mut self) -> Result<(), String> {
        let mut command = Command::new(&self.args.hawser);
        command
            .args(["node", "status", "--links", "--json"])
            .stdin(Stdio::null());
        let output = command.output();
        let output = output.map_err(|error| format!("--hawser={}: {error}", self.args.hawser.display()))?;
        let Ok(mut state) = serde_json::from_slice::<Value>(&output.stdout) else {
            // Another version of hawser may not have this command. Nothing else depends on it.
            log::debug!("{}", String::from_utf8_lossy(&output.stderr));
            return Ok(());
        };
        state["metadata"]["name"] = self.node.into();
        self.tell_report(objects::report_key(LINKS.kind, self.node), state)
    }

    /// Writes an object that reports a state, if it has changed.
    fn tell_report(&mut self, key: RecordKey, manifest: Value) -> Result<(), String> {
        if self.links.told.get(&key) == Some(&manifest) {
            return Ok(());
        }
        let created = crate::history::now();
        let text = objects::text(&OtherObject {
            manifest: manifest.clone(),
            created,
        });
        let put = Batch::default().put(&key, text);
        self.cluster.store.change(&put).map_err(|error| error.to_string())?;
        self.links.told.insert(key, manifest);
        Ok(())
    }
}

fn enactment_name(node: &str, policy: &str) -> String {
    format!("{node}.{policy}")
}

/// True if a policy is for a node with these labels.
fn selects(policy: &Value, labels: &BTreeMap<String, String>) -> bool {
    let selector = policy["spec"]["nodeSelector"].as_object();
    selector.is_none_or(|selector| {
        let mut pairs = selector.iter();
        pairs.all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
    })
}

/// Starts `hawser node apply` for a policy.
///
/// # Errors
/// The program cannot be started, or etcd is not reached even before the change.
fn start(args: &ServeArgs, name: &str, policy: &Value) -> Result<Running, String> {
    let folder: PathBuf = args.run_dir.join("links");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let (file, log) = (folder.join(format!("{name}.json")), folder.join("log"));
    fs::write(&file, policy.to_string()).map_err(failed)?;
    let errors = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(log);
    let errors = errors.map_err(failed)?;
    let mut command = Command::new(&args.hawser);
    command.args(["node", "apply", "-f"]).arg(file);
    command.arg("--runtime-dir").arg(folder.join("journal"));
    command.arg(format!("--reach-within={}", args.reach_within));
    if let StorePlace::Etcd(place) = &args.store {
        let reached = place.endpoints.iter().find_map(|endpoint| connects(endpoint));
        let reached = reached.ok_or("no member of etcd is reached even before the change: nothing is changed")?;
        command.arg(format!("--reach={reached}"));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(errors.try_clone().map_err(failed)?));
    let child = command.spawn();
    Ok(Running {
        name: name.to_owned(),
        policy: policy.clone(),
        child: child.map_err(|error| format!("--hawser={}: {error}", args.hawser.display()))?,
        errors,
    })
}

/// The address of a member, if it accepts a connection.
fn connects(endpoint: &str) -> Option<SocketAddr> {
    let mut addresses = endpoint.to_socket_addrs().ok()?;
    addresses.find(|address| TcpStream::connect_timeout(address, CONNECT).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_selects_the_nodes_that_have_all_of_its_labels() {
        let labels = [("zone", "a"), ("disk", "ssd")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = labels.into();
        let selects = |selector: Value| selects(&json!({"spec": {"nodeSelector": selector}}), &labels);
        assert!(selects(Value::Null) && selects(json!({})) && selects(json!({"zone": "a"})));
        assert!(!selects(json!({"zone": "a", "disk": "hdd"})) && !selects(json!({"rack": "1"})));
    }
}
