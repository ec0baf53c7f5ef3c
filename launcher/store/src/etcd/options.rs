//! Options for a connection to a cluster.

use std::fmt;
use std::str::FromStr;

/// Scheme of a URL that names an etcd cluster and, in it, the records of one hawser cluster.
const SCHEME: &str = "etcd://";

/// How to reach the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Members to use, each as HOST:PORT. hawser tries them in turn.
    pub endpoints: Vec<String>,
    /// Name of the hawser cluster. Several may use the same etcd.
    pub cluster: String,
    /// Name of this node, unique in the hawser cluster.
    pub node: String,
    /// Certificates for TLS. `None`: the connection is not encrypted.
    pub tls: Option<Tls>,
    /// User of etcd, if it requires one.
    pub user: Option<User>,
}

/// Certificates and keys, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that sign the members' certificates.
    pub authority: Vec<u8>,
    /// Certificate and private key of this node, if etcd requires them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A user of etcd with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Name of the user.
    pub name: String,
    /// Password of the user.
    pub password: String,
}

// Keys and passwords must not appear in a log.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_identity = self.identity.is_some();
        f.debug_struct("Tls")
            .field("has_identity", &has_identity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The place of a cluster as a URL: `etcd://HOST:PORT[,HOST:PORT…]/CLUSTER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Members of the etcd cluster ([`EtcdOptions::endpoints`]).
    pub endpoints: Vec<String>,
    /// Name of the hawser cluster ([`EtcdOptions::cluster`]).
    pub cluster: String,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("give {SCHEME}HOST:PORT[,HOST:PORT…]/CLUSTER, such as {SCHEME}n1:2379,n2:2379/blue");
        let rest = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (endpoints, cluster) = rest.split_once('/').ok_or_else(wrong)?;
        let endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
        let has_port = |endpoint: &String| {
            let port = endpoint.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            port.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        };
        let is_name = |name: &str| {
            let mut letters = name.bytes();
            !name.is_empty() && letters.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !endpoints.iter().all(has_port) || !is_name(cluster) {
            return Err(wrong());
        }
        Ok(Self {
            endpoints,
            cluster: cluster.to_owned(),
        })
    }
}

impl EtcdOptions {
    /// The place as a URL, for messages.
    pub(super) fn url(&self) -> String {
        format!("{SCHEME}{}/{}", self.endpoints.join(","), self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_members_with_ports_and_a_cluster() {
        let place: Place = "etcd://n1:2379,[fd00::1]:2379/blue".parse().unwrap();
        assert_eq!(place.endpoints, ["n1:2379", "[fd00::1]:2379"]);
        assert_eq!(place.cluster, "blue");
        for wrong in [
            "n1:2379/blue",
            "etcd://n1:2379",
            "etcd://n1:2379/",
            "etcd://n1/blue",
            "etcd://:2379/blue",
            "etcd://n1:2379,/blue",
            "etcd://n1:70000/blue",
            "etcd://n1:2379/a/b",
        ] {
            let error = wrong.parse::<Place>().unwrap_err();
            assert!(error.contains("etcd://HOST:PORT"), "{wrong}: {error}");
        }
    }

    #[test]
    fn no_message_shows_a_password_or_a_key() {
        let user = User {
            name: "agent".into(),
            password: "secret".into(),
        };
        let tls = Tls {
            authority: b"secret".into(),
            identity: Some((b"secret".into(), b"secret".into())),
        };
        let text = format!("{user:?} {tls:?}");
        assert!(
            text.contains("agent") && !text.contains("secret") && !text.contains("115"),
            "{text}"
        );
    }
}
