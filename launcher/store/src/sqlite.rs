//! A store in one SQLite file that the processes of a node share.
//!
//! Every step is a transaction that holds the file's write lock from its beginning (BEGIN IMMEDIATE), so no other
//! process changes what the step has read. The journal is SQLite's rollback journal, not WAL. WAL does not help a
//! process that runs one short transaction and closes the file, and it needs two more files that every user of the
//! store must be able to write. `synchronous` is EXTRA: when the step returns, the lease and the removal of the journal
//! are both on disk. SQLite rolls back the transaction of a killed process when the next one opens the file. Unique
//! keys of the tables also enforce that no MAC or address has two holders on a segment.

mod bindings;
mod devices;
mod networks;
mod objects;

pub use devices::{DeviceClaim, DeviceError, DeviceLease};

use crate::error::{StoreError, StoreProblem};
use crate::holder::{Holder, VmName};
use crate::lease::Lease;
use crate::ledger::{Ledger, Store};
use crate::network::NetworkRecord;
use crate::range::{Number, Span, address, mac, mac_number, number};
use crate::segment::{RangeId, Segment};
use hawser_packet::MacAddr;
use ipnet::IpNet;
use rusqlite::types::Type;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, Transaction, TransactionBehavior, params,
};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Layout of the tables below, as stored in `user_version`.
const LAYOUT: i64 = 2;
/// The previous layout, in which a segment is a name without a kind.
const UNTYPED_SEGMENTS: i64 = 1;
/// Prefix of the segment behind a VM's NAT in that layout.
const UNTYPED_OF_VM: &str = "masquerade of ";
/// Value of `application_id` that marks a database of hawser: "hawr".
const APPLICATION: i64 = 0x6861_7772;
const SCHEMA: &str = "
CREATE TABLE lease (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    vm TEXT NOT NULL,
    interface TEXT NOT NULL,
    network TEXT NOT NULL,
    segment TEXT NOT NULL,
    mac INTEGER,
    UNIQUE (namespace, vm, interface)
) STRICT;
CREATE UNIQUE INDEX lease_mac ON lease (mac, segment);
CREATE TABLE address (
    number BLOB NOT NULL,
    segment TEXT NOT NULL,
    width INTEGER NOT NULL,
    lease INTEGER NOT NULL REFERENCES lease ON DELETE CASCADE,
    place INTEGER NOT NULL,
    PRIMARY KEY (number, segment)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX address_lease ON address (lease, place);
CREATE TABLE cursor (
    name TEXT PRIMARY KEY,
    last BLOB NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Migrates layout 1 to layout 2. Segments become keys ([`Segment::key`]), also in the names of cursors.
const TYPE_SEGMENTS: &str = "
UPDATE lease SET segment = CASE WHEN substr(segment, 1, 14) = 'masquerade of '
    THEN 'vm:' || substr(segment, 15) ELSE 'node:' || segment END;
UPDATE address SET segment = (SELECT segment FROM lease WHERE lease.id = address.lease);
UPDATE cursor SET name = 'addresses node:' || substr(name, 11) WHERE substr(name, 1, 10) = 'addresses ';
";

/// Longest wait for the lock while another process holds it without changing the file.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Maximum and mean length of the pause between two attempts, in milliseconds.
const MAX_PAUSE_MILLIS: u32 = 30;
const MEAN_PAUSE_MILLIS: u64 = 15;

/// Pauses while another process holds the lock. False after the longest wait. Pauses have random lengths, so that no
/// waiting process has an advantage.
fn wait<const SECONDS: u64>(pauses: i32) -> bool {
    let random = getrandom::u32().unwrap_or_default();
    thread::sleep(Duration::from_millis(u64::from(random % MAX_PAUSE_MILLIS) + 1));
    u64::try_from(pauses).unwrap_or_default() * MEAN_PAUSE_MILLIS < SECONDS * 1000
}

/// How a process accesses the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read and write. The file is created if it does not exist.
    Make,
    /// The same for a file whose records another store keeps. Steps do not wait for the disk, so a crash of the host, but
    /// not of a process, may damage the file.
    MakeCopy,
    /// To read and write an existing file.
    Change,
    /// To read only.
    Read,
}

/// An open store.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    file: File,
}

/// Contents of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    /// The file is empty.
    Nothing,
    /// The file has tables with this layout, which this version can read.
    Tables(i64),
}

/// The store's file, and the longest wait for its lock.
#[derive(Clone, Debug)]
struct File {
    path: PathBuf,
    seconds: u64,
}

impl File {
    fn error(&self, problem: StoreProblem) -> StoreError {
        StoreError {
            store: self.path.display().to_string(),
            problem,
        }
    }

    /// Retries until it succeeds, or until the file has been locked without a change for too long.
    /// The wait restarts whenever another process changes the file.
    fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let changed = || fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        loop {
            let (before, start) = (changed(), Instant::now());
            match attempt() {
                // In some cases SQLite returns BUSY without waiting.
                Err(error)
                    if matches!(error.problem, StoreProblem::Locked(_))
                        && (changed() != before || start.elapsed().as_secs() + 1 < self.seconds) => {}
                done => return done,
            }
        }
    }

    /// Converts an error of SQLite to a message for the operator.
    #[allow(clippy::needless_pass_by_value, reason = "for map_err")]
    fn failed(&self, error: rusqlite::Error) -> StoreError {
        let text = error.to_string();
        self.error(match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreProblem::Locked(self.seconds),
            Some(ErrorCode::DiskFull) => StoreProblem::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreProblem::Damaged(text),
            Some(
                ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::SystemIoFailure,
            ) => StoreProblem::Access(text),
            // No version of hawser has written this value.
            None if matches!(
                error,
                rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
                    | rusqlite::Error::InvalidColumnType(..)
            ) =>
            {
                StoreProblem::Damaged(text)
            }
            _ => StoreProblem::Other(text),
        })
    }
}

impl Sqlite {
    /// The recorded networks, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError> {
        self.file.patiently(|| {
            let transaction = self.transaction(TransactionBehavior::Deferred)?;
            match self.contents(&transaction)? {
                Contents::Nothing => Ok(Vec::new()),
                Contents::Tables(_) => networks::read(&transaction).map_err(|error| self.file.failed(error)),
            }
        })
    }

    /// Opens a store.
    ///
    /// # Errors
    /// [`StoreError`]. The file is unchanged in that case.
    pub fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        const SECONDS: u64 = PATIENCE.as_secs();
        Self::open_waiting::<SECONDS>(path, access)
    }

    fn open_waiting<const SECONDS: u64>(path: &Path, access: Access) -> Result<Self, StoreError> {
        let file = File {
            path: path.to_owned(),
            seconds: SECONDS,
        };
        file.patiently(|| Self::try_open::<SECONDS>(&file, access))
    }

    fn try_open<const SECONDS: u64>(file: &File, access: Access) -> Result<Self, StoreError> {
        let (file, path) = (file.clone(), &file.path);
        if !matches!(access, Access::Make | Access::MakeCopy) && !path.exists() {
            return Err(file.error(StoreProblem::Missing));
        }
        let flags = match access {
            Access::Make | Access::MakeCopy => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            Access::Change => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let failed = |error| file.failed(error);
        let mut connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
        connection.busy_handler(Some(wait::<SECONDS>)).map_err(failed)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
        let synchronous = if access == Access::MakeCopy { "OFF" } else { "EXTRA" };
        connection
            .pragma_update(None, "synchronous", synchronous)
            .map_err(failed)?;
        let store = Self { connection, file };
        let contents = store.contents(&store.transaction(TransactionBehavior::Deferred)?)?;
        match (contents, access) {
            (Contents::Tables(LAYOUT), _) | (_, Access::Read) | (Contents::Nothing, Access::Change) => {}
            (_, Access::Make | Access::MakeCopy | Access::Change) => store.make_layout()?,
        }
        Ok(store)
    }

    /// Begins a transaction. All reads within a deferred transaction see the same state of the file.
    fn transaction(&self, behavior: TransactionBehavior) -> Result<Transaction<'_>, StoreError> {
        let begun = Transaction::new_unchecked(&self.connection, behavior);
        begun.map_err(|error| self.file.failed(error))
    }

    /// Reads the contents of the file. Returns an error if this version cannot read them.
    fn contents(&self, connection: &Transaction<'_>) -> Result<Contents, StoreError> {
        let failed = |error| self.file.failed(error);
        let value = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let count = "SELECT count(*) FROM sqlite_schema";
        let tables: i64 = connection.query_row(count, (), |row| row.get(0)).map_err(failed)?;
        let application = value("application_id").map_err(failed)?;
        let found = value("user_version").map_err(failed)?;
        match (application, found) {
            (0, 0) if tables == 0 => Ok(Contents::Nothing),
            (APPLICATION, UNTYPED_SEGMENTS | LAYOUT) => Ok(Contents::Tables(found)),
            (APPLICATION, found) if found > LAYOUT => {
                Err(self.file.error(StoreProblem::Newer { found, known: LAYOUT }))
            }
            _ => Err(self.file.error(StoreProblem::Foreign)),
        }
    }

    /// Creates the tables or migrates them to this version's layout, unless another process has done so in the
    /// meantime.
    fn make_layout(&self) -> Result<(), StoreError> {
        let failed = |error| self.file.failed(error);
        let transaction = self.transaction(TransactionBehavior::Immediate)?;
        let change = match self.contents(&transaction)? {
            Contents::Nothing => Some(SCHEMA),
            Contents::Tables(UNTYPED_SEGMENTS) => Some(TYPE_SEGMENTS),
            Contents::Tables(_) => None,
        };
        if let Some(change) = change {
            transaction.execute_batch(change).map_err(failed)?;
            transaction
                .pragma_update(None, "application_id", APPLICATION)
                .map_err(failed)?;
            transaction
                .pragma_update(None, "user_version", LAYOUT)
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }
}

impl Store for Sqlite {
    /// Waits for the file's write lock first, so that `step` runs once.
    fn step<T, E: From<StoreError>>(&mut self, mut step: impl FnMut(&mut dyn Ledger) -> Result<T, E>) -> Result<T, E> {
        let file = self.file.clone();
        let begun = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| file.failed(error))?;
        let mut records = Records { transaction, file };
        // If the transaction is dropped without a commit, it changes nothing.
        let result = step(&mut records)?;
        records.commit()?;
        Ok(result)
    }

    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        self.file.patiently(|| {
            let transaction = self.transaction(TransactionBehavior::Deferred)?;
            match self.contents(&transaction)? {
                Contents::Nothing => Ok(Vec::new()),
                Contents::Tables(layout) => {
                    read_leases(&transaction, layout, vm).map_err(|error| self.file.failed(error))
                }
            }
        })
    }
}

/// The records as a transaction sees them.
struct Records<'a> {
    transaction: Transaction<'a>,
    file: File,
}

impl Records<'_> {
    fn commit(self) -> Result<(), StoreError> {
        let Self { transaction, file } = self;
        let commit = || transaction.execute_batch("COMMIT");
        file.patiently(|| commit().map_err(|error| file.failed(error)))
    }

    fn done<T>(&self, result: rusqlite::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| self.file.failed(error))
    }
}

impl Ledger for Records<'_> {
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        self.done(read_leases(&self.transaction, LAYOUT, vm))
    }

    fn mac_holder(&self, segment: &Segment, mac: MacAddr) -> Result<Option<Holder>, StoreError> {
        let sql = "SELECT namespace, vm, interface FROM lease WHERE mac = ?1 AND segment = ?2";
        let find = || {
            let mut statement = self.transaction.prepare(sql)?;
            statement
                .query_row(params![stored_mac(mac), segment.key()], read_holder)
                .optional()
        };
        self.done(find())
    }

    fn address_holder(&self, segment: Option<&Segment>, address: IpAddr) -> Result<Option<Holder>, StoreError> {
        let sql = "SELECT namespace, vm, interface FROM lease JOIN address ON lease.id = address.lease \
                   WHERE number = ?1 AND (?2 IS NULL OR address.segment = ?2) LIMIT 1";
        let number = number(address).to_be_bytes();
        let find = || {
            let mut statement = self.transaction.prepare(sql)?;
            statement
                .query_row(params![number, segment.map(Segment::key)], read_holder)
                .optional()
        };
        self.done(find())
    }

    fn held_macs(&self, span: Span, limit: usize) -> Result<Vec<Number>, StoreError> {
        let sql = "SELECT DISTINCT mac FROM lease WHERE mac BETWEEN ?1 AND ?2 ORDER BY mac LIMIT ?3";
        let ends = [span.first, span.last].map(|number| stored_mac(mac(number)));
        let read = |row: &Row<'_>| Ok(Number::from(row.get::<_, i64>(0)?.unsigned_abs()));
        let find = || {
            let mut statement = self.transaction.prepare(sql)?;
            let held = statement.query_map(params![ends[0], ends[1], stored_limit(limit)], read)?;
            held.collect()
        };
        self.done(find())
    }

    fn held_addresses(&self, segment: Option<&Segment>, span: Span, limit: usize) -> Result<Vec<Number>, StoreError> {
        let sql = "SELECT DISTINCT number FROM address \
                   WHERE number BETWEEN ?1 AND ?2 AND (?3 IS NULL OR segment = ?3) ORDER BY number LIMIT ?4";
        let ends = [span.first, span.last].map(Number::to_be_bytes);
        let read = |row: &Row<'_>| Ok(Number::from_be_bytes(row.get(0)?));
        let find = || {
            let mut statement = self.transaction.prepare(sql)?;
            let segment = segment.map(Segment::key);
            let held = statement.query_map(params![ends[0], ends[1], segment, stored_limit(limit)], read)?;
            held.collect()
        };
        self.done(find())
    }

    fn cursor(&self, range: &RangeId) -> Result<Option<Number>, StoreError> {
        let sql = "SELECT last FROM cursor WHERE name = ?1";
        let read = |row: &Row<'_>| Ok(Number::from_be_bytes(row.get(0)?));
        self.done(self.transaction.query_row(sql, [range.key()], read).optional())
    }

    fn set_cursor(&mut self, range: &RangeId, last: Number) -> Result<(), StoreError> {
        let sql = "INSERT INTO cursor (name, last) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET last = ?2";
        let done = self.transaction.execute(sql, params![range.key(), last.to_be_bytes()]);
        self.done(done.map(drop))
    }

    fn put(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let put = || {
            let Holder { vm, interface } = &lease.holder;
            let segment = lease.segment.key();
            self.transaction.execute(
                "INSERT INTO lease (namespace, vm, interface, network, segment, mac) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    vm.namespace,
                    vm.name,
                    interface,
                    lease.network,
                    segment,
                    lease.mac.map(stored_mac)
                ],
            )?;
            let id = self.transaction.last_insert_rowid();
            for (place, address) in (0_i64..).zip(&lease.addresses) {
                self.transaction.execute(
                    "INSERT INTO address (number, segment, width, lease, place) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        number(address.addr()).to_be_bytes(),
                        segment,
                        address.prefix_len(),
                        id,
                        place
                    ],
                )?;
            }
            Ok(())
        };
        self.done(put())
    }

    fn remove(&mut self, holder: &Holder) -> Result<(), StoreError> {
        let sql = "DELETE FROM lease WHERE namespace = ?1 AND vm = ?2 AND interface = ?3";
        let Holder { vm, interface } = holder;
        let done = self.transaction.execute(sql, [&vm.namespace, &vm.name, interface]);
        self.done(done.map(drop))
    }

    fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError> {
        self.done(networks::read(&self.transaction))
    }

    fn put_network(&mut self, network: &NetworkRecord) -> Result<(), StoreError> {
        self.done(networks::put(&self.transaction, network))
    }

    fn remove_network(&mut self, name: &str) -> Result<(), StoreError> {
        self.done(networks::remove(&self.transaction, name))
    }
}

/// Converts a MAC for storage. SQLite's integers have 64 bits, and a MAC has 48.
fn stored_mac(mac: MacAddr) -> i64 {
    i64::try_from(mac_number(mac)).unwrap_or_default()
}

fn stored_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn read_holder(row: &Row<'_>) -> rusqlite::Result<Holder> {
    Ok(Holder {
        vm: VmName {
            namespace: row.get(0)?,
            name: row.get(1)?,
        },
        interface: row.get(2)?,
    })
}

fn read_leases(connection: &Connection, layout: i64, vm: Option<&VmName>) -> rusqlite::Result<Vec<Lease>> {
    let sql = "SELECT namespace, vm, interface, network, lease.segment, mac, number, width \
               FROM lease LEFT JOIN address ON address.lease = lease.id \
               WHERE ?1 IS NULL OR (namespace = ?1 AND vm = ?2) ORDER BY namespace, vm, interface, place";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(params![vm.map(|vm| &vm.namespace), vm.map(|vm| &vm.name)])?;
    let mut leases: Vec<Lease> = Vec::new();
    while let Some(row) = rows.next()? {
        let holder = read_holder(row)?;
        let number: Option<[u8; 16]> = row.get(6)?;
        let address = number.map(|bytes| read_address(bytes, row)).transpose()?;
        if let Some(last) = leases.last_mut().filter(|last| last.holder == holder) {
            last.addresses.extend(address);
            continue;
        }
        let number: Option<i64> = row.get(5)?;
        leases.push(Lease {
            holder,
            network: row.get(3)?,
            segment: read_segment(row, layout)?,
            mac: number.and_then(|number| Some(mac(Number::try_from(number).ok()?))),
            addresses: address.into_iter().collect(),
        });
    }
    Ok(leases)
}

fn read_segment(row: &Row<'_>, layout: i64) -> rusqlite::Result<Segment> {
    const COLUMN: usize = 4;
    let text: String = row.get(COLUMN)?;
    if layout == UNTYPED_SEGMENTS {
        let vm = text.strip_prefix(UNTYPED_OF_VM).and_then(|vm| vm.parse().ok());
        return Ok(vm.map_or(Segment::ThisNode(text), Segment::OfVm));
    }
    let unknown = || format!("'{text}' is no segment").into();
    Segment::from_key(&text).ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(COLUMN, Type::Text, unknown()))
}

fn read_address(bytes: [u8; 16], row: &Row<'_>) -> rusqlite::Result<IpNet> {
    let address = address(Number::from_be_bytes(bytes));
    IpNet::new(address, row.get(7)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(7, Type::Integer, Box::new(error)))
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
