use super::*;
use crate::leases::args::StorePlace;
use crate::machine::{MachineSetup, PassedThrough};
use crate::sandbox::Sandbox;
use hawser_backend::vhost_user::Lifetime;
use hawser_host::namespace::Namespace;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

thread_local! {
    /// The port that each test forwards. It differs between tests, because they run at the same time.
    static PORT: u16 = {
        static NEXT: AtomicU16 = AtomicU16::new(22_000);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// Manifests of a VM with interfaces that are masqueraded or on a bridge that does not exist, each with its state.
fn source(interfaces: &[(&str, &str, &str)]) -> Vec<SourceFile> {
    let mut text = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: vm}\nspec:\n  \
        domain:\n    devices:\n      interfaces:\n"
        .to_owned();
    let mut networks = String::new();
    let mut attachments = String::new();
    for (name, binding, state) in interfaces {
        // Forwarding every port would need privileges.
        let ports = if *binding == "masquerade" {
            format!("ports: [{{port: {}}}], ", PORT.with(|port| *port))
        } else {
            String::new()
        };
        text += &format!(
            "      - {{name: {name}, {binding}: {{}}, {ports}state: {state}, macAddress: \"02:00:00:00:00:{:02x}\"}}\n",
            name.len()
        );
        networks += &match *binding {
            "masquerade" => format!("  - {{name: {name}, pod: {{vmNetworkCIDR: 10.0.2.0/24}}}}\n"),
            _ => format!("  - {{name: {name}, multus: {{networkName: {name}}}}}\n"),
        };
        if *binding == "bridge" {
            attachments += &format!(
                "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: {name}}}\n\
                 spec:\n  config: '{{\"cniVersion\": \"1.0.0\", \"type\": \"bridge\", \"bridge\": \"nobody-has-it\"}}'\n"
            );
        }
    }
    vec![SourceFile {
        name: "vm.yaml".into(),
        text: format!("{text}  networks:\n{networks}{attachments}"),
    }]
}

/// The command to plug the NICs of `manifests`.
fn wanted(manifests: Vec<SourceFile>) -> Plug {
    Plug {
        manifests,
        interface: None,
        dry_run: false,
    }
}

fn plan(folder: &Path, interfaces: &[(&str, &str, &str)]) -> VmPlan {
    check_sources(&source(interfaces), &PlanSetup::new(folder, &PlanOptions::default()))
        .unwrap()
        .plan
}

/// A machine that serves `interfaces`, and the operator that changes it.
fn operator(folder: &Path, interfaces: &[(&str, &str, &str)], vmm: Option<VmmSocket>) -> Operator {
    let site = Site {
        namespace: Namespace::default(),
        runtime_folder: folder.to_owned(),
    };
    let setup = HotplugSetup {
        keeper: None,
        site: site.clone(),
        socket_dir: folder.to_owned(),
        options: PlanOptions::default(),
        vmm,
        patience: Patience::default(),
        store: StoreArgs {
            store: Some(StorePlace::Off),
            mac_range: None,
        },
        kept: Vec::new(),
        plan: plan(folder, interfaces),
    };
    let host = Host::default();
    let nics = setup.plan.nics.iter();
    let segment = |nic: &NicPlan| attachment::survey(&nic.spec().unwrap(), Vec::new(), &site).unwrap();
    let nics = nics
        .map(|nic| Nic::planned(nic, &host, segment(nic), None).unwrap())
        .collect();
    let machine = MachineSetup {
        sandbox: Sandbox::default(),
        lifetime: Lifetime::Persistent,
        names_interfaces: true,
    };
    Operator {
        manager: ServiceManager::default(),
        machine: Arc::new(Machine::start(machine, nics).unwrap()),
        setup,
    }
}

fn is_up(operator: &Operator, name: &str) -> bool {
    operator.machine.nic(name).unwrap().is_link_up()
}

const DEFAULT: (&str, &str, &str) = ("default", "masquerade", "up");

#[test]
fn what_the_manifests_say_becomes_steps_and_each_can_be_undone() {
    let folder = Path::new("/s");
    let served = plan(folder, &[DEFAULT, ("net", "bridge", "up"), ("older", "bridge", "up")]);
    let wanted = plan(
        folder,
        &[
            DEFAULT,
            ("net", "bridge", "down"),
            ("new1", "bridge", "up"),
            ("older", "bridge", "absent"),
        ],
    );
    let steps = steps(&served.nics, &wanted.nics).unwrap();
    assert!(
        matches!(&steps[..], [Step::Unplug(older), Step::Link(net, LinkState::Down), Step::Plug(new)]
            if older.name == "older" && net == "net" && new.name == "new1"),
        "{steps:?}"
    );
    assert!(matches!(steps[0].undoing(), Step::Plug(nic) if nic.name == "older"));
    assert!(matches!(steps[1].undoing(), Step::Link(_, LinkState::Up)));
    assert!(matches!(steps[2].undoing(), Step::Unplug(nic) if nic.name == "new1"));
    assert!(super::steps(&served.nics, &served.nics).unwrap().is_empty());
}

#[test]
fn one_interface_is_changed_without_the_others() {
    let folder = Path::new("/s");
    let served = plan(folder, &[DEFAULT, ("net", "bridge", "up")]);
    let wanted = plan(folder, &[("default", "masquerade", "down"), ("new1", "bridge", "up")]);
    let names = |name| {
        let merged = merged(&served.nics, &wanted.nics, name)?;
        Ok::<_, HotplugError>(merged.into_iter().map(|nic| (nic.name, nic.state)).collect::<Vec<_>>())
    };
    let up = |name: &str| (name.to_owned(), LinkState::Up);
    assert_eq!(names("new1").unwrap(), [up("default"), up("net"), up("new1")]);
    assert_eq!(names("net").unwrap(), [up("default")]);
    assert!(matches!(names("other"), Err(HotplugError::Unknown(_))));
}

#[test]
fn an_interface_that_is_to_be_another_is_refused() {
    let folder = Path::new("/s");
    let served = plan(folder, &[DEFAULT]);
    let mut other = served.clone();
    other.nics[0].mac = None;
    let refused = steps(&served.nics, &other.nics).unwrap_err();
    assert!(matches!(refused, HotplugError::Changed(name) if name == "default"));
}

#[test]
fn a_link_goes_down_and_up_with_the_state_of_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let mut operator = operator(folder.path(), &[("default", "masquerade", "down")], None);
    assert!(!is_up(&operator, "default"));
    let changes = operator.plug(&wanted(source(&[DEFAULT]))).unwrap();
    assert_eq!(changes.up, ["default"]);
    assert!(is_up(&operator, "default"));
    let again = operator.plug(&wanted(source(&[DEFAULT]))).unwrap();
    assert!(again.lines().is_empty(), "{again:?}");
    let changes = operator.link("default".into(), LinkState::Down).unwrap();
    assert_eq!(
        (changes.down, is_up(&operator, "default")),
        (vec!["default".to_owned()], false)
    );
}

#[test]
fn a_nic_without_a_port_is_plugged_and_unplugged_and_its_link_set_without_flags_for_the_vmm() {
    let folder = tempfile::tempdir().unwrap();
    let mut operator = operator(folder.path(), &[DEFAULT], None);
    let nic = plan(folder.path(), &[DEFAULT, ("vf", "bridge", "up")]).nics.remove(1);
    let device = Nic::PassedThrough(PassedThrough::new("vf"));
    assert!(device.card().is_none());
    operator.take(&Step::Plug(nic.clone()), Some(device), None).unwrap();
    let served = operator.machine.nic("vf").unwrap();
    assert!(served.card(&nic).is_none() && is_up(&operator, "vf"));

    let changes = operator.link("vf".into(), LinkState::Down).unwrap();
    assert_eq!(
        (&changes.down[..], is_up(&operator, "vf")),
        (&["vf".to_owned()][..], false)
    );
    assert!(is_up(&operator, "default"), "the other one stays");
    let changes = operator.unplug("vf").unwrap();
    assert_eq!(changes.unplugged, ["vf"]);
    assert!(operator.machine.nic("vf").is_none());
    assert!(matches!(operator.unplug("vf"), Err(HotplugError::Unknown(_))));
}

#[test]
fn a_change_that_cannot_be_made_whole_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    // The first change needs a VMM for its NIC, the second a bridge, and the third a VMM.
    let no_qemu = VmmSocket::Qemu(folder.path().join("no-qemu"));
    for (vmm, what) in [
        (None, "does not know a VMM"),
        (Some(no_qemu.clone()), "nobody-has-it"),
        (Some(no_qemu), "monitor"),
    ] {
        let mut operator = operator(folder.path(), &[DEFAULT], vmm);
        let changed = match what {
            "monitor" => source(&[("default", "masquerade", "down")]),
            _ => source(&[("default", "masquerade", "down"), ("net", "bridge", "up")]),
        };
        let error = operator.plug(&wanted(changed)).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(is_up(&operator, "default"));
        assert_eq!(operator.machine.nics().len(), 1);
        assert_eq!(operator.setup.plan.nics.len(), 1);
    }
}

#[test]
fn manifests_of_another_vm_and_wrong_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut operator = operator(folder.path(), &[DEFAULT], None);
    let mut other = source(&[DEFAULT]);
    other[0].text = other[0].text.replace("name: vm}", "name: other}");
    assert!(matches!(
        operator.plug(&wanted(other)),
        Err(HotplugError::OtherVm { .. })
    ));
    let wrong = operator
        .plug(&wanted(source(&[("default", "bogus", "up")])))
        .unwrap_err();
    assert!(wrong.to_string().contains("vm.yaml:"), "{wrong}");
    assert!(matches!(operator.unplug("net"), Err(HotplugError::Unknown(_))));
}

#[test]
fn a_dry_run_says_what_would_be_changed_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut operator = operator(folder.path(), &[DEFAULT], None);
    let store = folder.path().join("store.db");
    operator.setup.store.store = Some(StorePlace::File(store.clone()));
    let dry = |interfaces: &[(&str, &str, &str)]| Plug {
        dry_run: true,
        ..wanted(source(interfaces))
    };
    let changes = operator.plug(&dry(&[("default", "masquerade", "down")])).unwrap();
    assert_eq!(changes.lines_to_be(), ["default: link would go down"]);
    assert!(is_up(&operator, "default"));
    assert!(operator.plug(&dry(&[DEFAULT])).unwrap().lines_to_be().is_empty());
    // A dry run reports the same error.
    let two = [DEFAULT, ("net", "bridge", "up")];
    assert!(matches!(operator.plug(&dry(&two)), Err(HotplugError::NoVmm)));
    operator.setup.vmm = Some(VmmSocket::Qemu(folder.path().join("no-qemu")));
    let refused = operator.plug(&dry(&two)).unwrap_err();
    assert!(refused.to_string().contains("nobody-has-it"), "{refused}");
    assert_eq!((operator.machine.nics().len(), store.exists()), (1, false));
    assert_eq!(operator.setup.plan.nics.len(), 1);
}

#[test]
fn of_several_vms_in_the_files_the_one_that_is_served_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let mut operator = operator(folder.path(), &[DEFAULT], None);
    let mut files = source(&[("default", "masquerade", "down")]);
    let other = source(&[DEFAULT])[0].text.replace("name: vm}", "name: other}");
    files[0].text = format!("{other}---\n{}", files[0].text);
    let changes = operator.plug(&wanted(files)).unwrap();
    assert_eq!(
        (changes.down, is_up(&operator, "default")),
        (vec!["default".to_owned()], false)
    );
}
