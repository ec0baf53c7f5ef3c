use super::*;

/// Asserts that each text is refused with a message that contains the given words.
fn refused<T: std::fmt::Debug>(parser: impl Fn(&str) -> Parsed<T>, cases: &[(&str, &str)]) {
    for (text, words) in cases {
        let error = parser(text).expect_err(text);
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn a_guest_mac_is_a_single_cards_own() {
    assert_eq!(guest_mac("02:00:00:00:00:01"), Ok(MacAddr([2, 0, 0, 0, 0, 1])));
    assert_eq!(
        guest_mac("52-54-00-AB-cd-ef"),
        Ok(MacAddr([0x52, 0x54, 0, 0xab, 0xcd, 0xef]))
    );
    refused(
        guest_mac,
        &[
            ("03:00:00:00:00:01", "multicast"),
            ("ff:ff:ff:ff:ff:ff", "multicast"),
            ("02:00:00:00:00:00", "gateway"),
            ("00:00:00:00:00:00", "not a valid MAC for a NIC"),
            ("02:00:00:00:00", "is not a MAC address such as"),
            ("02:00:00:00:00:0g", "is not a MAC address such as"),
            ("", "is not a MAC address such as"),
        ],
    );
}

#[test]
fn a_guests_address_is_one_it_is_reached_at() {
    assert_eq!(guest_address("192.0.2.5"), Ok([192, 0, 2, 5].into()));
    let words = "a guest cannot have this address";
    refused(
        guest_address,
        &[
            ("0.0.0.0", words),
            ("127.0.0.1", words),
            ("224.0.0.1", words),
            ("fe80::1", words),
            ("192.0.2.5/24", "give an address"),
        ],
    );
}

#[test]
fn an_mtu_is_what_ip_allows() {
    assert_eq!(mtu("68"), Ok(68));
    assert_eq!(mtu("65535"), Ok(65535));
    let words = "68 to 65535";
    refused(mtu, &[("67", words), ("65536", words), ("-1", words), ("9k", words)]);
}

#[test]
fn a_thread_stays_awake_or_rests_for_a_millisecond_at_most() {
    assert_eq!(pause("200"), Ok(Duration::from_micros(200)));
    assert_eq!(pause("0"), Ok(Duration::ZERO));
    assert!(pause("1001").is_err());
}

#[test]
fn queue_pairs_fit_the_ring_numbers_of_vhost_user() {
    assert_eq!(queue_pairs("127").map(NonZeroU16::get), Ok(127));
    refused(
        queue_pairs,
        &[("0", "1 to 127"), ("128", "1 to 127"), ("two", "1 to 127")],
    );
}

#[test]
fn an_ipv4_network_is_cut_to_its_prefix() {
    let net = |text: &str| Ok(Family::On(text.parse().unwrap()));
    assert_eq!(ipv4_network("10.1.2.3/24"), net("10.1.2.0/24"));
    assert_eq!(ipv4_network("192.168.7.200/30"), net("192.168.7.200/30"));
    assert_eq!(ipv4_network("off"), Ok(Family::Off));
    refused(
        ipv4_network,
        &[
            ("10.0.2.0/31", "/30 or wider"),
            ("10.0.2.0/33", "such as 10.0.2.0/24"),
            ("10.0.2.0", "such as 10.0.2.0/24"),
            ("on", "such as 10.0.2.0/24"),
            ("0.0.0.0/0", "cannot have hosts"),
            ("127.0.0.0/8", "cannot have hosts"),
            ("169.254.0.0/16", "cannot have hosts"),
            ("224.0.0.0/24", "cannot have hosts"),
            ("255.255.255.0/24", "cannot have hosts"),
        ],
    );
}

#[test]
fn an_ipv6_network_is_cut_to_its_prefix() {
    let net = |text: &str| Ok(Family::On(text.parse().unwrap()));
    assert_eq!(ipv6_network("fd10:0:2::99/120"), net("fd10:0:2::/120"));
    assert_eq!(ipv6_network("2001:db8::/126"), net("2001:db8::/126"));
    assert_eq!(ipv6_network("off"), Ok(Family::Off));
    refused(
        ipv6_network,
        &[
            ("fd10::/127", "/126 or wider"),
            ("10.0.2.0/24", "such as fd10:0:2::/120"),
            ("fe80::/64", "cannot have hosts"),
            ("ff00::/8", "cannot have hosts"),
            ("::/0", "cannot have hosts"),
            ("::1/126", "cannot have hosts"),
        ],
    );
}

#[test]
fn a_host_name_is_one_label() {
    let longest = "a".repeat(63);
    for name in ["vm", "VM-1", "1st", longest.as_str()] {
        assert_eq!(hostname(name).as_deref(), Ok(name));
    }
    let too_long = "a".repeat(64);
    let words = "one label";
    refused(
        hostname,
        &[
            ("", words),
            ("vm.example.com", words),
            ("-vm", words),
            ("vm-", words),
            ("v_m", words),
            ("v m", words),
            (&too_long, words),
        ],
    );
}

#[test]
fn search_domains_may_end_with_a_dot() {
    for (text, name) in [
        ("example.com", "example.com"),
        ("svc.cluster.local.", "svc.cluster.local"),
        ("_tcp.Example.com", "_tcp.Example.com"),
    ] {
        assert_eq!(search_domain(text).as_deref(), Ok(name));
    }
    let long = ["abcdefgh"; 29].join(".");
    let words = "domain name";
    refused(
        search_domain,
        &[
            ("", words),
            (".", words),
            ("a..b", words),
            ("a b", words),
            (&long, words),
        ],
    );
}

#[test]
fn a_name_server_is_one_hosts_address() {
    assert_eq!(name_server("127.0.0.53"), Ok("127.0.0.53".parse().unwrap()));
    assert_eq!(name_server("2001:db8::53"), Ok("2001:db8::53".parse().unwrap()));
    refused(
        name_server,
        &[
            ("dns.example", "IPv4 or IPv6 address"),
            ("0.0.0.0", "cannot be a server's address"),
            ("ff02::fb", "cannot be a server's address"),
        ],
    );
}

#[test]
fn a_socket_path_fits_into_its_address() {
    let longest = "s".repeat(107);
    assert_eq!(socket_path(&longest), Ok(PathBuf::from(&longest)));
    refused(
        socket_path,
        &[("", "name a file"), (&"s".repeat(108), "108 bytes are too long")],
    );
}

#[test]
fn standard_descriptors_are_no_sockets() {
    assert_eq!(descriptor("3"), Ok(3));
    let words = "3 or more";
    refused(
        descriptor,
        &[("2", words), ("-1", words), ("x", words), ("99999999999", words)],
    );
}

#[test]
fn memory_sizes_are_passed_on() {
    for size in ["512M", "2G", "1048576", "1024K"] {
        assert_eq!(memory_size(size).as_deref(), Ok(size));
    }
    let words = "512M";
    refused(
        memory_size,
        &[
            ("", words),
            ("0", words),
            ("M", words),
            ("1T", words),
            ("1,share=off", words),
        ],
    );
}

#[test]
fn a_peer_is_a_mac_its_addresses_and_the_endpoint_it_is_behind() {
    let known = peer("02:00:00:00:00:05,10.1.0.5@192.0.2.2,frames").unwrap();
    assert!(known.knows_frame_option);
    assert_eq!(known.vtep, "192.0.2.2:6081".parse().unwrap());
    assert_eq!(known.addresses, ["10.1.0.5".parse::<IpAddr>().unwrap()]);
    let v6 = peer("02:00:00:00:00:05@[2001:db8::2]:7000,frames").unwrap();
    assert!(v6.knows_frame_option && v6.addresses.is_empty());
    let named = peer("02:00:00:00:00:05,10.1.0.5@192.0.2.2,name=db-1,frames").unwrap();
    assert_eq!((named.name.as_deref(), named.knows_frame_option), (Some("db-1"), true));
    let moved = peer("02:00:00:00:00:05,10.1.0.5@192.0.2.2,moved").unwrap();
    assert!(moved.is_moved && !named.is_moved);
    let other = peer("any@192.0.2.2").unwrap();
    assert!(other.macs.is_empty() && !other.knows_frame_option);
    refused(
        peer,
        &[
            ("02:00:00:00:00:05", "give MAC"),
            (
                "02:00:00:00:00:05@192.0.2.2,frame",
                "frame is not a property of an endpoint",
            ),
            ("02:00:00:00:00:05@192.0.2.2,frames,frames", "given twice"),
            ("02:00:00:00:00:05,10.1.0.5@192.0.2.2,name=a,name=b", "given twice"),
            ("02:00:00:00:00:05,10.1.0.5@192.0.2.2,name=a.b", "one label"),
            ("02:00:00:00:00:05@192.0.2.2,name=a", "a name needs addresses"),
            ("any@192.0.2.2,frames", "give the MAC"),
            ("any@192.0.2.2,moved", "give the MAC"),
            ("any,10.1.0.5@192.0.2.2", "any has no address"),
            ("02:00:00:00:00:05@0.0.0.0", "cannot receive datagrams"),
        ],
    );
}
