//! A real node with every fault of the shim and of its files. `HOLDFAST_BIN` names another binary than
//! that of this build, `REAL_NODE_SEEDS` how many seeds are tried.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod nodes;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_client::Client;
use holdfast_jepsen::cluster::{
    ClockFault, FaultError, SyncFault,
    damage::{Damage, Hit, flip_bit_in_log_tail, tear_last_record, truncate_log_tail},
    ports,
    preload::{Preload, TakenBack, can_load_into},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const NODE: u64 = 1;
const WRITERS: u64 = 16;
const PATIENCE: Duration = Duration::from_secs(60);

fn binary() -> PathBuf {
    let chosen = std::env::var_os("HOLDFAST_BIN");
    chosen.map_or_else(nodes::holdfast, PathBuf::from)
}

struct Node {
    dir: tempfile::TempDir,
    preload: Preload,
    ports: [u16; 2],
    process: Option<Child>,
    starts: u32,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    fn new() -> Self {
        can_load_into(&binary()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let preload = Preload::prepare(&dir.path().join("preload"), &[NODE]).unwrap();
        preload.record_unsynced(NODE, true).unwrap();
        let held = ports::free(2).unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        Self {
            dir,
            preload,
            ports: [port(&held[0]), port(&held[1])],
            process: None,
            starts: 0,
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Small files and short intervals, so that every part of the storage is busy.
    fn start(&mut self) {
        let log = self.dir.path().join(format!("start-{}.log", self.starts));
        self.starts += 1;
        let process = Command::new(binary())
            .args(["start", "--id", "1", "--zone", "a"])
            .arg("--data-dir")
            .arg(self.data())
            .args(["--client-addr", &self.endpoint()])
            .args(["--peer-addr", &format!("127.0.0.1:{}", self.ports[1])])
            .args(["--request-bytes-max", "128KiB"])
            .args(["--log-segment-bytes", "1MiB"])
            .args(["--log-entries-max", "200", "--log-bytes-max", "2MiB"])
            .args(["--flush-interval-ms", "40ms"])
            .envs(self.preload.environment(NODE, &self.data()))
            .stdout(Stdio::null())
            .stderr(File::create(log).unwrap())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// What the node has said since it was last started.
    fn log(&self) -> String {
        let log = format!("start-{}.log", self.starts - 1);
        fs::read_to_string(self.dir.path().join(log)).unwrap()
    }

    fn has_ended(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.try_wait().unwrap()?;
        Some(format!("{:?}, signal {:?}", status.code(), status.signal()))
    }

    /// All that is stored, once the node serves; `Err` with its output if it ends instead.
    async fn contents(&mut self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
        let client = Client::builder()
            .endpoints([self.endpoint()])
            .timeout(Duration::from_millis(500))
            .connect_lazy()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = client.get("").prefix().await;
            if let Some(status) = self.has_ended() {
                return Err(format!("{status}\n{}", self.log()));
            }
            match found {
                Ok(found) => {
                    let pairs = found.kvs.into_iter();
                    return Ok(pairs
                        .map(|kv| (kv.key.to_vec(), kv.value.to_vec()))
                        .collect());
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}\n{}", self.log()),
            }
        }
    }
}

/// What writers were told.
#[derive(Default)]
struct Told {
    /// By key: the number in the last value that was acknowledged, and the last that was sent.
    counts: Mutex<BTreeMap<String, (u64, u64)>>,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

/// The value that is number `count` of its key: its length varies, its bytes say which it is.
fn value(count: u64) -> Vec<u8> {
    let len = match count % 50 {
        0 => 60_000,
        short => 20 + short as usize * 7,
    };
    let mut value = count.to_string().into_bytes();
    value.push(b' ');
    value.resize(len, b'a' + (count % 26) as u8);
    value
}

fn number(value: &[u8]) -> u64 {
    let digits = value.split(|&byte| byte == b' ').next().unwrap();
    std::str::from_utf8(digits).unwrap().parse().unwrap()
}

async fn write(client: Client, writer: u64, told: Arc<Told>) {
    for round in 0u64.. {
        let key = format!("{writer}/{}", round % 20);
        let count = {
            let mut counts = told.counts.lock().unwrap();
            let (_, sent) = counts.entry(key.clone()).or_default();
            *sent += 1;
            *sent
        };
        match client.put(key.clone(), value(count)).await {
            Ok(_) => {
                told.counts.lock().unwrap().get_mut(&key).unwrap().0 = count;
                told.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // The node is gone, or about to be.
            Err(_) if told.stop.load(Ordering::Relaxed) => return,
            Err(error) => panic!("{key}: {error}"),
        }
    }
}

/// Load, power cut, restart, three times over; returns what was taken back.
async fn lose_power(seed: u64, delay: Duration, keep_share: f64) -> TakenBack {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut node = Node::new();
    let told = Arc::new(Told::default());
    let mut taken = TakenBack::default();
    node.start();
    node.contents().await.unwrap();
    for cut in 0..3 {
        let context = format!("seed {seed}, cut {cut}, {} acknowledged", {
            told.acknowledged.load(Ordering::Relaxed)
        });
        let fault = SyncFault { delay, fail: false };
        node.preload.set_syncs(NODE, fault).unwrap();
        told.stop.store(false, Ordering::Relaxed);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let client = Client::builder()
                    .endpoints([node.endpoint()])
                    .timeout(Duration::from_secs(20))
                    .retry_unprotected_writes(false)
                    .connect_lazy()
                    .unwrap();
                tokio::spawn(write(client, writer, told.clone()))
            })
            .collect();
        let before = told.acknowledged.load(Ordering::Relaxed);
        let wanted = before + rng.random_range(50..1500);
        let moment = Duration::from_micros(rng.random_range(0..20_000));
        let deadline = Instant::now() + PATIENCE;
        while told.acknowledged.load(Ordering::Relaxed) < wanted {
            assert!(
                Instant::now() < deadline,
                "{context}: no progress\n{}",
                node.log()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(moment).await;
        told.stop.store(true, Ordering::Relaxed);
        node.kill();
        for writer in writers {
            writer.abort();
            if let Err(error) = writer.await {
                assert!(error.is_cancelled(), "{context}: {error}");
            }
        }
        let seed = rng.random();
        let lost = node
            .preload
            .take_back_unsynced_with(NODE, seed, keep_share)
            .unwrap();
        taken.writes += lost.writes;
        taken.bytes += lost.bytes;
        node.preload.set_syncs(NODE, SyncFault::default()).unwrap();
        node.start();
        let found = match node.contents().await {
            Ok(found) => found,
            Err(said) => {
                let kept = std::mem::replace(&mut node.dir, tempfile::tempdir().unwrap()).keep();
                panic!(
                    "{context}: did not come back; see {}\n{said}",
                    kept.display()
                );
            }
        };
        let log = node.log();
        for word in ["panicked", "moved aside", "ERROR"] {
            assert!(!log.contains(word), "{context}: {word}\n{log}");
        }
        let mut counts = told.counts.lock().unwrap();
        for (key, (acknowledged, sent)) in counts.iter_mut() {
            let stored = match found.get(key.as_bytes()) {
                Some(stored) => {
                    let stored_number = number(stored);
                    assert!(
                        *stored == value(stored_number),
                        "{context}: {key} is garbled"
                    );
                    stored_number
                }
                None => 0,
            };
            assert!(
                (*acknowledged..=*sent).contains(&stored),
                "{context}: {key} has {stored}, {acknowledged} was acknowledged, {sent} sent\n{log}"
            );
            // What was on its way may have arrived.
            (*acknowledged, *sent) = (stored, *sent);
        }
    }
    taken
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

fn seeds() -> u64 {
    let seeds = std::env::var("REAL_NODE_SEEDS").ok();
    seeds.map_or(6, |seeds| seeds.parse().unwrap())
}

#[test]
fn no_acknowledged_write_is_lost_when_the_power_fails() {
    let mut lost_while_slow = 0;
    for seed in 0..seeds() {
        let delay = Duration::from_millis([0, 20][seed as usize % 2]);
        let keep_share = [0.0, 0.0, 0.3, 0.7][seed as usize / 2 % 4];
        let taken = run(lose_power(seed, delay, keep_share));
        println!("seed {seed}, delay {delay:?}, keep {keep_share}: {taken:?}");
        if !delay.is_zero() {
            lost_while_slow += taken.writes;
        }
    }
    // With slow syncs some write is nearly always on its way.
    assert!(lost_while_slow > 0, "nothing was ever unsynced");
}

/// Power that fails again and again while the node creates its files, or recovers them.
async fn lose_power_while_starting(seed: u64) -> TakenBack {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut node = Node::new();
    let mut taken = TakenBack::default();
    // Slower syncs hold every state between two of them for longer.
    let delay = Duration::from_millis(rng.random_range(0..10));
    let fault = SyncFault { delay, fail: false };
    node.preload.set_syncs(NODE, fault).unwrap();
    for _ in 0..8 {
        node.start();
        let moment = Duration::from_millis(rng.random_range(0..500));
        tokio::time::sleep(moment).await;
        let ended = node.has_ended();
        assert_eq!(ended, None, "seed {seed}: {}", node.log());
        node.kill();
        let keep_share = [0.0, 0.5][rng.random_range(0..2)];
        let cut_seed = rng.random();
        match node
            .preload
            .take_back_unsynced_with(NODE, cut_seed, keep_share)
        {
            Ok(lost) => {
                taken.writes += lost.writes;
                taken.bytes += lost.bytes;
            }
            // It had not come as far as to write anything.
            Err(FaultError::Skipped(_)) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    node.start();
    let found = node.contents().await;
    if let Err(said) = found {
        let kept = std::mem::replace(&mut node.dir, tempfile::tempdir().unwrap()).keep();
        panic!("seed {seed}: see {}\n{said}", kept.display());
    }
    taken
}

#[test]
fn a_node_starts_whenever_the_power_failed_before() {
    let mut lost = 0;
    for seed in 0..seeds() {
        let taken = run(lose_power_while_starting(seed));
        println!("seed {seed}: {taken:?}");
        lost += taken.writes;
    }
    assert!(lost > 0, "nothing was ever unsynced");
}

#[test]
fn a_failed_sync_stops_the_node_and_costs_no_acknowledged_write() {
    run(async {
        let mut node = Node::new();
        node.start();
        node.contents().await.unwrap();
        let client = Client::builder()
            .endpoints([node.endpoint()])
            .timeout(Duration::from_secs(10))
            .connect_lazy()
            .unwrap();
        client.put("before", "1").await.unwrap();
        let fault = SyncFault {
            fail: true,
            ..SyncFault::default()
        };
        node.preload.set_syncs(NODE, fault).unwrap();
        let refused = client.put("meanwhile", "1").await;
        assert!(refused.is_err(), "{refused:?}");
        let deadline = Instant::now() + PATIENCE;
        while node.has_ended().is_none() {
            assert!(Instant::now() < deadline, "it goes on:\n{}", node.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("{}", node.log());
        node.kill();
        node.preload.take_back_unsynced(NODE).unwrap();
        node.preload.set_syncs(NODE, SyncFault::default()).unwrap();
        node.start();
        let found = node.contents().await.unwrap();
        assert_eq!(found.get(b"before".as_slice()).unwrap(), b"1");
        assert_eq!(found.get(b"meanwhile".as_slice()), None);
    });
}

#[test]
fn a_node_serves_while_its_wall_clock_jumps() {
    run(async {
        let mut node = Node::new();
        node.start();
        node.contents().await.unwrap();
        let client = Client::builder()
            .endpoints([node.endpoint()])
            .connect_lazy()
            .unwrap();
        for offset_seconds in [3600.0, -7200.0, 86400.0 * 365.0, 0.0] {
            let fault = ClockFault {
                offset_seconds,
                drift: 0.5,
            };
            node.preload.set_clock(NODE, fault).unwrap();
            for count in 0..20 {
                client.put(format!("key-{count}"), "1").await.unwrap();
            }
        }
        assert!(node.preload.seen(NODE).unwrap().clock);
        node.kill();
        node.preload.take_back_unsynced(NODE).unwrap();
        node.start();
        assert_eq!(node.contents().await.unwrap().len(), 20);
    });
}

/// Some writes, a kill, damage, a start; whether the node serves, and what it said.
async fn damaged(
    seed: u64,
    damage: impl FnOnce(&Path, &mut StdRng) -> Damage,
) -> (Damage, Result<usize, String>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut node = Node::new();
    node.start();
    node.contents().await.unwrap();
    let client = Client::builder()
        .endpoints([node.endpoint()])
        .connect_lazy()
        .unwrap();
    for count in 1..=40 {
        client
            .put(format!("key-{count}"), value(count))
            .await
            .unwrap();
    }
    node.kill();
    let damage = damage(&node.data(), &mut rng);
    node.preload.forget_unsynced(NODE).unwrap();
    node.start();
    let served = node.contents().await.map(|found| found.len());
    (damage, served)
}

#[test]
fn damage_of_synced_data_is_refused_with_file_and_offset() {
    for seed in 0..seeds() {
        for truncates in [true, false] {
            let (damage, served) = run(damaged(seed, |dir, rng| match truncates {
                true => truncate_log_tail(dir, rng).unwrap(),
                false => flip_bit_in_log_tail(dir, rng).unwrap(),
            }));
            assert_eq!(damage.hit, Hit::Synced, "seed {seed}: {damage}");
            let said = served.expect_err(&format!("seed {seed}: {damage}, and it serves"));
            println!("seed {seed}: {damage}\n  {said}");
            let file = damage.file.display().to_string();
            assert!(said.contains(&file), "seed {seed}: {damage}\n{said}");
            assert!(said.contains(" at byte "), "seed {seed}: {damage}\n{said}");
        }
    }
}

#[test]
fn a_torn_last_record_is_dropped() {
    for seed in 0..seeds() {
        let (damage, served) = run(damaged(seed, |dir, rng| {
            tear_last_record(dir, rng).unwrap()
        }));
        assert_eq!(damage.hit, Hit::LastRecord, "seed {seed}: {damage}");
        println!("seed {seed}: {damage}: {served:?}");
        assert!(served.unwrap() >= 39, "seed {seed}: {damage}");
    }
}
