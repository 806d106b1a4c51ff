use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Instant,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::{
    cluster::{Cluster, Description, Link, LinkFault, Node},
    nemesis::{BlastRadius, Observer, process, target::Target},
};

#[test]
fn a_list_is_read_in_order_and_none_is_nothing() {
    let list = Nemesis::parse_list("kill, partition-leader").unwrap();
    let names: Vec<_> = list.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["kill", "partition-leader"]);
    assert!(Nemesis::parse_list("none").unwrap().is_empty());
    assert!(Nemesis::parse_list("kill,unheard-of").is_err());
}

/// What was done, and to which node.
type Treatment = (&'static str, NodeId);

/// A cluster of which nothing runs and to which everything can be done.
struct Patient {
    /// Where power cuts go wrong half way: the nodes are down, and that was not all.
    without_cuts: bool,
    nodes: Vec<Node>,
    dir: tempfile::TempDir,
    treatments: Arc<Mutex<Vec<Treatment>>>,
}

#[async_trait]
impl Cluster for Patient {
    fn describe(&self) -> Description {
        Description {
            kind: "patient".to_owned(),
            target: "nothing".to_owned(),
            version: String::new(),
        }
    }

    fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    async fn start(&self, node: NodeId) -> Result<(), FaultError> {
        self.treatments.lock().push(("start", node));
        Ok(())
    }

    async fn kill(&self, node: NodeId) -> Result<(), FaultError> {
        self.treatments.lock().push(("kill", node));
        Ok(())
    }

    async fn stop(&self, _: NodeId) -> Result<(), FaultError> {
        Ok(())
    }

    async fn pause(&self, node: NodeId) -> Result<(), FaultError> {
        let mut treatments = self.treatments.lock();
        if treatments.iter().any(|(what, _)| *what == "pause") {
            return Err(FaultError::Failed("only one can be paused".to_owned()));
        }
        treatments.push(("pause", node));
        Ok(())
    }

    async fn resume(&self, node: NodeId) -> Result<(), FaultError> {
        self.treatments.lock().push(("resume", node));
        Ok(())
    }

    async fn is_running(&self, node: NodeId) -> bool {
        let treatments = self.treatments.lock();
        let last = treatments
            .iter()
            .rfind(|(what, of)| *of == node && ["start", "kill", "cut"].contains(what));
        last.is_none_or(|(what, _)| *what == "start")
    }

    async fn set_links(&self, _: &[(Link, LinkFault)]) -> Result<(), FaultError> {
        Ok(())
    }

    async fn heal_links(&self) -> Result<(), FaultError> {
        Ok(())
    }

    async fn set_syncs(&self, node: NodeId, fault: SyncFault) -> Result<(), FaultError> {
        let stall = !fault.delay.is_zero() && !fault.fail;
        let what = if stall { "stall" } else { "sync" };
        self.treatments.lock().push((what, node));
        Ok(())
    }

    async fn cut_power(&self, nodes: &[NodeId]) -> Result<(), FaultError> {
        for node in nodes {
            self.treatments.lock().push(("cut", *node));
        }
        match self.without_cuts {
            true => Err(FaultError::Failed("the cut went wrong".to_owned())),
            false => Ok(()),
        }
    }

    fn data_dir(&self, _: NodeId) -> Option<PathBuf> {
        Some(self.dir.path().to_owned())
    }

    fn log_file(&self, node: NodeId) -> Option<PathBuf> {
        Some(self.dir.path().join(format!("{node}.log")))
    }

    async fn shut_down(&self) {}
}

/// Three nodes, what is done to them, and a directory for the history.
fn ward() -> (Arc<Shared>, Arc<Mutex<Vec<Treatment>>>, tempfile::TempDir) {
    ward_where(false)
}

fn ward_where(without_cuts: bool) -> (Arc<Shared>, Arc<Mutex<Vec<Treatment>>>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let nodes: Vec<Node> = (1..=3)
        .map(|id| Node {
            id,
            zone: format!("zone-{id}"),
            // Nobody listens there.
            endpoint: "127.0.0.1:1".to_owned(),
            direct: "127.0.0.1:1".to_owned(),
        })
        .collect();
    let observer = Observer::new(&nodes).unwrap();
    let treatments = Arc::default();
    let patient = Patient {
        without_cuts,
        nodes,
        dir: tempfile::tempdir().unwrap(),
        treatments: Arc::clone(&treatments),
    };
    let recorder = Recorder::create(&dir.path().join("history.jsonl")).unwrap();
    let shared = Shared {
        active: ActiveFaults::new(Arc::new(patient), observer).within(BlastRadius::All),
        recorder: Arc::new(recorder),
        plan: Plan {
            interval: Duration::from_millis(5),
            hold: Duration::from_millis(20),
            seed: 1,
        },
        faults: AtomicU64::new(1),
        turn: RwLock::default(),
    };
    (Arc::new(shared), treatments, dir)
}

/// Makes a fault and heals it at once.
async fn struck(shared: &Shared, fault: Fault, seed: u64) {
    let (_stop, mut stopped) = watch::channel(false);
    let mut rng = StdRng::seed_from_u64(seed);
    strike(shared, fault, Duration::ZERO, &mut rng, &mut stopped).await;
}

fn events(shared: &Shared) -> Vec<FaultEvent> {
    shared.recorder.with_events(|events| {
        let faults = events.iter().filter_map(|event| match &event.what {
            What::Fault(fault) => Some(fault.clone()),
            What::Client(_) => None,
        });
        faults.collect()
    })
}

#[tokio::test]
async fn the_node_that_is_killed_first_is_alone_in_that_and_started_first() {
    for seed in 0..3 {
        let (shared, treatments, _dir) = ward();
        struck(&shared, Fault::KillStaggered, seed).await;
        let done = treatments.lock().clone();
        let of = |what| done.iter().filter(move |(did, _)| *did == what);
        let [killed, started] = ["kill", "start"].map(|what| {
            let nodes: Vec<NodeId> = of(what).map(|(_, node)| *node).collect();
            nodes
        });
        assert_eq!(killed.len(), 3, "seed {seed}: {done:?}");
        assert_eq!(killed, started, "seed {seed}");
        let broken = events(&shared)
            .into_iter()
            .find(|e| e.phase == Phase::Broken)
            .unwrap();
        let first = format!("node {} killed, then nodes", killed[0]);
        assert!(broken.detail.starts_with(&first), "{}", broken.detail);
    }
}

#[tokio::test]
async fn who_lags_goes_on_when_the_leader_is_gone_and_the_leader_comes_back_last() {
    let (shared, treatments, _dir) = ward();
    let active = shared.active.of(Fault::LaggingCandidate);
    let injected = process::leave_behind(&active, 1, 3, vec![2]).await.unwrap();
    assert_eq!(injected.nodes, [3]);
    let steps = [("pause", 2), ("kill", 3), ("resume", 2)];
    assert_eq!(*treatments.lock(), steps);
    heal(&active, 1, &injected).await.unwrap();
    assert_eq!(treatments.lock()[steps.len()..], [("start", 3)]);

    // Where not all can be paused nobody is, and the leader is let be.
    let (shared, treatments, _dir) = ward();
    let active = shared.active.of(Fault::LaggingCandidate);
    let failed = process::leave_behind(&active, 1, 3, vec![1, 2]).await;
    assert!(matches!(failed, Err(FaultError::Failed(_))));
    assert_eq!(*treatments.lock(), [("pause", 1), ("resume", 1)]);
}

#[tokio::test]
async fn the_power_goes_while_all_syncs_stall_and_comes_back_to_disks_that_work() {
    let (shared, treatments, _dir) = ward();
    struck(&shared, Fault::PowerStalled, 1).await;
    let done = treatments.lock().clone();
    let steps: Vec<&str> = done.iter().map(|(what, _)| *what).collect();
    let expected = ["stall", "cut", "sync", "start"].map(|what| [what; 3]);
    assert_eq!(steps, expected.concat());
    for step in done.chunks(3) {
        let nodes: BTreeSet<NodeId> = step.iter().map(|(_, node)| *node).collect();
        assert_eq!(nodes, [1, 2, 3].into(), "{step:?}");
    }
}

#[tokio::test]
async fn nodes_that_a_failed_fault_took_down_are_started_again() {
    let (shared, treatments, _dir) = ward_where(true);
    for fault in [Fault::Power(Target::One), Fault::PowerStalled] {
        struck(&shared, fault, 1).await;
        for node in 1..=3 {
            assert!(shared.active.cluster().is_running(node).await);
        }
    }
    let last = treatments.lock().last().copied();
    assert!(matches!(last, Some(("sync", _))), "{last:?}");
    let phases: Vec<Phase> = events(&shared).iter().map(|event| event.phase).collect();
    assert_eq!(phases, [Phase::Begin, Phase::Error].repeat(2));
    shared.active.heal_all().await.unwrap();
    assert!(shared.active.ended_by_themselves().await.is_empty());
}

#[tokio::test]
async fn a_pause_that_fails_half_way_leaves_no_node_paused() {
    let (shared, treatments, _dir) = ward();
    struck(&shared, Fault::Pause(Target::Majority), 1).await;
    let done = treatments.lock().clone();
    let [("pause", paused), ("resume", resumed)] = done[..] else {
        panic!("{done:?}")
    };
    assert_eq!(paused, resumed);
    let phases: Vec<Phase> = events(&shared).iter().map(|event| event.phase).collect();
    assert_eq!(phases, [Phase::Begin, Phase::Error]);
}

#[tokio::test]
async fn a_disk_becomes_slower_when_its_node_installs_and_not_before() {
    let (shared, treatments, _dir) = ward();
    for node in 1..=3 {
        let log = shared.active.cluster().log_file(node).unwrap();
        std::fs::write(log, "INFO installing a snapshot group=1 index=1\n").unwrap();
    }
    let steps = || -> Vec<&str> { treatments.lock().iter().map(|(what, _)| *what).collect() };
    let strike = struck(&shared, Fault::SlowInstall, 1);
    let install = async {
        while steps() != ["kill", "stall", "start"] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What another process of the node installed before is not it.
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(steps(), ["kill", "stall", "start"]);
        let node = treatments.lock()[0].1;
        let log = shared.active.cluster().log_file(node).unwrap();
        let mut log = std::fs::File::options().append(true).open(log).unwrap();
        std::io::Write::write_all(&mut log, b"t  INFO installing a snapshot group=2 index=7\n")
            .unwrap();
    };
    tokio::join!(strike, install);
    assert_eq!(steps(), ["kill", "stall", "start", "stall", "sync"]);
    let events = events(&shared);
    let unseen = events.iter().find(|event| event.phase == Phase::Unseen);
    let why = &unseen.unwrap().detail;
    assert!(
        why.contains("has been installing a snapshot for 0 s"),
        "{why}"
    );
}

#[tokio::test]
async fn a_node_that_ends_only_after_its_fsync_is_healed_is_started_again() {
    let (shared, treatments, _dir) = ward();
    let strike = struck(&shared, Fault::FailFsync, 1);
    let end = async {
        loop {
            let synced: Vec<Treatment> = treatments.lock().clone();
            if let [_, ("sync", node)] = synced[..] {
                // It met the failure, and takes a while to say its last words.
                tokio::time::sleep(Duration::from_millis(150)).await;
                treatments.lock().push(("kill", node));
                return node;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let ((), node) = tokio::join!(strike, end);
    assert_eq!(treatments.lock().last(), Some(&("start", node)));
    let healed = events(&shared).pop().unwrap();
    assert_eq!(healed.phase, Phase::Healed);
    assert!(healed.detail.contains("had stopped over it"), "{healed:?}");
    assert!(shared.active.ended_by_themselves().await.is_empty());
    // It has no excuse any more.
    treatments.lock().push(("kill", node));
    assert_eq!(shared.active.ended_by_themselves().await, [node]);
}

#[tokio::test]
async fn what_is_done_to_a_leader_is_not_done_where_nobody_knows_one() {
    for fault in [Fault::KillLeaderLast, Fault::LoseAnswers] {
        let (shared, treatments, _dir) = ward();
        struck(&shared, fault, 1).await;
        let phases: Vec<Phase> = events(&shared).iter().map(|event| event.phase).collect();
        assert_eq!(phases, [Phase::Begin, Phase::Skipped]);
        assert!(treatments.lock().is_empty());
    }
}

/// What is done on a ward whose blast radius is a minority.
fn within_a_minority() -> (Arc<Shared>, tempfile::TempDir) {
    let (shared, _, dir) = ward();
    let mut shared = Arc::into_inner(shared).expect("nobody else has it");
    shared.active = shared.active.within(BlastRadius::Minority);
    (Arc::new(shared), dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nemeses_take_turns_where_a_minority_is_all_they_may_take() {
    const TURNS: usize = 3;
    let (shared, _dir) = within_a_minority();
    let (stop, stopped) = watch::channel(false);
    let mut torments = tokio::task::JoinSet::new();
    let nemeses = Nemesis::parse_list("kill-one,pause-one,partition-one").unwrap();
    for (number, nemesis) in nemeses.into_iter().enumerate() {
        let (shared, stopped) = (shared.clone(), stopped.clone());
        torments.spawn(torment(shared, nemesis, number as u64, stopped));
    }
    let begun = Instant::now();
    let made = |name: &str| {
        let events = events(&shared);
        let broken = events
            .iter()
            .filter(|e| e.nemesis == name && e.phase == Phase::Broken);
        broken.count()
    };
    // On this ward only one pause succeeds.
    while made("kill-one") < TURNS || made("partition-one") < TURNS {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "they do not alternate"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send_replace(true);
    torments.join_all().await;
    // Two that find room at the same moment may both have it where they drew the same node.
    let mut broken: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    for event in events(&shared) {
        match event.phase {
            Phase::Broken => {
                broken.insert(event.fault, event.nodes);
                let taken: BTreeSet<&NodeId> = broken.values().flatten().collect();
                assert_eq!(taken.len(), 1, "{broken:?}");
            }
            Phase::Heal => drop(broken.remove(&event.fault)),
            Phase::Skipped => assert!(event.detail.contains("blast radius"), "{event:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_nemesis_that_takes_all_by_its_name_may() {
    let (shared, _dir) = within_a_minority();
    for fault in [
        Fault::Kill(Target::All),
        Fault::Kill(Target::Majority),
        Fault::KillStaggered,
        Fault::PowerStalled,
    ] {
        struck(&shared, fault, 1).await;
    }
    let events = events(&shared);
    let broken: Vec<usize> = events
        .iter()
        .filter(|event| event.phase == Phase::Broken)
        .map(|event| event.nodes.len())
        .collect();
    assert_eq!(broken, [3, 2, 3, 3], "{events:?}");
    // What is there already counts.
    shared.active.kill(&[1]).await.unwrap();
    let skipped = shared.active.pause(&[2]).await;
    assert!(
        matches!(skipped, Err(FaultError::Skipped(_))),
        "{skipped:?}"
    );
    let majority = shared.active.of(Fault::Kill(Target::Majority));
    let skipped = majority.kill(&[2, 3]).await;
    assert!(
        matches!(skipped, Err(FaultError::Skipped(_))),
        "{skipped:?}"
    );
    majority.kill(&[2]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_done_while_nothing_else_is_broken() {
    const TEARS: usize = 3;
    let (shared, _, _dir) = ward();
    let (stop, stopped) = watch::channel(false);
    let mut torments = tokio::task::JoinSet::new();
    let nemeses = Nemesis::parse_list("kill-one,pause-one,tear-log").unwrap();
    for (number, nemesis) in nemeses.into_iter().enumerate() {
        torments.spawn(torment(
            shared.clone(),
            nemesis,
            number as u64,
            stopped.clone(),
        ));
    }
    let begun = Instant::now();
    let tears = |events: &[FaultEvent]| {
        let ended = |e: &&FaultEvent| e.nemesis == "tear-log" && e.phase != Phase::Begin;
        events.iter().filter(ended).count()
    };
    while tears(&events(&shared)) < TEARS {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is torn");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send_replace(true);
    torments.join_all().await;

    let (mut open, mut overlaps) = (BTreeMap::new(), 0);
    for event in events(&shared) {
        let is_damage = event.nemesis == "tear-log";
        match event.phase {
            Phase::Begin => {
                let others: Vec<&String> = open.values().collect();
                assert!(!is_damage || others.is_empty(), "{others:?} and a tear");
                assert!(!others.iter().any(|name| *name == "tear-log"), "{event:?}");
                overlaps += usize::from(!others.is_empty());
                open.insert(event.fault, event.nemesis);
            }
            Phase::Healed | Phase::Skipped | Phase::Error => {
                open.remove(&event.fault);
            }
            Phase::Broken if is_damage => {
                open.remove(&event.fault);
            }
            Phase::Broken | Phase::Seen | Phase::Unseen | Phase::Disproved | Phase::Heal => {}
        }
    }
    assert!(overlaps > 0, "the other two never met");
}
