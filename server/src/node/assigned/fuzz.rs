//! The file of the groups of a node, whole and damaged.

use super::*;
use crate::fuzz;

#[test]
fn fuzz_assigned_groups() {
    let dir = tempfile::tempdir().unwrap();
    let mut assigned = Assigned::read(dir.path()).unwrap();
    let group = Assignment {
        id: 3,
        keyspace: "orders".to_owned(),
        voters: Default::default(),
    };
    assigned.add(&[group]).unwrap();
    let path = dir.path().join(FILE);
    let written = std::fs::read(&path).unwrap();
    fuzz::check("assigned-groups", [written], |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let _ = Assigned::read(dir.path());
    });
}
