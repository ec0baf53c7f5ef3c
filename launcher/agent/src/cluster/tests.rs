//! Tests of the objects of a cluster, on a store in a file.

use super::*;
use crate::objects::NodeObject;
use hawser_manifest::objects::SourceFile;
use hawser_store::sqlite::{Access, Sqlite};
use tempfile::TempDir;

const NETWORK: &str = "apiVersion: k8s.ovn.org/v1\nkind: UserDefinedNetwork\nmetadata: {name: lan, namespace: blue}\n\
                       spec:\n  topology: Layer2\n  layer2: {role: Primary, subnets: [10.1.0.0/24]}\n";
const VM: &str = "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {name: web, namespace: blue}\nspec:\n  \
                  template:\n    spec:\n      nodeSelector: {zone: a}\n      domain: {devices: {interfaces: [{name: \
                  net, binding: {name: l2bridge}}]}}\n      networks: [{name: net, pod: {}}]\n";

struct Stage {
    folder: TempDir,
    cluster: Cluster,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = AgentStore::File(Sqlite::open(&path, Access::Make).unwrap(), path);
        let cluster = Cluster::new(store, "n1".into());
        Self { folder, cluster }
    }

    fn other(&self) -> Cluster {
        assert!(self.folder.path().exists());
        Cluster::new(self.cluster.store.share().unwrap(), "n2".into())
    }

    fn apply(&mut self, texts: &[&str]) -> Result<Vec<String>, Refused> {
        let file = |(number, text): (usize, &&str)| SourceFile {
            name: format!("{number}.yaml"),
            text: (*text).to_owned(),
        };
        let application = Application {
            files: texts.iter().enumerate().map(file).collect(),
            namespace: "default".into(),
            dry_run: false,
        };
        let (applied, _) = self.cluster.apply(&application)?;
        Ok(applied
            .into_iter()
            .map(|object| format!("{} {}", object.name, object.result))
            .collect())
    }

    fn vm(&self) -> VmView {
        let vms = self.cluster.get(&resources::VM, Some("blue"), Some("web")).unwrap();
        vms[0].vm.clone().unwrap()
    }
}

fn name() -> VmName {
    "blue/web".parse().unwrap()
}

fn join(cluster: &mut Cluster, zone: &str, instance: &str) -> Roll {
    let node = NodeObject {
        instance: instance.into(),
        host: "h".into(),
        labels: [("zone".to_owned(), zone.to_owned())].into(),
        vtep: None,
        version: "1".into(),
        created: 1,
    };
    cluster.answer_roll(&node).unwrap()
}

#[test]
fn a_vm_waits_for_a_node_with_its_labels_and_is_placed_once() {
    let mut stage = Stage::new();
    assert_eq!(stage.apply(&[NETWORK, VM]).unwrap(), ["lan created", "web created"]);
    let vm = stage.vm();
    assert_eq!((vm.phase.as_str(), vm.node), ("Pending", None));
    assert!(vm.message.contains("zone=a"), "{}", vm.message);
    join(&mut stage.cluster, "b", "1");
    assert!(stage.cluster.place_pending().unwrap(), "it is left");
    let mut other = stage.other();
    assert_eq!(join(&mut other, "a", "2"), Roll::Ours);
    assert!(!other.place_pending().unwrap());
    assert_eq!(stage.vm().node.as_deref(), Some("n2"));
    assert_eq!(stage.apply(&[NETWORK, VM]).unwrap(), ["lan unchanged", "web unchanged"]);
    // Its record for the node is where the node looks.
    let placed = stage.cluster.store.list(&objects::placed_on("n2")).unwrap();
    assert_eq!(placed.len(), 1);
    assert_eq!(stage.cluster.store.list(&objects::pending()).unwrap(), []);
}

#[test]
fn vms_that_are_applied_together_are_spread_over_the_nodes() {
    let mut stage = Stage::new();
    for node in ["n1", "n2"] {
        let mut cluster = Cluster::new(stage.cluster.store.share().unwrap(), node.into());
        join(&mut cluster, "a", node);
    }
    let vms: Vec<String> = (0..6)
        .map(|number| VM.replace("name: web,", &format!("name: vm{number},")))
        .collect();
    let mut texts = vec![NETWORK];
    texts.extend(vms.iter().map(String::as_str));
    stage.apply(&texts).unwrap();
    let nodes = stage.cluster.get(&resources::NODE, None, None).unwrap();
    let loads: Vec<usize> = nodes.into_iter().map(|node| node.node.unwrap().vms).collect();
    assert_eq!(loads, [3, 3]);
}

#[test]
fn a_stopped_vm_stays_stopped_unless_its_manifest_says_otherwise() {
    let mut stage = Stage::new();
    join(&mut stage.cluster, "a", "1");
    stage.apply(&[NETWORK, VM]).unwrap();
    stage.cluster.set_power(&name(), Power::Off).unwrap();
    let longer = VM.replace("name: web,", "name: web, labels: {a: b},");
    assert_eq!(stage.apply(&[&longer]).unwrap(), ["web configured"]);
    assert_eq!(stage.vm().power, Power::Off);
    stage
        .apply(&[&VM.replace("spec:\n  template", "spec:\n  runStrategy: Always\n  template")])
        .unwrap();
    assert_eq!(stage.vm().power, Power::On);
    stage
        .apply(&[&VM.replace("spec:\n  template", "spec:\n  runStrategy: Halted\n  template")])
        .unwrap();
    assert_eq!(stage.vm().power, Power::Off);
}

#[test]
fn a_vm_that_is_deleted_is_removed_by_its_node_and_cannot_be_changed_until_then() {
    let mut stage = Stage::new();
    join(&mut stage.cluster, "a", "1");
    stage.apply(&[NETWORK, VM]).unwrap();
    stage
        .cluster
        .delete(&resources::VM, Some("blue"), "web", false)
        .unwrap();
    assert_eq!(stage.vm().phase, "Terminating");
    for refused in [
        stage.apply(&[VM]).map(drop),
        stage.cluster.set_power(&name(), Power::On),
        stage.cluster.move_to(&name(), None, false).map(drop),
    ] {
        assert!(matches!(refused, Err(Refused::Conflict(_))), "{refused:?}");
    }
    stage.cluster.finish_delete(&name(), false).unwrap();
    let left = stage.cluster.get(&resources::VM, None, None).unwrap();
    assert!(left.is_empty(), "{left:?}");
    stage.apply(&[VM]).unwrap();
    // A late second attempt does not remove the new VM.
    stage.cluster.finish_delete(&name(), false).unwrap();
    assert_eq!(stage.vm().node.as_deref(), Some("n1"));
}

#[test]
fn nothing_is_stored_if_one_object_is_wrong() {
    let mut stage = Stage::new();
    let twice = format!("{NETWORK}---\n{NETWORK}");
    for (texts, expected) in [
        (
            vec![NETWORK, "kind: Pod\napiVersion: v1\nmetadata: {name: x}\n"],
            "1.yaml:1: kind Pod",
        ),
        (
            vec![twice.as_str()],
            "0.yaml:8: UserDefinedNetwork lan is already at 0.yaml:1",
        ),
        (vec![NETWORK, &VM.replace("l2bridge", "other")], "1.yaml:8: "),
        (vec![&NETWORK.replace("Layer2", "Layer4")], "0.yaml:5: "),
        (vec![""], "no objects"),
    ] {
        let error = stage.apply(&texts).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let udn = resources::find("udn").unwrap();
    assert!(stage.cluster.get(udn, None, None).unwrap().is_empty());
}

#[test]
fn the_name_of_a_node_has_one_agent() {
    let mut stage = Stage::new();
    assert_eq!(join(&mut stage.cluster, "a", "1"), Roll::Ours);
    assert_eq!(join(&mut stage.cluster, "a", "1"), Roll::Ours);
    assert_eq!(join(&mut stage.cluster, "a", "2"), Roll::Taken("h".into()));
    let error = stage.cluster.delete(&resources::NODE, None, "n1", false).unwrap_err();
    assert!(error.to_string().contains("runs: end it first"), "{error}");
}
