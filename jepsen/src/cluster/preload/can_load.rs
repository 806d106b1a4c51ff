//! Whether a program can be reached by a library that is loaded into it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek},
    path::Path,
};

use super::SHIM;
use crate::cluster::FaultError;

/// Symbols of which a program that syncs its files through the C library imports at least one.
const SYNCS: [&[u8]; 2] = [b"fdatasync\0", b"fsync\0"];

/// Whether the shim can act on a program: it is linked to the C library when it is started, and syncs
/// its files through it. A script is believed to run such a program. [`FaultError::Skipped`] says why
/// not, [`FaultError::Failed`] that the file cannot be read.
pub fn can_load_into(program: &Path) -> Result<(), FaultError> {
    let skipped = |why| Err(FaultError::Skipped(format!("{}: {why}", program.display())));
    if SHIM.is_empty() {
        return skipped("nothing can be loaded into nodes on this platform");
    }
    match syncs_through_libc(program) {
        Ok(true) => Ok(()),
        Ok(false) => skipped("makes its system calls itself, so nothing can come between"),
        Err(error) => Err(FaultError::Failed(format!(
            "cannot read {}: {error}",
            program.display()
        ))),
    }
}

/// Looks for the names among the strings of the file, where those of imported symbols are.
fn syncs_through_libc(program: &Path) -> io::Result<bool> {
    let mut file = BufReader::new(File::open(program)?);
    let mut script = [0; 2];
    file.read_exact(&mut script)?;
    if &script == b"#!" {
        return Ok(true);
    }
    file.rewind()?;
    let mut string = Vec::new();
    while file.read_until(0, &mut string)? > 0 {
        if SYNCS.contains(&&*string) {
            return Ok(true);
        }
        string.clear();
    }
    Ok(false)
}
