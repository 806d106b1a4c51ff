//! Live progress of a run on stderr: one line that is drawn again and again in a terminal, else a
//! plain line every few seconds.

use std::{
    io::IsTerminal,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::{Condvar, Mutex};

use super::span::node_words;
use crate::{
    history::{
        FaultEvent, Phase,
        jsonl::{Counts, Recorder},
    },
    terminal,
};

/// How often the line in a terminal is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);
/// How often a plain line is written.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// What a run waits for when its load is over.
#[derive(Clone, Debug, Default)]
pub struct Stage(Arc<Mutex<Option<&'static str>>>);

impl Stage {
    /// Says what is waited for now.
    pub fn enter(&self, what: &'static str) {
        *self.0.lock() = Some(what);
    }

    fn now(&self) -> Option<&'static str> {
        *self.0.lock()
    }
}

/// Shows how a run goes on until it is dropped.
pub struct Progress {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Hidden where stderr is not a terminal.
    bar: ProgressBar,
    plain: bool,
    name: String,
    total: Duration,
    stage: Stage,
    stopped: Mutex<bool>,
    wake: Condvar,
}

/// What a line is made of.
struct Moment {
    elapsed: Duration,
    counts: Counts,
    /// Completions a second since the line before.
    rate: f64,
    faults: Vec<FaultEvent>,
    stage: Option<&'static str>,
}

impl Progress {
    /// Begins to show a run that is to last `total`, under a name such as `register, kill`.
    pub fn start(name: &str, recorder: Arc<Recorder>, total: Duration, stage: Stage) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner().with_style(
                ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is good"),
            )
        };
        let shared = Arc::new(Shared {
            bar,
            plain,
            name: name.to_owned(),
            total,
            stage,
            stopped: Mutex::new(false),
            wake: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.show(&recorder)
            })
            // A run goes on without its progress.
            .ok();
        Self { shared, thread }
    }

    /// Writes a line above the progress.
    pub fn say(&self, line: &str) {
        if self.shared.plain {
            terminal::note(line);
        } else {
            self.shared.bar.println(line);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        *self.shared.stopped.lock() = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already, and costs the run nothing.
            let _ = thread.join();
        }
        self.shared.bar.finish_and_clear();
    }
}

impl Shared {
    fn show(&self, recorder: &Recorder) {
        let interval = if self.plain {
            PLAIN_INTERVAL
        } else {
            DRAW_INTERVAL
        };
        let mut rate = Rate::new(Instant::now());
        let mut stopped = self.stopped.lock();
        while !*stopped {
            if self.wake.wait_for(&mut stopped, interval).timed_out() {
                let counts = recorder.counts();
                let moment = Moment {
                    elapsed: recorder.elapsed(),
                    rate: rate.after(Instant::now(), counts),
                    counts,
                    faults: recorder.present_faults(),
                    stage: self.stage.now(),
                };
                let line = line(&self.name, self.total, &moment);
                if self.plain {
                    terminal::note(&line);
                } else {
                    self.bar.set_message(line);
                    self.bar.tick();
                }
            }
        }
    }
}

/// Completions a second, over about the last second.
struct Rate {
    since: Instant,
    completed: u64,
    last: f64,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            completed: 0,
            last: 0.0,
        }
    }

    fn after(&mut self, now: Instant, counts: Counts) -> f64 {
        let completed = counts.ok + counts.fail + counts.info;
        let seconds = now.duration_since(self.since).as_secs_f64();
        if seconds >= 1.0 {
            self.last = completed.saturating_sub(self.completed) as f64 / seconds;
            self.since = now;
            self.completed = completed;
        }
        self.last
    }
}

fn line(name: &str, total: Duration, moment: &Moment) -> String {
    let Counts { ok, fail, info, .. } = moment.counts;
    let mut line = format!(
        "{name} {}/{} s  {:.0} ops/s  {ok} ok, {fail} fail, {info} info",
        moment.elapsed.as_secs(),
        total.as_secs(),
        moment.rate,
    );
    if let Some(stage) = moment.stage {
        line += &format!("  {stage}");
    }
    for fault in &moment.faults {
        let phase = match fault.phase {
            Phase::Begin => "breaking",
            Phase::Broken => "broken",
            Phase::Heal => "healing",
            Phase::Seen
            | Phase::Unseen
            | Phase::Disproved
            | Phase::Skipped
            | Phase::Healed
            | Phase::Error => continue,
        };
        line += &format!("  {} {phase}", fault.nemesis);
        if !fault.nodes.is_empty() {
            line += &format!(" ({})", node_words(&fault.nodes));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_it_goes_and_what_is_broken() {
        let fault = |phase| FaultEvent {
            nemesis: "kill-leader".to_owned(),
            fault: 1,
            phase,
            nodes: vec![2],
            detail: String::new(),
        };
        let mut moment = Moment {
            elapsed: Duration::from_millis(12_900),
            counts: Counts {
                invoked: 111,
                ok: 100,
                fail: 7,
                info: 3,
            },
            rate: 41.6,
            faults: vec![fault(Phase::Broken)],
            stage: None,
        };
        let total = Duration::from_secs(60);
        assert_eq!(
            line("register", total, &moment),
            "register 12/60 s  42 ops/s  100 ok, 7 fail, 3 info  kill-leader broken (n2)"
        );
        moment.faults = vec![];
        let stage = Stage::default();
        stage.enter("waiting until all nodes hold the same");
        moment.stage = stage.now();
        assert_eq!(
            line("register", total, &moment),
            "register 12/60 s  42 ops/s  100 ok, 7 fail, 3 info  waiting until all nodes hold the same"
        );
        moment.stage = None;
        assert_eq!(
            line("register", total, &moment),
            "register 12/60 s  42 ops/s  100 ok, 7 fail, 3 info"
        );
    }

    #[test]
    fn the_rate_is_of_the_last_second() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let counts = |ok| Counts {
            ok,
            ..Counts::default()
        };
        assert_eq!(
            rate.after(start + Duration::from_secs(2), counts(100)),
            50.0
        );
        assert_eq!(
            rate.after(start + Duration::from_millis(2_200), counts(400)),
            50.0
        );
        assert_eq!(
            rate.after(start + Duration::from_secs(3), counts(400)),
            300.0
        );
    }

    #[test]
    fn it_ends_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Arc::new(Recorder::create(&dir.path().join("history.jsonl")).unwrap());
        let progress = Progress::start(
            "register",
            Arc::clone(&recorder),
            Duration::from_secs(1),
            Stage::default(),
        );
        progress.say("begun");
        drop(progress);
        // The thread had the only other hold on it.
        assert_eq!(Arc::strong_count(&recorder), 1);
    }
}
