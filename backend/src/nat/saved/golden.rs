//! Golden files, which contain the serialised values of every version so far.

use super::{Payload, from_bytes, to_bytes};
use crate::config::payload::Sealed;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// If this environment variable is set, the files are written instead of compared.
const UPDATE: &str = "UPDATE_GOLDEN";

fn folder<T: Payload>(version: u32) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nat/saved/golden");
    all.join(format!("{}-{version}", T::KIND))
}

/// Compares values with the file of their name, and checks that the file loads.
pub(crate) fn check<T: Payload + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, values: &[T]) {
    let path = folder::<T>(T::VERSION).join(format!("{name}.json"));
    let today = json!(Sealed(values));
    if std::env::var_os(UPDATE).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("{today:#}\n")).unwrap();
    }
    let bytes = fs::read(&path).unwrap_or_else(|e| {
        panic!(
            "{}: {e}; write the files of a new version or state with {UPDATE}=1",
            path.display()
        )
    });
    let golden: Value = serde_json::from_slice(&bytes).unwrap();
    assert!(
        golden == today,
        "the format of \"{}\" has changed: a hawser of this version that another one upgrades or migrates to would \
         misread it. Raise VERSION, give new fields a default, and write the files of the new version with \
         {UPDATE}=1; the files of version {} stay as they are.\n{}\nis {golden:#}\nand would be {today:#}",
        T::KIND,
        T::VERSION,
        path.display(),
    );
    // The files are in JSON, which people can read. Processes write CBOR.
    for bytes in [bytes, to_bytes(values)] {
        assert_eq!(from_bytes::<Vec<T>>(&bytes).unwrap(), values, "{}", path.display());
    }
}

/// The values of all golden files of this kind, of every version.
pub(crate) fn all<T: Payload + DeserializeOwned>() -> Vec<(String, Vec<T>)> {
    let mut found = Vec::new();
    for version in 1..=T::VERSION {
        for entry in fs::read_dir(folder::<T>(version)).unwrap() {
            let path = entry.unwrap().path();
            let values = from_bytes(&fs::read(&path).unwrap());
            let values = values.unwrap_or_else(|e| panic!("{} no longer loads: {e}", path.display()));
            found.push((path.display().to_string(), values));
        }
    }
    found
}
