//! What a guest has been told about its NIC.
//!
//! A process that takes a guest over, by a live upgrade or a migration, compares this payload with its own NIC before
//! anything stops. The two processes may be of different versions and on different hosts.

use super::Port;
use crate::config::PortConfig;
use crate::config::payload::Payload;
use crate::packet::MacAddr;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What a guest has been told about its NIC.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// MAC in the configuration.
    mac: Option<MacAddr>,
    /// MTU of the NIC, in bytes.
    mtu: u16,
    /// Number of queue pairs.
    queue_pairs: u16,
    /// Addresses that the guest gets by DHCP, DHCPv6 or router advertisement.
    leases: Vec<IpAddr>,
}

impl Payload for Identity {
    const KIND: &'static str = "nic-identity";
    const VERSION: u32 = 1;
    const FORMER_KIND: Option<&'static str> = Some("migration-offer");
}

/// The guest would see another NIC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {field} of the NIC is {served} in the process that serves the guest and {offered} in the one that would take it \
     over: give both the same configuration"
)]
pub struct Differs {
    /// Name of the field.
    pub field: &'static str,
    served: String,
    offered: String,
}

impl Identity {
    /// The NIC of a port with this configuration.
    pub fn of(config: &PortConfig) -> Self {
        Self {
            mac: config.mac,
            mtu: config.mtu,
            queue_pairs: config.queue_pairs.get(),
            leases: config.mode.properties().leases().into_iter().flatten().collect(),
        }
    }

    /// MAC in the configuration.
    pub const fn mac(&self) -> Option<MacAddr> {
        self.mac
    }

    /// Checks that a guest that was served as `self` may be served as `offered`.
    ///
    /// # Errors
    /// [`Differs`], with the first field that differs.
    pub fn check(&self, offered: &Self) -> Result<(), Differs> {
        // Each text is of exactly one value.
        let same = |field, served: String, offered: String| match served == offered {
            true => Ok(()),
            false => Err(Differs { field, served, offered }),
        };
        let of_mac = |mac: &Option<MacAddr>| mac.map_or_else(|| "unset".to_owned(), |mac| mac.to_string());
        let of_leases = |leases: &[IpAddr]| match leases {
            [] => "empty".to_owned(),
            leases => leases.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "),
        };
        let Self {
            mac,
            mtu,
            queue_pairs,
            leases,
        } = self;
        same("MAC", of_mac(mac), of_mac(&offered.mac))?;
        same("MTU", mtu.to_string(), offered.mtu.to_string())?;
        let theirs = offered.queue_pairs.to_string();
        same("number of queue pairs", queue_pairs.to_string(), theirs)?;
        let theirs = of_leases(&offered.leases);
        same("list of leased addresses", of_leases(leases), theirs)
    }
}

impl Port {
    /// What the guest has been told about this NIC.
    pub fn identity(&self) -> Identity {
        Identity::of(&self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::config;
    use super::*;
    use crate::config::payload::{Sealed, from_bytes};

    /// A change of one field.
    type Change = fn(&mut Identity);

    #[test]
    fn another_nic_is_refused_by_the_field_that_differs() {
        let served = Identity {
            leases: vec![[10, 0, 2, 2].into()],
            ..Identity::of(&config(1))
        };
        served.check(&served.clone()).unwrap();
        let cases: [(Change, &str); 4] = [
            (|nic| nic.mac = Some(MacAddr([2, 0, 0, 0, 0, 9])), "MAC"),
            (|nic| nic.mtu = 9000, "MTU"),
            (|nic| nic.queue_pairs = 2, "number of queue pairs"),
            (|nic| nic.leases.clear(), "list of leased addresses"),
        ];
        for (change, field) in cases {
            let mut offered = served.clone();
            change(&mut offered);
            assert_eq!(served.check(&offered).unwrap_err().field, field);
        }
        let offered = Identity {
            mtu: 9000,
            ..served.clone()
        };
        let why = served.check(&offered).unwrap_err().to_string();
        assert!(
            why.starts_with("the MTU of the NIC is 1500 in the process that serves the guest and 9000"),
            "{why}"
        );
    }

    #[test]
    fn the_payload_of_an_earlier_name_is_read() {
        let identity = Identity::of(&config(1));
        let bytes = serde_json::to_string(&Sealed(&identity)).unwrap();
        assert!(bytes.starts_with(r#"["nic-identity",1,{"#), "{bytes}");
        let former = bytes.replace("nic-identity", "migration-offer");
        assert_eq!(from_bytes::<Identity>(former.as_bytes()).unwrap(), identity);
    }
}
