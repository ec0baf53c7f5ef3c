//! Tests of networks that all nodes share: their identity, and leases on them.

use super::{Place, give, in_every_store, range, vm};
use crate::agreement::{NetworkError, agree, identifier};
use crate::claim::{AddressClaim, Choice, Claim, ClaimError, MacClaim};
use crate::tests::remote::Cluster;
use crate::{NetworkRecord, Segment, Store, StoreError};
use hawser_packet::geneve::Vni;

in_every_store! {
    a_network_has_one_identifier_and_one_set_of_subnets_while_vms_use_it
    a_mac_follows_from_the_address_and_is_unique
    a_network_without_an_identifier_gets_a_free_one_and_keeps_it
}

fn record(name: &str, vni: u32, subnet: &str) -> NetworkRecord {
    NetworkRecord {
        name: name.into(),
        vni: Vni::try_from(vni).unwrap(),
        subnets: vec![subnet.parse().unwrap()],
    }
}

/// A claim for an address of 10.0.0.0/24, starting at .3, and for the MAC that follows from it.
fn on_network(network: &str) -> Claim {
    let set = vec![range("10.0.0.0/24", "10.0.0.3", "10.0.0.9")];
    Claim {
        interface: "net".into(),
        network: "default/lan".into(),
        segment: Segment::Network(network.into()),
        mac: MacClaim::OfAddress,
        addresses: vec![AddressClaim::OneOf(set, Choice::Next)],
    }
}

fn tell(store: &mut impl Store, name: &str, network: &NetworkRecord) -> Result<(), NetworkError> {
    store.step(|ledger| agree(ledger, &vm(name), std::slice::from_ref(network)))
}

fn a_network_has_one_identifier_and_one_set_of_subnets_while_vms_use_it<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let red = record("red", 7, "10.0.0.0/24");
    tell(&mut store, "vm1", &red).unwrap();
    give(&mut store, "vm1", &[on_network("red")]).unwrap();
    tell(&mut store, "vm2", &red).unwrap();
    let error = tell(&mut store, "vm2", &record("blue", 7, "10.1.0.0/24"))
        .unwrap_err()
        .to_string();
    let expected = "network blue has the identifier 7 in the tunnel, which is that of network red, where interface net \
                    of VM default/vm1 has a lease";
    assert!(error.starts_with(expected), "{error}");
    for other in [record("red", 8, "10.0.0.0/24"), record("red", 7, "10.2.0.0/24")] {
        let error = tell(&mut store, "vm2", &other).unwrap_err();
        assert!(matches!(error, NetworkError::Differs { .. }), "{error}");
    }
    // The only user of the network may change it.
    tell(&mut store, "vm1", &record("red", 8, "10.0.0.0/24")).unwrap();
    tell(&mut place.open(), "vm2", &record("blue", 7, "10.1.0.0/24")).unwrap();
    // No VM uses blue.
    tell(&mut store, "vm3", &record("green", 7, "10.3.0.0/24")).unwrap();
    let networks = store.step(|ledger| ledger.networks()).unwrap();
    let names: Vec<&str> = networks.iter().map(|network| &*network.name).collect();
    assert_eq!(names, ["green", "red"]);
}

fn a_network_without_an_identifier_gets_a_free_one_and_keeps_it<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let free = |store: &mut P::Store, name: &str| -> Vni {
        let found: Result<Vni, StoreError> = store.step(|ledger| identifier(ledger, name));
        found.unwrap()
    };
    let first = free(&mut store, "blue");
    assert_ne!(u32::from(first), 0);
    assert_eq!(free(&mut store, "blue"), first);
    // The number that is derived from the name is in use.
    let other = record("red", first.into(), "10.1.0.0/24");
    tell(&mut store, "vm1", &other).unwrap();
    let next = free(&mut store, "blue");
    assert_ne!(next, first);
    assert_eq!(free(&mut store, "red"), first);
}

fn a_mac_follows_from_the_address_and_is_unique<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let first = give(&mut store, "vm1", &[on_network("red")]).unwrap();
    assert_eq!(first[0].addresses[0].to_string(), "10.0.0.3/24");
    assert_eq!(first[0].mac.unwrap().to_string(), "0a:58:0a:00:00:03");
    assert_eq!(give(&mut place.open(), "vm1", &[on_network("red")]).unwrap(), first);
    let taken = Claim {
        mac: MacClaim::Explicit(first[0].mac.unwrap()),
        ..on_network("red")
    };
    let error = give(&mut store, "vm2", &[taken]).unwrap_err();
    assert!(matches!(error, ClaimError::MacTaken { .. }), "{error}");
    // Another network may have the same subnet, and with it the same addresses and MACs.
    let elsewhere = give(&mut store, "vm2", &[on_network("blue")]).unwrap();
    assert_eq!(elsewhere[0].mac, first[0].mac);
}

#[test]
fn a_vm_that_moves_to_another_node_keeps_its_lease_on_a_network_and_no_other_gets_it() {
    let cluster = Cluster::new();
    let (mut here, mut there) = (cluster.join("n1"), cluster.join("n2"));
    let lease = give(&mut here, "vm1", &[on_network("red")]).unwrap();
    let other = give(&mut there, "vm2", &[on_network("red")]).unwrap();
    assert_ne!(lease[0].addresses, other[0].addresses);
    assert_eq!(give(&mut there, "vm1", &[on_network("red")]).unwrap(), lease);
}
