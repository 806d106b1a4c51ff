//! Small disks that become full: what grows the data is refused in time, a node that cannot go on ends
//! and says why, and what was acknowledged is there afterwards.
//!
//! The disks are tmpfs mounts of a few MiB, which only root may make: these tests are run where they are asked
//! for. `storage::room`, `group::space` and the log's own tests need no mount.

use std::{
    cell::RefCell,
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, PutRequest, StatusRequest,
};
use holdfast_server::{config::Config, exit::EXIT_NO_SPACE};
use tonic::Code;

use crate::harness::{Cluster, History, Node, PATIENCE, run, until, within};

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 64 * MIB;
const VALUE_BYTES: usize = 64 << 10;
/// More than the disks hold.
const PUTS_MAX: usize = 1000;

/// A tmpfs, unmounted on drop.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, bytes: u64) -> Self {
        fs::create_dir_all(at).unwrap();
        assert!(set_size(at, bytes, 0), "this process may mount a tmpfs");
        Self(at.to_owned())
    }

    fn grow(&self, bytes: u64) {
        assert!(set_size(&self.0, bytes, libc::MS_REMOUNT), "remounted");
    }

    /// Takes all the room that there is.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        let piece = vec![0; 64 << 10];
        while std::io::Write::write_all(&mut ballast, &piece).is_ok() {}
    }

    fn relieve(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let at = c_path(&self.0);
        // SAFETY: the path ends with a zero byte and outlives the call.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn set_size(at: &Path, bytes: u64, flags: libc::c_ulong) -> bool {
    let options = CString::new(format!("size={bytes}")).unwrap();
    let at = c_path(at);
    // SAFETY: all pointers are to strings that end with a zero byte and outlive the call.
    let result = unsafe {
        libc::mount(
            c"holdfast-test".as_ptr(),
            at.as_ptr(),
            c"tmpfs".as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    result == 0
}

/// Settings of a node whose data directory is a disk of its own.
fn on_a_small_disk(disks: &RefCell<Vec<Disk>>, config: &mut Config) {
    config.storage.log_segment_bytes = 4 * MIB;
    config.storage.table_bytes_max = 4 * MIB;
    config.storage.flush_interval_ms = 500;
    let disk = Disk::mount(&config.node.data_dir, DISK_BYTES);
    disks.borrow_mut().push(disk);
}

fn disk_of<'a>(disks: &'a [Disk], node: &Node) -> &'a Disk {
    let mine = disks.iter().find(|disk| disk.0 == node.data_dir());
    mine.expect("every node has a disk")
}

fn value(n: usize) -> String {
    // Not the same byte over and over: nothing on the way may make it small.
    let seed = format!("{n:08}");
    seed.chars().cycle().take(VALUE_BYTES).collect()
}

/// Puts through a node until it refuses for want of space.
async fn fill_up(node: &Node, history: &mut History, prefix: &str) {
    for n in 0..PUTS_MAX {
        let (key, value) = (format!("{prefix}-{n:04}"), value(n));
        let put = PutRequest {
            key: key.clone().into(),
            value: value.clone().into(),
            ..Default::default()
        };
        match within(PATIENCE, node.kv().put(put)).await {
            Ok(done) => history.acknowledge(&key, &value, done.header.unwrap().revision),
            Err(status) if status.code() == Code::ResourceExhausted => {
                let message = "etcdserver: mvcc: database space exceeded";
                assert_eq!(status.message(), message);
                return;
            }
            Err(status) => {
                println!("{key}: {status}");
                history.unknown(&key, &value, &status.to_string());
            }
        }
    }
    panic!("none of {PUTS_MAX} puts is refused for want of space on {DISK_BYTES} bytes");
}

mod needs_mount {
    use super::*;

    #[test]
    #[ignore = "needs root, to mount a tmpfs"]
    fn small_disks_refuse_growth_in_time_and_go_on_when_there_is_room() {
        run(async |rng| {
            let disks = RefCell::default();
            let mut cluster =
                Cluster::start_with(rng, |config| on_a_small_disk(&disks, config)).await;
            let mut history = History::default();
            let leader = cluster.leader().await;
            let follower = cluster.others(leader)[0];
            fill_up(cluster.node(follower), &mut history, "first").await;
            assert!(history.acknowledged.len() > 20, "most of the room is used");
            for id in 1..=3 {
                cluster.node_mut(id).check_alive().unwrap();
            }

            // It is seen, and what makes room passes, as do reads. The log gives way when room is short, and
            // whoever looks then may find that there is room again: so there is more to fill.
            let mut round = 0;
            until("an alarm", PATIENCE, async || {
                round += 1;
                let prefix = format!("more-{round}");
                fill_up(cluster.node(follower), &mut history, &prefix).await;
                let leader = cluster.leader().await;
                let mut maintenance = cluster.node(leader).maintenance();
                let told = within(PATIENCE, maintenance.alarm(AlarmRequest::default()));
                let told = told.await.map_err(|status| status.to_string())?;
                let alarms = told.alarms;
                let status = within(PATIENCE, maintenance.status(StatusRequest {})).await;
                let errors = status.map_err(|status| status.to_string())?.errors;
                let is_told = alarms.iter().any(|a| a.alarm() == AlarmType::Nospace);
                if is_told && errors.iter().any(|e| e.contains("NOSPACE")) {
                    return Ok(());
                }
                Err(format!("alarms: {alarms:?}, errors: {errors:?}"))
            })
            .await;
            let delete = DeleteRangeRequest {
                key: "never-written".into(),
                ..Default::default()
            };
            let deleted = within(PATIENCE, cluster.node(follower).kv().delete_range(delete))
                .await
                .unwrap();
            assert_eq!(deleted.deleted, 0);
            let revision = deleted.header.unwrap().revision;
            let compact = CompactionRequest {
                revision,
                physical: false,
            };
            within(PATIENCE, cluster.node(follower).kv().compact(compact))
                .await
                .unwrap();
            cluster.verify(&history).await;

            for disk in disks.borrow().iter() {
                disk.grow(2 * DISK_BYTES);
            }
            let mut attempts = 0;
            until("writes go on", PATIENCE, async || {
                attempts += 1;
                let again = format!("again-{attempts:04}");
                let put = PutRequest {
                    key: again.clone().into(),
                    value: again.clone().into(),
                    ..Default::default()
                };
                match within(PATIENCE, cluster.node(follower).kv().put(put)).await {
                    Ok(done) => {
                        history.acknowledge(&again, &again, done.header.unwrap().revision);
                        Ok(())
                    }
                    Err(status) => {
                        history.unknown(&again, &again, &status.to_string());
                        Err(status.to_string())
                    }
                }
            })
            .await;
            cluster.verify(&history).await;
            for id in 1..=3 {
                let status = cluster.node_mut(id).term().await;
                assert_eq!(status.code(), Some(0), "node {id}: {status}");
            }
            drop(cluster);
        });
    }

    #[test]
    #[ignore = "needs root, to mount a tmpfs"]
    fn a_full_disk_ends_its_node_and_stops_nobody_else() {
        run(async |rng| {
            let disks = RefCell::default();
            let mut cluster =
                Cluster::start_with(rng, |config| on_a_small_disk(&disks, config)).await;
            let full = cluster.leader().await;
            disk_of(&disks.borrow(), cluster.node(full)).fill();
            // Its leaderships go to those that have room, before it ends.
            until("another leader", PATIENCE, async || {
                let rest = cluster.others(full);
                match cluster.leader_among(&rest).await {
                    leader if leader == full => Err(format!("node {full} still leads")),
                    _ => Ok(()),
                }
            })
            .await;

            let load = cluster.load(16).await;
            let status = cluster.node_mut(full).exit(PATIENCE * 2).await;
            assert_eq!(status.code(), Some(i32::from(EXIT_NO_SPACE)), "{status}");
            load.until_more(200).await;
            let history = load.stop().await;
            history.assert_no_failures();
            let log = cluster.node(full).log();
            assert!(log.contains("make room on the disk"), "it says what to do");

            // Still full: it ends again, and is no zombie.
            cluster.node_mut(full).start();
            let begun = std::time::Instant::now();
            let again = cluster.node_mut(full).exit(PATIENCE).await;
            assert_eq!(again.code(), Some(i32::from(EXIT_NO_SPACE)), "{again}");
            assert!(begun.elapsed() < Duration::from_secs(60));

            disk_of(&disks.borrow(), cluster.node(full)).relieve();
            cluster.node_mut(full).start();
            cluster.until_leaders().await;
            cluster.verify(&history).await;
            drop(cluster);
        });
    }
}
