//! Reads IPAMClaims: addresses that a cluster keeps for a VM's interface. The name of a claim consists of VM and
//! network, as KubeVirt's ipam-extensions composes it.

use super::fields::network as table;
use super::ipam::with_prefix;
use super::metadata::Metadata;
use super::reader::Object;
use super::report::Spot;
use ipnet::IpNet;

/// An IPAMClaim with addresses.
#[derive(Clone, Debug)]
pub struct IpamClaim {
    /// Position of `status.ips`.
    pub spot: Spot,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `status.ips`
    pub ips: Vec<IpNet>,
}

/// Maximum length of an object's name.
const MAX_NAME: usize = 253;

impl IpamClaim {
    /// True if the claim is for an interface of this VM on a network with this name.
    pub fn is_for(&self, namespace: &str, vm: &str, network: &str) -> bool {
        self.namespace == namespace && self.name == name_of(vm, network)
    }
}

/// The name of the claim for a VM's interface (`ComposeKey` of ipam-extensions): in lower case,
/// with a dot for each invalid character.
fn name_of(vm: &str, network: &str) -> String {
    let all = format!("{vm}.{network}").to_ascii_lowercase();
    let parts = all.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let parts = parts.map(|part| part.trim_matches('-')).filter(|part| !part.is_empty());
    let mut name = parts.collect::<Vec<_>>().join(".");
    name.truncate(MAX_NAME);
    name
}

/// Reads `kind: IPAMClaim`; `None` while it has no addresses.
pub fn read(object: &Object<'_>, namespace: &str) -> Option<IpamClaim> {
    let metadata = Metadata::read(object, namespace);
    if metadata.name.is_none() {
        object.error(
            "metadata.name is missing: give VM.NETWORK for the interface with these \
            addresses",
        );
    }
    let spec = object
        .need("spec", "give network and interface")?
        .object(&table::IPAM_CLAIM_SPEC)?;
    for (field, what) in [
        ("network", "name the network"),
        ("interface", "name the pod's interface"),
    ] {
        spec.need(field, what).as_ref().and_then(super::reader::Item::text);
    }
    let status = object.object("status", &table::IPAM_CLAIM_STATUS)?;
    let item = status.get("ips")?;
    let ips: Vec<IpNet> = item.items().iter().filter_map(|ip| ip.parsed(with_prefix)).collect();
    (!ips.is_empty()).then(|| IpamClaim {
        spot: item.spot().clone(),
        namespace: metadata.namespace,
        name: metadata.name.unwrap_or_default(),
        ips,
    })
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn a_claim_is_named_as_ipam_extensions_names_it() {
        assert_eq!(name_of("vm1", "blue"), "vm1.blue");
        assert_eq!(name_of("My-VM", "net_1"), "my-vm.net.1");
        assert_eq!(name_of("a-", "-b"), "a.b");
        assert_eq!(name_of(&"x".repeat(260), "b").len(), 253);
    }
}
