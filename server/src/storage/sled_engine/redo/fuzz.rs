//! The redo file, whole and damaged; its body without the checksum too, which hides what lies behind it.

use std::fs;

use super::*;
use crate::fuzz;

#[test]
fn fuzz_redo_files() {
    let dir = tempfile::tempdir().unwrap();
    let batch = vec![
        (
            Bytes::from_static(b"key"),
            Some(Bytes::from_static(b"value")),
        ),
        (Bytes::from_static(b"gone"), None),
    ];
    RedoFile::open(dir.path())
        .unwrap()
        .write(7, &batch)
        .unwrap();
    let path = dir.path().join("redo");
    let written = fs::read(&path).unwrap();
    fuzz::check("redo-file", [written], |bytes| {
        if let Some(body) = bytes.get(HEADER_LEN..) {
            let _ = decode(Bytes::copy_from_slice(body));
        }
        fs::write(&path, bytes).unwrap();
        let redo = RedoFile::open(dir.path()).unwrap();
        let _ = redo.number().unwrap();
        match redo.read(7) {
            Ok(read) => assert_eq!(read, batch),
            Err(error) => assert!(error.is_damage(), "{error}"),
        }
    });
}
