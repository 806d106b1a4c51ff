//! The real engines under SIGKILL: a child process writes at full speed and is killed in the middle;
//! what it leaves is exactly the state at a mark, not older than the last it saw published.
//!
//! The child is this test binary, started again with the one test below and a directory in its
//! environment. What it writes at an index is a function of the index, so that the parent needs no
//! more than the applied index to know what must be there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use holdfast_mvcc::Reader as _;

use super::tests::Seeded;
use super::*;
use crate::storage::sled_engine::Sled;

const DIR: &str = "HOLDFAST_STATE_KILL_DIR";
const ENGINE: &str = "HOLDFAST_STATE_KILL_ENGINE";
const ROUNDS: u64 = 6;
const KEYS: u64 = 400;

/// What index `index` writes: key, and length and seed of the value.
fn effects(index: u64) -> Vec<(u64, Option<(usize, u64)>)> {
    let mut random = Seeded(index);
    (0..1 + random.below(12))
        .map(|_| {
            let key = random.below(KEYS);
            let len = match random.below(400) {
                // So large that sled writes files and segments in the middle of a batch: what a
                // batch leaves in sled's memory alone cannot be torn by a kill.
                0..=2 => 1_572_864,
                3..=30 => 150_000,
                _ => random.below(1_500) as usize,
            };
            (key, (random.below(5) > 0).then(|| (len, random.next())))
        })
        .collect()
}

/// What changes with every batch: the header of sled's redo file, or the tables of an LSM tree.
fn batch_mark(dir: &Path) -> Option<Vec<u8>> {
    let current = std::fs::read_to_string(dir.join("CURRENT")).ok()?;
    let database = dir.join(current.split_once(' ')?.0);
    if let Ok(redo) = std::fs::read(database.join("redo")) {
        return redo.get(..32).map(<[u8]>::to_vec);
    }
    let tables = std::fs::read_dir(database.join("tables")).ok()?;
    let mut names: Vec<_> = tables
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect();
    names.sort();
    Some(format!("{names:?}").into_bytes())
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key/{n:08}"))
}

fn value(len: usize, seed: u64) -> Bytes {
    let mut bytes = seed.to_le_bytes().repeat(len / 8 + 1);
    bytes.truncate(len);
    bytes.into()
}

fn options(engine: &str) -> StateOptions {
    let engine: Arc<dyn OpenEngine> = match engine {
        "sled" => Arc::new(Sled {
            cache_bytes: 8 << 20,
        }),
        _ => Arc::new(Lsm::new(8 << 20, 32)),
    };
    StateOptions {
        table_bytes_max: 5 * 1024 * 1024,
        flush_interval: Duration::from_secs(3600),
        load_bytes_max: 128 * 1024,
        engine,
    }
}

/// Not a test of its own: what the parent starts and kills.
#[test]
#[ignore = "the child process of the tests that kill it"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let engine = std::env::var(ENGINE).unwrap();
    let store = StateStore::open(Path::new(&dir), options(&engine))
        .unwrap()
        .store;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut durable = store.durable_applied();
        let mut out = std::io::stdout();
        for index in store.applied_index() + 1.. {
            let writes = effects(index).into_iter().map(|(k, v)| Write {
                key: key(k),
                value: v.map(|(len, seed)| value(len, seed)),
            });
            store.write(writes.collect()).unwrap();
            store
                .mark_applied(index, format!("record {index}").into())
                .unwrap();
            store.wait_for_room().await.unwrap();
            if index % 150 == 0 {
                // The same state once more, as a snapshot.
                let view = store.view();
                store
                    .replace::<StateError>(|loader| {
                        loader.mark_applied(index, format!("record {index}").into());
                        for record in view.scan(&[1], &[0xff]) {
                            let (key, value) = record?;
                            loader.write([Write {
                                key,
                                value: Some(value),
                            }])?;
                        }
                        Ok(())
                    })
                    .unwrap();
            }
            if durable.has_changed().unwrap() {
                let published = *durable.borrow_and_update();
                writeln!(out, "durable {published}").unwrap();
                out.flush().unwrap();
            }
        }
    });
}

#[test]
fn a_killed_process_leaves_the_state_of_a_mark_with_sled() {
    a_killed_process_leaves_the_state_of_a_mark("sled");
}

#[test]
fn a_killed_process_leaves_the_state_of_a_mark_with_lsm_tree() {
    a_killed_process_leaves_the_state_of_a_mark("lsm-tree");
}

fn a_killed_process_leaves_the_state_of_a_mark(engine: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut model: BTreeMap<Bytes, (usize, u64)> = BTreeMap::new();
    let mut modelled = 0;
    for round in 0..ROUNDS {
        let mut random = Seeded(round);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "storage::state::kill_tests::child",
                "--ignored",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .env(ENGINE, engine)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The harness puts text of its own before the first.
        let mut next_published = || -> Option<u64> {
            lines.find_map(|line| Some(line.unwrap().rsplit_once("durable ")?.1.parse().unwrap()))
        };
        let mut published = 0;
        for _ in 0..1 + random.below(2) {
            published = next_published().expect("the child goes on");
        }
        // The next batch is written down, so it is going in now or in a moment.
        let before = batch_mark(dir.path());
        while batch_mark(dir.path()) == before {
            assert!(
                child.try_wait().unwrap().is_none(),
                "round {round}: the child ended"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random.below(150_000)));
        child.kill().unwrap();
        while let Some(index) = next_published() {
            published = index;
        }
        let status = child.wait().unwrap();
        assert_eq!(
            status.code(),
            None,
            "round {round}: the child ended by itself: {status}"
        );

        let opened = StateStore::open(dir.path(), options(engine)).unwrap();
        assert_eq!(opened.moved_aside, None, "round {round}");
        let applied = opened.store.applied_index();
        assert!(
            applied >= published,
            "round {round}: {applied} after {published} was published"
        );
        assert!(applied > modelled, "round {round}: no progress");
        assert_eq!(
            opened.store.applied_record().unwrap(),
            format!("record {applied}")
        );
        for index in modelled + 1..=applied {
            for (k, effect) in effects(index) {
                match effect {
                    Some(effect) => model.insert(key(k), effect),
                    None => model.remove(&key(k)),
                };
            }
        }
        modelled = applied;
        let view = opened.store.view();
        let mut found = view.scan(&[1], &[0xff]);
        for (key, &(len, seed)) in &model {
            let (found_key, found_value) = found.next().expect("a record").unwrap();
            assert_eq!(&found_key, key, "round {round} at {applied}");
            assert!(
                found_value == value(len, seed),
                "round {round} at {applied}: {key:?}"
            );
        }
        assert!(found.next().is_none(), "round {round} at {applied}");
        println!("round {round}: published {published}, found {applied}");
    }
}
