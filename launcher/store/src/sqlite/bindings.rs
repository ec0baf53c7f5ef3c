//! Bindings and time leases in the file.
//!
//! The first process that needs the tables creates them. The layout number stays the same, because an older hawser can
//! ignore these tables. The row of an unbound port keeps its epoch and reports the change to watchers. The oldest of
//! these rows are dropped once there are many. The file then keeps two values: the highest of their epochs, as a floor
//! for new rows, and the newest of their revisions, before which there is a gap.
//!
//! SQLite cannot push. A watcher polls: the query reads one index and takes a few microseconds.

use super::{Sqlite, read_holder, stored_mac};
use crate::bindings::{
    BindError, Binding, Bound, Change, Changes, Epoch, Epochs, Flip, PortId, Revision, Watch, check_bound, flipped,
    is_flipped, next_epoch,
};
use crate::error::StoreError;
use crate::liveness::{Liveness, Moment, ProcessId};
use crate::range::{Number, mac};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Maximum number of rows kept for unbound ports.
const UNBOUND_ROWS: i64 = 1024;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS revision (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    store INTEGER NOT NULL,
    number INTEGER NOT NULL,
    gap_before INTEGER NOT NULL,
    epoch_floor INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO revision VALUES (1, random(), 0, 0, 0);
CREATE TABLE IF NOT EXISTS binding (
    network TEXT NOT NULL,
    namespace TEXT NOT NULL,
    vm TEXT NOT NULL,
    interface TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL UNIQUE,
    is_bound INTEGER NOT NULL,
    node TEXT NOT NULL,
    process TEXT NOT NULL,
    mac INTEGER NOT NULL,
    addresses TEXT NOT NULL,
    vtep TEXT NOT NULL,
    PRIMARY KEY (network, namespace, vm, interface)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS binding_revision ON binding (network, revision);
CREATE TABLE IF NOT EXISTS process (
    node TEXT NOT NULL,
    process TEXT NOT NULL,
    boot TEXT NOT NULL,
    until_millis INTEGER NOT NULL,
    PRIMARY KEY (node, process)
) STRICT, WITHOUT ROWID;
";

/// Columns of a binding, in the order that [`read_row`] expects.
const ROW: &str = "namespace, vm, interface, epoch, is_bound, node, process, mac, addresses, vtep, network";

impl Sqlite {
    /// Runs `change` while holding the file's write lock, then commits it. Creates the tables first if necessary.
    fn change<T, E: From<StoreError>>(
        &mut self,
        mut change: impl FnMut(&Transaction<'_>) -> rusqlite::Result<Result<T, E>>,
    ) -> Result<T, E> {
        let transaction = self.transaction(TransactionBehavior::Immediate)?;
        let failed = |error| self.file.failed(error);
        transaction.execute_batch(TABLES).map_err(failed)?;
        let result = change(&transaction).map_err(failed)??;
        let commit = || transaction.execute_batch("COMMIT").map_err(failed);
        self.file.patiently(commit)?;
        Ok(result)
    }

    /// Reads one state of the file. Returns `otherwise` if the tables do not exist yet.
    fn read<T>(&self, otherwise: T, read: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let exists = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'process'";
        let found = self.file.patiently(|| {
            let transaction = self.transaction(TransactionBehavior::Deferred)?;
            let find = || match transaction.query_row(exists, (), |row| row.get(0))? {
                true => read(&transaction).map(Some),
                false => Ok(None),
            };
            find().map_err(|error| self.file.failed(error))
        })?;
        Ok(found.unwrap_or(otherwise))
    }
}

/// The row of a port, whether or not the port is bound.
fn find(connection: &Connection, port: &PortId) -> rusqlite::Result<Option<Change>> {
    let sql = format!("SELECT {ROW} FROM binding WHERE network = ?1 AND namespace = ?2 AND vm = ?3 AND interface = ?4");
    connection.query_row(&sql, key(port), read_row).optional()
}

fn key(port: &PortId) -> [&str; 4] {
    let PortId { network, holder } = port;
    [network, &holder.vm.namespace, &holder.vm.name, &holder.interface]
}

/// Increases the current revision and returns it.
fn next_revision(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "UPDATE revision SET number = number + 1 RETURNING number";
    connection.query_row(sql, (), |row| row.get(0))
}

fn bind(
    connection: &Connection,
    port: &PortId,
    seen: Option<Epoch>,
    binding: &Binding,
) -> rusqlite::Result<Result<Epoch, BindError>> {
    let last = find(connection, port)?;
    let floor = match last {
        Some(_) => 0,
        None => connection.query_row("SELECT epoch_floor FROM revision", (), |row| row.get(0))?,
    };
    let epoch = match next_epoch(port, last.as_ref(), seen, floor) {
        Ok(epoch) => epoch,
        Err(error) => return Ok(Err(error)),
    };
    write(connection, port, epoch, binding)?;
    Ok(Ok(epoch))
}

fn flip(connection: &Connection, flip: &Flip) -> rusqlite::Result<Result<Epoch, BindError>> {
    let last = find(connection, &flip.port)?;
    let bound = match flipped(flip, last.as_ref()) {
        Ok(bound) => bound,
        Err(error) => return Ok(Err(error)),
    };
    if !is_flipped(flip, last.as_ref()) {
        write(connection, &bound.port, bound.epoch, &bound.binding)?;
    }
    Ok(Ok(bound.epoch))
}

/// Writes the row of a bound port.
fn write(connection: &Connection, port: &PortId, epoch: Epoch, binding: &Binding) -> rusqlite::Result<()> {
    let addresses: Vec<String> = binding.addresses.iter().map(ToString::to_string).collect();
    let sql = format!(
        "INSERT OR REPLACE INTO binding (revision, {ROW}) VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8, ?9, ?10, ?11)"
    );
    let [network, namespace, vm, interface] = key(port);
    connection.execute(
        &sql,
        params![
            next_revision(connection)?,
            namespace,
            vm,
            interface,
            epoch.0,
            binding.process.node,
            binding.process.process,
            stored_mac(binding.mac),
            addresses.join(" "),
            binding.vtep.to_string(),
            network,
        ],
    )?;
    Ok(())
}

fn unbind(connection: &Connection, port: &PortId, seen: Epoch) -> rusqlite::Result<Result<(), BindError>> {
    if let Err(error) = check_bound(port, find(connection, port)?.as_ref(), seen) {
        return Ok(Err(error));
    }
    let [network, namespace, vm, interface] = key(port);
    connection.execute(
        "UPDATE binding SET is_bound = 0, revision = ?1 \
         WHERE network = ?2 AND namespace = ?3 AND vm = ?4 AND interface = ?5",
        params![next_revision(connection)?, network, namespace, vm, interface],
    )?;
    drop_oldest_unbound(connection)?;
    Ok(Ok(()))
}

fn drop_oldest_unbound(connection: &Connection) -> rusqlite::Result<()> {
    let oldest = "FROM binding WHERE is_bound = 0 AND revision <= (SELECT revision FROM binding \
                  WHERE is_bound = 0 ORDER BY revision DESC LIMIT 1 OFFSET ?1)";
    let note = format!(
        "UPDATE revision SET epoch_floor = max(epoch_floor, (SELECT coalesce(max(epoch), 0) {oldest})), \
         gap_before = max(gap_before, (SELECT coalesce(max(revision), 0) {oldest}))"
    );
    connection.execute(&note, [UNBOUND_ROWS])?;
    connection.execute(&format!("DELETE {oldest}"), [UNBOUND_ROWS])?;
    Ok(())
}

impl Epochs for Sqlite {
    fn bind(&mut self, port: &PortId, seen: Option<Epoch>, binding: &Binding) -> Result<Epoch, BindError> {
        self.change(|transaction| bind(transaction, port, seen, binding))
    }

    fn flip(&mut self, flips: &[Flip]) -> Result<Vec<Epoch>, BindError> {
        // An error undoes the flips before it.
        self.change(|transaction| flips.iter().map(|each| flip(transaction, each)).collect())
    }

    fn unbind(&mut self, port: &PortId, seen: Epoch) -> Result<(), BindError> {
        self.change(|transaction| unbind(transaction, port, seen))
    }
}

/// The revision of a file that has no tables yet. Once the tables exist, the store has another number.
const NOTHING: Revision = Revision { store: 0, number: 0 };

impl Watch for Sqlite {
    fn bindings(&self, network: &str) -> Result<(Vec<Bound>, Revision), StoreError> {
        self.read((Vec::new(), NOTHING), |connection| {
            let (revision, _) = read_revision(connection)?;
            let bound = rows(connection, network, 0)?
                .into_iter()
                .filter_map(|change| match change {
                    Change::Bound(bound) => Some(bound),
                    Change::Unbound { .. } => None,
                });
            Ok((bound.collect(), revision))
        })
    }

    fn bound(&self, port: &PortId) -> Result<Option<Bound>, StoreError> {
        let found = self.read(None, |connection| find(connection, port))?;
        Ok(found.and_then(|change| match change {
            Change::Bound(bound) => Some(bound),
            Change::Unbound { .. } => None,
        }))
    }

    fn changes(&self, network: &str, after: Revision) -> Result<Changes, StoreError> {
        let nothing = match after {
            NOTHING => Changes::Complete {
                changes: Vec::new(),
                revision: NOTHING,
            },
            _ => Changes::Gap,
        };
        self.read(nothing, |connection| {
            let (revision, gap_before) = read_revision(connection)?;
            if after.store != revision.store || !(gap_before..=revision.number).contains(&after.number) {
                return Ok(Changes::Gap);
            }
            let changes = rows(connection, network, after.number)?;
            Ok(Changes::Complete { changes, revision })
        })
    }
}

fn read_revision(connection: &Connection) -> rusqlite::Result<(Revision, i64)> {
    connection.query_row("SELECT store, number, gap_before FROM revision", (), |row| {
        let (store, number) = (row.get(0)?, row.get(1)?);
        Ok((Revision { store, number }, row.get(2)?))
    })
}

/// Rows of a network that have changed after a revision, oldest first.
fn rows(connection: &Connection, network: &str, after: i64) -> rusqlite::Result<Vec<Change>> {
    let sql = format!("SELECT {ROW} FROM binding WHERE network = ?1 AND revision > ?2 ORDER BY revision");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(params![network, after], read_row)?;
    rows.collect()
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<Change> {
    let port = PortId {
        network: row.get(10)?,
        holder: read_holder(row)?,
    };
    let epoch = Epoch(row.get(3)?);
    if !row.get::<_, bool>(4)? {
        return Ok(Change::Unbound { port, epoch });
    }
    let number: i64 = row.get(7)?;
    let addresses: String = row.get(8)?;
    let addresses: Result<Vec<IpAddr>, _> = addresses.split_whitespace().map(str::parse).collect();
    let vtep: Result<SocketAddr, _> = row.get::<_, String>(9)?.parse();
    let damaged = |column, error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error);
    Ok(Change::Bound(Bound {
        port,
        epoch,
        binding: Binding {
            process: ProcessId {
                node: row.get(5)?,
                process: row.get(6)?,
            },
            mac: mac(Number::try_from(number).unwrap_or_default()),
            addresses: addresses.map_err(|error| damaged(8, Box::new(error)))?,
            vtep: vtep.map_err(|error| damaged(9, Box::new(error)))?,
        },
    }))
}

impl Liveness for Sqlite {
    fn keep_alive(&mut self, process: &ProcessId, now: &Moment, lifetime: Duration) -> Result<(), StoreError> {
        let until = millis(now.since_boot.saturating_add(lifetime));
        let row = params![process.node, process.process, now.boot, until];
        self.change(|transaction| {
            let sql = "INSERT OR REPLACE INTO process (node, process, boot, until_millis) VALUES (?1, ?2, ?3, ?4)";
            transaction.execute(sql, row)?;
            Ok(Ok(()))
        })
    }

    fn dead(&self, now: &Moment) -> Result<Vec<ProcessId>, StoreError> {
        let sql = "SELECT node, process FROM process WHERE boot <> ?1 OR until_millis <= ?2 ORDER BY node, process";
        self.read(Vec::new(), |connection| {
            let mut statement = connection.prepare(sql)?;
            let dead = statement.query_map(params![now.boot, millis(now.since_boot)], |row| {
                Ok(ProcessId {
                    node: row.get(0)?,
                    process: row.get(1)?,
                })
            })?;
            dead.collect()
        })
    }

    fn forget(&mut self, process: &ProcessId) -> Result<(), StoreError> {
        self.change(|transaction| {
            let sql = "DELETE FROM process WHERE node = ?1 AND process = ?2";
            transaction.execute(sql, [&process.node, &process.process])?;
            Ok(Ok(()))
        })
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
