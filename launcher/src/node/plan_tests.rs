use super::*;
use hawser_host::link::Link;
use hawser_host::pci::{Capability, Function};
use hawser_manifest::check::node_objects;
use hawser_manifest::objects::SourceFile;

/// A function `eth0` with `present` of 8 virtual functions.
fn eth0(present: u32) -> Pf {
    let function = |address: &str, driver: Option<&str>| Function {
        address: address.parse().unwrap(),
        vendor: "8086".into(),
        device: "10c9".into(),
        class: 0x0200,
        driver: driver.map(str::to_owned),
        driver_override: None,
        group: None,
    };
    Pf {
        function: function("0000:01:00.0", Some("igb")),
        capability: Capability {
            total: 8,
            present,
            autoprobe: true,
        },
        link: Link {
            index: 3,
            name: "eth0".into(),
            mac: None,
            mtu: 1500,
            kind: String::new(),
            master: None,
            lower: None,
            is_up: false,
            has_carrier: false,
            is_promiscuous: false,
            default_vlan: None,
            stp: None,
            ipvtap_mode: None,
            vlan: None,
            device: Some("0000:01:00.0".into()),
        },
        vfs: (0..present)
            .map(|number| Vf {
                number,
                function: function(&format!("0000:01:10.{number}"), None),
                attributes: None,
                link: None,
                user: None,
            })
            .collect(),
    }
}

/// Policies `a`, `b`, … with these fields.
fn policies(specs: &[&str]) -> Vec<NodePolicy> {
    let object = |(n, spec): (usize, &&str)| {
        let name = char::from(b'a' + u8::try_from(n).unwrap());
        format!(
            "---\napiVersion: sriovnetwork.openshift.io/v1\nkind: SriovNetworkNodePolicy\nmetadata: {{name: {name}}}\n\
             spec: {{resourceName: r{name}, {spec}}}\n"
        )
    };
    let text = specs.iter().enumerate().map(object).collect();
    let name = "p.yaml".into();
    node_objects(&[SourceFile { name, text }], "default").unwrap().policies
}

fn here(pf: Pf) -> Survey {
    Survey {
        here: vec![pf],
        elsewhere: Vec::new(),
    }
}

/// Plans policies on a node without a record of earlier ones.
fn plan_all(policies: &[NodePolicy], survey: Survey) -> Result<Vec<PfPlan>, PolicyError> {
    plan(policies, &survey, [].iter())
}

fn steps_of(specs: &[&str], pf: Pf) -> Vec<String> {
    let plans = plan_all(&policies(specs), here(pf)).unwrap();
    plans[0].steps.iter().map(ToString::to_string).collect()
}

fn refusal(specs: &[&str], pf: Pf) -> String {
    plan_all(&policies(specs), here(pf)).unwrap_err().to_string()
}

const ALL: &str = "numVfs: 4, nicSelector: {pfNames: [eth0]}";

#[test]
fn a_function_gets_its_vfs_and_an_applied_policy_changes_nothing() {
    let wanted =
        "numVfs: 4, mtu: 9000, deviceType: vfio-pci, nicSelector: {vendor: \"8086\", rootDevices: [\"0000:01:00.0\"]}";
    assert_eq!(
        steps_of(&[wanted], eth0(2)),
        [
            "sriov_drivers_autoprobe 1 -> 0",
            "sriov_numvfs 2 -> 0",
            "sriov_numvfs 0 -> 4",
            "link down -> up",
            "mtu 1500 -> 9000",
            "VFs 0-3 to vfio-pci",
        ]
    );
    let mut done = eth0(4);
    (done.link.is_up, done.link.mtu, done.capability.autoprobe) = (true, 9000, false);
    let passing = |vf: &mut Vf| vf.function.driver = Some("vfio-pci".into());
    done.vfs.iter_mut().for_each(passing);
    assert_eq!(steps_of(&[wanted], done), [""; 0]);
}

#[test]
fn a_vf_that_hawser_has_passed_to_a_vm_keeps_its_driver() {
    let mut pf = eth0(4);
    pf.link.is_up = true;
    let passed = |vf: &mut Vf| {
        vf.function.driver = Some("vfio-pci".into());
        vf.function.driver_override = Some("vfio-pci".into());
    };
    pf.vfs.iter_mut().for_each(passed);
    assert_eq!(steps_of(&[ALL], pf.clone()), [""; 0]);
    pf.vfs[2].function.driver_override = None;
    pf.vfs[2].function.driver = None;
    assert_eq!(steps_of(&[ALL], pf), ["VFs 0-3 to netdevice"]);
}

#[test]
fn ranges_of_two_policies_share_a_function_and_the_lower_priority_number_holds() {
    let specs = [
        "numVfs: 8, nicSelector: {pfNames: [\"eth0#0-3\"]}",
        "numVfs: 8, deviceType: vfio-pci, nicSelector: {pfNames: [\"eth0#4-7\"]}",
        "numVfs: 2, priority: 99, nicSelector: {vendor: \"8086\"}",
    ];
    let mut policies = policies(&specs);
    policies[0].priority = 10;
    policies[1].priority = 10;
    let plans = plan_all(&policies, here(eth0(0))).unwrap();
    let record = &plans[0].record;
    assert_eq!(record.num_vfs, 8);
    let pools: Vec<(&str, u32, u32)> = record.pools.iter().map(|p| (&*p.resource, p.first, p.last)).collect();
    assert_eq!(pools, [("ra", 0, 3), ("rb", 4, 7)]);
}

#[test]
fn what_contradicts_the_node_or_another_policy_is_refused() {
    for (specs, pf, words) in [
        (
            &["numVfs: 9, nicSelector: {vendor: \"8086\"}"][..],
            eth0(0),
            "numVfs 9 is above the 8 VFs of eth0 (igb)",
        ),
        (
            &["numVfs: 4, nicSelector: {vendor: \"15b3\"}"],
            eth0(0),
            "nicSelector selects no PF of this node",
        ),
        (
            &[ALL, "numVfs: 4, nicSelector: {vendor: \"8086\"}"],
            eth0(0),
            "a and b both cover VFs 0-3 of eth0",
        ),
        (
            &[
                "numVfs: 4, nicSelector: {pfNames: [\"eth0#0-2\"]}",
                "numVfs: 8, nicSelector: {pfNames: [\"eth0#2-7\"]}",
            ],
            eth0(0),
            "a and b both cover VFs 2-2 of eth0",
        ),
        (
            &[
                "numVfs: 8, nicSelector: {pfNames: [\"eth0#0-2\"]}",
                "numVfs: 8, externallyManaged: true, nicSelector: {pfNames: [\"eth0#3-7\"]}",
            ],
            eth0(8),
            "externallyManaged of a and b differ",
        ),
        (
            &["numVfs: 4, externallyManaged: true, nicSelector: {pfNames: [eth0]}"],
            eth0(2),
            "eth0 has 2 VFs and numVfs is 4",
        ),
        (
            &["numVfs: 2, mtu: 9000, externallyManaged: true, nicSelector: {pfNames: [eth0]}"],
            eth0(2),
            "the MTU of eth0 is 1500, below mtu 9000",
        ),
    ] {
        let refusal = refusal(specs, pf);
        assert!(refusal.contains(words), "{refusal}");
        assert!(refusal.starts_with("p.yaml:"), "{refusal}");
    }
}

#[test]
fn vfs_in_use_keep_their_number() {
    let mut pf = eth0(2);
    pf.vfs[1].function.driver = Some("igbvf".into());
    pf.vfs[1].user = Some(VfUser::Namespace);
    let refusal = refusal(&[ALL], pf.clone());
    assert!(
        refusal.contains("another network namespace uses VF 1 (0000:01:10.1)"),
        "{refusal}"
    );
    assert_eq!(
        steps_of(&["numVfs: 2, nicSelector: {pfNames: [eth0]}"], pf),
        ["link down -> up", "VFs 0-1 to netdevice"]
    );
}

#[test]
fn a_pf_of_another_network_namespace_is_named() {
    let elsewhere = || Survey {
        here: vec![eth0(0)],
        elsewhere: vec![Function {
            address: "0000:02:00.0".parse().unwrap(),
            device: "1572".into(),
            driver: Some("i40e".into()),
            ..eth0(0).function
        }],
    };
    let refusal = |specs| plan_all(&policies(specs), elsewhere()).unwrap_err().to_string();
    let named = refusal(&["numVfs: 1, nicSelector: {deviceID: \"1572\"}"]);
    assert!(
        named.contains("PF 0000:02:00.0 (driver i40e) matches nicSelector, but has no network device"),
        "{named}"
    );
    let unknown = refusal(&["numVfs: 1, nicSelector: {pfNames: [eth7]}"]);
    assert!(unknown.contains("nicSelector selects no PF of this node"), "{unknown}");
}

#[test]
fn a_policy_does_not_displace_one_of_an_earlier_command() {
    let first = "numVfs: 8, nicSelector: {pfNames: [\"eth0#0-3\"]}";
    let second = "numVfs: 8, nicSelector: {pfNames: [\"eth0#2-7\"]}";
    let record = plan_all(&policies(&[first]), here(eth0(0))).unwrap().remove(0).record;
    let mut later = policies(&[second]);
    later[0].name = "later".into();
    let refusal = plan(&later, &here(eth0(8)), [&record].into_iter())
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("VFs 0-3 of eth0 belong to the policy a"), "{refusal}");
    // The same policy may change, and what was given up may be used by another policy.
    plan(&policies(&[second]), &here(eth0(8)), [&record].into_iter()).unwrap();
    let none = "numVfs: 0, nicSelector: {pfNames: [eth0]}";
    let ended = plan(&policies(&[none]), &here(eth0(8)), [&record].into_iter()).unwrap();
    plan(&later, &here(eth0(0)), [&ended[0].record].into_iter()).unwrap();
}
