//! Tests of multicast among guests of a layer2 network.

use hawser_testkit::guest::{Guest, Kind};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::nodes::{Nodes, Port};
use hawser_testkit::{Result, until};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Starts a process and a guest for each port. All are on one network.
fn network(nodes: &Nodes, ports: &[Port]) -> Result<Vec<(Hawser, Guest)>> {
    ports
        .iter()
        .map(|port| {
            let others = ports.iter().filter(|other| other.number != port.number);
            let peers: Vec<String> = others.map(|other| other.peer(false)).collect();
            let vtep = format!("--vtep={}", Nodes::vtep4(port.node));
            let arguments: Vec<&str> = peers.iter().map(String::as_str).chain([vtep.as_str()]).collect();
            let hawser = nodes.hawser(4711, *port, &arguments)?;
            let guest = nodes.guest(Kind::Uml, &hawser)?;
            Ok((hawser, guest))
        })
        .collect()
}

#[test]
fn guests_hear_the_groups_they_have_joined_and_no_others() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let third = Port {
        vtep_port: 6082,
        ..Port::new(1, 13)
    };
    let mut guests = network(&nodes, &[Port::new(0, 11), Port::new(1, 12), third])?;
    for (round, group, other) in [
        (0, "239.1.2.3:7100", "239.1.2.4:7100"),
        (1, "[ff15::77]:7100", "[ff15::78]:7100"),
    ] {
        let before = guests[0].0.counters()?;
        let member = guests[1].1.start(
            &format!("hawser-traffic join group={group} count=50 wait=30 >/run/join{round} 2>&1"),
            LIMIT,
        )?;
        let joins = before.get("multicast_joins");
        until("the sender's process knows of the membership", || {
            Ok(guests[0].0.counters()?.get("multicast_joins") > joins)
        })?;
        let outsider = guests[2].0.counters()?.get("rx_frames");
        guests[0].1.traffic(&format!("cast to={other} count=20"))?;
        guests[0].1.traffic(&format!("cast to={group} count=50"))?;
        let output = member.wait(LIMIT)?;
        let said = guests[1].1.sh(&format!("cat /run/join{round}"))?;
        assert_eq!(output.status, Some(0), "{said}");
        let after = guests[0].0.counters()?;
        let unwanted = |counters: &hawser_testkit::hawser::Counters| counters.dropped("multicast_unwanted");
        assert!(
            unwanted(&after) >= unwanted(&before) + 20,
            "the group without members goes nowhere"
        );
        let heard = guests[2].0.counters()?.get("rx_frames") - outsider;
        assert!(heard < 20, "{heard} frames at a guest that has not joined");
        // The guest leaves the group when the program ends. Soon after that, no more frames are sent to it.
        let left = before.get("multicast_leaves");
        until("the sender's process knows that the member has left", || {
            Ok(guests[0].0.counters()?.get("multicast_leaves") > left)
        })?;
        let before = unwanted(&guests[0].0.counters()?);
        guests[0].1.traffic(&format!("cast to={group} count=20"))?;
        assert!(unwanted(&guests[0].0.counters()?) >= before + 20);
    }
    for (hawser, _) in &mut guests {
        let counters = hawser.counters()?;
        for reason in ["bad_group_message", "tunnel_unknown_mac", "tunnel_flood_limited"] {
            assert_eq!(counters.dropped(reason), 0, "{reason}");
        }
        assert!(counters.get("group_queries") > 0);
        hawser.assert_alive()?;
    }
    Ok(())
}
