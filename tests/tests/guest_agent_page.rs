//! A test of the page that an agent serves, in a real browser without a screen.

use hawser_testkit::agent::Agent;
use hawser_testkit::cluster::{NETWORK, NIC, vm};
use hawser_testkit::nodes::{Nodes, WORLD4};
use hawser_testkit::{Result, failure, until};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

const PAGE: &str = "127.0.0.1:9180";
/// Time between two samples of the traffic.
const SAMPLE: Duration = Duration::from_millis(1500);

/// The page as the browser shows it, after its scripts have run.
fn browse(nodes: &Nodes) -> Result<String> {
    let mut command = nodes.nodes[0].command("chromium");
    // The sandbox of the browser refuses root. The page is ours.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.arg(format!("--user-data-dir={}", nodes.path("browser").display()));
    command.arg("--virtual-time-budget=3000");
    let output = command
        .args(["--dump-dom", &format!("http://{PAGE}/")])
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| failure(format!("chromium: {error}; hack/setup installs it")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(failure(format!("{text} {}", String::from_utf8_lossy(&output.stderr)))),
    }
}

/// The cells of the row of a VM in a table of the page.
fn cells(dom: &str, table: &str, vm: &str) -> Vec<String> {
    let table = dom.split(&format!("id=\"{table}\">")).nth(1).unwrap_or_default();
    let table = table.split("</tbody>").next().unwrap_or_default();
    let rows = table.split("<tr>").map(|row| {
        let cells = row.split("<td>").skip(1);
        cells.map(|cell| cell.split("</td>").next().unwrap_or_default().to_owned())
    });
    let rows: Vec<Vec<String>> = rows.map(Iterator::collect).collect();
    rows.into_iter()
        .find(|row| row.get(1).is_some_and(|name| name == vm))
        .unwrap_or_default()
}

#[test]
fn a_browser_shows_the_vms_of_a_node_with_their_flows_drops_and_tunnels() -> Result<()> {
    let mut nodes = Nodes::new(1, 1500)?;
    let world = nodes.serve_world(WORLD4)?;
    let mut agent = Agent::new(nodes.path("agent"))?;
    let store = format!("--store={}", nodes.path("store.db").display());
    agent.start(&nodes.nodes[0], "n0", &[&store, &format!("--http={PAGE}")])?;
    agent.share("network.yaml", NETWORK)?;
    for name in ["one", "two"] {
        agent.describe(name, &vm(name))?;
    }
    let one = agent.boot("one", NIC)?;
    let two = agent.boot("two", NIC)?;
    one.sh("net-up 4")?;
    two.sh("net-up 4")?;
    browse(&nodes)?;
    // A neighbour that there is not, and connections to the world.
    one.run("ping -c 2 -W 1 192.168.254.99")?;
    for _ in 0..5 {
        one.traffic(&format!("send to={world} bytes=1000"))?;
    }
    thread::sleep(SAMPLE);
    let dom = browse(&nodes)?;
    assert!(dom.contains("<span id=\"node\">n0</span>"), "{dom}");
    let vm = cells(&dom, "vms", "one");
    assert!(vm.get(2).is_some_and(|phase| phase == "Running"), "{dom}");
    let traffic = cells(&dom, "traffic", "one");
    let [namespace, _, rate, _, tunnels, drops] = &traffic[..] else {
        return Err(failure(format!("{traffic:?} {dom}")));
    };
    assert_eq!((namespace.as_str(), tunnels.as_str()), ("blue", "1"), "{traffic:?}");
    assert!(rate.parse::<f64>().is_ok_and(|rate| rate > 0.0), "{traffic:?}");
    assert!(drops.contains("no_such_neighbour "), "{traffic:?}");
    // Text of a VM is no markup, and the page says what is wrong.
    agent.describe("bad", &vm_with_markup())?;
    until("the refused description is shown as text", || {
        let dom = browse(&nodes)?;
        Ok(dom.contains("&lt;script&gt;") && !dom.contains("<script>"))
    })?;
    let pid = agent.vm("two")?["pid"].clone();
    nodes.world.run(&format!("kill -STOP {pid}"))?;
    thread::sleep(SAMPLE);
    let stopped = browse(&nodes)?;
    nodes.world.run(&format!("kill -CONT {pid}"))?;
    assert!(cells(&stopped, "traffic", "two").contains(&"its process does not answer".to_owned()));
    assert_eq!(cells(&stopped, "traffic", "one").get(4).map(String::as_str), Some("1"));
    Ok(())
}

/// A manifest that is refused with a message that contains markup.
fn vm_with_markup() -> String {
    vm("bad").replace("l2bridge", "<script>")
}
