//! Authorities and certificates for tests of TLS, made by openssl(1).

use crate::{Result, failure};
use std::fs;
use std::path::Path;
use std::process::Command;

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .map_err(|e| failure(format!("openssl: {e}; hack/setup installs it")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failure(String::from_utf8_lossy(&output.stderr)))
}

/// Creates in `folder` an authority, `NAME-ca.pem`, and a certificate for `address` that it has signed, `NAME.pem`, with
/// its key, `NAME.key`.
pub fn certify(folder: &Path, name: &str, address: &str) -> Result<()> {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        folder,
        &format!("req -x509 {KEY} -days 2 -subj /CN={name}-ca -keyout {name}-ca.key -out {name}-ca.pem"),
    )?;
    openssl(
        folder,
        &format!("req {KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"),
    )?;
    fs::write(folder.join("extensions"), format!("subjectAltName=IP:{address}\n"))?;
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial -days 2 \
             -extfile extensions -out {name}.pem"
        ),
    )
}
