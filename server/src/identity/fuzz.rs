//! The files by which a node knows itself and its peers, whole and damaged: what is read is what was
//! written, or an error that names the file.

use super::*;
use crate::fuzz;

#[test]
fn fuzz_identities_and_promises() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path(), "c", 7, 1).unwrap();
    fs::create_dir(data.log_dir()).unwrap();
    data.begin_session(42).unwrap();
    data.record_peer(2, 10).unwrap();
    data.set_took_part().unwrap();
    let log_dir = data.log_dir();
    drop(data);
    let files = [dir.path().join(IDENTITY), dir.path().join(PEERS)];
    let owner = fs::read_dir(&log_dir)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let files = [&files[0], &files[1], &owner];
    let whole = files.map(|path| fs::read(path).unwrap());
    let seeds = (0u8..)
        .zip(&whole)
        .map(|(which, text)| [&[which], &text[..]].concat());
    // The first byte says which of the files the others stand in.
    fuzz::check("identity", seeds, |bytes| {
        let Some((which, text)) = bytes.split_first() else {
            return;
        };
        let which = usize::from(*which) % files.len();
        fs::write(files[which], text).unwrap();
        let opened = DataDir::open(dir.path(), "c", 7, 1);
        if let Ok(data) = &opened {
            let _ = data.log_mismatch(Some(42));
            let _ = data.record_peer(2, 10);
        }
        drop(opened);
        for (path, text) in files.iter().zip(&whole) {
            fs::write(path, text).unwrap();
        }
    });
}
