//! Chooses the node of a VM.

use std::collections::BTreeMap;

/// A node, for the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Name of the node.
    pub name: String,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Number of VMs that are placed on the node.
    pub load: usize,
    /// True if the node's agent has answered recently.
    pub is_alive: bool,
}

/// The node for a VM that requires these labels: one of the nodes with the least load, chosen by `random`.
///
/// # Errors
/// No node fits. The message is for the VM's owner.
pub(crate) fn choose<'a>(
    nodes: &'a [Candidate],
    selector: &BTreeMap<String, String>,
    random: u64,
) -> Result<&'a str, String> {
    let fits = |node: &&Candidate| selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let fitting: Vec<&Candidate> = nodes.iter().filter(fits).collect();
    if fitting.is_empty() {
        let wanted: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return Err(match wanted.is_empty() {
            true => "the cluster has no node: start hawser-agent on one".to_owned(),
            false => format!(
                "no node has the labels of nodeSelector ({}): start an agent with --node-label, or change the selector",
                wanted.join(", ")
            ),
        });
    }
    let alive: Vec<&Candidate> = fitting.iter().copied().filter(|node| node.is_alive).collect();
    let Some(least) = alive.iter().map(|node| node.load).min() else {
        let names: Vec<&str> = fitting.iter().map(|node| node.name.as_str()).collect();
        return Err(format!(
            "the agents of {} do not answer: start one of them",
            names.join(", ")
        ));
    };
    let best: Vec<&Candidate> = alive.into_iter().filter(|node| node.load == least).collect();
    let count = u64::try_from(best.len()).unwrap_or(1);
    let at = usize::try_from(random % count).unwrap_or(0);
    Ok(&best[at].name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, labels: &[(&str, &str)], load: usize) -> Candidate {
        Candidate {
            name: name.into(),
            labels: pairs(labels),
            load,
            is_alive: true,
        }
    }

    fn pairs(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn the_least_loaded_node_with_the_labels_is_chosen() {
        let nodes = [
            node("n1", &[("zone", "a")], 5),
            node("n2", &[("zone", "a"), ("disk", "ssd")], 2),
            node("n3", &[("zone", "b")], 0),
        ];
        let choose = |labels: &[(&str, &str)]| choose(&nodes, &pairs(labels), 7);
        assert_eq!(choose(&[]), Ok("n3"));
        assert_eq!(choose(&[("zone", "a")]), Ok("n2"));
        let error = choose(&[("zone", "c")]).unwrap_err();
        assert!(error.contains("zone=c"), "{error}");
    }

    #[test]
    fn nodes_of_equal_load_are_all_chosen_and_a_silent_node_never() {
        let mut nodes = [node("n1", &[], 1), node("n2", &[], 1), node("n3", &[], 0)];
        nodes[2].is_alive = false;
        let chosen: Vec<_> = (0..4)
            .map(|random| choose(&nodes, &BTreeMap::new(), random).unwrap())
            .collect();
        assert_eq!(chosen, ["n1", "n2", "n1", "n2"]);
        let error = choose(&nodes[2..], &BTreeMap::new(), 0).unwrap_err();
        assert!(error.contains("n3") && error.contains("do not answer"), "{error}");
        assert!(choose(&[], &BTreeMap::new(), 0).unwrap_err().contains("no node"));
    }
}
