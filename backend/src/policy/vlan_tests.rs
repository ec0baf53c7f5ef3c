use super::*;
use crate::frame::Segmentation;
use crate::packet::vlan::{TPID_8021AD, TPID_9100};

const PRIORITY_5: u16 = 5 << 13;

fn id(n: u16) -> VlanId {
    VlanId::new(n).unwrap()
}

fn access(n: u16) -> VlanRules {
    VlanRules::new(&VlanConfig::Access {
        id: id(n),
        keep_default: false,
    })
}

fn trunk(native: Option<u16>, keep_default: bool) -> VlanRules {
    let mut tagged = VlanSet::default();
    tagged.add(id(10)..=id(10)).unwrap();
    tagged.add(id(20)..=id(30)).unwrap();
    VlanRules::new(&VlanConfig::Trunk {
        tagged,
        native: native.map(id),
        keep_default,
    })
}

/// A frame with these tags in front of an IPv4 EtherType and four bytes.
fn frame(tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes: Vec<u8> = (1..=12).collect();
    for (tpid, tci) in tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend([0x08, 0x00, 0xaa, 0xbb, 0xcc, 0xdd]);
    bytes
}

fn q(tci: u16) -> Vec<u8> {
    frame(&[(TPID_8021Q, tci)])
}

/// Returns the frame after the edit.
fn edited(edit: TagEdit, frame: &[u8]) -> Vec<u8> {
    match edit.header(frame) {
        None => frame.to_vec(),
        Some(header) => [header.bytes(), &frame[header.replaces..]].concat(),
    }
}

fn sent(rules: &VlanRules, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    rules.outgoing(&Head::of_link(frame)).map(|edit| edited(edit, frame))
}

fn received(rules: &VlanRules, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    rules.incoming(frame).map(|edit| edited(edit, frame))
}

#[test]
fn an_access_port_tags_what_the_guest_sends_and_untags_what_it_gets() {
    let rules = access(100);
    assert_eq!(sent(&rules, &frame(&[])), Ok(q(100)));
    assert_eq!(received(&rules, &q(100)), Ok(frame(&[])));
    assert_eq!(received(&rules, &q(PRIORITY_5 | 100)), Ok(frame(&[])));
}

#[test]
fn an_access_port_is_in_no_other_vlan() {
    let rules = access(100);
    for other in [1, 99, 101, 4095] {
        assert_eq!(sent(&rules, &q(other)), Err(DropReason::VlanNotMember));
        assert_eq!(received(&rules, &q(other)), Err(DropReason::VlanOther));
    }
    assert_eq!(received(&rules, &frame(&[])), Err(DropReason::VlanOther));
    assert_eq!(received(&rules, &q(PRIORITY_5)), Err(DropReason::VlanOther));
}

#[test]
fn a_priority_without_a_vlan_goes_into_the_ports_vlan_and_is_kept() {
    assert_eq!(sent(&access(100), &q(PRIORITY_5)), Ok(q(PRIORITY_5 | 100)));
    assert_eq!(sent(&trunk(Some(7), false), &q(PRIORITY_5)), Ok(q(PRIORITY_5 | 7)));
    assert_eq!(sent(&trunk(None, true), &q(PRIORITY_5)), Ok(q(PRIORITY_5)));
    assert_eq!(
        sent(&trunk(None, false), &q(PRIORITY_5)),
        Err(DropReason::VlanNotMember)
    );
}

#[test]
fn a_trunk_passes_its_vlans_with_their_tags_and_no_others() {
    let rules = trunk(None, false);
    for member in [10, 20, 25, 30, PRIORITY_5 | 20] {
        assert_eq!(sent(&rules, &q(member)), Ok(q(member)));
        assert_eq!(received(&rules, &q(member)), Ok(q(member)));
    }
    for other in [1, 9, 11, 19, 31, 4095] {
        assert_eq!(sent(&rules, &q(other)), Err(DropReason::VlanNotMember));
        assert_eq!(received(&rules, &q(other)), Err(DropReason::VlanOther));
    }
    assert_eq!(sent(&rules, &frame(&[])), Err(DropReason::VlanNotMember));
    assert_eq!(received(&rules, &frame(&[])), Err(DropReason::VlanOther));
}

#[test]
fn a_native_vlan_is_untagged_for_the_guest_and_tagged_on_the_segment() {
    let rules = trunk(Some(7), false);
    assert_eq!(sent(&rules, &frame(&[])), Ok(q(7)));
    assert_eq!(received(&rules, &q(7)), Ok(frame(&[])));
    assert_eq!(sent(&rules, &q(10)), Ok(q(10)));
    assert_eq!(received(&rules, &frame(&[])), Err(DropReason::VlanOther));
}

#[test]
fn the_default_vlan_is_there_only_where_it_is_kept() {
    let kept = trunk(None, true);
    assert_eq!(sent(&kept, &frame(&[])), Ok(frame(&[])));
    assert_eq!(sent(&kept, &q(1)), Ok(frame(&[])));
    assert_eq!(received(&kept, &frame(&[])), Ok(frame(&[])));
    assert_eq!(received(&kept, &q(1)), Ok(frame(&[])));
    let beside_access = VlanRules::new(&VlanConfig::Access {
        id: id(100),
        keep_default: true,
    });
    assert_eq!(sent(&beside_access, &frame(&[])), Ok(q(100)));
    assert_eq!(received(&beside_access, &frame(&[])), Ok(frame(&[])));
    assert_eq!(received(&beside_access, &q(100)), Ok(frame(&[])));
}

#[test]
fn no_tag_that_is_taken_off_or_ignored_hides_another() {
    for hidden in [TPID_8021Q, TPID_8021AD, TPID_9100] {
        let behind = |tci| frame(&[(TPID_8021Q, tci), (hidden, 666)]);
        let kept = trunk(None, true);
        assert_eq!(sent(&kept, &behind(1)), Err(DropReason::VlanNotMember));
        assert_eq!(sent(&kept, &behind(PRIORITY_5)), Err(DropReason::VlanNotMember));
        // Inside a VLAN of the port, the guest may add a second tag.
        assert_eq!(sent(&kept, &behind(10)), Ok(behind(10)));
        assert_eq!(sent(&access(100), &behind(0)), Ok(behind(100)));
    }
}

#[test]
fn provider_tags_are_refused_by_name_or_carried_whole() {
    for tpid in [TPID_8021AD, TPID_9100] {
        let tagged = frame(&[(tpid, 100), (TPID_8021Q, 10)]);
        for rules in [access(100), trunk(Some(7), true)] {
            assert_eq!(sent(&rules, &tagged), Err(DropReason::VlanProviderTag));
            assert_eq!(received(&rules, &tagged), Err(DropReason::VlanProviderTag));
        }
        let transparent = VlanRules::new(&VlanConfig::Transparent);
        assert_eq!(sent(&transparent, &tagged), Ok(tagged.clone()));
        assert_eq!(received(&transparent, &tagged), Ok(tagged));
    }
}

#[test]
fn a_mode_without_vlans_refuses_every_tag() {
    let rules = VlanRules::new(&VlanConfig::Refused);
    assert_eq!(sent(&rules, &frame(&[])), Ok(frame(&[])));
    for tpid in [TPID_8021Q, TPID_8021AD, TPID_9100] {
        let tagged = frame(&[(tpid, 0)]);
        assert_eq!(sent(&rules, &tagged), Err(DropReason::UnexpectedVlan));
    }
}

#[test]
fn frames_that_end_inside_their_tag_are_dropped() {
    let rules = access(100);
    assert_eq!(sent(&rules, &frame(&[])[..13]), Err(DropReason::Truncated));
    assert_eq!(sent(&rules, &q(100)[..17]), Err(DropReason::Truncated));
    assert_eq!(received(&rules, &q(100)[..17]), Err(DropReason::Truncated));
    assert_eq!(sent(&rules, &frame(&[])[..14]).map(|f| f.len()), Ok(18));
}

#[test]
fn checksum_offsets_move_with_the_tag_and_segmentation_stays() {
    let offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        segmentation: Segmentation::Tcp4 { mss: 1448, ecn: false },
    };
    let start = |edit: TagEdit| match edit.offload(offload).checksum {
        Checksum::Partial { start, .. } => start,
        other => panic!("{other:?}"),
    };
    assert_eq!(start(TagEdit::Keep), 34);
    assert_eq!(start(TagEdit::Replace(7)), 34);
    assert_eq!(start(TagEdit::Push(7)), 38);
    assert_eq!(start(TagEdit::Pop), 30);
    assert_eq!(TagEdit::Push(7).offload(offload).segmentation, offload.segmentation);
    assert_eq!(TagEdit::Push(7).offload(Offload::VALID), Offload::VALID);
}
