//! The services that a process gives its guest on a primary network: addresses, routes, names, and Services of the
//! cluster.

use hawser_testkit::guest::Kind;
use hawser_testkit::nodes::{Nodes, PORT, Port, WORLD4, WORLD6};
use hawser_testkit::{Result, failure, peers, until};
use std::fmt::Write as _;
use std::fs;

const VNI: u32 = 4711;

/// A Service at 10.96.0.N and fd00:96::N, whose port 80 leads to [`PORT`] of these addresses over TCP and UDP.
fn service(number: u8, endpoints: &[[&str; 2]]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec:\n  clusterIPs: [10.96.0.{number}, \
         'fd00:96::{number}']\n  ports: [{{name: tcp, port: 80}}, {{name: udp, port: 80, protocol: UDP}}]\n---\n"
    );
    for (family, index) in [("IPv4", 0), ("IPv6", 1)] {
        let addresses: Vec<String> = endpoints
            .iter()
            .map(|both| format!("{{addresses: ['{}']}}", both[index]))
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{number}-{index}, labels: \
             {{kubernetes.io/service-name: s{number}}}}}\naddressType: {family}\nendpoints: [{}]\nports: [{{name: tcp, \
             port: {PORT}}}, {{name: udp, port: {PORT}, protocol: UDP}}]\n---",
            addresses.join(", ")
        );
    }
    text
}

/// A shell command that asks `server` for an IPv4 address over TCP and prints the answer in hexadecimal.
fn ask_over_tcp(server: &str, name: &str) -> String {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.extend(u8::try_from(label.len()));
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let length = u8::try_from(query.len()).unwrap_or_default();
    let bytes = [&[0, length][..], &query].concat();
    let text: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("(printf '{text}'; sleep 2) | nc {server} 53 | hexdump -v -e '1/1 \"%02x\"'")
}

#[test]
fn a_guest_gets_addresses_routes_names_and_services_as_on_a_primary_network() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    nodes.serve_world(WORLD4)?;
    nodes.serve_world(WORLD6)?;
    let _dns = peers::dns_server(&nodes.world, &nodes.path("."), WORLD4)?;
    // No name server is at the first address.
    let resolv = format!("nameserver 198.51.100.2\nnameserver {WORLD4}\n");
    let resolv = peers::resolv_conf(&nodes.path("."), &resolv)?;
    nodes.nodes.iter_mut().for_each(|node| node.set_resolv_conf(&resolv));
    let ports = [Port::new(0, 11), Port::new(1, 12)];
    let addresses = ports.map(|port| [port.address4(), port.address6()]);
    let [web, db] = addresses.each_ref().map(|both| both.each_ref().map(String::as_str));
    let file = nodes.path("services.yaml");
    let services = [
        service(1, &[db]),
        service(2, &[web]),
        service(3, &[[WORLD4, WORLD6]]),
        service(4, &[]),
    ];
    fs::write(&file, services.concat())?;
    let peer = |port: Port, name: &str| format!("{},name={name}", port.peer(false));
    let hawser = |number: usize, options: &[&str]| {
        let vtep = format!("--vtep={}", Nodes::vtep4(number));
        nodes.hawser(
            VNI,
            ports[number],
            &[options, &[&vtep, "--domain=blue.example"]].concat(),
        )
    };
    let first = hawser(
        0,
        &[
            "--hostname=web",
            &peer(ports[1], "db"),
            &format!("--services={}", file.display()),
        ],
    )?;
    let second = hawser(1, &["--hostname=db", &peer(ports[0], "web")])?;
    let guest = nodes.guest(Kind::Uml, &first)?;
    let other = nodes.guest(Kind::Uml, &second)?;

    // DHCP, DHCPv6 and router advertisements.
    let lease = guest.sh("cat /run/dhcp4")?;
    assert!(
        lease.contains("serverid=169.254.1.1") && lease.contains("lease=3500"),
        "{lease}"
    );
    let route = guest.sh("ip -6 route show default")?;
    assert!(route.contains("pref low") && route.contains("hoplimit 255"), "{route}");
    let address = guest.sh("ip -6 addr show dev eth0 scope global")?;
    assert!(address.contains(web[1]), "{address}");

    // Names, over UDP and TCP, and those of others by the second name server.
    let said = guest.sh("nslookup db.blue.example 10.100.0.1")?;
    assert!(said.contains(db[0]) && said.contains(db[1]), "{said}");
    for server in ["10.100.0.1", "fd00:100::1"] {
        for (name, expected) in [("db.blue.example", "0a64000c"), ("server.example", "cb007107")] {
            let answer = guest.sh(&ask_over_tcp(server, name))?;
            assert!(answer.ends_with(expected), "{name} at {server}: {answer}");
        }
    }

    // Services: an endpoint on the other node, the guest itself, one beyond the gateway.
    let _servers = (
        guest.serve(&format!("[::]:{PORT}"))?,
        other.serve(&format!("[::]:{PORT}"))?,
    );
    for number in [1, 2, 3] {
        for to in [format!("10.96.0.{number}:80"), format!("[fd00:96::{number}]:80")] {
            for command in ["send", "receive"] {
                guest.traffic(&format!("{command} to={to} bytes=3000001 connections=3"))?;
            }
            guest.traffic(&format!("udp to={to} sizes=1,1200 count=10"))?;
        }
    }
    // Without an endpoint a client is refused at once.
    for to in ["10.96.0.4:80", "[fd00:96::4]:80", "10.96.0.1:81"] {
        let refused = guest.run(&format!("hawser-traffic send to={to} bytes=1"))?;
        let said = refused.out + &refused.err;
        assert!(refused.status != Some(0) && said.contains("refused"), "{to}: {said}");
    }
    // The file is followed.
    fs::write(&file, service(4, &[db]))?;
    until("the guest reaches the Service that has an endpoint now", || {
        let sent = guest.run("hawser-traffic send to=10.96.0.4:80 bytes=1000")?;
        Ok(sent.status == Some(0))
    })?;
    if guest.run("hawser-traffic send to=10.96.0.2:80 bytes=1 wait=2")?.status == Some(0) {
        return Err(failure("a Service that is gone has connected the guest to itself"));
    }
    Ok(())
}
