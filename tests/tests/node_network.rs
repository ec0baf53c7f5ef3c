//! Tests of `hawser node apply` with NodeNetworkConfigurationPolicy objects in a network namespace that stands for a
//! node. Its only way out is `eth0`, behind which another namespace is the default gateway.

use hawser_testkit::netns::Namespace;
use hawser_testkit::{Result, artifacts, failure, until};
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const GATEWAY: &str = "192.0.2.254";
const ADDRESS: &str = "192.0.2.1/24";

struct Node {
    netns: Namespace,
    router: Namespace,
    files: TempDir,
}

impl Node {
    fn new() -> Result<Self> {
        let (netns, router) = (Namespace::new()?, Namespace::new()?);
        let node = Self {
            netns,
            router,
            files: TempDir::new()?,
        };
        let peer = node.router.path();
        for line in [
            format!("ip link add eth0 type veth peer name eth0 netns {peer}"),
            format!("ip link add eth1 type veth peer name eth1 netns {peer}"),
            format!("ip addr add {ADDRESS} dev eth0"),
            "ip link set lo up".to_owned(),
            "ip link set eth0 up".to_owned(),
            // The kernel gives a link its queue when it is switched on for the first time.
            "ip link set eth1 up".to_owned(),
            "ip link set eth1 down".to_owned(),
        ] {
            node.netns.run(&line)?;
        }
        node.router.run(&format!("ip addr add {GATEWAY}/24 dev eth0"))?;
        node.router.run("ip link set eth0 up")?;
        node.netns.run(&format!("ip route add default via {GATEWAY}"))?;
        until("eth0 has a carrier", || {
            Ok(node.netns.run("ip -o link show eth0")?.contains("state UP"))
        })?;
        Ok(node)
    }

    /// The command that applies a policy with these interfaces, each in flow style.
    fn command(&self, interfaces: &[&str], options: &[&str]) -> Result<Command> {
        let items: String = interfaces.iter().map(|item| format!("    - {item}\n")).collect();
        let policy = self.files.path().join("policy.yaml");
        fs::write(
            &policy,
            format!(
                "apiVersion: nmstate.io/v1\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: br}}\nspec:\n  \
                 desiredState:\n    interfaces:\n{items}"
            ),
        )?;
        let mut command = self.netns.command(artifacts::hawser()?);
        command.args(["node", "apply", "-f"]).arg(policy);
        command.arg("--runtime-dir").arg(self.files.path().join("run"));
        command.args(options);
        Ok(command)
    }

    fn apply(&self, interfaces: &[&str], options: &[&str]) -> Result<Output> {
        Ok(self.command(interfaces, options)?.arg("--reach-within=2").output()?)
    }

    /// Applies a policy, and returns the steps.
    fn applied(&self, interfaces: &[&str], options: &[&str]) -> Result<String> {
        let output = self.apply(interfaces, options)?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(failure(format!("{}: {}", output.status, text(&output.stderr)))),
        }
    }

    /// Links, addresses and routes as a person would look at them.
    fn state(&self) -> Result<String> {
        let lines = ["ip -o link", "ip -o addr show scope global", "ip route"];
        let shown = lines.map(|line| self.netns.run(line));
        let [links, addresses, routes] = shown;
        Ok(format!("{}{}{}", links?, addresses?, routes?))
    }

    /// The gateway refuses a connection: it is there.
    fn assert_reaches_gateway(&self) -> Result<()> {
        let address = SocketAddr::new(GATEWAY.parse()?, 9);
        let refused = self
            .netns
            .inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)))?;
        assert_eq!(
            refused.map(drop).map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionRefused)
        );
        Ok(())
    }
}

const BR1: &str = "{name: br1, description: Linux bridge with eth1 as a port, type: linux-bridge, state: up, ipv4: \
                   {enabled: false}, bridge: {options: {stp: {enabled: false}}, port: [{name: eth1}]}}";
/// A bridge on the only way out, without the addresses.
const BAD: &str = "{name: br0, type: linux-bridge, bridge: {port: [{name: eth0}]}}";

#[test]
fn the_bridge_of_the_manuals_is_made_and_kept_and_removed() -> Result<()> {
    let node = Node::new()?;
    let before = node.state()?;
    let planned = node.applied(&[BR1], &["--dry-run"])?;
    assert!(
        planned.contains("br1: create the bridge\nbr1: add the port eth1\n"),
        "{planned}"
    );
    assert_eq!(node.state()?, before, "a dry run changes nothing");

    assert_eq!(node.applied(&[BR1], &[])?, planned);
    let made = node.netns.run("ip -d -o link show br1")?;
    assert!(
        made.contains("bridge") && made.contains("stp_state 0") && made.contains(",UP"),
        "{made}"
    );
    let port = node.netns.run("ip -o link show eth1")?;
    assert!(port.contains("master br1") && port.contains(",UP"), "{port}");
    assert_eq!(
        node.netns.run("ip -o addr show dev br1")?,
        "",
        "nobody has asked for addresses"
    );
    assert_eq!(node.applied(&[BR1], &[])?, "links: nothing to change\n");

    let changed = "{name: br1, type: linux-bridge, mtu: 1400, bridge: {options: {stp: {enabled: true}}}, ipv4: {enabled: \
                   true, address: [{ip: 198.51.100.1, prefix-length: 24}]}}";
    node.applied(&[changed], &[])?;
    let made = node.netns.run("ip -d -o link show br1")?;
    assert!(made.contains("stp_state 1") && made.contains("mtu 1400"), "{made}");
    let addresses = node.netns.run("ip -o addr show dev br1")?;
    assert!(addresses.contains("198.51.100.1/24"), "{addresses}");

    node.applied(&["{name: br1, type: linux-bridge, state: absent}"], &[])?;
    let links = node.netns.run("ip -o link")?;
    assert!(!links.contains("br1"), "{links}");
    node.assert_reaches_gateway()?;
    Ok(())
}

#[test]
fn links_are_put_back_if_the_default_gateway_is_lost() -> Result<()> {
    let node = Node::new()?;
    let before = node.state()?;
    let refused = node.apply(&[BR1, BAD], &[])?;
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(
        message.contains("the default gateway 192.0.2.254 does not answer"),
        "{message}"
    );
    assert_eq!(node.state()?, before);
    node.assert_reaches_gateway()?;

    // The address and the route go to the bridge: the gateway is reached through it.
    let good = format!(
        "{{name: br0, type: linux-bridge, bridge: {{port: [{{name: eth0}}]}}, ipv4: {{enabled: true, address: [{{ip: \
         {}, prefix-length: 24}}]}}}}",
        ADDRESS.trim_end_matches("/24")
    );
    let freed = "{name: eth0, type: ethernet, ipv4: {enabled: false}}";
    let without_route = node.apply(&[freed, &good], &[])?;
    // The kernel removes the route with the address. Without a default route, there is no gateway to ask.
    assert!(
        without_route.status.success(),
        "{}",
        String::from_utf8_lossy(&without_route.stderr)
    );
    node.assert_reaches_gateway()?;
    Ok(())
}

#[test]
fn links_are_put_back_if_an_endpoint_is_lost_or_was_never_reached() -> Result<()> {
    let node = Node::new()?;
    let before = node.state()?;
    let endpoint = format!("--reach={GATEWAY}:2379");
    let never = node.apply(&[BR1], &[&endpoint])?;
    let message = String::from_utf8_lossy(&never.stderr).into_owned();
    assert!(message.contains("no connection even before the change"), "{message}");
    assert_eq!(node.state()?, before);

    let server = node.router.inside(|| TcpListener::bind((GATEWAY, 2379)))??;
    node.applied(&[BR1], &[&endpoint])?;
    let with_bridge = node.state()?;
    node.netns.run("ip route del default")?;
    let without_route = node.state()?;
    let refused = node.apply(&[BAD], &[&endpoint])?;
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("no connection within 2 s of the change"), "{message}");
    assert_eq!(node.state()?, without_route);
    assert_ne!(with_bridge, without_route);
    drop(server);
    Ok(())
}

#[test]
fn after_a_kill_at_any_moment_the_next_start_puts_the_links_back() -> Result<()> {
    const KILLS: u64 = 10;
    const STEP: Duration = Duration::from_millis(40);
    let node = Node::new()?;
    let before = node.state()?;
    for n in 0..KILLS {
        // The process waits for the gateway, which it has cut off, unless it is killed before that.
        let mut child = node.command(&[BAD], &["--reach-within=60"])?.spawn()?;
        thread::sleep(STEP * u32::try_from(n)?);
        assert_eq!(child.try_wait()?, None, "it ended before kill {n}");
        child.kill()?;
        child.wait()?;
        node.applied(&["{name: eth1, type: ethernet, mtu: 1400}"], &[])?;
        node.applied(&["{name: eth1, type: ethernet, mtu: 1500, state: down}"], &[])?;
        until(&format!("kill {n} is undone"), || Ok(node.state()? == before))?;
        node.assert_reaches_gateway()?;
    }
    Ok(())
}
