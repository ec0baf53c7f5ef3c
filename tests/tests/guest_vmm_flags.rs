//! Tests of what a VMM is told to use a NIC, and of what it may tell the NIC: flags of the running process, the socket's
//! group, and the MTU.

use hawser_testkit::guest::{Kind, Plan};
use hawser_testkit::lab::{Lab, PORT};
use hawser_testkit::netns::address::{FAR4, FAR6, POD4};
use hawser_testkit::{Result, artifacts, failure, peers};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Standard output of `hawser WORDS…`, in the network namespace of the tests, which is not that of the pod.
fn hawser(words: &[&str]) -> Result<String> {
    let output = Command::new(artifacts::hawser()?).args(words).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failure(format!(
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}

#[test]
fn a_smaller_mtu_of_the_vmm_is_taken_and_told_to_the_guest() -> Result<()> {
    let mut lab = Lab::new()?;
    let servers = [lab.serve_world(FAR4)?, lab.serve_world(FAR6)?];
    let mut hawser = lab.hawser(&["--mtu=1500", "--port=8080:7000"])?;
    let mut plan = Plan::new(Kind::Qemu, hawser.socket());
    plan.properties = vec!["host_mtu=1400".into()];
    let guest = plan.boot()?;
    guest.net_up()?;
    assert_eq!(guest.sh("cat /sys/class/net/eth0/mtu")?.trim(), "1400");
    assert_eq!(guest.sh("cat /proc/sys/net/ipv6/conf/eth0/mtu")?.trim(), "1400");
    for server in servers {
        guest.traffic(&format!("send to={server} bytes=5000000"))?;
        guest.traffic(&format!("receive to={server} bytes=5000000"))?;
        guest.traffic(&format!("udp to={server} sizes=1,1300,1472,9000 count=3"))?;
    }
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    peers::traffic(&lab.networks.world, &format!("send to={POD4}:8080 bytes=5000000"))?;
    // No frame was longer than the guest's link.
    let longest = guest.sh("cat /sys/class/net/eth0/statistics/rx_length_errors")?;
    assert_eq!(longest.trim(), "0");
    // The next front end sets none, and its guest has the MTU of the port.
    drop(guest);
    let guest = lab.guest(Kind::Qemu, &hawser)?;
    assert_eq!(guest.sh("cat /sys/class/net/eth0/mtu")?.trim(), "1500");
    hawser.assert_alive()
}

#[test]
fn flags_describe_the_nic_of_the_running_process() -> Result<()> {
    let lab = Lab::new()?;
    let mut served = lab.hawser(&["--mtu=1400", "--mac=02:00:00:00:00:77", "--queue-pairs=2"])?;
    let socket = format!("--socket={}", served.socket().display());
    let flags = hawser(&["qemu-args", &socket])?;
    for expected in ["host_mtu=1400", "mac=02:00:00:00:00:77", "queues=2", "reconnect-ms=10"] {
        assert!(flags.contains(expected), "{expected}: {flags}");
    }
    let flags = hawser(&["qemu-args", "--qemu-version=8.2", &socket])?;
    assert!(flags.contains("reconnect=1 "), "{flags}");
    let flags = hawser(&["cloud-hypervisor-args", &socket])?;
    assert!(flags.contains("mac=02:00:00:00:00:77,num_queues=4,mtu=1400"), "{flags}");
    let xml = hawser(&["libvirt-xml", &socket])?;
    for expected in [
        "<mtu size='1400'/>",
        "<mac address='02:00:00:00:00:77'/>",
        "<driver queues='2'/>",
    ] {
        assert!(xml.contains(expected), "{expected}: {xml}");
    }
    // How the guest sees the NIC is for the VMM only, so the options say it.
    let standby = ["qemu-args", &socket, "--mode=bridge", "--bridge=br0", "--standby"];
    assert!(hawser(&standby)?.contains(",failover=on"));
    // The API's socket is beside that of the VMM.
    assert!(hawser(&["status", &socket])?.contains("MTU 1400, 2 queue pairs"));
    served.assert_alive()?;
    served.stop()?;
    // Nothing answers now: the options count.
    let flags = hawser(&["qemu-args", &socket, "--mtu=1300", "--ipv4=10.0.2.0/24"])?;
    assert!(flags.contains("host_mtu=1300") && !flags.contains("queues="), "{flags}");
    Ok(())
}

#[test]
fn a_vmm_of_another_user_connects_by_its_group() -> Result<()> {
    const GROUP: u32 = 54321;
    const USER: u32 = 65534;
    let lab = Lab::new()?;
    fs::set_permissions(lab.folder(), fs::Permissions::from_mode(0o755))?;
    let mut served = lab.hawser(&[&format!("--socket-group={GROUP}"), "--socket-mode=0620"])?;
    let found = fs::metadata(served.socket())?;
    assert_eq!((found.gid(), found.mode() & 0o777), (GROUP, 0o620));
    let connects = |group: u32| -> Result<bool> {
        let mut client = Command::new("python3");
        let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
        client.args(["-c", script]).arg(served.socket()).stderr(Stdio::null());
        Ok(client.uid(USER).gid(group).status()?.success())
    };
    assert!(connects(GROUP)?, "a member of the group connects");
    assert!(!connects(USER)?, "another user does not");
    let api = fs::metadata(format!("{}.api", served.socket().display()))?;
    assert_eq!(api.mode() & 0o077, 0, "the API's socket is not the group's");
    served.assert_alive()
}

#[test]
fn a_reader_that_has_enough_ends_a_command_silently() -> Result<()> {
    for words in [
        &["--help"][..],
        &["completion", "bash"],
        &["qemu-args", "--socket=/s", "--mtu=1500"],
    ] {
        let mut command = Command::new(artifacts::hawser()?);
        let mut child = command
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        drop(child.stdout.take());
        let output = child.wait_with_output()?;
        assert!(output.status.success(), "{words:?}: {}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    }
    Ok(())
}
