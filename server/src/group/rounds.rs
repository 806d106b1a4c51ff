//! Work that many callers share: who arrives while a round is under way gets the next one.
//!
//! A linearizable read needs a leadership check that *began after* the read arrived. So a caller
//! may share a round that has not begun, never one that has. Two rounds may overlap: a caller
//! waits for at most the rest of one round before its own begins.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

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
    waiting: mpsc::Sender<oneshot::Sender<T>>,
}

impl<T: Clone + Send + 'static> Rounds<T> {
    /// Rounds that run `round`, with at most `waiting_max` callers waiting for one to begin.
    pub(super) fn new<F, Fut>(waiting_max: usize, round: F) -> Self
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let (waiting, mut arrivals) = mpsc::channel::<oneshot::Sender<T>>(waiting_max.max(1));
        tokio::spawn(async move {
            let slots = Arc::new(Semaphore::new(OVERLAP));
            loop {
                let Ok(slot) = slots.clone().acquire_owned().await else {
                    return;
                };
                let Some(first) = arrivals.recv().await else {
                    return;
                };
                let mut joined = vec![first];
                while let Ok(next) = arrivals.try_recv() {
                    joined.push(next);
                }
                let work = round();
                tokio::spawn(async move {
                    let result = work.await;
                    for caller in joined {
                        // A caller that went away needs no answer.
                        let _ = caller.send(result.clone());
                    }
                    drop(slot);
                });
            }
        });
        Self { waiting }
    }

    /// Joins the next round. When too many are waiting, that is said at once.
    pub(super) async fn join(&self) -> Result<T, JoinError> {
        let (tx, rx) = oneshot::channel();
        self.waiting.try_send(tx).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => JoinError::Full,
            mpsc::error::TrySendError::Closed(_) => JoinError::Ended,
        })?;
        rx.await.map_err(|_| JoinError::Ended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn callers_share_a_round_and_never_join_one_that_has_begun() {
        let begun = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let rounds = Arc::new(Rounds::new(1000, {
            let (begun, gate) = (begun.clone(), gate.clone());
            move || {
                let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                let gate = gate.clone();
                async move {
                    gate.acquire().await.expect("the gate stays").forget();
                    number
                }
            }
        }));
        let join = |rounds: &Arc<Rounds<usize>>| {
            let rounds = rounds.clone();
            tokio::spawn(async move { rounds.join().await })
        };
        let mut early = Vec::new();
        for expected in 1..=OVERLAP {
            early.push(join(&rounds));
            while begun.load(Ordering::SeqCst) < expected {
                tokio::task::yield_now().await;
            }
        }
        let late: Vec<_> = (0..100).map(|_| join(&rounds)).collect();
        while rounds.waiting.capacity() > 900 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            begun.load(Ordering::SeqCst),
            OVERLAP,
            "late callers must wait"
        );
        gate.add_permits(10);
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
        let begun = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let rounds = Arc::new(Rounds::new(1, {
            let (begun, gate) = (begun.clone(), gate.clone());
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let gate = gate.clone();
                async move { gate.acquire().await.expect("the gate stays").forget() }
            }
        }));
        let join = || {
            let rounds = rounds.clone();
            tokio::spawn(async move { rounds.join().await })
        };
        let mut placed = Vec::new();
        for expected in 1..=OVERLAP {
            placed.push(join());
            while begun.load(Ordering::SeqCst) < expected {
                tokio::task::yield_now().await;
            }
        }
        placed.push(join());
        while rounds.waiting.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rounds.join().await, Err(JoinError::Full));
        gate.add_permits(10);
        for caller in placed {
            assert_eq!(caller.await.expect("no panic"), Ok(()));
        }
        assert_eq!(rounds.join().await, Ok(()), "there is room again");
    }
}
