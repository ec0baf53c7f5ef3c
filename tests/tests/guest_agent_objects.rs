//! Tests of objects in the store of a cluster: VMs that are applied on any node, placed, moved, stopped and deleted.

use hawser_testkit::cluster::{Cluster, NETWORK, address, vm, vm_on};
use hawser_testkit::{Result, until};
use std::time::{Duration, Instant};

/// Applies the network of namespace `blue` and these manifests on a node.
fn apply(cluster: &Cluster, node: usize, name: &str, manifests: &str, options: &str) -> Result<String> {
    let agent = &cluster.agents[node];
    let network = agent.file("network.yaml", NETWORK)?;
    let file = agent.file(name, manifests)?;
    agent.sh(&format!("apply -f {network} -f {file} {options}"))
}

/// The node of a VM, as any agent reports it.
fn node_of(cluster: &Cluster, name: &str) -> Result<String> {
    let text = cluster.agents[0].sh(&format!("get vm {name} -n blue -o json"))?;
    let vm: serde_json::Value = serde_json::from_str(&text)?;
    Ok(vm["status"]["nodeName"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn vms_applied_on_any_node_are_placed_moved_stopped_and_deleted() -> Result<()> {
    let mut cluster = Cluster::without_files(2)?;
    cluster.wait_ready(2)?;
    // A VM that names its node, and one that is placed where there is none yet.
    let said = apply(&cluster, 0, "stays.yaml", &vm_on("stays", 1), "--wait")?;
    assert!(said.contains("virtualmachineinstance/stays created"), "{said}");
    apply(&cluster, 1, "moves.yaml", &vm("moves"), "--wait")?;
    assert_eq!(
        (node_of(&cluster, "stays")?, node_of(&cluster, "moves")?),
        ("n1".into(), "n0".into())
    );
    let again = apply(&cluster, 1, "moves.yaml", &vm("moves"), "")?;
    assert!(again.contains("moves unchanged"), "{again}");

    let stays = cluster.boot(1, "stays")?;
    let moves = cluster.boot(0, "moves")?;
    let before = address(&moves)?;
    stays.reaches(&before)?;
    let table = cluster.agents[1].sh("get vms -A")?;
    let row = table.lines().find(|line| line.contains("moves")).unwrap_or_default();
    for cell in ["blue", "n0", "Running", &before] {
        assert!(row.contains(cell), "{table}");
    }

    // The MAC and the address go along.
    drop(moves);
    let said = cluster.agents[1].sh("move moves -n blue --to n1 --wait")?;
    assert!(said.contains("moved to node n1"), "{said}");
    let moved = cluster.boot(1, "moves")?;
    assert_eq!(address(&moved)?, before);
    stays.reaches(&before)?;
    assert!(!cluster.agents[0].vm_folder("blue", "moves").exists());

    // A VM that is stopped keeps them too.
    drop(moved);
    cluster.agents[0].sh("stop moves -n blue --wait")?;
    assert!(cluster.agents[0].sh("get vms -n blue")?.contains("Stopped"));
    cluster.agents[0].sh("start moves -n blue --wait")?;
    let started = cluster.boot(1, "moves")?;
    assert_eq!(address(&started)?, before);

    // A VM that is deleted releases them, and an agent that was away removes it later.
    drop((started, stays));
    cluster.agents[0].sh("delete vm/moves -n blue --wait")?;
    cluster.agents[1].kill();
    cluster.agents[0].sh("delete vm stays -n blue")?;
    cluster.start(1)?;
    until("both VMs are gone", || {
        Ok(cluster.agents[0].sh("get vms -A -o name")?.is_empty())
    })?;
    assert!(!cluster.agents[1].vm_folder("blue", "stays").exists());
    let records = cluster.etcd.keys(&cluster.nodes.world)?;
    for left in [
        "/vm/",
        "/ip/",
        "/mac/",
        "/rec/vm",
        "/rec/placed",
        "/rec/status",
        "/rec/pending",
    ] {
        assert!(
            !records.iter().any(|key| key.contains(left)),
            "{left} is left: {records:?}"
        );
    }
    Ok(())
}

#[test]
fn one_wrong_object_is_refused_by_file_and_line_before_anything_is_stored() -> Result<()> {
    let cluster = Cluster::without_files(1)?;
    cluster.wait_ready(1)?;
    let agent = &cluster.agents[0];
    let network = agent.file("network.yaml", NETWORK)?;
    let bad = agent.file(
        "bad.yaml",
        &format!("{}---\n{}", vm("good"), vm("bad").replace("l2bridge", "l3bridge")),
    )?;
    let (status, error) = agent.refused(&format!("apply -f {network} -f {bad}"))?;
    assert_eq!(status, Some(1));
    assert!(error.contains("bad.yaml:12: ") && error.contains("l3bridge"), "{error}");
    for kind in ["vms", "udn"] {
        assert_eq!(agent.sh(&format!("get {kind} -A -o name"))?, "", "{kind}");
    }
    for (arguments, code, expected) in [
        (
            "get vm none -n blue",
            1,
            "VirtualMachine none not found in namespace blue",
        ),
        ("get pods", 2, "there is no kind \"pods\""),
        ("move none -n blue", 1, "not found"),
        ("delete udn none -n blue", 1, "not found"),
        ("apply -f /nowhere.yaml", 2, "/nowhere.yaml"),
    ] {
        let (status, error) = agent.refused(arguments)?;
        assert!(
            status == Some(code) && error.contains(expected),
            "{arguments}: {status:?} {error}"
        );
    }
    // A VM whose node does not exist waits, with the reason.
    let far = agent.file("far.yaml", &vm_on("far", 7))?;
    agent.sh(&format!("apply -f {network} -f {far}"))?;
    let (status, error) = agent.refused(&format!("apply -f {far} --wait --timeout=1"))?;
    assert!(
        status == Some(1) && error.contains("Pending") && error.contains("kubernetes.io/hostname=n7"),
        "{error}"
    );
    let text = agent.sh("describe vm far -n blue")?;
    assert!(
        text.contains("Pending") && text.contains("kubernetes.io/hostname: n7"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_vm_of_a_node_that_is_off_is_taken_over_only_by_force_and_the_late_agent_stops_it() -> Result<()> {
    let mut cluster = Cluster::without_files(2)?;
    cluster.wait_ready(2)?;
    apply(&cluster, 0, "vm.yaml", &vm_on("db", 1), "--wait")?;
    let before = cluster.agents[1].vm("db")?;
    cluster.agents[1].kill();
    // The selector names the node, so it has to go first.
    apply(&cluster, 0, "vm.yaml", &vm("db"), "")?;
    let start = Instant::now();
    while !cluster.agents[0].sh("get vms -n blue")?.contains("Unknown") {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "the agent never counts as silent"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(start.elapsed() > Duration::from_secs(5), "it was given up too early");
    let (status, error) = cluster.agents[0].refused("move db -n blue")?;
    assert!(status == Some(1) && error.contains("--force"), "{error}");
    cluster.agents[0].sh("move db -n blue --force --wait")?;
    let after = cluster.agents[0].vm("db")?;
    let identity = |vm: &serde_json::Value| {
        let interface = &vm["interfaces"][0];
        (interface["mac"].clone(), interface["addresses"].clone())
    };
    assert_eq!(identity(&after), identity(&before));
    // The process of the silent node still ran. Its agent ends it as soon as it is back.
    cluster.start(1)?;
    let folder = cluster.agents[1].vm_folder("blue", "db");
    until("the late agent has stopped the VM", || Ok(!folder.exists()))?;
    assert_eq!(cluster.agents[0].wait_running("db")?["pid"], after["pid"]);
    Ok(())
}

#[test]
fn a_second_agent_of_a_node_s_name_is_refused() -> Result<()> {
    let mut cluster = Cluster::without_files(2)?;
    cluster.wait_ready(2)?;
    let store = format!("--store={}", cluster.etcd.store());
    cluster.agents[1].kill();
    cluster.agents[1].start(&cluster.nodes.nodes[1], "n0", &[&store])?;
    let process = cluster.agents[1].process()?;
    let status = process.wait(Duration::from_secs(20))?;
    let log = process.log();
    assert!(
        status.code() == Some(1) && log.contains("another agent serves node n0"),
        "{log}"
    );
    Ok(())
}

#[test]
fn one_node_with_a_file_as_its_store_has_the_same_commands() -> Result<()> {
    use hawser_testkit::agent::Agent;
    use hawser_testkit::nodes::Nodes;
    let nodes = Nodes::new(1, 1500)?;
    let mut agent = Agent::new(nodes.path("agent"))?;
    let store = format!("--store={}", nodes.path("store.db").display());
    agent.start(&nodes.nodes[0], "n0", &[&store, "--http=127.0.0.1:9180"])?;
    let answers = |agent: &Agent| {
        until("the agent answers", || {
            Ok(agent.sh("get nodes").is_ok_and(|table| table.contains("Ready")))
        })
    };
    answers(&agent)?;
    let network = agent.file("network.yaml", NETWORK)?;
    let file = agent.file("vm.yaml", &vm("web"))?;
    agent.sh(&format!("apply -f {network} -f {file} --wait"))?;
    let pid = agent.vm("web")?["pid"].clone();
    // An agent that starts again finds the VM of the store.
    agent.kill();
    agent.start(&nodes.nodes[0], "n0", &[&store, "--http=127.0.0.1:9180"])?;
    answers(&agent)?;
    assert_eq!(agent.wait_running("web")?["pid"], pid);
    let yaml = agent.sh("get vm web -n blue -o yaml")?;
    assert!(
        yaml.contains("kind: VirtualMachineInstance") && yaml.contains("phase: Running"),
        "{yaml}"
    );
    let text = agent.sh("describe vm web -n blue")?;
    assert!(
        text.contains("Phase:        Running") && text.contains("Tunnel:"),
        "{text}"
    );
    let metrics = agent.http("/v1/metrics")?;
    for line in [
        "hawser_agent_vms{phase=\"Running\"} 1",
        "hawser_agent_network_ports{network=\"blue_primary-udn\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    // Anybody may read the page and the metrics, and change nothing.
    let over_tcp = |method: &str, path: &str| {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/9180; printf '{method} {path} HTTP/1.1\\r\\nHost: n0\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"
        );
        let output = nodes.nodes[0].command("bash").arg("-c").arg(script).output()?;
        Result::Ok(String::from_utf8(output.stdout)?)
    };
    let page = over_tcp("GET", "/")?;
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("<title>hawser node</title>"),
        "{page}"
    );
    assert!(over_tcp("GET", "/v1/node")?.contains("\"name\":\"web\""));
    assert!(over_tcp("GET", "/metrics")?.contains("hawser_agent_vms"));
    assert!(over_tcp("POST", "/v1/stop?namespace=blue&name=web")?.starts_with("HTTP/1.1 405"));
    // A process that is killed is an event.
    nodes.world.run(&format!("kill -9 {pid}"))?;
    until("the end and the new start are shown", || {
        let text = agent.sh("describe vm web -n blue")?;
        Ok(["Ended", "Started", "ago: Running"]
            .iter()
            .all(|event| text.contains(event)))
    })?;
    agent.sh(&format!("delete -f {file} -f {network} --wait"))?;
    assert_eq!(agent.sh("get udn -A -o name")?, "");
    Ok(())
}

/// Gives a namespace that the agent has made an address.
const CONNECT: &str = "#!/bin/sh
set -eu
[ $1 = add ] || exit 0
nsenter --net=$3 ip link add eth0 type veth peer name eth1
nsenter --net=$3 ip addr add 10.9.0.3/24 dev eth0
nsenter --net=$3 ip link set eth0 up
";

#[test]
fn a_vm_runs_in_a_network_namespace_that_is_given_or_made() -> Result<()> {
    use hawser_testkit::agent::Agent;
    use hawser_testkit::netns::Namespace;
    use hawser_testkit::nodes::Nodes;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    let nodes = Nodes::new(1, 1500)?;
    let own = Namespace::new()?;
    for line in [
        "ip link add eth0 type veth peer name eth1",
        "ip addr add 10.9.0.2/24 dev eth0",
        "ip link set eth0 up",
    ] {
        own.run(line)?;
    }
    let folder = nodes.path("netns");
    std::fs::create_dir(&folder)?;
    symlink(own.path(), folder.join("blue.own"))?;
    let mut agent = Agent::new(nodes.path("agent"))?;
    let store = format!("--store={}", nodes.path("store.db").display());
    let namespaces = format!("--netns-dir={}", folder.display());
    let program = format!("--netns-program={}", agent.program("connect", CONNECT)?);
    let options = [store.as_str(), &namespaces, "--make-netns", &program];
    agent.start(&nodes.nodes[0], "n0", &options)?;
    let namespace_of = |agent: &mut Agent, name: &str| -> Result<u64> {
        let manifest = vm(name).replace("binding: {name: l2bridge}", "masquerade: {}");
        agent.describe(name, &manifest)?;
        let pid = agent.wait_running(name)?["pid"].clone();
        Ok(std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
    };
    assert_eq!(namespace_of(&mut agent, "own")?, std::fs::metadata(own.path())?.ino());
    // Another VM has one that the agent makes, keeps, and removes with the VM.
    let made = folder.join("blue.made");
    let inode = namespace_of(&mut agent, "made")?;
    assert_eq!(inode, std::fs::metadata(&made)?.ino());
    assert_ne!(inode, std::fs::metadata(nodes.nodes[0].path())?.ino());
    let pid = agent.vm("made")?["pid"].clone();
    agent.kill();
    agent.start(&nodes.nodes[0], "n0", &options)?;
    until("the agent has found the VM", || {
        // The report may be that of the earlier agent, which does not answer.
        Ok(agent.sh("get nodes").is_ok() && agent.vm("made")?["phase"] == "Running")
    })?;
    assert_eq!(agent.vm("made")?["pid"], pid);
    nodes.world.run(&format!("kill -9 {pid}"))?;
    agent.wait_for("made", "running again", |vm| {
        vm["phase"] == "Running" && vm["pid"] != pid
    })?;
    assert_eq!(namespace_of(&mut agent, "made")?, inode);
    for name in ["made", "own"] {
        agent.remove(name)?;
        agent.wait_for(name, "gone", serde_json::Value::is_null)?;
    }
    assert!(!made.exists());
    assert!(folder.join("blue.own").exists());
    Ok(())
}
