//! Records of agents in the file.
//!
//! Like those of the bindings, the tables are created with the first record. One counter is the version of the newest
//! change, and thus the stamp of every folder.

use super::Sqlite;
use crate::error::StoreError;
use crate::records::{Batch, Edit, Record, RecordKey, Records};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS record (
    path TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS record_version (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    newest INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO record_version VALUES (1, 0);
";

impl Sqlite {
    /// Reads one state of the records. Returns the default value if there have never been any.
    fn read_records<T: Default>(&self, read: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let exists = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'record_version'";
        self.file.patiently(|| {
            let transaction = self.transaction(TransactionBehavior::Deferred)?;
            let find = || match transaction.query_row(exists, (), |row| row.get(0))? {
                true => read(&transaction),
                false => Ok(T::default()),
            };
            find().map_err(|error| self.file.failed(error))
        })
    }
}

impl Records for Sqlite {
    fn list(&self, folder: &RecordKey) -> Result<Vec<Record>, StoreError> {
        let first = folder.path() + "/";
        // This is the character after the slash.
        let end = folder.path() + "0";
        self.read_records(|connection| {
            let sql = "SELECT path, version, text FROM record WHERE path >= ?1 AND path < ?2 ORDER BY path";
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map([&first, &end], |row| {
                let path: String = row.get(0)?;
                Ok((RecordKey::of_path(&path), row.get(1)?, row.get(2)?))
            })?;
            let record = |row: rusqlite::Result<(Option<RecordKey>, i64, String)>| match row {
                Ok((key, version, text)) => key.map(|key| Ok(Record { key, version, text })),
                Err(error) => Some(Err(error)),
            };
            rows.filter_map(record).collect()
        })
    }

    fn keys(&self, folder: &RecordKey) -> Result<Vec<RecordKey>, StoreError> {
        // The file is local, so texts cost little.
        Ok(self.list(folder)?.into_iter().map(|record| record.key).collect())
    }

    fn record(&self, key: &RecordKey) -> Result<Option<Record>, StoreError> {
        self.read_records(|connection| {
            let sql = "SELECT version, text FROM record WHERE path = ?1";
            let record = connection.query_row(sql, [key.path()], |row| {
                Ok(Record {
                    key: key.clone(),
                    version: row.get(0)?,
                    text: row.get(1)?,
                })
            });
            record.optional()
        })
    }

    fn change(&mut self, batch: &Batch) -> Result<bool, StoreError> {
        let failed = |error| self.file.failed(error);
        let transaction = self.transaction(TransactionBehavior::Immediate)?;
        let write = || {
            transaction.execute_batch(TABLES)?;
            for (key, version) in &batch.expected {
                let sql = "SELECT version FROM record WHERE path = ?1";
                let found: Option<i64> = transaction.query_row(sql, [key.path()], |row| row.get(0)).optional()?;
                if found != *version {
                    return Ok(false);
                }
            }
            let sql = "UPDATE record_version SET newest = newest + 1 RETURNING newest";
            let version: i64 = transaction.query_row(sql, (), |row| row.get(0))?;
            for (key, edit) in &batch.edits {
                match edit {
                    Edit::Put(text) => {
                        let sql = "INSERT OR REPLACE INTO record (path, version, text) VALUES (?1, ?2, ?3)";
                        transaction.execute(sql, params![key.path(), version, text])?;
                    }
                    Edit::Delete => {
                        transaction.execute("DELETE FROM record WHERE path = ?1", [key.path()])?;
                    }
                }
            }
            Ok(true)
        };
        if !write().map_err(failed)? {
            return Ok(false);
        }
        let commit = || transaction.execute_batch("COMMIT").map_err(failed);
        self.file.patiently(commit)?;
        Ok(true)
    }

    fn stamp(&self, _folder: &RecordKey) -> Result<i64, StoreError> {
        self.read_records(|connection| connection.query_row("SELECT newest FROM record_version", (), |row| row.get(0)))
    }
}
