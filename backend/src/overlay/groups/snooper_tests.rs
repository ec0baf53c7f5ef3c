use super::*;
use membership::Changes as Records;

const GATEWAY4: &str = "10.0.0.1";
const GATEWAY6: &str = "fe80::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(secs: u64) -> Instant {
    Instant::from_nanos(secs * 1_000_000_000)
}

fn endpoint(number: u16) -> SocketAddr {
    SocketAddr::new(ip("192.0.2.9"), number)
}

fn group(number: u16) -> IpAddr {
    let [a, b] = number.to_be_bytes();
    [239, 1, a, b].into()
}

fn report(group: IpAddr, is_wanted: bool) -> Membership<'static> {
    Membership::Report(Records::One(Some(Change { group, is_wanted })))
}

fn query(source: &str, group: Option<IpAddr>) -> Membership<'static> {
    Membership::Query {
        source: ip(source),
        group,
    }
}

fn snooper() -> Snooper {
    Snooper::new([ip(GATEWAY4), ip(GATEWAY6)], 3000)
}

/// Endpoints of a group.
fn members(snooper: &Snooper, group: IpAddr) -> Vec<SocketAddr> {
    let of = snooper.groups().find(|(known, _)| *known == group);
    of.map(|(_, endpoints)| endpoints).unwrap_or_default()
}

/// Runs the timers until this second inclusive; returns the queries with their times.
fn run(snooper: &mut Snooper, until: u64) -> Vec<(u64, Order)> {
    let mut sent = Vec::new();
    while let Some(next) = snooper.deadline().filter(|next| *next <= at(until)) {
        snooper.on_timer(next);
        let secs = next.as_nanos() / 1_000_000_000;
        sent.extend(snooper.take_orders().into_iter().map(|order| (secs, order)));
    }
    sent
}

fn times_of(sent: &[(u64, Order)], family: &str) -> Vec<u64> {
    let of_family = sent.iter().filter(|(_, order)| order.source == ip(family));
    of_family.map(|(secs, _)| *secs).collect()
}

#[test]
fn a_membership_lasts_300_seconds_after_the_last_report() {
    let mut snooper = snooper();
    for (second, group) in [(10, group(1)), (10, ip("ff15::1"))] {
        let route = snooper.on_message(at(second), Origin::Endpoint(endpoint(1)), report(group, true));
        assert_eq!(route, Route::default(), "reports are for switches and routers");
        snooper.on_message(at(200), Origin::Endpoint(endpoint(1)), report(group, true));
        snooper.on_message(at(200), Origin::Endpoint(endpoint(2)), report(group, true));
    }
    assert_eq!(snooper.take_changes().joined, 4);
    run(&mut snooper, 499);
    assert_eq!(members(&snooper, group(1)), [endpoint(1), endpoint(2)]);
    assert_eq!(snooper.take_changes(), Changes::default());
    run(&mut snooper, 501);
    assert_eq!(snooper.groups().count(), 0);
    let changes = snooper.take_changes();
    assert!(changes.left == 4 && changes.is_other);
    assert_eq!(snooper.deadline(), None, "nothing is left to do");
}

#[test]
fn a_host_that_leaves_is_gone_after_two_seconds_unless_another_one_reports() {
    let mut snooper = snooper();
    for number in [1, 2] {
        snooper.on_message(at(0), Origin::Endpoint(endpoint(number)), report(group(1), true));
        snooper.on_message(at(50), Origin::Endpoint(endpoint(number)), report(group(1), false));
    }
    snooper.on_message(at(51), Origin::Endpoint(endpoint(2)), report(group(1), true));
    run(&mut snooper, 53);
    assert_eq!(members(&snooper, group(1)), [endpoint(2)]);
    // Leaving a group that was never joined has no effect.
    snooper.on_message(at(54), Origin::Endpoint(endpoint(3)), report(group(9), false));
    assert_eq!(snooper.groups().count(), 1);
}

#[test]
fn the_guest_is_queried_at_once_for_a_group_it_has_left() {
    let mut snooper = snooper();
    let route = snooper.on_message(at(0), Origin::Guest, report(group(1), false));
    assert_eq!(route, Route::ENDPOINTS);
    let order = |source, group| Order {
        source: ip(source),
        group: Some(group),
    };
    assert_eq!(snooper.take_orders(), [order(GATEWAY4, group(1))]);
    snooper.on_message(at(0), Origin::Guest, report(ip("ff15::1"), false));
    assert_eq!(snooper.take_orders(), [order(GATEWAY6, ip("ff15::1"))]);
    snooper.on_message(at(0), Origin::Guest, report(ip("224.0.0.251"), false));
    assert_eq!(snooper.take_orders(), []);
    snooper.on_message(at(0), Origin::Guest, report(group(2), true));
    assert_eq!(snooper.take_orders(), []);
}

#[test]
fn groups_of_the_link_are_not_noted() {
    let mut snooper = snooper();
    for group in ["224.0.0.251", "224.0.0.1", "ff02::fb", "ff02::1:ff00:5"] {
        snooper.on_message(at(0), Origin::Endpoint(endpoint(1)), report(ip(group), true));
    }
    assert_eq!(snooper.groups().count(), 0);
    assert_eq!(snooper.take_changes(), Changes::default());
}

#[test]
fn the_gateway_queries_at_once_and_every_150_seconds_while_the_guest_is_up() {
    let mut snooper = snooper();
    assert_eq!(run(&mut snooper, 1000), []);
    snooper.on_link_up(at(1000));
    let sent = run(&mut snooper, 1400);
    for family in [GATEWAY4, GATEWAY6] {
        assert_eq!(times_of(&sent, family), [1000, 1150, 1300]);
    }
    assert!(sent.iter().all(|(_, order)| order.group.is_none()));
    snooper.query_soon(at(1401));
    assert_eq!(times_of(&run(&mut snooper, 1402), GATEWAY4), [1401]);
    snooper.on_link_down();
    snooper.query_soon(at(1403));
    assert_eq!(run(&mut snooper, 9000), []);
}

#[test]
fn of_the_processes_of_a_network_one_queries_and_another_one_when_it_is_gone() {
    let mut snooper = snooper();
    snooper.on_link_up(at(0));
    run(&mut snooper, 1);
    // Another process queries every 150 seconds, and stops after 600.
    let mut sent = Vec::new();
    for second in [140, 290, 440, 590] {
        sent.extend(run(&mut snooper, second));
        let from_gateway = query(GATEWAY4, None);
        assert_eq!(
            snooper.on_message(at(second), Origin::Gateway, from_gateway),
            Route::GUEST
        );
    }
    sent.extend(run(&mut snooper, 1000));
    assert_eq!(
        times_of(&sent, GATEWAY4),
        [748, 898],
        "5 seconds and 3 of its own later"
    );
    assert_eq!(times_of(&sent, GATEWAY6).len(), 6, "the other family is not affected");
}

#[test]
fn queries_of_many_processes_reach_the_guest_every_ten_seconds_at_most() {
    let mut snooper = snooper();
    snooper.on_link_up(at(0));
    let heard = |snooper: &mut Snooper, second| snooper.on_message(at(second), Origin::Gateway, query(GATEWAY4, None));
    let relayed: Vec<u64> = (100..130)
        .filter(|second| heard(&mut snooper, *second).to_guest)
        .collect();
    assert_eq!(relayed, [100, 110, 120]);
    let other = snooper.on_message(at(121), Origin::Gateway, query(GATEWAY6, None));
    assert_eq!(other, Route::GUEST);
    assert_eq!(
        snooper.on_message(at(122), Origin::Gateway, report(group(1), true)),
        Route::default()
    );
}

#[test]
fn the_gateway_is_silent_while_a_router_queries_and_for_300_seconds_more() {
    for from in [Origin::Guest, Origin::Endpoint(endpoint(1)), Origin::Unbound] {
        let mut snooper = snooper();
        snooper.on_link_up(at(0));
        run(&mut snooper, 1);
        let mut sent = Vec::new();
        for second in [100, 225, 350] {
            sent.extend(run(&mut snooper, second));
            let route = snooper.on_message(at(second), from, query("10.0.0.77", None));
            assert_eq!(route.to_guest, from != Origin::Guest);
            assert_eq!(route.to_endpoints, from == Origin::Guest);
            // A query for a single group does not show that the querier is still alive.
            snooper.on_message(at(second + 1), from, query("10.0.0.77", Some(group(1))));
        }
        sent.extend(run(&mut snooper, 700));
        assert_eq!(times_of(&sent, GATEWAY4), [650], "{from:?}");
    }
}

#[test]
fn a_router_gets_every_group_and_the_reports_while_it_queries() {
    let mut snooper = snooper();
    snooper.on_message(at(0), Origin::Endpoint(endpoint(7)), query("10.0.0.77", None));
    assert_eq!(snooper.routers().collect::<Vec<_>>(), [endpoint(7)]);
    // A switch that queries from the unspecified address is not a router.
    snooper.on_message(at(0), Origin::Endpoint(endpoint(8)), query("0.0.0.0", None));
    assert_eq!(snooper.routers().count(), 1);
    run(&mut snooper, 301);
    assert_eq!(snooper.routers().count(), 0);

    snooper.on_message(at(400), Origin::Guest, query("10.0.0.78", None));
    let to_router = |snooper: &mut Snooper, second, from| snooper.on_message(at(second), from, report(group(1), true));
    for from in [Origin::Endpoint(endpoint(1)), Origin::Unbound] {
        assert_eq!(to_router(&mut snooper, 401, from), Route::GUEST);
    }
    assert_eq!(to_router(&mut snooper, 701, Origin::Unbound), Route::default());
}

#[test]
fn one_endpoint_has_room_for_512_groups_and_the_network_for_2048_of_each_family() {
    let mut snooper = snooper();
    for number in 0..1000 {
        snooper.on_message(at(0), Origin::Endpoint(endpoint(1)), report(group(number), true));
    }
    let changes = snooper.take_changes();
    assert_eq!((changes.joined, changes.refused), (512, 488));
    assert!(snooper.is_incomplete() && changes.is_other);
    for number in 0..3000 {
        let other = endpoint(2 + number / 500);
        snooper.on_message(at(0), Origin::Endpoint(other), report(group(number), true));
    }
    assert_eq!(snooper.groups().count(), 2048);
    snooper.on_message(at(0), Origin::Endpoint(endpoint(99)), report(ip("ff15::1"), true));
    assert_eq!(
        members(&snooper, ip("ff15::1")),
        [endpoint(99)],
        "the other family has its own room"
    );
    // All memberships end at the same time. The table then has room again and is complete.
    run(&mut snooper, 301);
    assert!(!snooper.is_incomplete());
    assert_eq!(
        (
            snooper.groups().count(),
            snooper.memberships,
            snooper.of_endpoints.len()
        ),
        (0, 0, 0)
    );
}

#[test]
fn memberships_of_all_endpoints_are_bounded() {
    let mut snooper = snooper();
    for number in 0..20_000 {
        let (endpoint, group) = (endpoint(1 + number / 500), group(number % 500));
        snooper.on_message(at(0), Origin::Endpoint(endpoint), report(group, true));
    }
    assert_eq!(snooper.memberships, MAX_MEMBERSHIPS);
    for number in 1..100 {
        snooper.on_message(at(0), Origin::Endpoint(endpoint(number)), query("10.0.0.9", None));
    }
    assert_eq!(snooper.routers().count(), MAX_ROUTERS);
}
