//! Tests that every front end's order of messages results in a NIC that passes frames.

mod common;

use common::{Backend, GUEST_MAC, PATIENCE, assert_echo, frame};
use hawser_testkit::frontend::{Order, TransmitLayout, Vmm, VmmConfig, code, feature};
use std::io;

const LENGTHS: [usize; 5] = [60, 64, 1514, 61, 700];

fn with(order: Order, features: u64) -> VmmConfig {
    VmmConfig {
        order,
        features,
        ..VmmConfig::default()
    }
}

#[test]
fn every_front_end_gets_a_nic_that_passes_frames() {
    for order in Order::ALL {
        let backend = Backend::start(1);
        let mut vmm = backend.connect(with(order, feature::LINUX));
        assert_eq!(vmm.features & feature::LINUX, feature::LINUX, "{order:?}");
        assert_echo(&mut vmm, 0, &LENGTHS);
    }
}

#[test]
fn any_subset_of_features_a_driver_takes_works() {
    use feature::{EVENT_IDX, INDIRECT_DESC, MRG_RXBUF, OFFLOADS, VERSION_1};
    for taken in [0, EVENT_IDX, INDIRECT_DESC, MRG_RXBUF, MRG_RXBUF | EVENT_IDX, OFFLOADS] {
        let backend = Backend::start(1);
        let mut vmm = backend.connect(with(Order::Qemu, VERSION_1 | taken));
        assert_echo(&mut vmm, 0, &LENGTHS);
    }
}

#[test]
fn chains_of_any_shape_are_one_frame() {
    let layouts = [
        TransmitLayout::Together,
        TransmitLayout::HeaderApart,
        TransmitLayout::Scattered(100),
        TransmitLayout::Scattered(7),
        TransmitLayout::Indirect(100),
    ];
    for layout in layouts {
        let backend = Backend::start(1);
        let mut vmm = backend.connect(VmmConfig {
            layout,
            ..VmmConfig::default()
        });
        assert_echo(&mut vmm, 0, &[60, 99, 200, 400]);
    }
}

#[test]
fn frames_up_to_64_kib_pass_in_one_buffer_or_in_many() {
    use feature::{EVENT_IDX, INDIRECT_DESC, MRG_RXBUF, VERSION_1};
    let many = (VERSION_1 | EVENT_IDX | MRG_RXBUF, 4096, TransmitLayout::Scattered(4096));
    let tiny = (VERSION_1 | MRG_RXBUF, 512, TransmitLayout::HeaderApart);
    let one = (VERSION_1 | INDIRECT_DESC, 65562, TransmitLayout::Indirect(4096));
    for (features, receive_buffer, layout) in [many, tiny, one] {
        let backend = Backend::start(1);
        let mut vmm = backend.connect(VmmConfig {
            receive_buffer,
            transmit_buffer: 65600,
            layout,
            memory: vec![(0, 64 << 20)],
            ..with(Order::Qemu, features)
        });
        assert_echo(&mut vmm, 0, &[60, 9014, 65_000, 65_535, 65_549, 64, 30_000]);
    }
}

#[test]
fn rings_of_every_size_work() {
    for ring_size in [64, 128, 1024, 4096, 32768] {
        let backend = Backend::start(1);
        let mut vmm = backend.connect(VmmConfig {
            ring_size,
            receive_buffer: 2048,
            memory: vec![(0, 256 << 20)],
            ..VmmConfig::default()
        });
        let some: Vec<usize> = (0..usize::from(ring_size.min(300)) * 2)
            .map(|i| 60 + i % 1000)
            .collect();
        assert_echo(&mut vmm, 0, &some);
    }
}

#[test]
fn a_burst_larger_than_the_ring_comes_back_in_order() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    let nic = &mut vmm.nics[0];
    let mut next = 0;
    for seed in 0..2000 {
        nic.send(&frame(seed, 300)).unwrap();
        while let Some(got) = nic.poll().unwrap() {
            assert!(got.frame == frame(next, 300), "frame {next}");
            next += 1;
        }
    }
    while next < 2000 {
        let got = nic.recv(PATIENCE).unwrap();
        assert!(
            got.expect("all frames come back").frame == frame(next, 300),
            "frame {next}"
        );
        next += 1;
    }
}

#[test]
fn qemu_and_cloud_hypervisor_use_several_queue_pairs() {
    for order in [Order::Qemu, Order::CloudHypervisor] {
        let backend = Backend::start(4);
        let mut vmm = backend.connect(VmmConfig {
            queue_pairs: 4,
            memory: vec![(0, 64 << 20)],
            ..with(order, feature::LINUX | feature::MQ | feature::CTRL_VQ)
        });
        assert_ne!(vmm.features & feature::MQ, 0);
        for pair in 0..4 {
            assert_echo(&mut vmm, pair, &LENGTHS);
        }
    }
}

#[test]
fn qemu_learns_that_it_has_more_queues_than_are_offered() {
    let backend = Backend::start(2);
    let config = VmmConfig {
        queue_pairs: 3,
        memory: vec![(0, 64 << 20)],
        ..VmmConfig::default()
    };
    let error = Vmm::connect(backend.stream(), config).err().unwrap();
    assert!(error.to_string().contains("only 2 queue pairs"), "{error}");
    // The back end still works.
    assert_echo(&mut backend.connect(VmmConfig::default()), 0, &LENGTHS);
}

#[test]
fn several_queue_pairs_are_offered_only_where_they_are_configured() {
    let backend = Backend::start(1);
    let vmm = backend.connect(with(Order::Uml, u64::MAX >> 1 & !feature::LOG_ALL));
    assert_eq!(vmm.features & feature::MQ, 0, "UML's driver fails with MQ");
    assert_ne!(vmm.features & feature::CTRL_VQ, 0);
}

#[test]
fn uml_and_cloud_hypervisor_read_mac_and_mtu() {
    for order in [Order::Uml, Order::CloudHypervisor] {
        let backend = Backend::start(1);
        let vmm = backend.connect(with(order, feature::LINUX));
        assert_eq!(vmm.config_space[..6], GUEST_MAC.0, "{order:?}");
        assert_eq!(vmm.config_space[10..12], 1500_u16.to_le_bytes(), "{order:?}");
    }
}

#[test]
fn qemu_names_its_host_mtu_and_announces_the_guest() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig {
        mtu: Some(9000),
        ..VmmConfig::default()
    });
    for _ in 0..5 {
        vmm.wire
            .tell(code::SEND_RARP, &[GUEST_MAC.0.as_slice(), &[0, 0]].concat(), &[])
            .unwrap();
    }
    assert_echo(&mut vmm, 0, &LENGTHS);

    // A smaller one is taken, too, and told to the guest by those modes that tell it anything.
    let smaller = VmmConfig {
        mtu: Some(1280),
        ..VmmConfig::default()
    };
    drop(vmm);
    let mut vmm = backend.connect(smaller);
    assert_echo(&mut vmm, 0, &LENGTHS);

    let config = VmmConfig {
        mtu: Some(67),
        ..VmmConfig::default()
    };
    drop(vmm);
    let refused = Vmm::connect(backend.stream(), config).err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::Other);
    assert!(refused.to_string().contains("refused"), "{refused}");
}

#[test]
fn a_ring_that_is_disabled_gives_the_guest_nothing() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    assert_echo(&mut vmm, 0, &LENGTHS);
    for ring in [0, 1] {
        vmm.wire.tell_ring(code::SET_VRING_ENABLE, ring, 0).unwrap();
    }
    vmm.nics[0].send(&frame(1, 60)).unwrap();
    assert_eq!(vmm.nics[0].recv(common::SILENCE).unwrap(), None);
    for ring in [0, 1] {
        vmm.wire.tell_ring(code::SET_VRING_ENABLE, ring, 1).unwrap();
    }
    // The device may have dropped or kept frames sent meanwhile.
    while vmm.nics[0].recv(common::SILENCE).unwrap().is_some() {}
    assert_echo(&mut vmm, 0, &LENGTHS);
}

#[test]
fn a_device_that_was_reset_is_set_up_again_on_the_same_connection() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    assert_echo(&mut vmm, 0, &LENGTHS);
    vmm.stop_all().unwrap();
    vmm.wire.tell(code::RESET_DEVICE, &[], &[]).unwrap();
    for ring in [0, 1] {
        vmm.wire.tell_ring(code::SET_VRING_ENABLE, ring, 1).unwrap();
    }
    vmm.wire.tell_u64(code::SET_FEATURES, vmm.features).unwrap();
    vmm.start_all().unwrap();
    assert_echo(&mut vmm, 0, &LENGTHS);
}
