use super::*;
use crate::cli::{Cli, Command};
use crate::config;
use crate::host::Host;
use clap::Parser as _;
use hawser_backend::config::PortConfig;
use hawser_manifest::nic::DeviceHints;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;

const SOON: Patience = Patience {
    whole: Duration::from_millis(300),
    again: Duration::from_millis(100),
};

fn port() -> PortConfig {
    let options = [
        "--ipv4=10.0.2.0/24",
        "--socket-path=/s",
        "--mac=02:00:00:00:00:09",
        "--queue-pairs=2",
    ];
    let argv = ["hawser", "qemu-args"].into_iter().chain(options);
    let Some(Command::QemuArgs(args)) = Cli::try_parse_from(argv).unwrap().command else {
        panic!("another command");
    };
    config::resolve(args.port.spec("net1".into()).unwrap(), &Host::default(), None)
        .unwrap()
        .port
}

fn card(port: &PortConfig) -> Card<'_> {
    Card {
        socket: Path::new("/s/net1.sock"),
        vmm_listens: false,
        port: port.into(),
        device: DeviceHints::default(),
        bus: None,
    }
}

/// A monitor that answers by a script, and sends the commands that it receives over the channel, in order.
struct FakeQemu {
    folder: tempfile::TempDir,
    told: Receiver<(String, Value)>,
}

impl FakeQemu {
    /// Starts the monitor. `answer` returns the lines that follow a command.
    fn start(answer: impl Fn(&str, &Value) -> Vec<Value> + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("qmp")).unwrap();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut out = stream.try_clone().unwrap();
                writeln!(out, "{}", json!({"QMP": {"version": {}}})).unwrap();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let message: Value = serde_json::from_str(&line).unwrap();
                    let command = message["execute"].as_str().unwrap().to_owned();
                    let answers = answer(&command, &message["arguments"]);
                    if command != "qmp_capabilities" {
                        let _ = tell.send((command, message["arguments"].clone()));
                    }
                    for line in answers {
                        writeln!(out, "{line}").unwrap();
                    }
                }
            }
        });
        Self { folder, told }
    }

    fn connect(&self) -> RunningVmm {
        VmmSocket::Qemu(self.folder.path().join("qmp")).connect().unwrap()
    }

    fn commands(&self) -> Vec<String> {
        self.told.try_iter().map(|(command, _)| command).collect()
    }
}

fn done() -> Vec<Value> {
    vec![json!({"return": {}})]
}

fn refused(class: &str, description: &str) -> Vec<Value> {
    vec![json!({"error": {"class": class, "desc": description}})]
}

fn deleted() -> Value {
    json!({"event": "DEVICE_DELETED", "data": {"device": "hawser-nic-net1", "path": "/x"}})
}

/// Two root ports of the user and two of hawser. One of each pair is in use.
fn ordinary(command: &str) -> Vec<Value> {
    let bridge = |name: &str, behind: Value| json!({"qdev_id": name, "pci_bridge": {"bus": {}, "devices": behind}});
    match command {
        "query-pci" => vec![json!({"return": [{"bus": 0, "devices": [
            {"qdev_id": "disk"},
            bridge("rp1", json!([])),
            bridge("rp2", json!([{"qdev_id": "gpu"}])),
            bridge("hawser-port0", json!([{"qdev_id": "hawser-nic-default"}])),
            bridge("hawser-port1", json!([])),
        ]}]})],
        "qom-list" => vec![json!({"return": [{"name": "hawser-nic-default", "type": "child<…>"}]})],
        "netdev_del" => refused("DeviceNotFound", "Device 'hawser-net1' not found"),
        "chardev-remove" => refused("GenericError", "Chardev 'hawser-chr-net1' not found"),
        _ => done(),
    }
}

#[test]
fn a_card_is_three_objects_made_in_order_on_a_root_port_that_is_free() {
    let qemu = FakeQemu::start(|command, _| ordinary(command));
    qemu.connect().plug(&card(&port())).unwrap();
    let told: Vec<(String, Value)> = qemu.told.try_iter().skip_while(|(c, _)| c != "chardev-add").collect();
    let expected = [
        (
            "chardev-add",
            json!({"id": "hawser-chr-net1", "backend": {"type": "socket", "data": {
                "addr": {"type": "unix", "data": {"path": "/s/net1.sock"}}, "server": false, "reconnect-ms": 10}}}),
        ),
        (
            "netdev_add",
            json!({"type": "vhost-user", "id": "hawser-net1", "chardev": "hawser-chr-net1", "queues": 2}),
        ),
        ("query-pci", json!({})),
        (
            "device_add",
            json!({"driver": "virtio-net-pci", "id": "hawser-nic-net1", "netdev": "hawser-net1", "host_mtu": 1500,
                "romfile": "", "mac": "02:00:00:00:00:09", "mq": true, "vectors": 6, "bus": "hawser-port1"}),
        ),
    ];
    let expected: Vec<(String, Value)> = expected.into_iter().map(|(c, a)| (c.to_owned(), a)).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_card_that_qemu_refuses_leaves_neither_netdev_nor_chardev() {
    let qemu = FakeQemu::start(|command, _| match command {
        "device_add" => refused("GenericError", "no room"),
        "netdev_del" | "chardev-remove" => done(),
        command => ordinary(command),
    });
    let error = qemu.connect().plug(&card(&port())).unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
    let told = qemu.commands();
    // Both free ports were tried.
    let expected = ["device_add", "device_add", "netdev_del", "chardev-remove"];
    assert_eq!(told[told.len() - 4..], expected, "{told:?}");
}

#[test]
fn without_a_root_port_the_error_names_the_qemu_option() {
    let qemu = FakeQemu::start(|command, _| match command {
        "query-pci" => vec![json!({"return": []})],
        "device_add" => refused("GenericError", "Bus 'pcie.0' does not support hotplugging"),
        command => ordinary(command),
    });
    let error = qemu.connect().plug(&card(&port())).unwrap_err();
    assert!(error.to_string().contains("-device pcie-root-port"), "{error}");
}

#[test]
fn a_card_goes_when_the_guest_has_let_go_of_it() {
    let qemu = FakeQemu::start(|command, _| match command {
        // Another device's event arrives first, then ours.
        "device_del" => vec![
            json!({"event": "DEVICE_DELETED", "data": {"device": "disk"}}),
            json!({"return": {}}),
            deleted(),
        ],
        _ => done(),
    });
    qemu.connect().unplug("net1", &SOON).unwrap();
    assert_eq!(qemu.commands(), ["device_del", "netdev_del", "chardev-remove"]);
}

#[test]
fn a_guest_that_keeps_its_card_is_asked_again_and_keeps_it_until_it_lets_go() {
    let qemu = FakeQemu::start(|_, _| done());
    let error = qemu.connect().unplug("net1", &SOON).unwrap_err();
    assert!(matches!(error, RunningError::Kept(..)), "{error}");
    let told = qemu.commands();
    assert!(
        told.len() > 1 && told.iter().all(|command| command == "device_del"),
        "{told:?}"
    );

    let late = FakeQemu::start(|command, _| match command {
        "device_del" => refused("DeviceNotFound", "Device 'hawser-nic-net1' not found"),
        _ => done(),
    });
    late.connect().unplug("net1", &SOON).unwrap();
    assert_eq!(late.commands(), ["device_del", "netdev_del", "chardev-remove"]);
}

#[test]
fn a_guest_that_refuses_keeps_its_card() {
    let qemu = FakeQemu::start(|_, _| {
        vec![
            json!({"return": {}}),
            json!({"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": "hawser-nic-net1"}}),
        ]
    });
    let error = qemu.connect().unplug("net1", &SOON).unwrap_err();
    assert!(matches!(error, RunningError::Refused(_)), "{error}");
    assert_eq!(qemu.commands(), ["device_del"]);
}

#[test]
fn what_is_no_monitor_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let nobody = VmmSocket::Qemu(path.clone()).connect().unwrap_err();
    assert!(nobody.is_unreachable(), "{nobody}");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        writeln!(stream, "SSH-2.0-OpenSSH").unwrap();
    });
    let other = VmmSocket::Qemu(path).connect().unwrap_err();
    assert!(other.to_string().contains("does not speak"), "{other}");
}

#[test]
fn a_link_is_shown_by_the_netdev() {
    let qemu = FakeQemu::start(|_, _| done());
    assert_eq!(qemu.connect().set_link("net1", false).unwrap(), LinkShown::ByVmm);
    let told: Vec<(String, Value)> = qemu.told.try_iter().collect();
    let expected = ("set_link".to_owned(), json!({"name": "hawser-net1", "up": false}));
    assert_eq!(told, [expected]);
}

/// A stand-in for cloud-hypervisor's API. It sends its requests over the channel and gives one answer to each.
fn fake_cloud_hypervisor(answers: Vec<(u16, Value)>) -> (RunningVmm, Receiver<(String, Value)>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api");
    let listener = UnixListener::bind(&path).unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for (status, body) in answers {
            let (stream, _) = listener.accept().unwrap();
            let _ = tell.send(read_request(&stream));
            let body = if body.is_null() {
                String::new()
            } else {
                body.to_string()
            };
            let mut stream = stream;
            let head = format!(
                "HTTP/1.1 {status} \r\nServer: API\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    (VmmSocket::CloudHypervisor(path).connect().unwrap(), told, folder)
}

type IsRight = fn(&Value) -> bool;

/// Properties of cloud-hypervisor's `NetConfig` (its OpenAPI description, version 0.3.0) with the type of their values.
/// Any other property is refused.
const NET_CONFIG: [(&str, IsRight); 16] = [
    ("tap", Value::is_string),
    ("ip", Value::is_string),
    ("mask", Value::is_string),
    ("mac", Value::is_string),
    ("host_mac", Value::is_string),
    ("mtu", Value::is_u64),
    ("iommu", Value::is_boolean),
    ("num_queues", Value::is_u64),
    ("queue_size", Value::is_u64),
    ("vhost_user", Value::is_boolean),
    ("vhost_socket", Value::is_string),
    ("vhost_mode", |mode| mode == "Client" || mode == "Server"),
    ("id", Value::is_string),
    ("pci_segment", Value::is_u64),
    ("pci_device_id", Value::is_u64),
    ("rate_limiter_config", Value::is_object),
];

#[test]
fn a_card_is_asked_for_in_the_words_of_cloud_hypervisors_description() {
    let silent = PortConfig { mac: None, ..port() };
    for (port, vmm_listens) in [(port(), false), (silent, true)] {
        let (mut vmm, told, _folder) = fake_cloud_hypervisor(vec![(200, json!({"id": "x", "bdf": "0000:00:05.0"}))]);
        vmm.plug(&Card {
            vmm_listens,
            ..card(&port)
        })
        .unwrap();
        let (_, body) = told.recv().unwrap();
        for (name, value) in body.as_object().unwrap() {
            let known = NET_CONFIG.iter().find(|(known, _)| known == name);
            assert!(known.is_some_and(|(_, is_right)| is_right(value)), "{name}: {value}");
        }
    }
}

fn read_request(stream: &UnixStream) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let first = first.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    (first, serde_json::from_slice(&body).unwrap_or_default())
}

#[test]
fn cloud_hypervisor_is_asked_for_a_card_and_for_its_removal_until_it_is_gone() {
    let there = json!({"device_tree": {"hawser-net1": {}, "_disk0": {}}});
    let gone = json!({"device_tree": {"_disk0": {}}});
    let (mut vmm, told, _folder) = fake_cloud_hypervisor(vec![
        (200, json!({"id": "hawser-net1", "bdf": "0000:00:05.0"})),
        (200, there.clone()),
        (204, Value::Null),
        (200, there),
        (200, gone),
    ]);
    vmm.plug(&card(&port())).unwrap();
    let expected = json!({"id": "hawser-net1", "vhost_user": true, "vhost_socket": "/s/net1.sock",
        "vhost_mode": "Client", "num_queues": 4, "mtu": 1500, "mac": "02:00:00:00:00:09"});
    assert_eq!(told.recv().unwrap(), ("PUT /api/v1/vm.add-net".to_owned(), expected));
    vmm.unplug("net1", &Patience::default()).unwrap();
    let requests: Vec<(String, Value)> = told.try_iter().collect();
    let paths: Vec<&str> = requests.iter().map(|(path, _)| path.as_str()).collect();
    let info = "GET /api/v1/vm.info";
    assert_eq!(paths, [info, "PUT /api/v1/vm.remove-device", info, info]);
    assert_eq!(requests[1].1, json!({"id": "hawser-net1"}));
    let (mut vmm, told, _folder) = fake_cloud_hypervisor(vec![(204, Value::Null)]);
    vmm.power_down().unwrap();
    assert_eq!(
        told.recv().unwrap(),
        ("PUT /api/v1/vm.power-button".to_owned(), Value::Null)
    );
}

#[test]
fn what_cloud_hypervisor_refuses_is_said_in_its_words_and_a_card_it_keeps_is_kept() {
    let (mut vmm, _told, _folder) = fake_cloud_hypervisor(vec![(500, json!("no more PCI slots"))]);
    let error = vmm.plug(&card(&port())).unwrap_err();
    assert!(error.to_string().contains("no more PCI slots"), "{error}");
    let there = (200, json!({"device_tree": {"hawser-net1": {}}}));
    let mut answers = vec![there.clone(), (204, Value::Null)];
    answers.extend(std::iter::repeat_n(there, 10));
    let (mut vmm, _told, _folder) = fake_cloud_hypervisor(answers);
    let error = vmm.unplug("net1", &SOON).unwrap_err();
    assert!(matches!(error, RunningError::Kept(..)), "{error}");
    assert_eq!(vmm.set_link("net1", false).unwrap(), LinkShown::ByBackEnd);
}
