use super::*;
use crate::virtio::testing::{Buffer, DriverRing, TestMemory};

const PLAIN: Features = Features(1 << 32);

struct Guest {
    memory: TestMemory,
    driver: DriverRing,
    control: Control,
}

impl Guest {
    fn new() -> Self {
        let mut memory = TestMemory::new(0x10_0000);
        let driver = DriverRing::new(&mut memory, 16);
        Self {
            control: Control::new(Arc::clone(&memory.map), driver.layout, PLAIN).unwrap(),
            memory,
            driver,
        }
    }

    /// Posts an order with room for the answer; returns where that goes.
    fn order(&mut self, request: &[u8]) -> u64 {
        let address = self.memory.take(64, 16);
        self.memory.write(address, request);
        let ack = address + 32;
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

    /// Whether the driver is to be told (`None`: the queue is broken), and the orders.
    fn serve(&mut self) -> (Option<bool>, Vec<Order>) {
        let mut orders = Vec::new();
        let told = self.control.serve(&mut |order| {
            orders.push(order);
            order == Order::QueuePairs(2)
        });
        (told.ok(), orders)
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
fn orders_that_need_features_we_do_not_offer_are_refused() {
    let mut guest = Guest::new();
    let acks = [
        guest.order(&[0, 0, 1]),
        guest.order(&[1, 1, 2, 0, 0, 0, 0, 9]),
        guest.order(&[2, 0, 7, 0]),
        guest.order(&[3, 0]),
        guest.order(&[4, 0, 2]),
        guest.order(&[]),
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
    let outside = Buffer {
        address: 0x1000_0000,
        ..buffer
    };
    guest.driver.post(&guest.memory, &[outside]);
    assert!(guest.serve().0.is_some());
    assert_eq!(guest.driver.take_used(&guest.memory), [(0, 0), (1, 0)]);
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
