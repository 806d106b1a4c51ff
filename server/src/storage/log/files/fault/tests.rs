//! Who a crash stops.

use super::*;

#[test]
fn a_mount_dies_with_its_power_cycle() {
    let files = FaultFiles::memory(1);
    let (dir, a, b) = (Path::new("/log"), Path::new("/log/a"), Path::new("/log/b"));
    for crash in [Crash::KillProcess, Crash::LoseUnsynced, Crash::Tear] {
        let before = files.mount();
        before.create_dir(dir).unwrap();
        let open = before.create(a).unwrap();
        open.write_all_at(b"whole", 0).unwrap();
        open.sync().unwrap();
        before.sync_dir(dir).unwrap();
        files.crash(crash).unwrap();

        // The threads of the process that died may still run; nothing comes of it.
        let changes = files.counts().changes;
        assert!(before.list(dir).is_err());
        assert!(before.create_dir(dir).is_err());
        assert!(before.create(b).is_err());
        assert!(before.open(a).is_err());
        assert!(before.rename(a, b).is_err());
        assert!(before.remove(a).is_err());
        assert!(before.sync_dir(dir).is_err());
        assert!(open.write_all_at(b"after", 0).is_err());
        assert!(open.sync().is_err());
        assert_eq!(files.counts().changes, changes);

        let after = files.mount();
        assert_eq!(after.list(dir).unwrap(), ["a"]);
        let mut content = [0; 5];
        after
            .open(a)
            .unwrap()
            .read_exact_at(&mut content, 0)
            .unwrap();
        assert_eq!(&content, b"whole");
        after.remove(a).unwrap();
        after.sync_dir(dir).unwrap();
    }
}
