use super::*;
use crate::packet::MacAddr;
use crate::virtio::ring::MAX_SEGMENTS;
use crate::virtio::testing::{Buffer, DriverRing, TestMemory};

const PLAIN: Features = Features(1 << 32);
const ALL: Features = Features(
    PLAIN.0
        | 1 << VIRTIO_NET_F_CTRL_RX
        | 1 << VIRTIO_NET_F_CTRL_RX_EXTRA
        | 1 << VIRTIO_NET_F_CTRL_VLAN
        | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR
        | 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
        | 1 << VIRTIO_NET_F_GUEST_ANNOUNCE
        | 1 << VIRTIO_NET_F_MQ,
);

struct Guest {
    memory: TestMemory,
    driver: DriverRing,
    control: Control,
}

impl Guest {
    fn new() -> Self {
        Self::with(ALL)
    }

    fn with(features: Features) -> Self {
        let mut memory = TestMemory::new(0x10_0000);
        let driver = DriverRing::new(&mut memory, 16);
        Self {
            control: Control::new(Arc::clone(&memory.map), driver.layout, features).unwrap(),
            memory,
            driver,
        }
    }

    /// Posts a command with room for the answer, and returns the address of the answer.
    fn order(&mut self, request: &[u8]) -> u64 {
        let address = self.memory.take(request.len() as u64 + 64, 16);
        self.memory.write(address, request);
        let ack = address + request.len() as u64 + 16;
        self.memory.write(ack, &[0xff]);
        let buffers = [
            Buffer {
                address,
                len: u32::try_from(request.len()).unwrap(),
                writable: false,
            },
            Buffer {
                address: ack,
                len: 1,
                writable: true,
            },
        ];
        self.driver.post(&self.memory, &buffers);
        ack
    }

    /// Whether the driver needs an interrupt (`None` if the queue is broken), and the commands.
    fn serve(&mut self) -> (Option<bool>, Vec<Order>) {
        let mut orders = Vec::new();
        let told = self.control.serve(&mut |order| {
            let is_fine = order != Order::QueuePairs(3);
            orders.push(order);
            is_fine
        });
        (told.ok().map(|served| served.call), orders)
    }

    fn answer(&self, ack: u64) -> u8 {
        self.memory.read(ack, 1)[0]
    }
}

#[test]
fn the_number_of_queue_pairs_is_an_order_and_the_answer_is_true() {
    let mut guest = Guest::new();
    let (two, three) = (guest.order(&[4, 0, 2, 0]), guest.order(&[4, 0, 3, 0]));
    assert_eq!(
        guest.serve(),
        (Some(true), vec![Order::QueuePairs(2), Order::QueuePairs(3)])
    );
    assert_eq!((guest.answer(two), guest.answer(three)), (OK, ERR));
    assert_eq!(guest.driver.take_used(&guest.memory), [(0, 1), (2, 1)]);
    assert_eq!(guest.control.layout().next_avail, 2);
}

#[test]
fn every_class_of_order_is_read_as_the_specification_has_it() {
    let mut guest = Guest::new();
    let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
    let tables = [
        &[1, 0, 2, 0, 0, 0][..],
        &mac(7).0,
        &mac(8).0,
        &[1, 0, 0, 0],
        &[1, 0, 0x5e, 0, 0, 1],
    ];
    let cases = [
        (vec![0, 0, 1], Order::Receive(RxMode::Promiscuous, true)),
        (vec![0, 0, 0], Order::Receive(RxMode::Promiscuous, false)),
        (vec![0, 1, 1], Order::Receive(RxMode::AllMulticast, true)),
        (vec![0, 2, 1], Order::Receive(RxMode::AllUnicast, true)),
        (vec![0, 3, 1], Order::Receive(RxMode::NoMulticast, true)),
        (vec![0, 4, 1], Order::Receive(RxMode::NoUnicast, true)),
        (vec![0, 5, 1], Order::Receive(RxMode::NoBroadcast, true)),
        (
            tables.concat(),
            Order::MacTables {
                unicast: MacTable::Some(vec![mac(7), mac(8)]),
                multicast: MacTable::Some(vec![MacAddr([1, 0, 0x5e, 0, 0, 1])]),
            },
        ),
        (vec![1, 1, 2, 0, 0, 0, 0, 9], Order::MacAddress(mac(9))),
        (vec![2, 0, 7, 1], Order::Vlan(0x107, true)),
        (vec![2, 1, 7, 0], Order::Vlan(7, false)),
        (vec![3, 0], Order::Announced),
        (vec![5, 0, 2, 1, 0, 0, 0, 0, 0, 0], Order::Offloads(0x102)),
    ];
    for (request, order) in cases {
        let ack = guest.order(&request);
        assert_eq!(guest.serve().1, [order], "{request:?}");
        assert_eq!(guest.answer(ack), OK);
    }
}

#[test]
fn a_table_longer_than_what_is_kept_is_known_to_be_longer() {
    let mut guest = Guest::new();
    let table = |entries: u32| {
        let macs = (0..entries).flat_map(|n| [[2, 0].as_slice(), &n.to_be_bytes()].concat());
        entries.to_le_bytes().into_iter().chain(macs).collect::<Vec<u8>>()
    };
    let request = |unicast, multicast| [&[1, 0][..], &table(unicast), &table(multicast)].concat();
    let max = u32::try_from(MAC_TABLE_MAX).unwrap();
    guest.order(&request(max + 1, 1));
    guest.order(&request(max, 9999));
    let orders = guest.serve().1;
    let kept = |table: &MacTable| match table {
        MacTable::Some(macs) => macs.len(),
        MacTable::Empty => 0,
        MacTable::TooMany => usize::MAX,
    };
    let lengths: Vec<_> = orders
        .iter()
        .map(|order| match order {
            Order::MacTables { unicast, multicast } => (kept(unicast), kept(multicast)),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths, [(usize::MAX, 1), (MAC_TABLE_MAX, usize::MAX)]);
}

#[test]
fn orders_cut_short_or_that_promise_more_than_there_is_are_refused() {
    let mut guest = Guest::new();
    let requests: &[&[u8]] = &[
        &[],
        &[0],
        &[0, 0],
        &[0, 6, 1],
        &[1, 0],
        &[1, 0, 0, 0, 0, 0],
        &[1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0],
        &[1, 0, 255, 255, 255, 255, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 255, 255, 255, 127, 1, 0],
        &[1, 1, 2, 0, 0, 0, 0],
        &[1, 2],
        &[2, 0, 7],
        &[2, 2, 7, 0],
        &[3, 1],
        &[4, 0, 2],
        &[4, 1, 2, 0],
        &[5, 0, 1, 0, 0, 0],
        &[6, 0],
        &[255, 255],
    ];
    for request in requests {
        let ack = guest.order(request);
        assert_eq!(guest.serve().1, [], "{request:?}");
        assert_eq!(guest.answer(ack), ERR, "{request:?}");
    }
}

#[test]
fn requests_that_need_features_without_acknowledgment_are_refused() {
    let mut guest = Guest::with(PLAIN);
    let acks = [
        guest.order(&[0, 0, 1]),
        guest.order(&[1, 1, 2, 0, 0, 0, 0, 9]),
        guest.order(&[2, 0, 7, 0]),
        guest.order(&[3, 0]),
        guest.order(&[4, 0, 2, 0]),
        guest.order(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    assert_eq!(guest.serve().1, []);
    assert_eq!(acks.map(|ack| guest.answer(ack)), [ERR; 6]);
}

#[test]
fn an_order_without_room_for_an_answer_goes_back() {
    let mut guest = Guest::new();
    let buffer = Buffer {
        address: 0x100,
        len: 4,
        writable: false,
    };
    guest.driver.post(&guest.memory, &[buffer]);
    let (told, orders) = guest.serve();
    assert!(told.is_some());
    assert_eq!(orders, [], "a command that cannot be answered is not executed");
    assert_eq!(guest.driver.take_used(&guest.memory), [(0, 0)]);
}

#[test]
fn an_order_outside_memory_breaks_the_queue_after_those_before_it() {
    let mut guest = Guest::new();
    let ack = guest.order(&[4, 0, 2, 0]);
    let outside = Buffer {
        address: 0x1000_0000,
        len: 4,
        writable: false,
    };
    guest.driver.post(&guest.memory, &[outside]);
    assert_eq!(guest.serve(), (None, vec![Order::QueuePairs(2)]));
    assert_eq!(guest.answer(ack), OK);
    assert_eq!(guest.driver.take_used(&guest.memory), [(0, 1)]);
}

#[test]
fn a_turn_takes_so_many_orders_and_looks_at_so_many_descriptors_and_no_more() {
    let mut memory = TestMemory::new(0x40_0000);
    let mut driver = DriverRing::new(&mut memory, 256);
    let features = Features(ALL.0 | 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC);
    let mut control = Control::new(Arc::clone(&memory.map), driver.layout, features).unwrap();
    // The longest possible chain consists of empty buffers.
    let nothing = Buffer {
        address: 0x100,
        len: 0,
        writable: false,
    };
    let table = memory.take(16 * MAX_SEGMENTS as u64, 16);
    for _ in 0..=ORDERS_PER_TURN {
        driver.post_table(&memory, table, &vec![nothing; MAX_SEGMENTS]);
    }
    let served = control.serve(&mut |_| true).unwrap();
    assert!(served.more, "it is served again without a kick");
    assert_eq!(driver.take_used(&memory).len(), ORDERS_PER_TURN);
    assert_eq!(control.visited(), ORDERS_PER_TURN * (1 + MAX_SEGMENTS));
    assert!(!control.serve(&mut |_| true).unwrap().more);
    assert_eq!(driver.take_used(&memory).len(), 1);
}

#[test]
fn an_index_far_ahead_breaks_the_queue() {
    let mut guest = Guest::new();
    guest.driver.set_avail_idx(&guest.memory, 17);
    assert!(guest.serve().0.is_none());
}

#[test]
fn a_queue_outside_memory_or_of_no_size_is_refused() {
    let mut memory = TestMemory::new(0x10_0000);
    let good = DriverRing::new(&mut memory, 16).layout;
    for layout in [
        RingLayout { size: 0, ..good },
        RingLayout { size: 24, ..good },
        RingLayout {
            used: 0x10_0000,
            ..good
        },
    ] {
        assert!(
            Control::new(Arc::clone(&memory.map), layout, PLAIN).is_err(),
            "{layout:?}"
        );
    }
}
