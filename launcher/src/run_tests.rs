use super::*;
use crate::config::{self, Found};
use crate::resolv::ResolvConf;
use hawser_config::{LeaseConfig, MacCheck, MasqueradeConfig, ModeConfig, NameConfig, VlanConfig};
use hawser_manifest::nic::{AttachmentSpec, BridgeSpec, IpvtapMode, MacvtapMode, ModeSpec};
use hawser_manifest::objects::SourceFile;
use hawser_manifest::plan::PlanSetup;
use hawser_manifest::plan::options::PlanOptions;
use hawser_packet::vlan::VlanId;
use std::net::IpAddr;

fn pod() -> Host {
    Host {
        addresses: vec!["10.244.0.7".parse().unwrap(), "fd00:10:244::7".parse().unwrap()],
        mtu: Some(1400),
        default_routes: [None, None],
        hostname: Some("virt-launcher".into()),
        resolv: ResolvConf::parse("nameserver 10.96.0.10\nsearch cluster.local\n"),
        interfaces: Vec::new(),
    }
}

/// The NICs of an example.
fn nics(example: &str) -> Vec<NicPlan> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/examples")
        .join(example);
    let file = SourceFile {
        name: example.into(),
        text: std::fs::read_to_string(path).unwrap(),
    };
    hawser_manifest::check::check_sources(&[file], &PlanSetup::new(Path::new("/s"), &PlanOptions::default()))
        .unwrap()
        .plan
        .nics
}

/// The configuration of the only NIC of an example, except its segment.
fn configured(nic: &NicPlan) -> Found {
    config::resolve(nic.spec().unwrap(), &pod(), None).unwrap()
}

fn bridge(nic: &NicPlan) -> BridgeSpec {
    match nic.spec().unwrap().mode {
        ModeSpec::Bridge(bridge) => bridge,
        mode => panic!("{mode:?}"),
    }
}

fn masquerade(plan: &Found) -> &MasqueradeConfig {
    let ModeConfig::Masquerade(config) = &plan.port.mode else {
        panic!("{plan:?}")
    };
    config
}

#[test]
fn a_masqueraded_nic_is_what_the_options_would_make_of_it() {
    let plan = configured(&nics("masquerade-ports.yaml")[0]);
    assert_eq!(
        (plan.port.name.as_str(), plan.port.queue_pairs.get(), plan.port.mtu),
        ("default", 2, 1400)
    );
    let config = masquerade(&plan);
    let forwards: Vec<String> = config.forwards.iter().map(ToString::to_string).collect();
    assert_eq!(forwards, ["tcp:80", "tcp:22", "udp:53", "tcp:30022:22"]);
    assert_eq!(config.names.hostname.as_deref(), Some("web"));
    assert_eq!(
        config.names.dhcp_options,
        [(42, vec![192, 0, 2, 123]), (240, b"rack-7".to_vec())]
    );

    let plan = configured(&nics("dual-stack.yaml")[0]);
    let config = masquerade(&plan);
    assert_eq!(config.ipv4.unwrap().guest.to_string(), "10.11.12.2");
    assert_eq!(config.ipv6.unwrap().network.to_string(), "fd10:11:12::/120");
    assert_eq!(plan.port.mac.unwrap().to_string(), "02:00:00:00:00:10");
}

#[test]
fn a_bridge_network_becomes_a_segment_and_its_policy() {
    let nics = nics("cnv-bridge-vlan.yaml");
    assert_eq!(bridge(&nics[1]).attachment.way().option, "--bridge");
    let plan = configured(&nics[1]);
    let id = VlanId::new(100).unwrap();
    assert_eq!(
        plan.port.policy.vlan,
        VlanConfig::Access {
            id,
            keep_default: false
        }
    );
    assert_eq!(plan.port.policy.mac_check, MacCheck::Enforced);

    let trunk = configured(&self::nics("three-nics.yaml")[1]);
    let VlanConfig::Trunk { tagged, native, .. } = &trunk.port.policy.vlan else {
        panic!("{:?}", trunk.port.policy.vlan)
    };
    assert_eq!(
        (tagged.to_string().as_str(), native.map(VlanId::get)),
        ("20,100-199", Some(10))
    );
    assert_eq!(trunk.port.policy.mac_check, MacCheck::Off);
}

#[test]
fn macvlan_and_ipvlan_name_their_lower_device_and_mode() {
    let AttachmentSpec::Macvtap(macvtap) = bridge(&nics("macvlan-dhcp.yaml")[0]).attachment else {
        panic!()
    };
    assert_eq!(
        (macvtap.lower.as_str(), macvtap.mode),
        ("eth1", Some(MacvtapMode::Bridge))
    );
    let BridgeSpec { attachment, guests, .. } = bridge(&nics("ipvlan-static.yaml")[0]);
    let AttachmentSpec::Ipvtap(ipvtap) = attachment else {
        panic!()
    };
    assert_eq!((ipvtap.lower.as_str(), ipvtap.mode), ("eth1", Some(IpvtapMode::L3)));
    let address: IpAddr = [192, 168, 10, 10].into();
    assert_eq!(guests, [address]);
}

#[test]
fn a_static_address_is_given_by_dhcp_with_its_routes() {
    let both = |json: &str| {
        let config = format!(r#"{{"type": "bridge", "bridge": "br0", "ipam": {json}}}"#);
        let text = format!(
            "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: net}}\nspec: {{config: '{config}'}}\n---\n\
             apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: v}}\nspec: {{domain: {{devices: {{interfaces: \
             [{{name: a, bridge: {{}}, macAddress: 02:00:00:00:00:07}}]}}}}, networks: [{{name: a, multus: {{networkName: net}}}}]}}\n"
        );
        let file = SourceFile { name: "f".into(), text };
        let checked =
            hawser_manifest::check::check_sources(&[file], &PlanSetup::new(Path::new("/s"), &PlanOptions::default()))
                .unwrap();
        let plan = configured(&checked.plan.nics[0]);
        let ModeConfig::Bridge(config) = plan.port.mode else {
            panic!()
        };
        (config.lease, config.lease6)
    };
    let ipam = |json: &str| both(json).0;
    let plain =
        ipam(r#"{"type": "static", "addresses": [{"address": "192.0.2.5/24", "gateway": "192.0.2.1"}]}"#).unwrap();
    assert_eq!(
        (plain.client.to_string(), plain.address.to_string()),
        ("02:00:00:00:00:07".into(), "192.0.2.5/24".into())
    );
    assert_eq!(
        (plain.router, plain.routes.len()),
        (None, 0),
        "a gateway without a route"
    );
    assert_eq!(plain.names.dns, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
    let routed = ipam(
        r#"{"type": "static", "addresses": [{"address": "192.0.2.5/24", "gateway": "192.0.2.1"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "198.51.100.0/24", "gw": "192.0.2.9"}]}"#,
    );
    let routed = routed.unwrap();
    assert_eq!(routed.router, Some([192, 0, 2, 1].into()));
    let routes: Vec<String> = routed.routes.iter().map(|(net, via)| format!("{net} {via}")).collect();
    assert_eq!(routes, ["198.51.100.0/24 192.0.2.9", "0.0.0.0/0 192.0.2.1"]);
    assert_eq!(ipam(r#"{"type": "dhcp"}"#), None);
    let dual = r#"{"type": "static", "addresses": [{"address": "192.0.2.5/24"}, {"address": "2001:db8::5/64"},
        {"address": "2001:db8::6/64"}]}"#;
    let (lease, lease6) = both(dual);
    let lease6 = lease6.unwrap();
    assert_eq!(
        (lease6.address.to_string(), lease6.client),
        ("2001:db8::5/64".into(), lease.unwrap().client)
    );
    let (lease, lease6) = both(r#"{"type": "static", "addresses": [{"address": "2001:db8::5/64"}]}"#);
    assert!(lease.is_none() && lease6.is_some());
    // Names and servers come from the `dns` of `ipam` or of the configuration. Servers that neither has are the pod's.
    let named = r#"{"type": "static", "addresses": [{"address": "192.0.2.5/24"}],
        "dns": {"nameservers": ["192.0.2.53", "2001:db8::53"], "search": ["a.example"]}}"#;
    let told = |ipam: Option<LeaseConfig>| {
        let NameConfig {
            dns, domain, search, ..
        } = ipam.unwrap().names;
        let dns: Vec<String> = dns.iter().map(ToString::to_string).collect();
        (dns.join(" "), domain.unwrap_or_default(), search.join(" "))
    };
    let text = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(told(ipam(named)), text("192.0.2.53 2001:db8::53", "", "a.example"));
    let own = format!(r#"{named}, "dns": {{"domain": "b.example"}}"#);
    assert_eq!(told(ipam(&own)), text("10.96.0.10", "b.example", ""));
}

#[test]
fn a_vf_needs_the_memory_of_its_guest_to_be_lockable() {
    let eight = Some(8 << 20);
    let refused = check_lockable("2G", eight).unwrap_err().to_string();
    assert!(
        refused.contains("8388608 bytes") && refused.contains("LimitMEMLOCK"),
        "{refused}"
    );
    check_lockable("2G", Some(3 << 30)).unwrap();
    check_lockable("2G", None).unwrap();
    check_lockable("2048", eight).unwrap();
}
