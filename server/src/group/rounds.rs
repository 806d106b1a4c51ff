//! Work that many callers share: who arrives while a round is under way gets the next one.
//!
//! A linearizable read needs a leadership check that *began after* the read arrived. So a caller
//! may share a round that has not begun, never one that has. Two rounds may overlap: a caller
//! waits for at most the rest of one round before its own begins.
//!
//! A caller that gives up leaves its place at once, so the bound counts those who still wait,
//! however long the rounds before them take.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};

/// Rounds under way at the same time.
const OVERLAP: usize = 2;

/// Why a caller got no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinError {
    /// Too many wait for a round to begin.
    Full,
    /// The rounds have ended.
    Ended,
}

/// A shared piece of work with a result for all who joined.
pub(super) struct Rounds<T> {
    waiting_max: usize,
    hall: Arc<Hall<T>>,
}

/// Where callers wait for a round to begin.
struct Hall<T> {
    waiting: Mutex<Waiting<T>>,
    arrived: Notify,
}

/// - A caller is in `callers` from its arrival until its round begins or it gives up.
struct Waiting<T> {
    callers: BTreeMap<u64, oneshot::Sender<T>>,
    /// Number of the next caller.
    next: u64,
    /// Nobody can join any more.
    closed: bool,
}

impl<T: Clone + Send + 'static> Rounds<T> {
    /// Rounds that run `round`, with at most `waiting_max` callers waiting for one to begin.
    pub(super) fn new<F, Fut>(waiting_max: usize, round: F) -> Self
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let hall = Arc::new(Hall {
            waiting: Mutex::new(Waiting {
                callers: BTreeMap::new(),
                next: 0,
                closed: false,
            }),
            arrived: Notify::new(),
        });
        tokio::spawn(begin_rounds(hall.clone(), round));
        Self {
            waiting_max: waiting_max.max(1),
            hall,
        }
    }

    /// Joins the next round. When too many are waiting, that is said at once. A future that is
    /// dropped has given its place up.
    pub(super) async fn join(&self) -> Result<T, JoinError> {
        let (tx, rx) = oneshot::channel();
        let number = {
            let mut waiting = self.hall.waiting.lock();
            if waiting.callers.len() >= self.waiting_max {
                return Err(JoinError::Full);
            }
            let number = waiting.next;
            waiting.next += 1;
            waiting.callers.insert(number, tx);
            number
        };
        let _place = Place {
            hall: &self.hall,
            number,
        };
        self.hall.arrived.notify_one();
        rx.await.map_err(|_| JoinError::Ended)
    }

    /// Callers that wait for a round to begin.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.hall.waiting.lock().callers.len()
    }
}

impl<T> Drop for Rounds<T> {
    fn drop(&mut self) {
        self.hall.waiting.lock().closed = true;
        self.hall.arrived.notify_one();
    }
}

/// A caller's place among those who wait, left with it.
struct Place<'a, T> {
    hall: &'a Hall<T>,
    number: u64,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        // A caller whose round has begun is not there any more.
        self.hall.waiting.lock().callers.remove(&self.number);
    }
}

async fn begin_rounds<T, F, Fut>(hall: Arc<Hall<T>>, round: F)
where
    T: Clone + Send + 'static,
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = T> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(OVERLAP));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let joined = loop {
            {
                let mut waiting = hall.waiting.lock();
                if waiting.closed {
                    return;
                }
                if !waiting.callers.is_empty() {
                    break std::mem::take(&mut waiting.callers);
                }
            }
            // One that arrives before this waits has left a permit.
            hall.arrived.notified().await;
        };
        let work = round();
        tokio::spawn(async move {
            let result = work.await;
            for caller in joined.into_values() {
                // A caller that went away needs no answer.
                let _ = caller.send(result.clone());
            }
            drop(slot);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinHandle;

    use super::*;

    /// Rounds that tell their number, from 1, once they may end.
    struct Gated {
        rounds: Arc<Rounds<usize>>,
        begun: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
    }

    impl Gated {
        fn new(waiting_max: usize) -> Self {
            let begun = Arc::new(AtomicUsize::new(0));
            let gate = Arc::new(Semaphore::new(0));
            let rounds = Rounds::new(waiting_max, {
                let (begun, gate) = (begun.clone(), gate.clone());
                move || {
                    let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                    let gate = gate.clone();
                    async move {
                        gate.acquire().await.expect("the gate stays").forget();
                        number
                    }
                }
            });
            Self {
                rounds: Arc::new(rounds),
                begun,
                gate,
            }
        }

        fn join(&self) -> JoinHandle<Result<usize, JoinError>> {
            let rounds = self.rounds.clone();
            tokio::spawn(async move { rounds.join().await })
        }

        /// Callers of as many rounds as run at a time. The rounds have begun and do not end by themselves,
        /// as while a quorum is lost.
        async fn running(&self) -> Vec<JoinHandle<Result<usize, JoinError>>> {
            let mut running = Vec::new();
            for expected in 1..=OVERLAP {
                running.push(self.join());
                while self.begun.load(Ordering::SeqCst) < expected {
                    tokio::task::yield_now().await;
                }
            }
            running
        }

        /// Waits until so many callers wait for a round to begin.
        async fn until_waiting(&self, callers: usize) {
            while self.rounds.waiting() < callers {
                tokio::task::yield_now().await;
            }
        }

        /// Ten rounds may end.
        fn open(&self) {
            self.gate.add_permits(10);
        }
    }

    #[tokio::test]
    async fn callers_share_a_round_and_never_join_one_that_has_begun() {
        let gated = Gated::new(1000);
        let early = gated.running().await;
        let late: Vec<_> = (0..100).map(|_| gated.join()).collect();
        gated.until_waiting(100).await;
        assert_eq!(
            gated.begun.load(Ordering::SeqCst),
            OVERLAP,
            "late callers must wait"
        );
        gated.open();
        for caller in early {
            assert!(caller.await.expect("no panic").expect("answered") <= OVERLAP);
        }
        for caller in late {
            let round = caller.await.expect("no panic").expect("answered");
            assert_eq!(round, OVERLAP + 1, "all late callers share one round");
        }
    }

    #[tokio::test]
    async fn a_caller_too_many_is_told_at_once() {
        let gated = Gated::new(1);
        let mut placed = gated.running().await;
        placed.push(gated.join());
        gated.until_waiting(1).await;
        assert_eq!(gated.rounds.join().await, Err(JoinError::Full));
        gated.open();
        for caller in placed {
            assert!(caller.await.expect("no panic").is_ok());
        }
        assert!(gated.rounds.join().await.is_ok(), "there is room again");
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_leaves_its_place_to_another() {
        let gated = Gated::new(4);
        let running = gated.running().await;
        for _ in 0..100 {
            let late: Vec<_> = (0..4).map(|_| gated.join()).collect();
            gated.until_waiting(4).await;
            assert_eq!(gated.rounds.join().await, Err(JoinError::Full), "all wait");
            for caller in &late {
                caller.abort();
            }
            for caller in late {
                assert!(caller.await.expect_err("given up").is_cancelled());
            }
            assert_eq!(gated.rounds.waiting(), 0, "nobody waits any more");
        }
        let last = gated.join();
        gated.until_waiting(1).await;
        gated.open();
        for caller in running {
            assert!(caller.await.expect("no panic").is_ok());
        }
        assert!(last.await.expect("no panic").is_ok());
    }

    #[tokio::test]
    async fn rounds_end_with_their_owner() {
        let alive = Arc::new(());
        let rounds = Rounds::new(1, {
            let alive = alive.clone();
            move || {
                let alive = alive.clone();
                async move { drop(alive) }
            }
        });
        assert_eq!(rounds.join().await, Ok(()));
        drop(rounds);
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
