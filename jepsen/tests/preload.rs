//! The shim in a real process: this program starts itself again with the shim loaded, changes files
//! and dies by SIGKILL, and the files must come back as they were last synced.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{IoSlice, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use holdfast_jepsen::cluster::{
    ClockFault, FaultError, SyncFault,
    preload::{Preload, can_load_into},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const NODE: u64 = 1;
const PART: &str = "PRELOAD_TEST_PART";
const SEED: &str = "PRELOAD_TEST_SEED";
const DIR: &str = "PRELOAD_TEST_DIR";

struct Bench {
    dir: tempfile::TempDir,
    preload: Preload,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let preload = Preload::prepare(&dir.path().join("preload"), &[NODE]).unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::create_dir(dir.path().join("expected")).unwrap();
        Self { dir, preload }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn expected(&self) -> PathBuf {
        self.dir.path().join("expected")
    }

    fn command(&self, part: &str, seed: u64) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "part_of_another_test", "--nocapture"])
            .envs(self.preload.environment(NODE, &self.data()))
            .env(PART, part)
            .env(SEED, seed.to_string())
            .env(DIR, self.dir.path());
        command
    }

    fn run(&self, part: &str, seed: u64) -> Output {
        self.command(part, seed).output().unwrap()
    }

    /// Runs a part that ends by killing itself.
    fn run_and_lose_power(&self, part: &str, seed: u64) {
        let output = self.run(part, seed);
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(
            output.status.signal(),
            Some(libc::SIGKILL),
            "seed {seed}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Not a test by itself: what the others run in a process with the shim.
#[test]
fn part_of_another_test() {
    let (Ok(part), Ok(seed), Ok(dir)) =
        (std::env::var(PART), std::env::var(SEED), std::env::var(DIR))
    else {
        return;
    };
    let (dir, seed) = (PathBuf::from(dir), seed.parse().unwrap());
    match part.as_str() {
        "changes" => changes(&dir, seed),
        "versions" => versions(&dir, seed),
        "threads" => threads(&dir),
        "write-without-sync" => {
            File::create(dir.join("data/log"))
                .unwrap()
                .write_all(b"unsynced")
                .unwrap();
        }
        "syncs" => syncs(&dir),
        "delay-until-healed" => File::create(dir.join("data/log"))
            .unwrap()
            .sync_all()
            .unwrap(),
        "clock" => clock(),
        "costs" => costs(&dir, seed),
        other => panic!("no part {other}"),
    }
    if matches!(part.as_str(), "changes" | "versions" | "write-without-sync") {
        // SAFETY: ends this process, as intended.
        unsafe { libc::raise(libc::SIGKILL) };
    }
}

// ---- power cuts -----------------------------------------------------------------------------------

/// Changes a few files in every way, and says what of them is synced.
fn changes(dir: &Path, seed: u64) {
    let data = dir.join("data");
    let mut random = StdRng::seed_from_u64(seed);
    let mut files: BTreeMap<String, (File, Vec<u8>)> = BTreeMap::new();
    for at in 0..3 {
        let name = format!("file-{at}");
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .clone();
        let path = data.join(&name);
        let durable = fs::read(&path).unwrap_or_default();
        files.insert(name, (options.open(path).unwrap(), durable));
    }
    let mut names = 3;
    for _ in 0..random.random_range(20..200) {
        let at = random.random_range(0..files.len());
        let name = files.keys().nth(at).unwrap().clone();
        let path = data.join(&name);
        let (file, durable) = files.get_mut(&name).unwrap();
        let len = file.metadata().unwrap().len();
        let bytes: Vec<u8> = match random.random_range(0..10) {
            0 => vec![random.random(); random.random_range(100_000..300_000)],
            _ => vec![random.random(); random.random_range(1..3000)],
        };
        let offset = random.random_range(0..=len + 1000);
        match random.random_range(0..13) {
            0 | 1 => file.write_all_at(&bytes, offset).unwrap(),
            2 => {
                let mut file = OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all(&bytes).unwrap();
            }
            3 => (&*file).write_all(&bytes).unwrap(),
            4 => {
                let (a, b) = bytes.split_at(bytes.len() / 2);
                let wrote = (&*file).write_vectored(&[IoSlice::new(a), IoSlice::new(b)]);
                assert_eq!(wrote.unwrap(), bytes.len());
            }
            5 => file.set_len(offset).unwrap(),
            6 => {
                // SAFETY: no memory is touched.
                let result = unsafe {
                    libc::fallocate(file.as_raw_fd(), 0, offset as i64, bytes.len() as i64)
                };
                assert!(result == 0 || cannot_allocate());
            }
            7 => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                // SAFETY: no memory is touched.
                let result = unsafe {
                    libc::fallocate(file.as_raw_fd(), mode, offset as i64, bytes.len() as i64)
                };
                assert!(result == 0 || cannot_allocate());
            }
            // Truncates, and is open for writing only.
            8 => File::create(&path).unwrap().write_all(&bytes).unwrap(),
            9 => {
                let new = format!("file-{names}");
                names += 1;
                fs::rename(&path, data.join(&new)).unwrap();
                let kept = files.remove(&name).unwrap();
                files.insert(new, kept);
            }
            10 => {
                // Copies inside the kernel where it can.
                let from = dir.join("expected/source");
                fs::write(&from, &bytes).unwrap();
                fs::copy(&from, &path).unwrap();
            }
            11 => {
                // A file replaced by another one, unsynced.
                let new = data.join("new");
                fs::write(&new, &bytes).unwrap();
                fs::rename(&new, &path).unwrap();
                *file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .unwrap();
                durable.clear();
            }
            _ => {
                match random.random() {
                    true => file.sync_all().unwrap(),
                    // By another descriptor, as good as the first.
                    false => File::open(&path).unwrap().sync_data().unwrap(),
                }
                *durable = fs::read(&path).unwrap();
            }
        }
    }
    for (name, (_, durable)) in files {
        fs::write(dir.join("expected").join(name), durable).unwrap();
    }
}

fn cannot_allocate() -> bool {
    std::io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP)
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("file-"))
        .map(|entry| {
            let bytes = fs::read(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), bytes)
        })
        .collect()
}

#[test]
fn files_come_back_as_they_were_last_synced() {
    let mut lost = 0;
    for seed in 0..40 {
        let bench = Bench::new();
        bench.preload.record_unsynced(NODE, true).unwrap();
        bench.run_and_lose_power("changes", seed);
        let taken = bench.preload.take_back_unsynced(NODE).unwrap();
        lost += taken.writes;
        let (found, expected) = (contents(&bench.data()), contents(&bench.expected()));
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        for (name, expected) in expected {
            assert!(found[&name] == expected, "seed {seed}: {name} differs");
        }
        // There is nothing left to take back.
        assert_eq!(bench.preload.take_back_unsynced(NODE).unwrap().writes, 0);
    }
    assert!(lost > 100, "{lost} writes were lost");
}

#[test]
fn what_a_killed_process_had_not_synced_stays_unsynced_in_the_next() {
    let bench = Bench::new();
    bench.preload.record_unsynced(NODE, true).unwrap();
    bench.run_and_lose_power("write-without-sync", 0);
    let log = bench.data().join("log");
    assert_eq!(fs::read(&log).unwrap(), b"unsynced");
    // Starts with what the first left, and truncates it.
    bench.run_and_lose_power("write-without-sync", 0);
    let taken = bench.preload.take_back_unsynced(NODE).unwrap();
    assert_eq!(taken.writes, 3);
    assert_eq!(fs::read(&log).unwrap(), b"");
}

#[test]
fn what_is_forgotten_is_not_taken_back() {
    let bench = Bench::new();
    let refused = bench.preload.take_back_unsynced(NODE);
    assert!(
        matches!(refused, Err(FaultError::Skipped(_))),
        "{refused:?}"
    );
    bench.run_and_lose_power("write-without-sync", 0);
    let refused = bench.preload.take_back_unsynced(NODE);
    assert!(
        matches!(refused, Err(FaultError::Skipped(_))),
        "{refused:?}"
    );
    bench.preload.record_unsynced(NODE, true).unwrap();
    bench.run_and_lose_power("write-without-sync", 0);
    bench.preload.forget_unsynced(NODE).unwrap();
    assert_eq!(bench.preload.take_back_unsynced(NODE).unwrap().writes, 0);
    assert_eq!(fs::read(bench.data().join("log")).unwrap(), b"unsynced");
}

const VERSIONS: u8 = 6;
const VERSION_BYTES: usize = 40 * 512 + 100;

/// Writes a file over and over, each time with another byte, in pieces and longer each time.
fn versions(dir: &Path, _seed: u64) {
    let file = File::create(dir.join("data/file-0")).unwrap();
    for version in 1..=VERSIONS {
        let bytes = vec![version; VERSION_BYTES + usize::from(version) * 700];
        for (at, piece) in bytes.chunks(5000).enumerate() {
            file.write_all_at(piece, at as u64 * 5000).unwrap();
        }
        if version == 2 {
            file.sync_data().unwrap();
        }
    }
}

#[test]
fn a_torn_write_leaves_whole_sectors_of_versions_that_were_written() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..10 {
        let bench = Bench::new();
        bench.preload.record_unsynced(NODE, true).unwrap();
        bench.run_and_lose_power("versions", seed);
        bench
            .preload
            .take_back_unsynced_with(NODE, seed, 0.3)
            .unwrap();
        let found = fs::read(bench.data().join("file-0")).unwrap();
        let (synced, longest) = (VERSION_BYTES + 2 * 700, VERSION_BYTES + 6 * 700);
        assert!(
            (synced..=longest).contains(&found.len()),
            "seed {seed}: {}",
            found.len()
        );
        let mut seen = std::collections::BTreeSet::new();
        for (at, sector) in found[..synced].chunks(512).enumerate() {
            // The pieces of a version meet inside sectors.
            let versions: std::collections::BTreeSet<u8> = sector.iter().copied().collect();
            assert!(
                versions.iter().all(|v| (2..=VERSIONS).contains(v)),
                "seed {seed}: {at}"
            );
            assert!(
                versions.len() <= 2,
                "seed {seed}: sector {at} has {versions:?}"
            );
            seen.extend(versions);
        }
        assert!(seen.len() > 2, "seed {seed}: only {seen:?} survived");
        let beyond = &found[synced..];
        assert!(
            beyond.iter().all(|v| *v == 0 || (3..=VERSIONS).contains(v)),
            "seed {seed}"
        );
        outcomes.insert(found);
    }
    assert!(outcomes.len() > 5, "chance has little to say");
}

const THREADS: usize = 4;

/// Threads that write counters into one file, which grows, and note what they have synced elsewhere.
fn threads(dir: &Path) {
    let file = Arc::new(File::create(dir.join("data/file-0")).unwrap());
    let acknowledged = Arc::new(File::create(dir.join("expected/acknowledged")).unwrap());
    let barrier = Arc::new(Barrier::new(THREADS));
    let workers: Vec<_> = (0..THREADS as u64)
        .map(|thread| {
            let (file, acknowledged) = (file.clone(), acknowledged.clone());
            let barrier = barrier.clone();
            thread::spawn(move || {
                barrier.wait();
                for count in 1u64.. {
                    let at = (count - 1) * THREADS as u64 * 8 + thread * 8;
                    file.write_all_at(&count.to_le_bytes(), at).unwrap();
                    file.sync_data().unwrap();
                    acknowledged
                        .write_all_at(&count.to_le_bytes(), thread * 8)
                        .unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn nothing_synced_is_lost_while_other_threads_write() {
    for seed in 0..8u64 {
        let bench = Bench::new();
        bench.preload.record_unsynced(NODE, true).unwrap();
        let mut child = bench
            .command("threads", seed)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let acknowledged = bench.expected().join("acknowledged");
        let deadline = Instant::now() + Duration::from_secs(60);
        let enough = 20 + seed * 30;
        while count_at(&acknowledged, 0) < enough {
            assert!(Instant::now() < deadline, "the threads make no progress");
            thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        bench.preload.take_back_unsynced(NODE).unwrap();
        let file = bench.data().join("file-0");
        for thread in 0..THREADS as u64 {
            let synced = count_at(&acknowledged, thread * 8);
            for count in 1..=synced {
                let at = (count - 1) * THREADS as u64 * 8 + thread * 8;
                assert_eq!(count_at(&file, at), count, "seed {seed}, thread {thread}");
            }
        }
    }
}

fn count_at(path: &Path, at: u64) -> u64 {
    let mut bytes = [0; 8];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut bytes, at));
    read.map_or(0, |()| u64::from_le_bytes(bytes))
}

// ---- syncs ----------------------------------------------------------------------------------------

fn syncs(dir: &Path) {
    let file = File::create(dir.join("data/log")).unwrap();
    let began = Instant::now();
    for result in [file.sync_all(), file.sync_data()] {
        let error = result.map_err(|error| error.raw_os_error());
        println!("sync {error:?}");
    }
    println!("took {}", began.elapsed().as_millis());
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn after<'a>(text: &'a str, word: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.split_once(word));
    line.unwrap_or_else(|| panic!("no {word} in {text}"))
        .1
        .trim()
}

#[test]
fn syncs_are_delayed_and_fail_as_told() {
    let bench = Bench::new();
    let told = stdout(&bench.run("syncs", 0));
    assert_eq!(told.matches("sync Ok(())").count(), 2, "{told}");
    let delay = Duration::from_millis(150);
    bench
        .preload
        .set_syncs(NODE, SyncFault { delay, fail: true })
        .unwrap();
    let told = stdout(&bench.run("syncs", 0));
    assert_eq!(told.matches("sync Err(Some(5))").count(), 2, "{told}");
    let took: u64 = after(&told, "took ").parse().unwrap();
    assert!(took >= 300, "two syncs took {took} ms");
    bench.preload.set_syncs(NODE, SyncFault::default()).unwrap();
    assert_eq!(
        stdout(&bench.run("syncs", 0))
            .matches("sync Ok(())")
            .count(),
        2
    );
    let seen = bench.preload.seen(NODE).unwrap();
    assert_eq!((seen.loads, seen.syncs, seen.changes), (3, 6, 0));
}

#[test]
fn a_sync_that_is_being_delayed_ends_when_the_fault_does() {
    let bench = Bench::new();
    let delay = Duration::from_secs(3600);
    bench
        .preload
        .set_syncs(NODE, SyncFault { delay, fail: false })
        .unwrap();
    let mut child = bench
        .command("delay-until-healed", 0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while bench.preload.seen(NODE).unwrap().syncs == 0 {
        assert!(Instant::now() < deadline, "no sync was begun");
        thread::yield_now();
    }
    assert_eq!(child.try_wait().unwrap(), None);
    bench.preload.set_syncs(NODE, SyncFault::default()).unwrap();
    assert!(child.wait().unwrap().success());
}

// ---- clocks ---------------------------------------------------------------------------------------

fn clock() {
    let began = Instant::now();
    let wall = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = wall();
    thread::sleep(Duration::from_millis(400));
    let (second, passed) = (wall(), began.elapsed());
    let gained = second.as_secs_f64() - first.as_secs_f64() - passed.as_secs_f64();
    println!("first {}", first.as_secs_f64());
    println!("gained {gained}");
    println!("passed {}", passed.as_secs_f64());
}

#[test]
fn the_wall_clock_is_off_and_no_other() {
    let bench = Bench::new();
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    };
    for (offset_seconds, drift) in [(0.0, 0.0), (3600.0, 0.0), (-86400.0, 0.0), (60.0, 2.0)] {
        let fault = ClockFault {
            offset_seconds,
            drift,
        };
        bench.preload.set_clock(NODE, fault).unwrap();
        let before = now();
        let told = stdout(&bench.run("clock", 0));
        let lasted = now() - before;
        let number = |word| after(&told, word).parse::<f64>().unwrap();
        let shown = number("first ") - before - offset_seconds;
        let most = (1.0 + drift) * lasted;
        assert!(
            (0.0..=most).contains(&shown),
            "{fault:?}: {shown} of {most}"
        );
        let gained = number("gained ") - drift * number("passed ");
        assert!(gained.abs() < 0.1, "{fault:?}: gained {gained} too much");
        assert!((0.4..60.0).contains(&number("passed ")), "{told}");
    }
    assert!(bench.preload.seen(NODE).unwrap().clock);
}

// ---- reach and cost -------------------------------------------------------------------------------

#[test]
fn programs_out_of_reach_are_told_from_others() {
    can_load_into(&std::env::current_exe().unwrap()).unwrap();
    let missing = can_load_into(Path::new("/nowhere/at-all"));
    assert!(matches!(missing, Err(FaultError::Failed(_))), "{missing:?}");
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    fs::write(&program, b"\x7fELF\0with\0nothing\0syscall.fsync\0in it").unwrap();
    let refused = can_load_into(&program);
    assert!(
        matches!(refused, Err(FaultError::Skipped(_))),
        "{refused:?}"
    );
}

fn costs(dir: &Path, rounds: u64) {
    let file = File::create(dir.join("data/file-0")).unwrap();
    let bytes = vec![1; 8 << 20];
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    let began = Instant::now();
    for round in 0..rounds {
        file.write_all_at(&bytes[..1000], round * 1000 % (8 << 20))
            .unwrap();
    }
    println!("write_ns {}", began.elapsed().as_nanos() as u64 / rounds);
    let began = Instant::now();
    for round in 0..rounds / 10 {
        file.write_all_at(&bytes[..1000], round * 1000 % (8 << 20))
            .unwrap();
        file.sync_data().unwrap();
    }
    println!(
        "write_and_sync_ns {}",
        began.elapsed().as_nanos() as u64 / (rounds / 10)
    );
    let began = Instant::now();
    for _ in 0..1_000_000 {
        std::hint::black_box(SystemTime::now());
    }
    println!("clock_ns {}", began.elapsed().as_nanos() as u64 / 1_000_000);
}

#[test]
#[ignore = "measures"]
fn what_the_shim_costs() {
    let bench = Bench::new();
    let mut bare = bench.command("costs", 5000);
    println!(
        "without the shim\n{}",
        stdout(&bare.env_remove("LD_PRELOAD").output().unwrap())
    );
    println!("idle\n{}", stdout(&bench.run("costs", 5000)));
    bench.preload.record_unsynced(NODE, true).unwrap();
    println!("recording\n{}", stdout(&bench.run("costs", 5000)));
}
