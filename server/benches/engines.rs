//! Engines of the state beside each other, behind the store that the server uses: load rate, CPU, stalls of
//! applying, reads with a cold and a warm cache, memory, disk after everything was overwritten, and the time
//! to open again after SIGKILL.
//!
//! `cargo bench -p holdfast-server --features internals --bench engines -- [--records N] [--rounds N] [--engines A,B] [--dir DIR]`
//!
//! Rounds are interleaved and each measurement is a process of its own; the table has medians. Nothing is
//! said of what an engine keeps when the power goes: that is what the tests of the state store are for.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use holdfast_mvcc::{Reader as _, Write};
use holdfast_server::internals::{Lsm, OpenEngine, Sled, StateOptions, StateStore};

const VALUE_BYTES: usize = 256;
/// Records between two marks: what one batch of applied entries writes.
const RECORDS_PER_MARK: u64 = 64;
const READS: u64 = 20_000;
const SCANNED: usize = 200_000;
const OVERWRITES: u64 = 5;
/// One in so many records is written again while a process waits to be killed.
const REWRITTEN: u64 = 20;
const CACHE_BYTES: u64 = 64 << 20;
const OPEN_FILES_MAX: usize = 48;

#[derive(Parser)]
struct Args {
    /// Records to load
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Rounds, of which the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Engines to measure
    #[arg(long, value_delimiter = ',', default_values = ["sled", "lsm-tree"])]
    engines: Vec<String>,
    /// Where the databases are made
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What a process that this program starts is to do
    #[arg(long, hide = true, requires = "dir")]
    phase: Option<String>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn options(engine: &str) -> anyhow::Result<StateOptions> {
    let engine: Arc<dyn OpenEngine> = match engine {
        "sled" => Arc::new(Sled {
            cache_bytes: CACHE_BYTES,
        }),
        "lsm-tree" => Arc::new(Lsm::new(CACHE_BYTES, OPEN_FILES_MAX)),
        other => bail!("no engine is called {other:?}: sled or lsm-tree"),
    };
    Ok(StateOptions {
        table_bytes_max: 32 << 20,
        engine,
        ..StateOptions::default()
    })
}

/// 60 bytes: family, a user key in no order, and the revision, as versions of keys are stored.
fn key(n: u64, revision: u64) -> Bytes {
    let scattered = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut key = format!("\x20user/{scattered:016x}/profile/settings/v1").into_bytes();
    key.resize(44, b'.');
    key.extend_from_slice(&(!revision).to_be_bytes());
    key.extend_from_slice(&u64::MAX.to_be_bytes());
    key.into()
}

/// Bytes that no compression makes smaller.
fn value(seed: u64) -> Bytes {
    let mut random = Random(seed);
    let bytes = std::iter::repeat_with(|| random.next() as u8);
    bytes.take(VALUE_BYTES).collect::<Vec<u8>>().into()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 20
    }
}

/// One figure of the table, on a line of its own for the parent.
fn tell(figure: &str, value: f64) {
    println!("{figure}\t{value}");
}

fn tell_percentiles(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let at = |percent: usize| samples[(samples.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    tell(&format!("{what}, p50, us"), at(50));
    tell(&format!("{what}, p99, us"), at(99));
}

fn cpu() -> Duration {
    // SAFETY: `usage` is a struct of numbers, for which zero is a value, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn memory_peak_mib() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmHWM")?.parse::<f64>()? / 1024.0)
}

/// Writes records `0..records` in batches; `replaces` deletes the version before.
async fn write_all(
    store: &StateStore,
    records: u64,
    revision: u64,
    replaces: bool,
) -> anyhow::Result<()> {
    let began = (Instant::now(), cpu());
    let (mut waited, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut n = 0;
    while n < records {
        let step = Instant::now();
        let to = (n + RECORDS_PER_MARK).min(records);
        let mut writes = Vec::new();
        for n in n..to {
            writes.push(Write {
                key: key(n, revision),
                value: Some(value(n ^ revision)),
            });
            if replaces {
                writes.push(Write {
                    key: key(n, revision - 1),
                    value: None,
                });
            }
        }
        store.write(writes)?;
        n = to;
        let index = store.applied_index() + 1;
        store.mark_applied(index, Bytes::from_static(b"mark"))?;
        let wait = Instant::now();
        store.wait_for_room().await?;
        waited += wait.elapsed();
        longest = longest.max(step.elapsed());
    }
    store.flush().await?;
    if !replaces {
        let elapsed = began.0.elapsed();
        tell("load, records/s", records as f64 / elapsed.as_secs_f64());
        let used = cpu() - began.1;
        tell(
            "load, CPU us/record",
            used.as_secs_f64() * 1e6 / records as f64,
        );
        tell("load, longest stall, ms", longest.as_secs_f64() * 1e3);
        tell("load, waited in all, ms", waited.as_secs_f64() * 1e3);
        tell("load, memory peak, MiB", memory_peak_mib()?);
        tell(
            "load, disk, MiB",
            store.disk_bytes()? as f64 / f64::from(1 << 20),
        );
    }
    Ok(())
}

fn reads(store: &StateStore, records: u64) -> anyhow::Result<Vec<Duration>> {
    let mut random = Random(records);
    let mut samples = Vec::new();
    for _ in 0..READS {
        // The first ones were written again until the process was killed.
        let rewritten = records / REWRITTEN;
        let key = key(rewritten + random.next() % (records - rewritten), 1);
        let began = Instant::now();
        let found = store.view().get(&key)?;
        samples.push(began.elapsed());
        ensure!(found.is_some(), "a record is missing");
    }
    Ok(samples)
}

fn scan(store: &StateStore) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut found = 0;
    for record in store.view().scan(&[0x01], &[0xff]).take(SCANNED) {
        record?;
        found += 1;
    }
    Ok(f64::from(found) / began.elapsed().as_secs_f64())
}

/// Has the system forget what it holds of the files below `dir`.
fn forget(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            forget(&path)?;
            continue;
        }
        let file = std::fs::File::open(&path)?;
        file.sync_all()?;
        // SAFETY: a call with a descriptor that is open, and numbers.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    Ok(())
}

/// What one process measures.
#[tokio::main]
async fn measure(phase: &str, args: &Args) -> anyhow::Result<()> {
    let dir = args.dir.as_deref().context("no directory")?;
    let options = options(&args.engines[0])?;
    let records = args.records;
    if phase == "open" {
        forget(dir)?;
    }
    let opening = Instant::now();
    let store = StateStore::open(dir, options)?.store;
    let opened = opening.elapsed();
    match phase {
        "load" => {
            write_all(&store, records, 1, false).await?;
            println!("done");
            // Until it is killed.
            let mut revision = 2;
            loop {
                write_all(&store, records / REWRITTEN, revision, true).await?;
                revision += 1;
            }
        }
        "open" => {
            tell("open after SIGKILL, ms", opened.as_secs_f64() * 1e3);
            ensure!(store.applied_index() >= records / RECORDS_PER_MARK);
        }
        "read" => {
            forget(dir)?;
            tell_percentiles("get, cold", reads(&store, records)?);
            tell_percentiles("get, warm", reads(&store, records)?);
            forget(dir)?;
            tell("scan, cold, records/s", scan(&store)?);
            tell("scan, warm, records/s", scan(&store)?);
        }
        "overwrite" => {
            for revision in 2..2 + OVERWRITES {
                write_all(&store, records, revision, true).await?;
            }
            let live = records as f64 * (60 + VALUE_BYTES) as f64;
            let disk = |store: &StateStore| anyhow::Ok(store.disk_bytes()? as f64 / live);
            tell("overwritten 5 times, disk / live", disk(&store)?);
            tokio::time::sleep(Duration::from_secs(10)).await;
            tell("overwritten, 10 s later, disk / live", disk(&store)?);
            tell("overwritten, memory peak, MiB", memory_peak_mib()?);
        }
        other => bail!("no phase is called {other:?}"),
    }
    Ok(())
}

type Figures = BTreeMap<String, Vec<f64>>;

fn run_phase(phase: &str, engine: &str, records: u64, dir: &Path) -> anyhow::Result<Figures> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--phase", phase, "--engines", engine])
        .args(["--records", &records.to_string()])
        .arg("--dir")
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut figures = Figures::new();
    let output = child.stdout.take().context("no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == "done" {
            std::thread::sleep(Duration::from_millis(500));
            child.kill()?;
            child.wait()?;
            return Ok(figures);
        }
        let (figure, value) = line.split_once('\t').context("not a figure")?;
        figures
            .entry(figure.to_owned())
            .or_default()
            .push(value.parse()?);
    }
    let status = child.wait()?;
    ensure!(status.success(), "{engine}, {phase}: {status}");
    Ok(figures)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(phase) = &args.phase {
        return measure(phase, &args);
    }
    let mut found: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    let mut order = Vec::new();
    for round in 1..=args.rounds {
        for engine in &args.engines {
            let home = match &args.dir {
                Some(dir) => tempfile::tempdir_in(dir)?,
                None => tempfile::tempdir()?,
            };
            eprint!("round {round} of {}, {engine}:", args.rounds);
            // The state that is read is not the one that was written when the process was killed.
            for (phase, dir) in [
                ("load", "killed"),
                ("open", "killed"),
                ("load", "kept"),
                ("read", "kept"),
                ("overwrite", "kept"),
            ] {
                eprint!(" {phase}");
                std::io::stderr().flush()?;
                let dir = home.path().join(dir);
                let figures = run_phase(phase, engine, args.records, &dir)?;
                for (figure, values) in figures {
                    if !order.contains(&figure) {
                        order.push(figure.clone());
                    }
                    found
                        .entry((figure, engine.clone()))
                        .or_default()
                        .extend(values);
                }
            }
            eprintln!();
        }
    }
    println!(
        "{} records of 60 + {VALUE_BYTES} bytes; medians",
        args.records
    );
    println!("| | {} |", args.engines.join(" | "));
    println!("| --- |{}", " ---: |".repeat(args.engines.len()));
    for figure in order {
        let medians = args.engines.iter().map(|engine| {
            let mut values = found
                .remove(&(figure.clone(), engine.clone()))
                .unwrap_or_default();
            values.sort_by(f64::total_cmp);
            let median = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
            match median {
                m if m >= 100.0 => format!("{m:.0}"),
                m => format!("{m:.1}"),
            }
        });
        println!("| {figure} | {} |", medians.collect::<Vec<_>>().join(" | "));
    }
    Ok(())
}
