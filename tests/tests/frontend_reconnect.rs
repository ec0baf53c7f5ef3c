//! Tests of front ends that connect and disconnect, and of rings that stop and start. No frame is lost or duplicated,
//! and no guest memory stays mapped.

mod common;

use common::{Backend, PATIENCE, assert_echo, frame};
use hawser_backend::vhost_user::Lifetime;
use hawser_testkit::frontend::{Order, RingLayout, VmmConfig, code};
use std::time::{Duration, Instant};

const LENGTHS: [usize; 5] = [60, 64, 1514, 61, 700];

fn as_front_end(order: Order) -> VmmConfig {
    VmmConfig {
        order,
        ..VmmConfig::default()
    }
}

#[test]
fn one_off_ends_when_its_front_end_goes() {
    let backend = Backend::start_for(1, Lifetime::OneOff);
    let mut vmm = backend.connect(VmmConfig::default());
    assert_echo(&mut vmm, 0, &LENGTHS);
    drop(vmm);
    backend.wait().unwrap();
}

#[test]
fn a_guest_continues_with_its_rings_after_the_connection_was_lost() {
    for order in Order::ALL {
        let backend = Backend::start(1);
        let mut vmm = backend.connect(as_front_end(order));
        for _ in 0..3 {
            assert_echo(&mut vmm, 0, &LENGTHS);
            let free = vmm.nics[0].receive.room();
            vmm.reconnect(backend.stream()).unwrap();
            assert_echo(&mut vmm, 0, &LENGTHS);
            assert_eq!(vmm.nics[0].receive.room(), free, "{order:?}: no receive buffer is lost");
        }
    }
}

#[test]
fn another_vm_takes_the_place_of_one_that_crashed() {
    let backend = Backend::start(1);
    for order in Order::ALL {
        let mut vmm = backend.connect(as_front_end(order));
        assert_echo(&mut vmm, 0, &LENGTHS);
        // The front end disconnects in the middle of a message, with frames in flight.
        vmm.nics[0].send(&frame(1, 100)).unwrap();
        vmm.wire.send_raw(&[5, 0, 0, 0, 1], &[]).unwrap();
    }
}

/// Bytes of guest memory mapped into this process, by any code.
fn guest_bytes_mapped() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let guest = maps.lines().filter(|line| line.contains("memfd:guest"));
    let range = guest.filter_map(|line| line.split(' ').next()?.split_once('-'));
    let address = |hex| u64::from_str_radix(hex, 16).expect("an address");
    range.map(|(start, end)| address(end) - address(start)).sum()
}

#[test]
fn the_memory_of_a_guest_is_let_go_with_its_front_end() {
    // Other tests of this file map guests too, so this test runs in a process of its own.
    if std::env::var_os("ALONE").is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "the_memory_of_a_guest_is_let_go_with_its_front_end";
        let status = std::process::Command::new(me)
            .args(["--exact", name])
            .env("ALONE", "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    assert_echo(&mut vmm, 0, &LENGTHS);
    let size: u64 = vmm.ram.regions().iter().map(|r| r.len).sum();
    assert_eq!(guest_bytes_mapped(), 2 * size, "in the VMM and in the back end");
    drop(vmm);
    let deadline = Instant::now() + PATIENCE;
    while guest_bytes_mapped() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(guest_bytes_mapped(), 0);
}

#[test]
fn get_vring_base_names_exactly_what_was_taken() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    for round in 1..=3_u16 {
        assert_echo(&mut vmm, 0, &LENGTHS);
        let frames = round * 5;
        assert_eq!(vmm.stop_all().unwrap(), [frames, frames], "receive, transmit");
        assert_eq!(vmm.nics[0].receive.device_idx(), frames, "and all of it was given back");
        assert_eq!(vmm.nics[0].transmit.device_idx(), frames);
        vmm.start_all().unwrap();
    }
}

#[test]
fn frames_sent_while_the_rings_are_stopped_come_back_once_they_run() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    assert_echo(&mut vmm, 0, &LENGTHS);
    vmm.stop_all().unwrap();
    for seed in 0..20 {
        vmm.nics[0].send(&frame(seed, 200)).unwrap();
    }
    vmm.start_all().unwrap();
    for seed in 0..20 {
        let got = vmm.nics[0].recv(PATIENCE).unwrap().expect("the frame comes back");
        assert!(got.frame == frame(seed, 200), "frame {seed}");
    }
}

#[test]
fn a_driver_that_is_loaded_again_gets_rings_of_another_size_elsewhere() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    assert_echo(&mut vmm, 0, &LENGTHS);
    for ring_size in [64, 512] {
        vmm.stop_all().unwrap();
        vmm.reload_driver(ring_size).unwrap();
        vmm.start_all().unwrap();
        vmm.post_all().unwrap();
        assert_echo(&mut vmm, 0, &LENGTHS);
    }
}

#[test]
fn qemu_tells_running_rings_their_addresses_again_and_nothing_is_lost() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    for _ in 0..20 {
        assert_echo(&mut vmm, 0, &LENGTHS);
        let layouts: Vec<(u32, RingLayout)> = vmm.rings().map(|(i, r)| (i, r.layout())).collect();
        for (index, layout) in layouts {
            vmm.set_addresses(index, layout).unwrap();
        }
    }
}

#[test]
fn memory_comes_and_goes_under_running_rings() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    let spare = vmm.ram.regions()[1];
    for _ in 0..20 {
        assert_echo(&mut vmm, 0, &LENGTHS);
        vmm.wire.remove_mem_region(&spare).unwrap();
        assert_echo(&mut vmm, 0, &LENGTHS);
        vmm.wire.add_mem_region(&spare, vmm.ram.fd()).unwrap();
    }
    assert_echo(&mut vmm, 0, &LENGTHS);
    vmm.wire.set_mem_table(&vmm.ram.regions()[..1], vmm.ram.fd()).unwrap();
    assert_echo(&mut vmm, 0, &LENGTHS);
}

#[test]
fn qemu_replaces_the_regions_rings_lie_in_by_removing_them_first() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    for _ in 0..20 {
        assert_echo(&mut vmm, 0, &LENGTHS);
        for region in vmm.ram.regions() {
            vmm.wire.remove_mem_region(region).unwrap();
        }
        for region in vmm.ram.regions() {
            vmm.wire.add_mem_region(region, vmm.ram.fd()).unwrap();
        }
    }
    assert_echo(&mut vmm, 0, &LENGTHS);
}

#[test]
fn interrupts_are_replaced_while_frames_pass() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    for _ in 0..50 {
        assert_echo(&mut vmm, 0, &[60]);
        // The guest masks and unmasks its MSI-X vector.
        for (index, ring) in vmm.rings() {
            vmm.wire
                .tell_event(code::SET_VRING_CALL, index, Some(&ring.call))
                .unwrap();
        }
    }
}
