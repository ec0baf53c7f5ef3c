use super::*;
use proptest::prelude::*;

fn forward(transport: Transport, bind: Option<&str>, host_port: u16, guest_port: u16, count: u16) -> Forward {
    Forward {
        transport,
        bind: bind.map(|addr| addr.parse().unwrap()),
        host_port,
        guest_port,
        count: NonZeroU16::new(count).unwrap(),
    }
}

#[test]
fn every_form_is_understood_and_described_in_its_shortest() {
    use Transport::{Tcp, Udp};
    let cases = [
        ("80", forward(Tcp, None, 80, 80, 1), "tcp:80"),
        (":80", forward(Tcp, None, 80, 80, 1), "tcp:80"),
        ("tcp:80", forward(Tcp, None, 80, 80, 1), "tcp:80"),
        ("UDP:53", forward(Udp, None, 53, 53, 1), "udp:53"),
        ("2222:22", forward(Tcp, None, 2222, 22, 1), "tcp:2222:22"),
        ("8000-8009", forward(Tcp, None, 8000, 8000, 10), "tcp:8000-8009"),
        ("8000-8009:80", forward(Tcp, None, 8000, 80, 10), "tcp:8000-8009:80-89"),
        (
            "udp:8000-8009:9000-9009",
            forward(Udp, None, 8000, 9000, 10),
            "udp:8000-8009:9000-9009",
        ),
        (
            "127.0.0.1:80",
            forward(Tcp, Some("127.0.0.1"), 80, 80, 1),
            "tcp:127.0.0.1:80",
        ),
        (
            "tcp:0.0.0.0:80:8080",
            forward(Tcp, Some("0.0.0.0"), 80, 8080, 1),
            "tcp:0.0.0.0:80:8080",
        ),
        (
            "udp:[::1]:5000-5001",
            forward(Udp, Some("::1"), 5000, 5000, 2),
            "udp:[::1]:5000-5001",
        ),
        (
            "[2001:db8::1]:1:2",
            forward(Tcp, Some("2001:db8::1"), 1, 2, 1),
            "tcp:[2001:db8::1]:1:2",
        ),
        ("1-65535", forward(Tcp, None, 1, 1, 65535), "tcp:1-65535"),
    ];
    for (text, expected, short) in cases {
        assert_eq!(parse(text), Ok(expected.clone()), "{text}");
        assert_eq!(expected.to_string(), short);
        assert_eq!(parse(short), Ok(expected), "{short}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let cases = [
        ("", SHAPE),
        ("tcp:", SHAPE),
        ("tcp", SHAPE),
        ("80:", SHAPE),
        ("80:81:82", SHAPE),
        ("+80", SHAPE),
        ("80-", SHAPE),
        ("[::1]80", SHAPE),
        ("sctp:80", "neither tcp nor udp"),
        ("0", "not between 1 and 65535"),
        ("80:65536", "not between 1 and 65535"),
        ("81-80", "ends before it begins"),
        ("80-89:90-98", "not as long as"),
        ("80:90-91", "not as long as"),
        ("80-89:65530", "beyond 65535"),
        ("10.0.0:80", "not an IPv4 address"),
        ("[10.0.0.1]:80", "not an IPv6 address"),
        ("::1:80", SHAPE),
        ("224.0.0.1:80", "not an address to listen on"),
        ("[fe80::1]:80", "not an address to listen on"),
    ];
    for (text, words) in cases {
        let error = parse(text).expect_err(text);
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn every_port_may_be_asked_for_and_some_of_them_kept() {
    use Transport::{Tcp, Udp};
    for (text, expected) in [
        ("all", Ports::All(None)),
        ("tcp:all", Ports::All(Some(Tcp))),
        ("UDP:ALL", Ports::All(Some(Udp))),
        ("80", Ports::Some(parse("80").unwrap())),
    ] {
        assert_eq!(parse_ports(text), Ok(expected), "{text}");
    }
    assert!(parse_ports("sctp:all").unwrap_err().contains("neither tcp nor udp"));
    assert_eq!(parse_ports("10.0.0.1:all:7"), Err(SHAPE.into()));

    let kept: Vec<Kept> = ["22", "udp:53-54"].map(|text| parse_kept(text).unwrap()).into();
    assert_eq!(
        kept.iter().map(Kept::to_string).collect::<Vec<_>>(),
        ["tcp:22", "udp:53-54"]
    );
    assert!(parse_kept("22:23").unwrap_err().contains("[tcp|udp]:PORT[-PORT2]"));
    let every = |ports: &[&str]| {
        let ports: Vec<Ports> = ports.iter().map(|text| parse_ports(text).unwrap()).collect();
        let (forwards, every) = split(&ports, &kept);
        (forwards.len(), every.map(|every| every.to_string()))
    };
    assert_eq!(every(&["80", "81:82"]), (2, None));
    assert_eq!(every(&["80", "tcp:all"]), (1, Some("tcp:1-21 tcp:23-65535".into())));
    let both = "tcp:1-21 tcp:23-65535 udp:1-52 udp:55-65535";
    assert_eq!(every(&["all"]), (0, Some(both.into())));
    assert_eq!(every(&["tcp:all", "udp:all"]), (0, Some(both.into())));
}

#[test]
fn overlaps_are_found_whatever_the_order() {
    let clash = |a: &str, b: &str| {
        let (a, b) = (parse(a).unwrap(), parse(b).unwrap());
        let found = overlap(&[a.clone(), b.clone()]).is_some();
        assert_eq!(overlap(&[b, a]).is_some(), found);
        found
    };
    for (a, b) in [
        ("80", "80:81"),
        ("80-90", "90-100"),
        ("1-65535", "65535"),
        ("80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("[::]:80", "[::1]:80"),
        ("udp:53", "udp:53"),
    ] {
        assert!(clash(a, b), "{a} and {b}");
    }
    for (a, b) in [
        ("80", "udp:80"),
        ("80-89", "90-99"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::]:80"),
        ("80:8080", "81:8080"),
    ] {
        assert!(!clash(a, b), "{a} and {b}");
    }
}

fn any_forward() -> impl Strategy<Value = Forward> {
    let bind = prop_oneof![
        Just(None),
        any::<Ipv4Addr>().prop_map(|a| Some(a.into())),
        any::<Ipv6Addr>().prop_map(|a| Some(a.into())),
    ]
    .prop_filter("an address to listen on", |bind: &Option<IpAddr>| match bind {
        Some(IpAddr::V6(a)) => !a.is_multicast() && !a.is_unicast_link_local(),
        Some(IpAddr::V4(a)) => !a.is_multicast(),
        None => true,
    });
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    (transport, bind, 1..=u16::MAX, 1..=u16::MAX, 0..=u16::MAX).prop_map(|(transport, bind, host, guest, beyond)| {
        let beyond = beyond.min(u16::MAX - host.max(guest));
        Forward {
            transport,
            bind,
            host_port: host,
            guest_port: guest,
            // The count is at most 65535, because the first port is at least 1.
            count: NonZeroU16::new(beyond + 1).unwrap(),
        }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(forward in any_forward()) {
        prop_assert_eq!(parse(&forward.to_string()), Ok(forward));
    }

    #[test]
    fn what_is_read_stays_within_the_ports_there_are(text in "[tcpud:.\\[\\]0-9-]{0,24}") {
        if let Ok(forward) = parse(&text) {
            let beyond = forward.count.get() - 1;
            prop_assert!(forward.host_port > 0 && forward.host_port.checked_add(beyond).is_some());
            prop_assert!(forward.guest_port > 0 && forward.guest_port.checked_add(beyond).is_some());
        }
    }

    #[test]
    fn two_forwards_collide_if_they_share_a_port_of_an_address(a in any_forward(), b in any_forward()) {
        let ports = |f: &Forward| f.host_port..=f.host_port + (f.count.get() - 1);
        let share = ports(&a).contains(&b.host_port) || ports(&b).contains(&a.host_port);
        let apart = a.bind.is_some_and(|x| b.bind.is_some_and(|y| x != y && !x.is_unspecified() && !y.is_unspecified()));
        let same = a.transport == b.transport && share && !apart;
        let v4_and_v6 = a.bind.is_some_and(|x| b.bind.is_some_and(|y| x.is_ipv4() != y.is_ipv4()));
        prop_assert_eq!(overlap(&[a, b]).is_some(), same && !v4_and_v6);
    }
}
