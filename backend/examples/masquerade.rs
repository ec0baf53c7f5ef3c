//! One masqueraded NIC on a vhost-user socket: like `hawser --socket-path=…`, but without the sandbox, the API and the
//! survey of the host.
//!
//!     cargo run -p hawser-backend --example masquerade -- /tmp/nic.sock
//!
//! It needs no privilege. The guest gets 10.0.2.2 by DHCP and reaches the outside through this process's sockets. Port
//! 2222 of the host is forwarded to the guest's SSH server.

use hawser_backend::config::{
    Forward, Ipv4Link, MasqueradeConfig, ModeConfig, NameConfig, PaceConfig, PolicyConfig, PortConfig, Transport,
};
use hawser_backend::port::{Port, PortResources};
use hawser_backend::vhost_user::{Endpoint, Lifetime, Server};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

fn config() -> Result<PortConfig, Box<dyn Error>> {
    let ssh = Forward {
        transport: Transport::Tcp,
        bind: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host_port: 2222,
        guest_port: 22,
        count: NonZeroU16::MIN,
    };
    let masquerade = MasqueradeConfig {
        ipv4: Some(Ipv4Link {
            network: "10.0.2.0/24".parse()?,
            gateway: "10.0.2.1".parse()?,
            guest: "10.0.2.2".parse()?,
        }),
        names: NameConfig {
            dns: vec!["9.9.9.9".parse()?],
            ..NameConfig::default()
        },
        forwards: vec![ssh],
        ..MasqueradeConfig::default()
    };
    Ok(PortConfig {
        name: "net0".into(),
        mac: Some("52:54:00:12:34:56".parse()?),
        mtu: 1500,
        queue_pairs: NonZeroU16::MIN,
        pace: PaceConfig::default(),
        policy: PolicyConfig::default(),
        mode: ModeConfig::Masquerade(masquerade),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: masquerade SOCKET")?;
    // Masquerade opens its sockets itself. Bridge mode would take the queues of a TAP here.
    let port = Arc::new(Port::new(config()?, PortResources::default())?);
    Server::bind(Endpoint::Listen(path.into()), port, Lifetime::Persistent)?.run()?;
    Ok(())
}
