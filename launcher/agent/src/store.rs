//! The store of the agent: a file of this node, or etcd.

use crate::cli::{Failure, ServeArgs, StorePlace};
use hawser_store::bindings::{BindError, Binding, Bound, Changes, Epoch, Epochs, PortId, Revision, Watch};
use hawser_store::etcd::{Etcd, EtcdOptions, Tls, User};
use hawser_store::sqlite::{Access, Sqlite};
use hawser_store::{Lease, Ledger, Store, StoreError, VmName};
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// A store of either kind.
#[derive(Debug)]
pub(crate) enum AgentStore {
    /// A file.
    File(Sqlite),
    /// A cluster.
    Etcd(Etcd),
}

impl AgentStore {
    /// Opens the store that the options name. `node` is the name of this node.
    ///
    /// # Errors
    /// The store cannot be opened, or a file of the options cannot be read.
    pub(crate) fn open(args: &ServeArgs, node: &str) -> Result<Self, Failure> {
        match &args.store {
            StorePlace::File(path) => {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).map_err(|error| unreadable("--store", folder, &error))?;
                }
                Sqlite::open(path, Access::Make)
                    .map(Self::File)
                    .map_err(Failure::runtime)
            }
            StorePlace::Etcd(place) => {
                let options = EtcdOptions {
                    endpoints: place.endpoints.clone(),
                    cluster: place.cluster.clone(),
                    node: node.to_owned(),
                    tls: tls(args)?,
                    user: args.etcd_user_file.as_deref().map(user).transpose()?,
                };
                Etcd::connect(options).map(Self::Etcd).map_err(Failure::runtime)
            }
        }
    }
}

fn unreadable(option: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format_args!("{option}={}: {error}", path.display()))
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| unreadable(option, path, &error))
}

fn tls(args: &ServeArgs) -> Result<Option<Tls>, Failure> {
    let Some(authority) = &args.etcd_ca else {
        return Ok(None);
    };
    let identity = match (&args.etcd_cert, &args.etcd_key) {
        (Some(certificate), Some(key)) => Some((read("--etcd-cert", certificate)?, read("--etcd-key", key)?)),
        _ => None,
    };
    let authority = read("--etcd-ca", authority)?;
    Ok(Some(Tls { authority, identity }))
}

fn user(path: &Path) -> Result<User, Failure> {
    let text = String::from_utf8(read("--etcd-user-file", path)?).unwrap_or_default();
    let (name, password) = text.trim_end_matches('\n').split_once(':').ok_or_else(|| {
        Failure::usage(format_args!(
            "--etcd-user-file={}: it must contain one line, NAME:PASSWORD",
            path.display()
        ))
    })?;
    Ok(User {
        name: name.into(),
        password: password.into(),
    })
}

impl Store for AgentStore {
    fn step<T, E: From<StoreError>>(&mut self, step: impl FnMut(&mut dyn Ledger) -> Result<T, E>) -> Result<T, E> {
        match self {
            Self::File(store) => store.step(step),
            Self::Etcd(store) => store.step(step),
        }
    }

    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        match self {
            Self::File(store) => store.leases(vm),
            Self::Etcd(store) => store.leases(vm),
        }
    }
}

impl Epochs for AgentStore {
    fn bind(&mut self, port: &PortId, seen: Option<Epoch>, binding: &Binding) -> Result<Epoch, BindError> {
        match self {
            Self::File(store) => store.bind(port, seen, binding),
            Self::Etcd(store) => store.bind(port, seen, binding),
        }
    }

    fn unbind(&mut self, port: &PortId, seen: Epoch) -> Result<(), BindError> {
        match self {
            Self::File(store) => store.unbind(port, seen),
            Self::Etcd(store) => store.unbind(port, seen),
        }
    }
}

impl Watch for AgentStore {
    fn bindings(&self, network: &str) -> Result<(Vec<Bound>, Revision), StoreError> {
        match self {
            Self::File(store) => store.bindings(network),
            Self::Etcd(store) => store.bindings(network),
        }
    }

    fn changes(&self, network: &str, after: Revision) -> Result<Changes, StoreError> {
        match self {
            Self::File(store) => store.changes(network, after),
            Self::Etcd(store) => store.changes(network, after),
        }
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::File(store) => store.wakes(),
            Self::Etcd(store) => store.wakes(),
        }
    }
}
