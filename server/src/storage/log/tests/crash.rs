//! Kill-and-reopen loops: random operations, a crash at a random operation of the file layer, and a
//! model that knows what must be there afterwards.
//!
//! Operations are issued one after the other, so the log must come back as the state after some prefix
//! of them: at least as long as what was acknowledged, and the same prefix for all groups. An append of
//! many entries counts as many steps, for it may span batches. Committed marks are lazy: the one that
//! comes back is any that was saved since the last one known to be durable. Now and then a group is
//! dropped, and a new one takes its turn: what was dropped never comes back, and neither does its id.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::files::{Crash, FaultFiles};
use super::super::{Done, Entry, GroupState, Log, LogOptions, LogPos, OpenError, Recovery};
use super::{DIR, block_on, entry, options, pos};

const SEEDS: u64 = 400;
const GROUPS: usize = 3;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What a group should be. Simple on purpose: no segment, no cache, no location.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogPos>,
    vote: Option<Bytes>,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Entry),
    Vote(Bytes),
    Truncate(Option<u64>),
    Purge(LogPos),
    Drop,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(entry) => {
                self.entries.insert(entry.index, entry.clone());
            }
            Step::Vote(vote) => self.vote = Some(vote.clone()),
            Step::Truncate(keep) => self
                .entries
                .retain(|&index, _| keep.is_some_and(|keep| index <= keep)),
            Step::Purge(pos) => {
                if self.purged.is_none_or(|purged| purged.index < pos.index) {
                    self.entries.retain(|&index, _| index > pos.index);
                    self.purged = Some(*pos);
                }
            }
            Step::Drop => *self = Model::default(),
        }
    }

    fn last(&self) -> Option<LogPos> {
        self.entries.values().last().map(Entry::pos).or(self.purged)
    }

    /// A random change, as one or more steps.
    fn next(&self, random: &mut Random, count: u64) -> Vec<Step> {
        let last = self.last();
        let first = self.entries.keys().next().copied();
        match (random.below(10), first, last) {
            (0, ..) => vec![Step::Vote(Bytes::from(format!("vote {count}")))],
            (1, Some(first), Some(last)) => {
                let keep = first + random.below(last.index - first + 1);
                vec![Step::Truncate(Some(keep))]
            }
            (2, Some(first), Some(last)) => {
                let index = first + random.below(last.index - first + 1);
                vec![Step::Purge(self.entries[&index].pos())]
            }
            (3, _, Some(last)) if random.chance(20) => {
                vec![Step::Purge(pos(
                    last.term + 1,
                    last.index + random.below(9),
                ))]
            }
            (4, ..) if self.purged.is_none() && random.chance(30) => vec![Step::Truncate(None)],
            _ => {
                let (mut term, next) =
                    last.map_or((1, random.below(2)), |last| (last.term, last.index + 1));
                term += u64::from(random.chance(10));
                let len = if random.chance(3) {
                    6000
                } else {
                    random.below(300)
                };
                let count = if random.chance(10) {
                    30
                } else {
                    1 + random.below(4)
                };
                (next..next + count)
                    .map(|index| Step::Append(entry(term, index, len as usize)))
                    .collect()
            }
        }
    }
}

/// What the log should be.
#[derive(Clone, Debug, PartialEq)]
struct Models {
    groups: BTreeMap<u64, Model>,
    dropped: BTreeSet<u64>,
}

impl Models {
    fn apply(&mut self, id: u64, step: &Step) {
        match step {
            Step::Drop => {
                self.groups.remove(&id);
                self.dropped.insert(id);
            }
            step => self.groups.entry(id).or_default().apply(step),
        }
    }

    fn of(&self, id: u64) -> Model {
        self.groups.get(&id).cloned().unwrap_or_default()
    }

    /// The groups that take part now: so many with the lowest ids that were not dropped.
    fn ids(&self) -> Vec<u64> {
        let ids = (1..).filter(|id| !self.dropped.contains(id));
        ids.take(GROUPS).collect()
    }
}

/// One seed: a directory through several lives.
struct Trial {
    seed: u64,
    random: Random,
    files: FaultFiles,
    options: LogOptions,
    /// The state that is certainly durable, and the committed marks that may be.
    models: Models,
    committed: BTreeMap<u64, Vec<Option<Bytes>>>,
    count: u64,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut options = options();
        if random.chance(50) {
            options.lazy_delay = Duration::ZERO;
        }
        options.cache_bytes = [0, 2 << 10, 1 << 20][random.below(3) as usize];
        options.free_segments = random.below(4) as usize;
        options.batch_bytes = [1 << 10, 16 << 10][random.below(2) as usize];
        Trial {
            seed,
            files: FaultFiles::memory(seed),
            options,
            models: Models {
                groups: BTreeMap::new(),
                dropped: BTreeSet::new(),
            },
            committed: BTreeMap::new(),
            count: 0,
            random,
        }
    }

    /// Opens the log, perhaps failing on the way a few times.
    fn open(&mut self) -> (Log, Recovery) {
        for _ in 0..3 {
            if self.random.chance(70) {
                break;
            }
            self.files.power_off_after(self.random.below(12));
            let opened = Log::open(
                Path::new(DIR),
                self.options.clone(),
                Arc::new(self.files.mount()),
            );
            self.files.no_more_failures();
            match opened {
                Ok((log, recovery)) if !self.files.is_off() => return (log, recovery),
                Ok(_) => {}
                Err(OpenError::Io { .. }) if self.files.is_off() => {}
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
            self.crash();
        }
        self.files.no_more_failures();
        Log::open(
            Path::new(DIR),
            self.options.clone(),
            Arc::new(self.files.mount()),
        )
        .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed))
    }

    fn crash(&mut self) {
        let crash = [
            Crash::KillProcess,
            Crash::LoseUnsynced,
            Crash::Tear,
            Crash::Tear,
        ];
        self.files
            .crash(crash[self.random.below(4) as usize])
            .unwrap();
    }

    /// One life: operations until something fails or enough are done. Returns the steps issued, and how
    /// many of them were acknowledged.
    fn live(&mut self, log: &Log) -> (Vec<(u64, Step)>, usize) {
        match self.random.below(4) {
            0 => self.files.fail_writes_after(self.random.below(60)),
            1 => self.files.fail_syncs_after(self.random.below(60)),
            _ => self.files.power_off_after(self.random.below(250)),
        }
        self.files.short_writes(self.random.chance(30));
        let mut now = self.models.clone();
        let mut steps = Vec::new();
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let mut issued = 0;
        for _ in 0..self.random.below(120) {
            self.count += 1;
            let id = now.ids()[self.random.below(GROUPS as u64) as usize];
            let group = log.group(id).unwrap();
            if self.random.chance(15) {
                let mark = Bytes::from(format!("committed {}", self.count));
                if group.save_committed(mark.clone()).is_ok() {
                    self.marks(id).push(Some(mark));
                }
            }
            if self.random.chance(25) {
                self.vacate_one(log, &now);
            }
            let next = match self.random.chance(3) {
                true => vec![Step::Drop],
                false => now.of(id).next(&mut self.random, self.count),
            };
            let through = steps.len() + next.len();
            let (tell, order, number) = (acknowledged.clone(), answers.clone(), issued);
            let (wait, waited) = std::sync::mpsc::channel();
            let done: Done = Box::new(move |result| {
                order.lock().push((number, result.is_ok()));
                if result.is_ok() {
                    tell.store(through, Ordering::SeqCst);
                }
                let _ = wait.send(());
            });
            let accepted = block_on(async {
                match &next[..] {
                    [Step::Vote(vote)] => group.save_vote(vote.clone(), done).await,
                    [Step::Truncate(keep)] => group.truncate_after(*keep, done).await,
                    [Step::Purge(pos)] => group.purge(*pos, done).await,
                    [Step::Drop] => group.drop_group(done).await,
                    appends => {
                        let entries = appends.iter().map(|step| match step {
                            Step::Append(entry) => entry.clone(),
                            other => panic!("{other:?} among appends"),
                        });
                        group.append(entries.collect(), done).await
                    }
                }
            });
            if accepted.is_err() {
                answers.lock().retain(|&(answered, _)| answered != issued);
                break;
            }
            issued += 1;
            for step in next {
                now.apply(id, &step);
                steps.push((id, step));
            }
            // Readable at once, written or not.
            self.check_group(log, id, &now);
            if self.random.chance(50) {
                waited.recv().unwrap();
            }
        }
        if self.random.chance(50) {
            log.close();
        }
        (steps, {
            // The last handle is still open, so wait for the answers that are to come.
            log.close();
            let answers = answers.lock();
            let numbers: Vec<usize> = answers.iter().map(|&(number, _)| number).collect();
            assert_eq!(
                numbers,
                (0..issued).collect::<Vec<_>>(),
                "seed {}: each answered once, in order",
                self.seed
            );
            let failed = answers.iter().position(|&(_, ok)| !ok).unwrap_or(issued);
            assert!(
                answers[failed..].iter().all(|&(_, ok)| !ok),
                "seed {}: success after a failure",
                self.seed
            );
            acknowledged.load(Ordering::SeqCst)
        })
    }

    /// Moves what is live in one segment. That changes nothing that anybody can see, then or after any
    /// crash, whether it was done or not.
    fn vacate_one(&mut self, log: &Log, now: &Models) {
        let uses = log.segment_uses();
        if uses.is_empty() {
            return;
        }
        let segment = uses[self.random.below(uses.len() as u64) as usize].segment;
        let vacated = block_on(log.vacate(segment));
        assert!(
            vacated.is_ok() || log.failure().is_some() || self.files.is_off(),
            "seed {}: {vacated:?}",
            self.seed
        );
        if vacated.is_ok() {
            let left = log.segment_uses();
            let left = left.iter().find(|left| left.segment == segment);
            assert!(left.is_none_or(|left| left.live_bytes == 0), "{left:?}");
        }
        for id in now.ids() {
            self.check_group(log, id, now);
        }
    }

    fn marks(&mut self, id: u64) -> &mut Vec<Option<Bytes>> {
        self.committed.entry(id).or_insert_with(|| vec![None])
    }

    fn check_group(&self, log: &Log, id: u64, models: &Models) {
        if models.dropped.contains(&id) {
            let refused = log.group(id).map(|_| ()).unwrap_err();
            assert_eq!(refused.group, id, "seed {}", self.seed);
            return;
        }
        let (group, model) = (log.group(id).unwrap(), models.of(id));
        let GroupState {
            purged, last, vote, ..
        } = group.state();
        assert_eq!(
            (purged, last, &vote),
            (model.purged, model.last(), &model.vote),
            "seed {} group {id}",
            self.seed
        );
        match group.read(0..u64::MAX, usize::MAX) {
            Ok(entries) => assert!(
                entries.iter().eq(model.entries.values()),
                "seed {} group {id}",
                self.seed
            ),
            Err(error) => assert!(
                self.files.is_off(),
                "seed {} group {id}: {error}",
                self.seed
            ),
        }
        for (&index, entry) in &model.entries {
            assert_eq!(
                group.term_of(index),
                Some(entry.term),
                "seed {} group {id} index {index}",
                self.seed
            );
        }
    }

    fn recovered(log: &Log) -> Models {
        let model = |id: u64| {
            let group = log.group(id).unwrap();
            let entries = group.read(0..u64::MAX, usize::MAX).unwrap();
            let GroupState { purged, vote, .. } = group.state();
            (
                id,
                Model {
                    entries: entries
                        .into_iter()
                        .map(|entry| (entry.index, entry))
                        .collect(),
                    purged,
                    vote,
                },
            )
        };
        // A group that was only named is none.
        let groups = log.groups().into_iter().map(model);
        let groups = groups.filter(|(_, model)| *model != Model::default());
        let dropped = log.dropped();
        Models {
            groups: groups.collect(),
            dropped: dropped.ranges().flat_map(|(a, z)| a..=z).collect(),
        }
    }

    /// Checks that the log came back as a prefix of `steps` that has the first `acknowledged`.
    fn check(&mut self, log: &Log, steps: &[(u64, Step)], acknowledged: usize) {
        let found = Trial::recovered(log);
        let mut models = self.models.clone();
        for (id, step) in &steps[..acknowledged] {
            models.apply(*id, step);
        }
        let same = |models: &Models| {
            let mut models = models.clone();
            models.groups.retain(|_, model| *model != Model::default());
            models == found
        };
        let mut matches = same(&models);
        for (id, step) in &steps[acknowledged..] {
            if matches {
                break;
            }
            models.apply(*id, step);
            matches = same(&models);
        }
        assert!(
            matches,
            "seed {}: of {} steps, {acknowledged} acknowledged, none later gives {found:#?}",
            self.seed,
            steps.len(),
        );
        self.models = found;
        let seed = self.seed;
        for &id in &self.models.dropped {
            self.check_group(log, id, &self.models);
        }
        for id in self.models.ids() {
            self.check_group(log, id, &self.models);
            let committed = log.group(id).unwrap().state().committed;
            let known = self.marks(id);
            assert!(
                known.contains(&committed),
                "seed {seed} group {id}: {committed:?} of {known:?}"
            );
            let at = known.iter().position(|mark| *mark == committed).unwrap();
            known.drain(..at);
            known.truncate(1);
        }
    }

    fn run(&mut self) -> usize {
        let mut torn = 0;
        let (mut steps, mut acknowledged) = (Vec::new(), 0);
        for _ in 0..4 {
            let (log, recovery) = self.open();
            torn += usize::from(recovery.torn.is_some());
            self.check(&log, &steps, acknowledged);
            if self.random.chance(30) {
                // What was recovered is durable, whatever became of it in the life before.
                drop(log);
                self.files.crash(Crash::LoseUnsynced).unwrap();
                (steps, acknowledged) = (Vec::new(), 0);
                continue;
            }
            (steps, acknowledged) = self.live(&log);
            drop(log);
            self.crash();
        }
        torn
    }
}

#[test]
fn a_crash_loses_nothing_acknowledged_and_invents_nothing() {
    let only = std::env::var("HOLDFAST_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seeds = only.map_or(1..SEEDS + 1, |seed: u64| seed..seed + 1);
    let mut torn = 0;
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| Trial::new(seed).run());
        torn += outcome.unwrap_or_else(|_| panic!("failed; reproduce with HOLDFAST_SEED={seed}"));
    }
    assert!(
        only.is_some() || torn > 0,
        "no crash tore anything: the loop tests nothing"
    );
}
