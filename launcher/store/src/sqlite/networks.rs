//! Records of networks in the file.
//!
//! Like those of the bindings, the table is created with the first record, so the layout number stays the same.

use crate::network::NetworkRecord;
use hawser_packet::geneve::Vni;
use ipnet::IpNet;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS network (
    name TEXT PRIMARY KEY,
    vni INTEGER NOT NULL UNIQUE,
    subnets TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Reads all records.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<NetworkRecord>> {
    let exists = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'network'";
    if !connection.query_row(exists, (), |row| row.get(0))? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT name, vni, subnets FROM network ORDER BY name")?;
    statement.query_map((), read_row)?.collect()
}

/// Adds a record whose name and identifier are not in use.
pub(super) fn put(connection: &Connection, network: &NetworkRecord) -> rusqlite::Result<()> {
    connection.execute_batch(TABLE)?;
    let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
    let values = params![network.name, u32::from(network.vni), subnets.join(",")];
    let sql = "INSERT INTO network (name, vni, subnets) VALUES (?1, ?2, ?3)";
    connection.execute(sql, values).map(drop)
}

/// Removes the record with this name.
pub(super) fn remove(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    connection.execute_batch(TABLE)?;
    connection
        .execute("DELETE FROM network WHERE name = ?1", [name])
        .map(drop)
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<NetworkRecord> {
    let wrong = |column, error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error);
    let vni: u32 = row.get(1)?;
    let subnets: String = row.get(2)?;
    let nets: Result<Vec<IpNet>, _> = subnets
        .split(',')
        .filter(|text| !text.is_empty())
        .map(str::parse)
        .collect();
    Ok(NetworkRecord {
        name: row.get(0)?,
        vni: Vni::try_from(vni).map_err(|error| wrong(1, error.to_string().into()))?,
        subnets: nets.map_err(|error| wrong(2, Box::new(error)))?,
    })
}
