//! Serves a guest from a TAP device, as the plain reference of the benches.
//!
//!     tap SOCKET TAP-NAME GUEST-MAC [without-offloads|without-mrg-rxbuf|as-cloud-hypervisor]

use hawser_backend::config::{MasqueradeConfig, ModeConfig, PaceConfig, PolicyConfig, PortConfig};
use hawser_backend::port::Port;
use hawser_backend::vhost_user::{Endpoint, Lifetime, Server};
use hawser_benches::tap::{Tap, TapMode};
use hawser_testkit::frontend::{Withholding, feature};
use std::error::Error;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(socket), Some(name), Some(mac)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err(
            "usage: tap SOCKET TAP-NAME GUEST-MAC [without-offloads|without-mrg-rxbuf|as-cloud-hypervisor]".into(),
        );
    };
    let as_what = arguments.next();
    let tap = Tap::new(&name)?;
    let mut tap = Some(match as_what.as_deref() {
        Some("as-cloud-hypervisor" | "without-offloads") => tap.without_offloads(),
        _ => tap,
    });
    let config = PortConfig {
        name: "tap".into(),
        mac: Some(mac.parse()?),
        mtu: 1500,
        queue_pairs: NonZeroU16::MIN,
        pace: PaceConfig::PLAIN,
        policy: PolicyConfig::default(),
        // This configuration is not used, because the mode below replaces it.
        mode: ModeConfig::Masquerade(MasqueradeConfig::default()),
    };
    let port = Port::with_modes(config, &mut |context| {
        let tap = tap.take().ok_or("one queue pair, one device")?;
        Ok(Box::new(TapMode::new(tap, &context.poller, context.counters)?))
    })?;
    let socket = PathBuf::from(socket);
    let withheld = match as_what.as_deref() {
        None | Some("without-offloads") => return serve(socket, port),
        Some("without-mrg-rxbuf") => feature::MRG_RXBUF,
        Some("as-cloud-hypervisor") => feature::MRG_RXBUF | feature::INDIRECT_DESC,
        Some(other) => return Err(format!("no features are known as '{other}'").into()),
    };
    let behind = socket.with_extension("all-features");
    let server = Server::bind(Endpoint::Listen(behind.clone()), Arc::new(port), Lifetime::OneOff)?;
    let serving = thread::spawn(move || server.run());
    Withholding::bind(&socket, &behind, withheld)?.serve()?;
    Ok(serving.join().map_err(|_| "the server panicked")??)
}

fn serve(socket: PathBuf, port: Port) -> Result<(), Box<dyn Error>> {
    Ok(Server::bind(Endpoint::Listen(socket), Arc::new(port), Lifetime::Persistent)?.run()?)
}
