//! The file of a snapshot on its way, whole and damaged.

use super::*;
use crate::fuzz;

#[test]
fn fuzz_snapshot_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("incoming");
    let mut file = SnapshotFile::open_or_resume(&path, "one").unwrap();
    for seq in 0..3 {
        file.append(seq, format!("chunk {seq}").as_bytes()).unwrap();
    }
    drop(file);
    let written = fs::read(&path).unwrap();
    fuzz::check("snapshot-file", [written], |bytes| {
        fs::write(&path, bytes).unwrap();
        let file = SnapshotFile::open_or_resume(&path, "one").unwrap();
        let kept = file.next_seq();
        let chunks: Vec<_> = file.chunks().unwrap().collect();
        assert_eq!(chunks.len() as u64, kept);
        for (seq, chunk) in chunks.into_iter().enumerate() {
            assert_eq!(chunk.unwrap(), format!("chunk {seq}"));
        }
    });
}
