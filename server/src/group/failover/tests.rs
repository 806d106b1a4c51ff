//! Failover on one real group, with hand-made views and other nodes that say what the test has them say.
//! The timers of consensus are hours, so whatever is elected here is elected by failover.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use holdfast_proto::peer;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::{
    detector::{Evidence, Part, Stall, Suspicion},
    group::{GroupError, tests as group_tests},
    raft::{
        TransportError,
        scripted::{self, Fate, NEVER, Script},
    },
};

const ME: NodeId = 1;
const LEADER: NodeId = 2;
const THIRD: NodeId = 3;
const GROUP: GroupId = 1;
/// Time in which something would have happened that must not.
const A_WHILE: Duration = Duration::from_millis(600);

/// The other nodes.
#[derive(Default)]
struct Others {
    /// What each says when it is asked; who says nothing cannot be reached.
    say: Mutex<BTreeMap<NodeId, peer::SurveyMessage>>,
    /// They answer no heartbeats.
    deaf: AtomicBool,
    transfers: Mutex<Vec<NodeId>>,
    /// Requests that they got and never answer.
    forwarded: AtomicUsize,
}

impl Script for Others {
    fn forward(&self, _: NodeId, _: peer::Forward) -> Fate<peer::ForwardReply> {
        self.forwarded.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }

    fn survey(&self, to: NodeId, _: peer::SurveyMessage) -> Fate<peer::SurveyMessage> {
        let said = self.say.lock().get(&to).cloned();
        let answer = said.ok_or(TransportError::Unreachable {
            to,
            why: "it says nothing".into(),
        });
        Box::pin(std::future::ready(answer))
    }

    fn append(
        &self,
        _: NodeId,
        requests: crate::raft::transport::BoxStream<peer::AppendRequest>,
    ) -> Fate<scripted::AppendAnswers> {
        scripted::answered(requests, scripted::confirm)
    }

    fn heartbeat(&self, _: NodeId, request: peer::AppendRequest) -> Fate<peer::AppendResponse> {
        if self.deaf.load(Ordering::Relaxed) {
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(Ok(scripted::confirm(&request))))
    }

    fn transfer_leader(&self, to: NodeId, request: &peer::TransferLeaderRequest) {
        if request.to_node == to {
            self.transfers.lock().push(to);
        }
    }
}

struct World {
    group: Arc<Group>,
    others: Arc<Others>,
    failover: Arc<Failover>,
    views: watch::Sender<Arc<Views>>,
    _dir: TempDir,
}

fn vote(leader: NodeId, term: u64) -> peer::Vote {
    peer::Vote {
        term,
        voted_for: leader,
        committed: true,
    }
}

fn suspicion() -> Suspicion {
    Suspicion {
        evidence: Evidence::Gone,
        session: 0,
        since: Instant::now(),
    }
}

/// What a follower of the leader says, or the leader itself.
fn says(leads: bool, suspects: &[NodeId]) -> peer::SurveyMessage {
    peer::SurveyMessage {
        standings: vec![peer::Standing {
            group_id: GROUP,
            vote: Some(vote(LEADER, 1)),
            last_log_id: Some(peer::LogId { term: 0, index: 0 }),
            leads,
            settling: false,
        }],
        suspects: suspects.to_vec(),
        stays_out: false,
    }
}

impl World {
    async fn new() -> Self {
        let others = Arc::new(Others::default());
        let (views, seen) = watch::channel(Arc::new(Views::new(ME)));
        let dir = tempfile::tempdir().unwrap();
        let group = group_tests::among(others.clone(), seen.clone(), dir.path()).await;
        let failover = Failover::new(ME, others.clone(), seen);
        Self {
            group,
            others,
            failover,
            views,
            _dir: dir,
        }
    }

    /// This node follows the leader of term 1, and failover begins.
    async fn following() -> Self {
        let world = Self::follower().await;
        world.watch();
        world
    }

    /// This node follows the leader of term 1.
    async fn follower() -> Self {
        let world = Self::new().await;
        world.hear(LEADER, 1).await;
        world
    }

    /// This node hears a leader.
    async fn hear(&self, leader: NodeId, term: u64) {
        let heartbeat = peer::AppendRequest {
            group_id: GROUP,
            vote: Some(vote(leader, term)),
            prev_log_id: None,
            entries: vec![scripted::first_membership(group_tests::voters())],
            ..Default::default()
        };
        let raft = self.group.raft();
        raft.handle_heartbeat(heartbeat).await.unwrap();
        self.until_led_by(leader).await;
    }

    /// This node leads, and failover begins.
    async fn leading() -> Self {
        let world = Self::new().await;
        world
            .group
            .raft()
            .initialize(group_tests::voters())
            .await
            .unwrap();
        world.until_led_by(ME).await;
        world.watch();
        world
    }

    fn watch(&self) {
        self.failover.watch(&self.group);
        tokio::spawn(self.failover.clone().run());
    }

    async fn until_led_by(&self, leader: NodeId) {
        let mut leadership = self.group.leadership();
        let led = leadership.wait_for(|now| now.leader == Some(leader));
        scripted::within_a_minute("leader", led).await.unwrap();
    }

    /// These hold the leader for dead.
    fn suspect(&self, observers: &[NodeId]) {
        let views = Views::new(ME).with_word(THIRD, 3).with_word(LEADER, 2);
        let views = observers.iter().fold(views, |views, observer| {
            views.with_suspicion(*observer, LEADER, suspicion())
        });
        self.views.send_replace(Arc::new(views));
    }

    fn say(&self, node: NodeId, message: peer::SurveyMessage) {
        self.others.say.lock().insert(node, message);
    }

    fn term(&self) -> u64 {
        self.group.leadership().borrow().term
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whom_a_majority_holds_for_dead_is_replaced_in_spite_of_its_lease() {
    let world = World::following().await;
    world.say(THIRD, says(false, &[LEADER]));
    world.suspect(&[ME, THIRD]);
    world.until_led_by(ME).await;
    assert_eq!(world.term(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_waits_for_others_counts_as_an_election_under_way() {
    let world = World::following().await;
    let places = u32::try_from(limits::CAMPAIGNS_MAX).unwrap();
    let taken = world.failover.campaigns.acquire_many(places).await.unwrap();
    world.say(THIRD, says(false, &[LEADER]));
    world.suspect(&[ME, THIRD]);
    let asked = || world.failover.answer(THIRD, &says(false, &[LEADER]));
    let told = async {
        while !asked().standings[0].settling {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    scripted::within_a_minute("campaign that waits", told).await;
    assert_eq!(world.term(), 1);
    drop(taken);
    world.until_led_by(ME).await;
    assert_eq!(world.term(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whom_one_holds_for_dead_stays() {
    let world = World::following().await;
    world.say(THIRD, says(false, &[]));
    world.suspect(&[ME]);
    tokio::time::sleep(A_WHILE).await;
    // Whom the views call suspected, the voter that was asked just now does not.
    world.suspect(&[ME, THIRD]);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(world.term(), 1);
    assert!(world.group.is_dead(LEADER), "requests wait for a moment");
    world.suspect(&[THIRD]);
    assert!(!world.group.is_dead(LEADER));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_says_that_it_does_not_lead_is_replaced_and_one_that_leads_is_not() {
    let world = World::following().await;
    world.say(THIRD, says(false, &[]));
    world.say(LEADER, says(true, &[]));
    let of_leader = |leads| says(leads, &[]);
    let answer = world.failover.answer(LEADER, &of_leader(true));
    assert_eq!(answer.standings[0].vote, Some(vote(LEADER, 1)));
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(world.term(), 1);
    // It has lost its quorum, or was started anew, and asks where the others stand.
    world.say(LEADER, says(false, &[]));
    world.failover.answer(LEADER, &of_leader(false));
    world.until_led_by(ME).await;
}

/// A node that was started anew, with a leader on its disk that it has never heard.
fn doubts_its_leader(world: &World) {
    let (standing, surroundings) = world.group.raft().standing();
    let known = Known {
        me: ME,
        standing: &standing,
        surroundings: &Surroundings {
            heard_age: None,
            ..surroundings
        },
        is_dead: &|_| false,
        resigned: false,
    };
    let mut doubt = Doubt::default();
    assert_eq!(
        doubt.look(&known, Instant::now()),
        Look::Ask(Cause::Unheard(LEADER))
    );
    let mut groups = world.failover.groups.lock();
    groups.get_mut(&GROUP).unwrap().doubt = doubt;
}

async fn asks_the_others(world: &World) {
    let (standing, surroundings) = world.group.raft().standing();
    let asked = Asked {
        id: GROUP,
        group: world.group.clone(),
        standing,
        voters: surroundings.voters,
        cause: Cause::Unheard(LEADER),
    };
    world.failover.clone().survey(vec![asked]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_has_lost_its_memory_and_stays_out_is_waited_for_by_nobody() {
    let world = World::follower().await;
    world.failover.watch(&world.group);
    world.say(THIRD, says(false, &[]));
    // It may be starting still.
    doubts_its_leader(&world);
    asks_the_others(&world).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(world.term(), 1);
    let out = peer::SurveyMessage {
        stays_out: true,
        ..Default::default()
    };
    world.say(LEADER, out);
    // The logs are equal, so it may be another's turn first.
    let stands = async {
        while world.term() == 1 {
            asks_the_others(&world).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    scripted::within_a_minute("campaign", stands).await;
    world.until_led_by(ME).await;
    assert_eq!(world.term(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_not_sent_to_a_dead_leader() {
    let world = World::following().await;
    world.say(THIRD, says(false, &[]));
    world.suspect(&[ME, THIRD]);
    let soon = Instant::now() + Duration::from_millis(50);
    let refused = world.group.propose(group_tests::put(""), soon).await;
    assert!(matches!(refused, Err(GroupError::NoLeader)), "{refused:?}");
}

/// As one does whose disk stands still: it hands over, and answers what it was asked when its disk goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_must_not_be_sent_twice_waits_for_a_deposed_leader_that_lives() {
    let world = World::follower().await;
    let group = world.group.clone();
    let asked = tokio::spawn(async move {
        let late = group_tests::late();
        group.propose(group_tests::put(""), late).await
    });
    // The request is on its way when the leadership moves.
    let others = world.others.clone();
    scripted::until("request", || others.forwarded.load(Ordering::Relaxed) == 1).await;
    world.hear(THIRD, 2).await;
    tokio::time::sleep(A_WHILE).await;
    assert!(!asked.is_finished(), "its fate is not known yet");
    world.suspect(&[ME, THIRD]);
    let told = scripted::within_a_minute("fate", asked).await.unwrap();
    assert!(matches!(told, Err(GroupError::LeaderLost)), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_reaches_no_quorum_refuses_until_it_does_again() {
    let world = World::leading().await;
    let done = world
        .group
        .propose(group_tests::put(""), group_tests::late())
        .await;
    done.unwrap();
    // Its own messages are answered, whatever the detector says.
    let nobody = Views::new(ME)
        .with_suspicion(ME, LEADER, suspicion())
        .with_suspicion(ME, THIRD, suspicion());
    world.views.send_replace(Arc::new(nobody));
    tokio::time::sleep(A_WHILE).await;
    assert!(!world.group.is_powerless());
    world.others.deaf.store(true, Ordering::Relaxed);
    scripted::until("loss of power", || world.group.is_powerless()).await;
    let last = world.group.status().last_log_index;
    let soon = Instant::now() + Duration::from_millis(50);
    let refused = world.group.propose(group_tests::put(""), soon).await;
    assert!(matches!(refused, Err(GroupError::NoLeader)), "{refused:?}");
    assert_eq!(world.group.status().last_log_index, last);
    world.views.send_replace(Arc::new(Views::new(ME)));
    scripted::until("power", || !world.group.is_powerless()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_log_does_not_sync_hands_over_to_one_that_is_well() {
    let world = World::leading().await;
    let done = world
        .group
        .propose(group_tests::put(""), group_tests::late())
        .await;
    done.unwrap();
    let since = Instant::now() - limits::SICK_AFTER;
    let stall = Stall {
        part: Part::LogSync,
        since,
    };
    let all = Views::new(ME)
        .with_stall(ME, stall)
        .with_stall(LEADER, stall)
        .with_stall(THIRD, stall);
    world.views.send_replace(Arc::new(all));
    tokio::time::sleep(A_WHILE).await;
    assert!(world.others.transfers.lock().is_empty(), "all are sick");
    let some = Views::new(ME)
        .with_stall(ME, stall)
        .with_stall(LEADER, stall)
        .with_word(THIRD, 3);
    world.views.send_replace(Arc::new(some));
    scripted::until("transfer", || *world.others.transfers.lock() == [THIRD]).await;
}

/// What it sends arrives: its heartbeats hold the others' leases, and it can commit nothing.
#[test]
fn a_leader_that_says_that_it_hears_no_majority_counts_as_dead() {
    let voters = [ME, LEADER, THIRD];
    let old = || Suspicion {
        since: Instant::now() - limits::POWERLESS_AFTER,
        ..suspicion()
    };
    let one = Views::new(ME)
        .with_word(THIRD, 3)
        .with_suspicion(LEADER, THIRD, old());
    assert!(!is_dead(&one, LEADER, &voters, ME));
    let young = one.clone().with_suspicion(LEADER, ME, suspicion());
    assert!(!is_dead(&young, LEADER, &voters, ME));
    let none = one.with_suspicion(LEADER, ME, old());
    assert!(is_dead(&none, LEADER, &voters, ME));
    assert!(!is_dead(&none, THIRD, &voters, ME));
}

#[test]
fn a_sick_leader_that_did_not_hand_over_counts_as_dead_to_a_majority_that_is_well() {
    let stall = |age| Stall {
        part: Part::LogSync,
        since: Instant::now() - age,
    };
    let voters = [ME, LEADER, THIRD];
    let overdue = limits::SICK_OVERDUE_AFTER;
    let sick = Views::new(ME)
        .with_word(THIRD, 3)
        .with_stall(LEADER, stall(overdue));
    assert!(is_dead(&sick, LEADER, &voters, ME));
    let soon = Views::new(ME)
        .with_word(THIRD, 3)
        .with_stall(LEADER, stall(limits::SICK_AFTER));
    assert!(
        !is_dead(&soon, LEADER, &voters, ME),
        "it has time to hand over"
    );
    let both = sick.with_stall(THIRD, stall(overdue));
    assert!(!is_dead(&both, LEADER, &voters, ME), "one disk for all");
    assert!(NEVER > overdue);
}
