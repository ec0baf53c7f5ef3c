use super::*;
use crate::port::testing::config as port;
use crate::virtio::control::{MacTable, RxMode};
use crate::virtio::features::{offered, tests::device};

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 8]);

fn config(mac_check: MacCheck) -> PortConfig {
    let mut config = port(2);
    config.mac = Some(OWN);
    config.policy.mac_check = mac_check;
    config
}

fn all() -> Features {
    Features(offered(device(2)))
}

fn without(bit: u32) -> Features {
    Features(all().0 & !(1 << bit))
}

/// True if the NIC accepts a frame to `destination`.
fn takes(card: &NicState, features: Features, destination: MacAddr) -> bool {
    let frame = [&destination.0[..], &[2; 6], &[8, 0]].concat();
    card.state(features).filter.takes(&frame)
}

#[test]
fn a_checked_mac_is_not_the_drivers_to_change() {
    let checked = NicState::new(&config(MacCheck::Enforced));
    assert!(!checked.apply(Order::MacAddress(OTHER), all()));
    assert!(checked.apply(Order::MacAddress(OWN), all()));
    assert_eq!(checked.mac(), Some(OWN));
    let free = NicState::new(&config(MacCheck::Off));
    assert!(free.apply(Order::MacAddress(OTHER), all()));
    assert_eq!(free.mac(), Some(OTHER));
    for nobodys in [MacAddr::BROADCAST, MacAddr([3, 0, 0, 0, 0, 1]), MacAddr::default()] {
        assert!(!free.apply(Order::MacAddress(nobodys), all()));
    }
    free.apply(Order::Receive(RxMode::Promiscuous, false), all());
    assert!(takes(&free, all(), OTHER) && !takes(&free, all(), OWN));
    free.reset();
    assert_eq!(free.mac(), Some(OWN));
}

#[test]
fn orders_count_as_changes_only_if_they_are_carried_out() {
    let card = NicState::new(&config(MacCheck::Enforced));
    let before = card.version();
    assert!(!card.apply(Order::QueuePairs(3), all()) && !card.apply(Order::QueuePairs(0), all()));
    assert!(!card.apply(Order::Vlan(4095, true), all()));
    assert_eq!(card.version(), before);
    assert!(card.apply(Order::QueuePairs(2), all()) && card.apply(Order::Announced, all()));
    assert_eq!(card.version(), before + 2);
}

#[test]
fn filters_hold_for_the_driver_that_set_them() {
    let card = NicState::new(&config(MacCheck::Off));
    assert!(takes(&card, all(), OTHER), "no driver has set a filter");
    assert!(card.apply(Order::Receive(RxMode::Promiscuous, false), all()));
    assert!(!takes(&card, all(), OTHER));
    // A driver without filters, such as a boot ROM, receives every frame.
    assert!(takes(&card, without(VIRTIO_NET_F_CTRL_RX), OTHER));
    assert!(!takes(&card, all(), OTHER));
    let table = Order::MacTables {
        unicast: MacTable::Some(vec![OTHER]),
        multicast: MacTable::Empty,
    };
    assert!(card.apply(table, all()));
    assert!(takes(&card, all(), OTHER));
    card.reset();
    assert!(takes(&card, all(), MacAddr([2, 0, 0, 0, 0, 7])));
}

#[test]
fn vlans_are_filtered_for_drivers_that_can_name_them() {
    let card = NicState::new(&config(MacCheck::Off));
    assert!(card.apply(Order::Receive(RxMode::Promiscuous, false), all()));
    let tagged = [&OWN.0[..], &[2; 6], &[0x81, 0, 0, 7, 8, 0]].concat();
    let takes = |features| card.state(features).filter.takes(&tagged);
    assert!(!takes(all()));
    assert!(takes(without(VIRTIO_NET_F_CTRL_VLAN)));
    assert!(card.apply(Order::Vlan(7, true), all()));
    assert!(takes(all()));
    assert!(card.apply(Order::Vlan(7, false), all()));
    assert!(!takes(all()));
}

#[test]
fn offloads_are_narrowed_to_what_the_driver_says_and_never_widened() {
    use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_MTU};
    let card = NicState::new(&config(MacCheck::Off));
    let some = 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;
    assert!(card.apply(Order::Offloads(some), all()));
    let caps = card.state(all()).features.guest_caps();
    assert!(caps.checksum && caps.tso4 && !caps.tso6 && !caps.uso4);
    assert!(card.state(all()).features.has(VIRTIO_NET_F_MTU), "other features stay");
    assert!(card.apply(Order::Offloads(0), all()));
    assert_eq!(
        card.state(all()).features.guest_caps(),
        crate::frame::GuestCaps::default()
    );
    // The driver has not acknowledged the feature, or the bit is not an offload.
    assert!(!card.apply(Order::Offloads(some), without(VIRTIO_NET_F_GUEST_TSO4)));
    assert!(!card.apply(Order::Offloads(1 << VIRTIO_NET_F_MTU), all()));
    assert!(
        card.state(without(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
            .features
            .guest_caps()
            .tso6
    );
}
