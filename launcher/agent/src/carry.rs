//! `hawser-agent carry`: carries the channel of a migration between two nodes over mutual TLS.
//!
//! ```text
//!  hawser (source) -- Unix socket -- carry --from ~~ TLS ~~ carry --listen -- Unix socket -- hawser (target)
//! ```
//!
//! The processes of VMs have no keys and use Unix sockets only. Each side shows a certificate that one of the authorities
//! of `--ca` has signed, and the side that connects checks the other one's name. A peer without one never reaches a
//! hawser, and the first one is logged.

use crate::cli::{CarryArgs, Failure};
use rustix::process::geteuid;
use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Longest time for a peer to show its certificate.
const GREETING: Duration = Duration::from_secs(5);
/// Pause after an error of accept(2), such as the lack of descriptors.
const RETRY: Duration = Duration::from_millis(200);
/// Only the owner may connect.
const SOCKET_MODE: u32 = 0o600;

/// Carries channels until the process is ended.
///
/// # Errors
/// The certificates cannot be used, or a socket cannot be created.
pub(crate) fn run(args: &CarryArgs) -> Result<(), Failure> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let identity = Identity::read(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(Failure::runtime)?
        .block_on(async { serve(args, identity).await })
}

async fn serve(args: &CarryArgs, identity: Identity) -> Result<(), Failure> {
    if let Some(at) = args.listen {
        let to = args.to.clone().into();
        let acceptor = identity.server()?;
        let listener = TcpListener::bind(at).await.map_err(|e| failed("--listen", &e))?;
        log::info!("carrying migrations from {at} to {}", args.to);
        return arrivals(listener, acceptor, to).await;
    }
    let from = args.from.as_deref().unwrap_or(Path::new(""));
    let to: SocketAddr = args.to.parse().map_err(|e| failed("--to", &e))?;
    let name = args.name.clone().unwrap_or_else(|| to.ip().to_string());
    let name = ServerName::try_from(name).map_err(|e| failed("--name", &e))?;
    let connector = identity.client()?;
    remove_stale(from).map_err(|e| failed("--from", &e))?;
    let listener = UnixListener::bind(from).map_err(|e| failed("--from", &e))?;
    fs::set_permissions(from, Permissions::from_mode(SOCKET_MODE)).map_err(|e| failed("--from", &e))?;
    log::info!("carrying migrations from {} to {to}", from.display());
    departures(listener, connector, (to, name)).await
}

/// Removes the socket of a process that was killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|known| known.file_type().is_socket());
    let is_stale = || {
        let tried = std::os::unix::net::UnixStream::connect(path);
        tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if is_socket && is_stale() {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The target's side: channels that other nodes open.
async fn arrivals(listener: TcpListener, acceptor: TlsAcceptor, to: PathBuf) -> Result<(), Failure> {
    let mut refusals = Refusals::default();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        // One channel at a time is greeted, and a silent peer delays the next one by a bounded time.
        match timeout(GREETING, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let to = to.clone();
                tokio::spawn(async move { report(join(stream, UnixStream::connect(&to).await).await) });
            }
            Ok(Err(why)) => refusals.note(from, &why),
            Err(why) => refusals.note(from, &why),
        }
    }
}

/// The source's side: channels that processes of this node open.
async fn departures(
    listener: UnixListener,
    connector: TlsConnector,
    (to, name): (SocketAddr, ServerName<'static>),
) -> Result<(), Failure> {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        let ours = geteuid().as_raw();
        if !stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == ours || peer.uid() == 0)
        {
            log::warn!("a process of another user connected to --from and was refused");
            continue;
        }
        let (connector, name) = (connector.clone(), name.clone());
        tokio::spawn(async move {
            let open = async {
                let far = TcpStream::connect(to).await?;
                far.set_nodelay(true)?;
                connector.connect(name, far).await
            };
            let far = timeout(GREETING, open).await;
            let far = far.unwrap_or_else(|late| Err(io::Error::new(io::ErrorKind::TimedOut, late)));
            report(join(stream, far).await);
        });
    }
}

/// Carries bytes between two streams until both directions have ended.
async fn join<A, B>(mut near: A, far: io::Result<B>) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional(&mut near, &mut far?).await.map(drop)
}

fn report(ended: io::Result<()>) {
    match ended {
        Ok(()) => log::info!("a migration's channel has ended"),
        Err(why) => log::warn!("a migration's channel has failed: {why}"),
    }
}

/// Peers that were refused. They could be many, so only the first one is logged.
#[derive(Default)]
struct Refusals(u64);

impl Refusals {
    fn note(&mut self, from: SocketAddr, why: &dyn Display) {
        if self.0 == 0 {
            log::warn!("{from} has shown no certificate of --ca and was refused ({why}); later ones are not logged");
        }
        self.0 += 1;
    }
}

/// The certificates and the key of this node.
struct Identity {
    provider: Arc<CryptoProvider>,
    authorities: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn failed(option: &str, why: &dyn Display) -> Failure {
    Failure::runtime(format_args!("{option}: {why}"))
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|e| failed(option, &e))?;
    if read.is_empty() {
        return Err(failed(option, &"there is no certificate in the file"));
    }
    Ok(read)
}

impl Identity {
    fn read(args: &CarryArgs) -> Result<Self, Failure> {
        let mut authorities = RootCertStore::empty();
        for authority in certificates("--ca", &args.ca)? {
            authorities.add(authority).map_err(|e| failed("--ca", &e))?;
        }
        Ok(Self {
            provider: Arc::new(ring::default_provider()),
            authorities: Arc::new(authorities),
            chain: certificates("--cert", &args.cert)?,
            key: PrivateKeyDer::from_pem_file(&args.key).map_err(|e| failed("--key", &e))?,
        })
    }

    fn server(self) -> Result<TlsAcceptor, Failure> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.authorities, Arc::clone(&self.provider));
        let verifier = verifier.build().map_err(|e| failed("--ca", &e))?;
        let config = ServerConfig::builder_with_provider(self.provider).with_safe_default_protocol_versions();
        let config = config.map_err(Failure::runtime)?.with_client_cert_verifier(verifier);
        let config = config.with_single_cert(self.chain, self.key);
        Ok(TlsAcceptor::from(Arc::new(config.map_err(|e| failed("--cert", &e))?)))
    }

    fn client(self) -> Result<TlsConnector, Failure> {
        let config = ClientConfig::builder_with_provider(self.provider).with_safe_default_protocol_versions();
        let config = config
            .map_err(Failure::runtime)?
            .with_root_certificates(self.authorities);
        let config = config.with_client_auth_cert(self.chain, self.key);
        Ok(TlsConnector::from(Arc::new(config.map_err(|e| failed("--cert", &e))?)))
    }
}
