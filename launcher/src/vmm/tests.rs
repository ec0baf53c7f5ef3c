use super::*;
use crate::cli::{Cli, Command};
use crate::config;
use crate::host::Host;
use clap::Parser as _;
use hawser_manifest::nic::Teaming;

/// The output of `hawser COMMAND OPTIONS` on a system without a network.
fn flags(command: &str, options: &[&str]) -> Result<String, VmmError> {
    let argv = ["hawser", command, "--ipv4=10.0.2.0/24"]
        .into_iter()
        .chain(options.iter().copied());
    let cli = Cli::try_parse_from(argv).unwrap();
    let (args, make): (_, fn(&Vm<'_>) -> _) = match cli.command.unwrap() {
        Command::QemuArgs(args) => (args, qemu_args),
        Command::CloudHypervisorArgs(args) => (args, cloud_hypervisor_args),
        other => panic!("{other:?} has no flags"),
    };
    let plan = config::resolve(args.port.spec("vm".into()).unwrap(), &Host::default(), None).unwrap();
    make(&Vm {
        memory: &args.memory,
        cards: &[Card {
            socket: &args.socket.socket_path,
            vmm_listens: args.socket.connect,
            port: (&plan.port).into(),
            device: DeviceHints::default(),
            bus: None,
        }],
        passed: &[],
        qemu: args.qemu_version.unwrap_or(QemuVersion::CURRENT),
    })
}

#[test]
fn qemu_connects_to_the_socket_and_comes_back() {
    let expected = "\
-m 1G \
-object memory-backend-memfd,id=hawser-mem,size=1G,share=on \
-machine memory-backend=hawser-mem \
-chardev socket,id=hawser-chr-vm,path=/run/vm.sock,reconnect-ms=10 \
-netdev vhost-user,id=hawser-vm,chardev=hawser-chr-vm \
-device virtio-net-pci,id=hawser-nic-vm,netdev=hawser-vm,host_mtu=1500,romfile=
";
    assert_eq!(
        flags("qemu-args", &["--socket-path=/run/vm.sock"]).as_deref(),
        Ok(expected)
    );
}

#[test]
fn qemu_listens_where_hawser_connects_and_has_a_vector_for_each_ring() {
    let options = [
        "--socket-path=/run/vm.sock",
        "--connect",
        "--mac=02:00:00:12:34:56",
        "--mtu=9000",
        "--queue-pairs=4",
        "--memory=512M",
    ];
    let expected = "\
-m 512M \
-object memory-backend-memfd,id=hawser-mem,size=512M,share=on \
-machine memory-backend=hawser-mem \
-chardev socket,id=hawser-chr-vm,path=/run/vm.sock,server=on \
-netdev vhost-user,id=hawser-vm,chardev=hawser-chr-vm,queues=4 \
-device virtio-net-pci,id=hawser-nic-vm,netdev=hawser-vm,mac=02:00:00:12:34:56,mq=on,vectors=10,host_mtu=9000,romfile=
";
    assert_eq!(flags("qemu-args", &options).as_deref(), Ok(expected));
}

#[test]
fn each_card_has_its_own_flags() {
    let port = |name: &str| {
        let cli = Cli::try_parse_from(["hawser", "--ipv4=10.0.2.0/24"]).unwrap();
        config::resolve(cli.port.spec(name.into()).unwrap(), &Host::default(), None)
            .unwrap()
            .port
    };
    let (first, second) = (port("a"), port("b"));
    let card = |socket, port, device| Card {
        socket,
        vmm_listens: false,
        port,
        device,
        bus: None,
    };
    let hints = DeviceHints {
        boot_order: Some(1),
        acpi_index: Some(7),
        ..DeviceHints::default()
    };
    let cards = [
        card(Path::new("/s/a.sock"), (&first).into(), DeviceHints::default()),
        card(Path::new("/s/b.sock"), (&second).into(), hints),
    ];
    let vm = Vm {
        memory: "1G",
        cards: &cards,
        passed: &[],
        qemu: QemuVersion::CURRENT,
    };
    let expected = "\
-m 1G \
-object memory-backend-memfd,id=hawser-mem,size=1G,share=on \
-machine memory-backend=hawser-mem \
-chardev socket,id=hawser-chr-a,path=/s/a.sock,reconnect-ms=10 \
-netdev vhost-user,id=hawser-a,chardev=hawser-chr-a \
-device virtio-net-pci,id=hawser-nic-a,netdev=hawser-a,host_mtu=1500,romfile= \
-chardev socket,id=hawser-chr-b,path=/s/b.sock,reconnect-ms=10 \
-netdev vhost-user,id=hawser-b,chardev=hawser-chr-b \
-device virtio-net-pci,id=hawser-nic-b,netdev=hawser-b,bootindex=1,acpi-index=7,host_mtu=1500,romfile=
";
    assert_eq!(qemu_args(&vm).as_deref(), Ok(expected));
    let expected = "\
--memory size=1G,shared=on \
--net id=hawser-a,vhost_user=true,socket=/s/a.sock,num_queues=2,mtu=1500 id=hawser-b,vhost_user=true,socket=/s/b.sock,num_queues=2,mtu=1500
";
    assert_eq!(cloud_hypervisor_args(&vm).as_deref(), Ok(expected));
}

#[test]
fn cloud_hypervisor_shares_its_memory_and_counts_queues_one_by_one() {
    let expected = "\
--memory size=1G,shared=on \
--net id=hawser-vm,vhost_user=true,socket=/run/vm.sock,num_queues=2,mtu=1500
";
    let command = "cloud-hypervisor-args";
    assert_eq!(flags(command, &["--socket-path=/run/vm.sock"]).as_deref(), Ok(expected));
    let options = [
        "--socket-path=/run/vm.sock",
        "--connect",
        "--mac=02:00:00:12:34:56",
        "--mtu=9000",
        "--queue-pairs=2",
        "--memory=2G",
    ];
    let expected = "\
--memory size=2G,shared=on \
--net id=hawser-vm,vhost_user=true,socket=/run/vm.sock,vhost_mode=server,mac=02:00:00:12:34:56,num_queues=4,mtu=9000
";
    assert_eq!(flags(command, &options).as_deref(), Ok(expected));
}

#[test]
fn odd_paths_survive_the_shell_and_the_vmm() {
    let qemu = flags("qemu-args", &["--socket-path=/tmp/a b,it's"]).unwrap();
    assert!(
        qemu.contains(r"-chardev 'socket,id=hawser-chr-vm,path=/tmp/a b,,it'\''s,reconnect-ms=10'"),
        "{qemu}"
    );
    let ch = flags("cloud-hypervisor-args", &["--socket-path=/tmp/a,b"]).unwrap();
    assert!(
        ch.contains(r#"--net 'id=hawser-vm,vhost_user=true,socket="/tmp/a,b",num_queues=2,mtu=1500'"#),
        "{ch}"
    );
}

#[test]
fn options_that_cloud_hypervisor_lacks_are_refused() {
    let refused = |options: &[&str]| flags("cloud-hypervisor-args", options).unwrap_err();
    assert_eq!(refused(&["--socket-path=/tmp/a\"b"]), VmmError::QuoteInPath);
    assert_eq!(
        refused(&["--socket-path=/s", "--mtu=1000"]),
        VmmError::MtuTooSmall(1000)
    );
}

#[test]
fn a_virtual_function_is_passed_beside_the_nics() {
    let passed = [Passed {
        name: "vf",
        address: "0000:01:10.2".into(),
        device: DeviceHints {
            boot_order: Some(1),
            ..DeviceHints::default()
        },
        bus: Some("hawser-port0".into()),
    }];
    let vm = Vm {
        memory: "1G",
        cards: &[],
        passed: &passed,
        qemu: QemuVersion::CURRENT,
    };
    let qemu = qemu_args(&vm).unwrap();
    let device = "-device vfio-pci,id=hawser-nic-vf,host=0000:01:10.2,bus=hawser-port0,bootindex=1";
    assert!(qemu.contains(device), "{qemu}");
    let other = cloud_hypervisor_args(&vm).unwrap();
    let device = "--device id=hawser-vf,path=/sys/bus/pci/devices/0000:01:10.2";
    assert!(other.contains(device) && !other.contains("--net"), "{other}");
}

#[test]
fn a_pci_address_is_honoured_beside_the_boot_order_or_refused() {
    let passed = [Passed {
        name: "vf",
        address: "0000:01:10.2".into(),
        device: DeviceHints {
            boot_order: Some(2),
            pci_address: Some("0000:81:00.0".into()),
            ..DeviceHints::default()
        },
        bus: Some("hawser-port0".into()),
    }];
    let vm = Vm {
        memory: "1G",
        cards: &[],
        passed: &passed,
        qemu: QemuVersion::CURRENT,
    };
    let qemu = qemu_args(&vm).unwrap();
    let bus = "-device pxb-pcie,id=hawser-root80,bus=pcie.0,bus_nr=128";
    let device = "-device vfio-pci,id=hawser-nic-vf,host=0000:01:10.2,bus=hawser-bus81,bootindex=2";
    assert!(qemu.find(bus).unwrap() < qemu.find(device).unwrap(), "{qemu}");
    assert_eq!(cloud_hypervisor_args(&vm).unwrap_err(), VmmError::NoPciAddress);
}

#[test]
fn a_failover_pair_is_a_standby_and_the_function_that_names_it() {
    let options = [
        "hawser",
        "--mode=bridge",
        "--bridge=br0",
        "--mac=02:00:00:00:00:09",
        "--standby",
    ];
    let cli = Cli::try_parse_from(options).unwrap();
    let found = config::resolve(cli.port.spec("vf-standby".into()).unwrap(), &Host::default(), None).unwrap();
    let cards = [Card {
        socket: Path::new("/s/standby.sock"),
        vmm_listens: false,
        port: (&found.port).into(),
        device: found.spec.device.clone(),
        bus: Some("hawser-port0".into()),
    }];
    let passed = [Passed {
        name: "vf",
        address: "0000:01:10.2".into(),
        device: DeviceHints {
            teaming: Teaming::Transient {
                persistent: "vf-standby".into(),
            },
            ..DeviceHints::default()
        },
        bus: Some("hawser-port1".into()),
    }];
    let vm = Vm {
        memory: "1G",
        cards: &cards,
        passed: &passed,
        qemu: QemuVersion::CURRENT,
    };
    let qemu = qemu_args(&vm).unwrap();
    for device in [
        "id=hawser-nic-vf-standby,netdev=hawser-vf-standby,bus=hawser-port0,mac=02:00:00:00:00:09,failover=on,",
        "vfio-pci,id=hawser-nic-vf,host=0000:01:10.2,bus=hawser-port1,failover_pair_id=hawser-nic-vf-standby",
    ] {
        assert!(qemu.contains(device), "{qemu}");
    }
    assert_eq!(cloud_hypervisor_args(&vm), Err(VmmError::NoFailover));
}
