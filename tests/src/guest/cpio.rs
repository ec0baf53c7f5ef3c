//! Writes the part of the cpio "newc" format that an addition to an initramfs needs.

use std::io::{self, Write};

const FILE: u32 = 0o100_755;
const FOLDER: u32 = 0o040_755;

fn entry(out: &mut impl Write, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
    let size = u32::try_from(data.len()).map_err(io::Error::other)?;
    let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
    // These are inode, mode, uid, gid, links, mtime, size, device (2), rdevice (2), name size and check.
    let fields = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08x}")?;
    }
    out.write_all(name.as_bytes())?;
    // The name ends with NUL. Name and data are padded to 4 bytes; the header has 110.
    out.write_all(&[0; 4][..1 + (4 - (110 + name.len() + 1) % 4) % 4])?;
    out.write_all(data)?;
    out.write_all(&[0; 3][..(4 - data.len() % 4) % 4])
}

/// Writes an archive of directories and executable files. Each is given by its path without a leading slash.
pub(super) fn write(out: &mut impl Write, folders: &[&str], files: &[(&str, &[u8])]) -> io::Result<()> {
    for folder in folders {
        entry(out, folder, FOLDER, &[])?;
    }
    for (name, data) in files {
        entry(out, name, FILE, data)?;
    }
    entry(out, "TRAILER!!!", 0, &[])
}
