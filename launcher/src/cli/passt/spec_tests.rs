use super::*;
use crate::cli::passt::PasstProgram;
use hawser_manifest::nic::ModeSpec;

fn nic(words: &[&str]) -> Result<NicSpec, String> {
    let words = ["passt", "--vhost-user"].into_iter().chain(words.iter().copied());
    let program = PasstProgram::try_parse_from(words).map_err(|e| e.to_string())?;
    program.args.nic("n".into()).map_err(|e| e.to_string())
}

fn masquerade(words: &[&str]) -> MasqueradeSpec {
    match nic(words).unwrap().mode {
        ModeSpec::Masquerade(mode) => mode,
        _ => panic!("masquerade"),
    }
}

fn network(words: &[&str]) -> SharedSpec {
    match masquerade(words).network {
        NetworkSpec::Shared(shared) => shared,
        NetworkSpec::Private { .. } => panic!("shared"),
    }
}

#[test]
fn what_libvirt_says_is_understood() {
    let words = "--one-off --socket /run/1-vm-net0.socket --pid /run/1-vm-net0-passt.pid --mtu 1400 --interface eth0 \
                 --log-file /var/log/passt.log --hostname vm --fqdn vm.example.org --address 192.0.2.4 --netmask 24 \
                 --address 2001:db8::4 --tcp-ports 80,443:8443 --tcp-ports ~15000 --udp-ports 53";
    let words: Vec<&str> = words.split_whitespace().collect();
    // libvirt gives several specifications, and hawser refuses what passt refuses.
    assert!(nic(&words).unwrap_err().contains("--tcp-ports"));
    let words: Vec<&str> = words.into_iter().filter(|word| *word != "~15000").collect();
    let at = words.iter().rposition(|word| *word == "--tcp-ports").unwrap();
    let words = [&words[..at], &words[at + 1..]].concat();
    let spec = nic(&words).unwrap();
    assert_eq!(spec.mtu, Some(1400));
    assert_eq!(spec.names.hostname.as_deref(), Some("vm"));
    assert_eq!(spec.names.domain.as_deref(), Some("example.org"));
    let mode = masquerade(&words);
    let forwards: Vec<String> = mode.forwards.iter().map(ToString::to_string).collect();
    assert_eq!(forwards, ["tcp:80", "tcp:443:8443", "udp:53"]);
    let shared = network(&words);
    assert_eq!(shared.interface.as_deref(), Some("eth0"));
    let ipv4 = shared.ipv4.on().unwrap();
    assert_eq!((ipv4.address, ipv4.prefix_len), ("192.0.2.4".parse().ok(), Some(24)));
    assert_eq!(shared.ipv6.on().unwrap().address, "2001:db8::4".parse().ok());
}

#[test]
fn every_port_without_some_is_the_two_specifications_of_a_service_mesh() {
    let mode = masquerade(&["--tcp-ports", "~15000,~15090", "--udp-ports", "all"]);
    let every = mode.every_port.unwrap();
    assert_eq!(
        every.ports.to_string(),
        "tcp:1-14999 tcp:15001-15089 tcp:15091-65535 udp:1-65535"
    );
}

#[test]
fn families_masks_and_names_have_the_forms_of_the_manual() {
    let only = network(&["-4", "-a", "192.0.2.4/26", "-g", "192.0.2.1"]);
    let ipv4 = only.ipv4.on().unwrap();
    assert_eq!((ipv4.prefix_len, ipv4.gateway), (Some(26), "192.0.2.1".parse().ok()));
    assert_eq!(only.ipv6, Family::Off);
    let mask = network(&["-a", "192.0.2.4", "-n", "255.255.255.192"]);
    assert_eq!(mask.ipv4.on().unwrap().prefix_len, Some(26));
    let names = nic(&["-D", "none", "-S", "a.example b.example", "-H", "vm.example"])
        .unwrap()
        .names;
    assert_eq!(names.servers, Some(Vec::new()));
    assert_eq!(names.search, Some(vec!["a.example".to_owned(), "b.example".to_owned()]));
    assert_eq!(
        (names.hostname.as_deref(), names.domain.as_deref()),
        (Some("vm"), Some("example"))
    );
    let silent = nic(&["--no-dhcp-dns", "--no-dhcp-search"]).unwrap().names;
    assert_eq!((silent.servers, silent.search), (Some(Vec::new()), Some(Vec::new())));
    assert_eq!(nic(&["--mtu", "0"]).unwrap().mtu, None);
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    let cases: [(&[&str], &str); 12] = [
        (&["--conf-path", "/c"], "--conf-path: not served"),
        (&["--dns-forward", "192.0.2.1"], "--dns-forward: not served"),
        (&["--no-tcp"], "--no-tcp: not served"),
        (&["-o", "192.0.2.1"], "--outbound: not served"),
        (&["-a", "192.0.2.1", "-a", "192.0.2.2"], "--address was given twice"),
        (&["-a", "127.0.0.1"], "not the address of a host"),
        (&["-a", "192.0.2.300"], "not an IP address"),
        (&["-6", "-a", "192.0.2.1"], "the guest has no address of that family"),
        (&["-n", "24"], "--netmask without an IPv4 --address"),
        (&["-a", "192.0.2.1", "-n", "255.0.255.0"], "not a netmask"),
        (&["-t", "22", "-t", "all"], "cannot be combined"),
        (&["-D", "nobody"], "--dns nobody"),
    ];
    for (words, wanted) in cases {
        let error = nic(words).unwrap_err();
        assert!(error.contains(wanted), "{words:?}: {error}");
    }
    let stream = PasstProgram::try_parse_from(["passt", "-t", "22"]).unwrap();
    let error = stream.args.nic("n".into()).unwrap_err().to_string();
    assert!(error.contains("type='vhostuser'"), "{error}");
}
