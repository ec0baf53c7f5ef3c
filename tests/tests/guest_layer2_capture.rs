//! Tests of captures of a layer2 network, inside and outside the tunnel. tshark reads the files.

use hawser_testkit::guest::Kind;
use hawser_testkit::nodes::{Nodes, Port};
use hawser_testkit::process::Background;
use hawser_testkit::{Result, artifacts, failure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const VNI: u32 = 4711;
const PATIENCE: Duration = Duration::from_secs(20);

/// The fields of each packet in a file that matches `filter`. Waits until there are `count` such packets.
fn wait_for(file: &Path, filter: &str, fields: &[&str], count: usize) -> Result<Vec<String>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut command = Command::new("tshark");
        command.args(["-n", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]);
        command
            .args(["-T", "fields", "-E", "occurrence=f", "-Y", filter, "-r"])
            .arg(file);
        fields.iter().for_each(|field| {
            command.args(["-e", field]);
        });
        let output = command
            .output()
            .map_err(|e| failure(format!("tshark (package tshark): {e}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let packets: Vec<String> = text.lines().map(str::to_owned).collect();
        if packets.len() >= count {
            return Ok(packets);
        }
        if Instant::now() > deadline {
            return Err(failure(format!(
                "{} of {count} packets of {filter}: {output:?}",
                packets.len()
            )));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_capture_shows_frames_at_the_guest_and_their_packets_outside_of_the_tunnel() -> Result<()> {
    for underlay6 in [false, true] {
        let nodes = Nodes::new(2, 1500)?;
        let ports = [Port::new(0, 11), Port::new(1, 12)];
        let vtep = |port: &Port| match underlay6 {
            true => Nodes::vtep6(port.node),
            false => Nodes::vtep4(port.node),
        };
        let api = nodes.path("api.sock");
        let options = [
            format!("--vtep={}", vtep(&ports[0])),
            ports[1].peer(underlay6),
            format!("--api-socket={}", api.display()),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut hawser = nodes.hawser(VNI, ports[0], &options)?;
        let other = format!("--vtep={}", vtep(&ports[1]));
        let peer = nodes.hawser(VNI, ports[1], &[&other, &ports[0].peer(underlay6)])?;
        let (guest, _far) = (nodes.guest(Kind::Uml, &hawser)?, nodes.guest(Kind::Uml, &peer)?);
        let capture = |name: &str, words: &[&str]| -> Result<_> {
            let file = nodes.path(name);
            let mut command = Command::new(artifacts::hawser()?);
            command.arg("capture").arg(format!("--api-socket={}", api.display()));
            command.args(words).arg("--write").arg(&file);
            let process = Background::start(command, "hawser capture", nodes.path(&format!("{name}.log")))?;
            let deadline = Instant::now() + PATIENCE;
            // The file exists once the capture runs.
            while !file.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok((process, file))
        };
        // Both captures run at once.
        let (_inside, inside) = capture("inside.pcapng", &["--filter=icmp"])?;
        let (_outside, outside) = capture("outside.pcapng", &["--tunnel", "--filter=port=6081"])?;
        guest.sh(&format!("ping -c 3 -i 0.2 -W 2 {}", ports[1].address4()))?;
        let frames = wait_for(&inside, "icmp && !geneve", &["ip.src", "ip.dst"], 6)?;
        let (own, far) = (ports[0].address4(), ports[1].address4());
        assert_eq!(frames[..2], [format!("{own}\t{far}"), format!("{far}\t{own}")]);
        let outer = if underlay6 {
            ["ipv6.src", "ipv6.dst"]
        } else {
            ["ip.src", "ip.dst"]
        };
        let fields = [
            outer[0],
            outer[1],
            "udp.dstport",
            "geneve.vni",
            "udp.checksum.status",
            "icmp.type",
        ];
        let packets = wait_for(&outside, "geneve && icmp", &fields, 6)?;
        let (near, away) = (vtep(&ports[0]), vtep(&ports[1]));
        // tshark reports a correct checksum as 1.
        assert_eq!(packets[0], format!("{near}\t{away}\t6081\t0x{VNI:06x}\t1\t8"));
        assert_eq!(packets[1], format!("{away}\t{near}\t6081\t0x{VNI:06x}\t1\t0"));
        hawser.assert_alive()?;
    }
    Ok(())
}
