//! Reads the failover pair of an interface: `failover`, and `teaming` with the words of libvirt.
//!
//! Both are fields of hawser and not of KubeVirt. The interface is the primary of the pair. Its standby is no interface
//! of the manifest: hawser adds it on the network of the physical function.

use super::fields::kubevirt as table;
use super::interface::{Binding, interface_name};
use super::reader::Object;
use crate::nic::Teaming;

/// The role that libvirt gives the NIC that leaves before a migration.
const TRANSIENT: &str = "transient";
/// The role that libvirt gives the other one.
const PERSISTENT: &str = "persistent";

/// Reads the pair of the interface `name`.
pub(super) fn read(object: &Object<'_>, name: &str, binding: Option<Binding>) -> Teaming {
    let failover = object.boolean("failover") == Some(true);
    let named = object.object("teaming", &table::TEAMING).map(|team| standby(&team));
    let teaming = match (failover, named) {
        (true, Some(_)) => {
            object.error("failover and teaming are both given: keep one of them");
            return Teaming::None;
        }
        (false, None) => return Teaming::None,
        (true, None) => Some(format!("{name}-standby")),
        (false, Some(named)) => named,
    };
    if binding.is_some_and(|binding| binding != Binding::Sriov) {
        object.error("failover is for interfaces bound with sriov, whose VF gets a standby: leave it out");
        return Teaming::None;
    }
    teaming.map_or(Teaming::None, |persistent| Teaming::Transient { persistent })
}

/// The standby that `teaming` names.
fn standby(team: &Object<'_>) -> Option<String> {
    let role = team.need("type", "give transient")?;
    match role.choice(&[(TRANSIENT, true), (PERSISTENT, false)])? {
        true => team
            .need("persistent", "name the standby that hawser adds")?
            .parsed(interface_name),
        false => {
            role.error(
                "hawser adds the persistent interface itself: leave it out, and give the other one type transient",
            );
            None
        }
    }
}
