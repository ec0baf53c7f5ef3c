//! Tests of a hawser in layer2 mode that is replaced under a running guest.

use hawser_testkit::guest::{Kind, Plan};
use hawser_testkit::hawser::get;
use hawser_testkit::nodes::{Nodes, PORT, Port, WORLD4};
use hawser_testkit::{Result, artifacts, failure, until};
use std::fs;
use std::process::Command;
use std::time::Duration;

const VNI: u32 = 4711;
/// Longest time of a command in a guest.
const LONGEST: Duration = Duration::from_secs(60);
/// Address of the Service whose endpoint is the other guest.
const SERVICE: &str = "10.96.0.1";

fn services(endpoint: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec:\n  clusterIPs: [{SERVICE}]\n  ports: [{{name: tcp, port: \
         80}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s-0, labels: \
         {{kubernetes.io/service-name: s}}}}\naddressType: IPv4\nendpoints: [{{addresses: ['{endpoint}']}}]\nports: [{{name: \
         tcp, port: {PORT}}}]\n"
    )
}

#[test]
fn connections_to_guests_services_and_the_world_go_on_in_another_process() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    let world = nodes.serve_world(WORLD4)?;
    let ports = [Port::new(0, 11), Port::new(1, 12)];
    let (file, api, takeover) = (nodes.path("services.yaml"), nodes.path("api"), nodes.path("takeover"));
    fs::write(&file, services(&ports[1].address4()))?;
    let options = [
        format!("--services={}", file.display()),
        format!("--api-socket={}", api.display()),
        format!("--takeover-socket={}", takeover.display()),
        format!("--vtep={}", Nodes::vtep4(0)),
        "--queue-pairs=2".to_owned(),
        format!("--port=8080:{PORT}"),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut first = nodes.hawser(VNI, ports[0], &options)?;
    let other = ports[0].peer(false);
    let second = nodes.hawser(VNI, ports[1], &[&other, &format!("--vtep={}", Nodes::vtep4(1))])?;
    // A request adds the peer, so the arguments do not name it.
    let peer = ports[1].peer(false);
    let peer = peer.strip_prefix("--peer=").unwrap_or_default();
    let words = ["peers", "add", peer, &format!("--api-socket={}", api.display())];
    let added = Command::new(artifacts::hawser()?).args(words).output()?;
    assert!(added.status.success(), "{added:?}");

    let mut plan = Plan::new(Kind::Qemu, first.socket());
    plan.queue_pairs = 2;
    plan.mac = Some(ports[0].mac());
    // Queue pairs need as many processors.
    plan.arguments = vec!["-smp".into(), "2".into()];
    let guest = plan.boot()?;
    guest.net_up()?;
    let peer = nodes.guest(Kind::Uml, &second)?;
    let _servers = [
        peer.serve(&format!("0.0.0.0:{PORT}"))?,
        guest.serve(&format!("0.0.0.0:{PORT}"))?,
    ];
    let keep = |to: &str| {
        let keep = format!("hawser-traffic keep to={to} connections=20 millis=10000");
        guest.start(&keep, LONGEST)
    };
    let near = format!("{}:{PORT}", ports[1].address4());
    let kept = [keep(&near)?, keep(&format!("{SERVICE}:80"))?, keep(&world.to_string())?];
    let back = format!(
        "hawser-traffic keep to={}:{PORT} connections=20 millis=10000",
        ports[0].address4()
    );
    let back = peer.start(&back, LONGEST)?;
    let ping = guest.start(&format!("ping -i 0.1 -c 80 -W 2 {}", ports[1].address4()), LONGEST)?;
    until("the connections are open", || {
        let counters = first.counters()?;
        Ok(counters.get("service_flows") >= 20 && counters.get("tcp_connections_out") >= 20)
    })?;
    let subnets = [
        "--mode=layer2".to_owned(),
        format!("--vni={VNI}"),
        "--vtep-port=6081".to_owned(),
        format!("--mac={}", ports[0].mac()),
        format!("--guest-address={},{}", ports[0].address4(), ports[0].address6()),
        "--ipv4=10.100.0.0/24".to_owned(),
        "--ipv6=fd00:100::/64".to_owned(),
        format!("--socket-path={}", first.socket().display()),
    ];
    let words: Vec<String> = subnets
        .into_iter()
        .chain(options.iter().map(|word| (*word).to_owned()))
        .collect();
    for n in 0..3 {
        let log = nodes.path(&format!("upgrade-{n}.log"));
        let rested = first.upgrade(&nodes.nodes[0], &log, &words)?;
        println!("without traffic: {rested:?}");
    }
    for running in kept.into_iter().chain([back]) {
        let output = running.wait(LONGEST)?;
        assert_eq!(output.status, Some(0), "{output:?} {}", first.process().log());
    }
    let output = ping.wait(LONGEST)?;
    assert!(output.out.contains(" 0% packet loss"), "{}", output.out);
    // New connections, and what requests have changed.
    guest.traffic(&format!("send to={SERVICE}:80 bytes=100000"))?;
    guest.traffic(&format!("send to={world} bytes=100000"))?;
    let status = get(&api, "/v1/status")?;
    let peers = get(&api, "/v1/peers").unwrap_or_default();
    assert!(
        status.contains(&Nodes::vtep4(1)) || peers.contains(&Nodes::vtep4(1)),
        "{}",
        failure(status + &peers)
    );
    first.stop()?;
    second.stop()
}
