//! The store of the agent: a file of this node, or etcd.

use crate::cli::{Failure, ServeArgs, StorePlace};
use hawser_store::bindings::{BindError, Binding, Bound, Changes, Epoch, Epochs, Flip, PortId, Revision, Watch};
use hawser_store::etcd::{Etcd, EtcdOptions, Tls, User};
use hawser_store::liveness::{Liveness, Moment, ProcessId};
use hawser_store::records::{Batch, Record, RecordKey, Records};
use hawser_store::sqlite::{Access, Sqlite};
use hawser_store::{Lease, Ledger, Store, StoreError, VmName};
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A store of either kind.
#[derive(Debug)]
pub(crate) enum AgentStore {
    /// A file, and its path.
    File(Sqlite, PathBuf),
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
                let store = Sqlite::open(path, Access::Make).map_err(Failure::runtime)?;
                Ok(Self::File(store, path.clone()))
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

    /// Another handle to the same store, for another thread. Both use one connection to a cluster.
    ///
    /// # Errors
    /// The file cannot be opened again.
    pub(crate) fn share(&self) -> Result<Self, Failure> {
        match self {
            Self::File(_, path) => {
                let store = Sqlite::open(path, Access::Change).map_err(Failure::runtime)?;
                Ok(Self::File(store, path.clone()))
            }
            Self::Etcd(store) => Ok(Self::Etcd(store.clone())),
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
            Self::File(store, _) => store.step(step),
            Self::Etcd(store) => store.step(step),
        }
    }

    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        match self {
            Self::File(store, _) => store.leases(vm),
            Self::Etcd(store) => store.leases(vm),
        }
    }
}

impl Epochs for AgentStore {
    fn bind(&mut self, port: &PortId, seen: Option<Epoch>, binding: &Binding) -> Result<Epoch, BindError> {
        match self {
            Self::File(store, _) => store.bind(port, seen, binding),
            Self::Etcd(store) => store.bind(port, seen, binding),
        }
    }

    fn flip(&mut self, flips: &[Flip]) -> Result<Vec<Epoch>, BindError> {
        match self {
            Self::File(store, _) => store.flip(flips),
            Self::Etcd(store) => store.flip(flips),
        }
    }

    fn unbind(&mut self, port: &PortId, seen: Epoch) -> Result<(), BindError> {
        match self {
            Self::File(store, _) => store.unbind(port, seen),
            Self::Etcd(store) => store.unbind(port, seen),
        }
    }
}

impl Watch for AgentStore {
    fn bindings(&self, network: &str) -> Result<(Vec<Bound>, Revision), StoreError> {
        match self {
            Self::File(store, _) => store.bindings(network),
            Self::Etcd(store) => store.bindings(network),
        }
    }

    fn bound(&self, port: &PortId) -> Result<Option<Bound>, StoreError> {
        match self {
            Self::File(store, _) => store.bound(port),
            Self::Etcd(store) => store.bound(port),
        }
    }

    fn changes(&self, network: &str, after: Revision) -> Result<Changes, StoreError> {
        match self {
            Self::File(store, _) => store.changes(network, after),
            Self::Etcd(store) => store.changes(network, after),
        }
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::File(store, _) => store.wakes(),
            Self::Etcd(store) => store.wakes(),
        }
    }
}

impl Records for AgentStore {
    fn list(&self, folder: &RecordKey) -> Result<Vec<Record>, StoreError> {
        match self {
            Self::File(store, _) => store.list(folder),
            Self::Etcd(store) => store.list(folder),
        }
    }

    fn keys(&self, folder: &RecordKey) -> Result<Vec<RecordKey>, StoreError> {
        match self {
            Self::File(store, _) => store.keys(folder),
            Self::Etcd(store) => store.keys(folder),
        }
    }

    fn record(&self, key: &RecordKey) -> Result<Option<Record>, StoreError> {
        match self {
            Self::File(store, _) => store.record(key),
            Self::Etcd(store) => store.record(key),
        }
    }

    fn change(&mut self, batch: &Batch) -> Result<bool, StoreError> {
        match self {
            Self::File(store, _) => store.change(batch),
            Self::Etcd(store) => store.change(batch),
        }
    }

    fn stamp(&self, folder: &RecordKey) -> Result<i64, StoreError> {
        match self {
            Self::File(store, _) => store.stamp(folder),
            Self::Etcd(store) => store.stamp(folder),
        }
    }
}

impl Liveness for AgentStore {
    fn keep_alive(&mut self, process: &ProcessId, now: &Moment, lifetime: Duration) -> Result<(), StoreError> {
        match self {
            Self::File(store, _) => store.keep_alive(process, now, lifetime),
            Self::Etcd(store) => store.keep_alive(process, now, lifetime),
        }
    }

    fn dead(&self, now: &Moment) -> Result<Vec<ProcessId>, StoreError> {
        match self {
            Self::File(store, _) => store.dead(now),
            Self::Etcd(store) => store.dead(now),
        }
    }

    fn forget(&mut self, process: &ProcessId) -> Result<(), StoreError> {
        match self {
            Self::File(store, _) => store.forget(process),
            Self::Etcd(store) => store.forget(process),
        }
    }
}
