//! Nodes die, stall, drain and come back under load: no request fails, no write takes effect twice,
//! and the time that requests take stays far from their deadline.

mod mock;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_client::{Client, ClientBuilder};
use mock::Mock;
use tokio::{task::JoinHandle, time::sleep};

const WRITERS: u64 = 32;

struct Load {
    writers: Vec<JoinHandle<Duration>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Load {
    /// Writers that panic with the first request that fails.
    fn start(client: &Client) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let writers = (0..WRITERS).map(|writer| {
            let (client, stop, done) = (client.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let begun = Instant::now();
                    client
                        .put(format!("{writer}/{n}"), "v")
                        .await
                        .expect("no request fails");
                    slowest = slowest.max(begun.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                slowest
            })
        });
        Self {
            writers: writers.collect(),
            stop,
            done,
        }
    }

    /// Waits until so many more requests have been answered.
    async fn progress(&self, requests: u64) {
        let goal = self.done.load(Ordering::Relaxed) + requests;
        let give_up = Instant::now() + Duration::from_secs(30);
        while self.done.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < give_up, "the load stands still");
            assert!(
                self.writers.iter().all(|w| !w.is_finished()),
                "a writer failed"
            );
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// The slowest request.
    async fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut slowest = Duration::ZERO;
        for writer in self.writers {
            slowest = slowest.max(writer.await.expect("writer"));
        }
        slowest
    }
}

fn all_there(mock: &Mock, writes: u64) {
    mock.world.never_twice();
    let applied = mock.world.state.lock().applied.len() as u64;
    assert!(
        applied >= writes,
        "{writes} acknowledged, {applied} applied"
    );
}

/// So long that a request that needed it would stand out: what is tested must not depend on it.
const NEVER: Duration = Duration::from_secs(40);
/// Far above what a busy machine needs, far below `NEVER`.
const SOON: Duration = Duration::from_secs(15);

/// A client that notices nothing but connections that close.
fn without_timers() -> ClientBuilder {
    Client::builder()
        .timeout(2 * NEVER)
        .hedge_after(NEVER)
        .hang_after(NEVER)
        .keepalive(NEVER, NEVER)
}

async fn under_load(
    builder: ClientBuilder,
    disturb: impl AsyncFnOnce(&mut Mock, &Load),
) -> Duration {
    let mut mock = Mock::holdfast(&["zone-a", "zone-b", "zone-c"]);
    let client = builder
        .endpoints(mock.urls())
        .connect()
        .await
        .expect("connect");
    let load = Load::start(&client);
    load.progress(500).await;
    disturb(&mut mock, &load).await;
    load.progress(500).await;
    let done = load.done.clone();
    let slowest = load.stop().await;
    all_there(&mock, done.load(Ordering::Relaxed));
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_left_at_once() {
    let slowest = under_load(without_timers(), async |mock, load| {
        mock.nodes[1].kill();
        load.progress(500).await;
    })
    .await;
    println!("slowest request {slowest:?}");
    assert!(slowest < SOON, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_fails_nothing() {
    let slowest = under_load(without_timers(), async |mock, load| {
        mock.nodes[0].drain();
        load.progress(500).await;
        mock.nodes[0].restart();
    })
    .await;
    println!("slowest request {slowest:?}");
    assert!(slowest < SOON, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_node_is_worked_around() {
    let slowest = under_load(Client::builder().timeout(NEVER), async |mock, load| {
        mock.nodes[2].stall();
        // More than the writers alone can have had in flight on the other nodes.
        load.progress(20 * WRITERS).await;
        mock.nodes[2].resume();
    })
    .await;
    println!("slowest request {slowest:?}");
    assert!(slowest < SOON, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_node_is_left_long_before_a_slow_one() {
    let builder = without_timers().hang_after(Duration::from_millis(100));
    let slowest = under_load(builder, async |mock, load| {
        mock.nodes[2].stall();
        load.progress(20 * WRITERS).await;
        mock.nodes[2].resume();
    })
    .await;
    println!("slowest request {slowest:?}");
    assert!(slowest < SOON, "{slowest:?}");
}

/// A node that answers nothing because the cluster has no leader still says who its members are.
#[tokio::test]
async fn a_node_that_lives_is_not_left_because_writes_take_long() {
    let mock = Mock::holdfast(&["zone-a", "zone-b"]);
    let hang_after = Duration::from_secs(1);
    let client = without_timers().hang_after(hang_after);
    let client = client.endpoints(mock.urls()).connect().await;
    let client = client.expect("connect");
    mock.world.script(|_| mock::Fate::Held);
    let write = tokio::spawn(client.put("k", "v").into_future());
    // Long enough for three looks at the node.
    sleep(4 * hang_after).await;
    mock.world.gate.send_replace(true);
    write.await.expect("the task ends").expect("it is written");
    assert_eq!(mock.world.seen().len(), 1, "it was sent once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_may_fail_in_turn_and_are_used_again_when_they_are_back() {
    under_load(without_timers(), async |mock, load| {
        for node in 0..3 {
            mock.nodes[node].kill();
            load.progress(300).await;
            mock.nodes[node].restart();
            let id = mock.nodes[node].id;
            let before = mock.world.seen().len();
            let give_up = Instant::now() + Duration::from_secs(20);
            while !mock.world.seen()[before..]
                .iter()
                .any(|write| write.node == id)
            {
                assert!(Instant::now() < give_up, "node {id} is not used again");
                sleep(Duration::from_millis(5)).await;
            }
        }
    })
    .await;
}
