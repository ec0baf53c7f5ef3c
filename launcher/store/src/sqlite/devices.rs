//! Leases of devices: the virtual function that each interface of a VM has.
//!
//! A device belongs to one node, so these leases are in the node's file even where those of addresses are elsewhere. The
//! table is created with the first lease, as that of the networks is, so that the layout number stays the same.

use super::{Records, Sqlite, read_holder};
use crate::error::StoreError;
use crate::holder::{Holder, VmName};
use rusqlite::{Connection, Row, TransactionBehavior, params};

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS device (
    namespace TEXT NOT NULL,
    vm TEXT NOT NULL,
    interface TEXT NOT NULL,
    device TEXT NOT NULL UNIQUE,
    pool TEXT NOT NULL,
    PRIMARY KEY (namespace, vm, interface)
) STRICT, WITHOUT ROWID;
";

/// A device that an interface keeps until the lease is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLease {
    /// The interface.
    pub holder: Holder,
    /// Name of the device on the node, such as a PCI address.
    pub device: String,
    /// The pool that it was taken from.
    pub pool: String,
}

/// The device that an interface needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClaim {
    /// Name of the interface.
    pub interface: String,
    /// The pool, for messages.
    pub pool: String,
    /// The devices that are possible, in the order of preference.
    pub candidates: Vec<String>,
}

/// The reason why a VM does not get its devices.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// None is left.
    #[error(
        "interface {interface}: no VF of {pool} is left ({}); release VMs that are gone (hawser leases release \
         NAMESPACE/VM), or raise numVfs",
        holders_text(holders)
    )]
    None {
        /// The interface.
        interface: String,
        /// The pool.
        pool: String,
        /// The leases of the candidates.
        holders: Vec<DeviceLease>,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn holders_text(holders: &[DeviceLease]) -> String {
    if holders.is_empty() {
        return "it has none on this node; hawser node status lists them".to_owned();
    }
    let texts: Vec<String> = holders
        .iter()
        .map(|lease| format!("{} has {}", lease.holder.vm, lease.device))
        .collect();
    texts.join(", ")
}

impl Sqlite {
    /// Leases devices to the interfaces of a VM, all or none. An interface keeps its device while that is a candidate.
    /// Leases of interfaces that are neither claimed nor in `kept` are released.
    ///
    /// # Errors
    /// [`DeviceError`]; no lease changes.
    pub fn claim_devices(
        &mut self,
        vm: &VmName,
        claims: &[DeviceClaim],
        kept: &[String],
    ) -> Result<Vec<DeviceLease>, DeviceError> {
        self.change_devices(|connection| {
            let all = read(connection)?;
            let is_mine = |lease: &&DeviceLease| lease.holder.vm == *vm;
            let is_kept = |lease: &DeviceLease| kept.contains(&lease.holder.interface);
            for lease in all.iter().filter(is_mine).filter(|lease| !is_kept(lease)) {
                remove(connection, &lease.holder)?;
            }
            let is_free = |device: &str, given: &[DeviceLease]| {
                let others = all.iter().filter(|lease| lease.holder.vm != *vm || is_kept(lease));
                !others.chain(given).any(|lease| lease.device == device)
            };
            // Devices that are held already come first, so that a free choice cannot take them.
            let held = |claim: &DeviceClaim| {
                let mine = all.iter().filter(is_mine);
                let mut mine = mine.filter(|lease| lease.holder.interface == claim.interface);
                mine.next().filter(|lease| claim.candidates.contains(&lease.device))
            };
            let mut order: Vec<&DeviceClaim> = claims.iter().collect();
            order.sort_by_key(|claim| held(claim).is_none());
            let mut given: Vec<DeviceLease> = Vec::new();
            for claim in order {
                let found = held(claim)
                    .map(|lease| &lease.device)
                    .into_iter()
                    .chain(&claim.candidates);
                let mut found = found.filter(|device| is_free(device, &given));
                let Some(device) = found.next().cloned() else {
                    let holders = all.iter().filter(|lease| claim.candidates.contains(&lease.device));
                    return Ok(Err(DeviceError::None {
                        interface: claim.interface.clone(),
                        pool: claim.pool.clone(),
                        holders: holders.cloned().collect(),
                    }));
                };
                let lease = DeviceLease {
                    holder: Holder {
                        vm: vm.clone(),
                        interface: claim.interface.clone(),
                    },
                    device,
                    pool: claim.pool.clone(),
                };
                put(connection, &lease)?;
                given.push(lease);
            }
            Ok(Ok(given))
        })?
    }

    /// All leases of devices, in the order of their holders.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn device_leases(&self) -> Result<Vec<DeviceLease>, StoreError> {
        self.file.patiently(|| {
            let transaction = self.transaction(TransactionBehavior::Deferred)?;
            read(&transaction).map_err(|error| self.file.failed(error))
        })
    }

    /// Releases the devices of a VM, or of one interface of it. Returns the released leases.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn release_devices(&mut self, vm: &VmName, interface: Option<&str>) -> Result<Vec<DeviceLease>, StoreError> {
        self.change_devices(|connection| {
            let mut leases = read(connection)?;
            leases
                .retain(|lease| lease.holder.vm == *vm && interface.is_none_or(|name| lease.holder.interface == name));
            leases.iter().try_for_each(|lease| remove(connection, &lease.holder))?;
            Ok(leases)
        })
    }

    /// Runs a step that holds the file's write lock. A step whose inner result is an error changes the file too, unless
    /// nothing was changed before; the callers return one only after changes that they want undone.
    fn change_devices<T: Outcome>(
        &mut self,
        step: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let file = self.file.clone();
        let begun = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| file.failed(error))?;
        let records = Records { transaction, file };
        let result = records.done(step(&records.transaction))?;
        if result.is_kept() {
            records.commit()?;
        }
        Ok(result)
    }
}

/// Whether a step's changes are kept.
trait Outcome {
    fn is_kept(&self) -> bool;
}

impl Outcome for Vec<DeviceLease> {
    fn is_kept(&self) -> bool {
        true
    }
}

impl Outcome for Result<Vec<DeviceLease>, DeviceError> {
    fn is_kept(&self) -> bool {
        self.is_ok()
    }
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<DeviceLease>> {
    let exists = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'device'";
    if !connection.query_row(exists, (), |row| row.get(0))? {
        return Ok(Vec::new());
    }
    let sql = "SELECT namespace, vm, interface, device, pool FROM device ORDER BY namespace, vm, interface";
    let lease = |row: &Row<'_>| {
        Ok(DeviceLease {
            holder: read_holder(row)?,
            device: row.get(3)?,
            pool: row.get(4)?,
        })
    };
    connection.prepare(sql)?.query_map((), lease)?.collect()
}

fn put(connection: &Connection, lease: &DeviceLease) -> rusqlite::Result<()> {
    connection.execute_batch(TABLE)?;
    let Holder { vm, interface } = &lease.holder;
    let values = params![vm.namespace, vm.name, interface, lease.device, lease.pool];
    let sql = "INSERT INTO device (namespace, vm, interface, device, pool) VALUES (?1, ?2, ?3, ?4, ?5)";
    connection.execute(sql, values).map(drop)
}

fn remove(connection: &Connection, holder: &Holder) -> rusqlite::Result<()> {
    let Holder { vm, interface } = holder;
    let sql = "DELETE FROM device WHERE namespace = ?1 AND vm = ?2 AND interface = ?3";
    connection.execute(sql, [&vm.namespace, &vm.name, interface]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::Access;

    fn vm(name: &str) -> VmName {
        VmName {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn claims(interfaces: &[&str], candidates: &[&str]) -> Vec<DeviceClaim> {
        let claim = |interface: &&str| DeviceClaim {
            interface: (*interface).to_owned(),
            pool: "nics".into(),
            candidates: candidates.iter().map(|device| (*device).to_owned()).collect(),
        };
        interfaces.iter().map(claim).collect()
    }

    fn devices(leases: &[DeviceLease]) -> Vec<&str> {
        leases.iter().map(|lease| lease.device.as_str()).collect()
    }

    #[test]
    fn an_interface_keeps_its_device_and_the_loser_of_the_last_one_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Sqlite::open(&folder.path().join("store.db"), Access::Make).unwrap();
        let all = ["vf0", "vf1", "vf2"];
        let first = store.claim_devices(&vm("a"), &claims(&["x", "y"], &all), &[]).unwrap();
        assert_eq!(devices(&first), ["vf0", "vf1"]);
        let second = store.claim_devices(&vm("b"), &claims(&["x"], &all), &[]).unwrap();
        assert_eq!(devices(&second), ["vf2"]);
        let error = store.claim_devices(&vm("c"), &claims(&["x"], &all), &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("default/b has vf2"), "{text}");
        assert_eq!(store.device_leases().unwrap().len(), 3, "the loser changes nothing");
        // The same again, in another order of preference, and without the first interface.
        let again = store
            .claim_devices(&vm("a"), &claims(&["y"], &["vf0", "vf1"]), &[])
            .unwrap();
        assert_eq!(devices(&again), ["vf1"]);
        assert_eq!(
            devices(&store.claim_devices(&vm("c"), &claims(&["x"], &all), &[]).unwrap()),
            ["vf0"]
        );
        assert_eq!(devices(&store.release_devices(&vm("c"), None).unwrap()), ["vf0"]);
        assert_eq!(store.device_leases().unwrap().len(), 2);
    }

    #[test]
    fn of_many_processes_one_gets_the_last_device() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        Sqlite::open(&path, Access::Make).unwrap();
        for round in 0..20 {
            let device = format!("vf{round}");
            let winners: usize = std::thread::scope(|scope| {
                let claim = |name: &'static str| {
                    let (path, device) = (&path, device.as_str());
                    scope.spawn(move || {
                        let mut store = Sqlite::open(path, Access::Change).unwrap();
                        let claimed =
                            store.claim_devices(&vm(&format!("{name}{round}")), &claims(&["x"], &[device]), &[]);
                        usize::from(claimed.is_ok())
                    })
                };
                let racers = ["a", "b", "c"].map(claim);
                racers.into_iter().map(|racer| racer.join().unwrap()).sum()
            });
            assert_eq!(winners, 1, "round {round}");
        }
    }
}
