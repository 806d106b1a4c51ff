//! A node that comes back with less than it had: without its log, or with an old copy of its files.
//!
//! Such a node has forgotten what it promised. It may have voted, and it may be one of those that make
//! an acknowledged write durable. So it must stay out, and say so; if it takes part all the same, the
//! faults here bring about the moment in which that loses writes:
//!
//! ```text
//!   lagging   ──✗ (down, misses what follows) ────────────────▶ starts ─┐
//!   forgetful ──── acknowledges writes ──✗ forgets ───────────▶ starts ─┴─▶ a majority that lacks them
//!   the rest  ──── acknowledge writes ───✗ (down) ──────────────────────────────▶ start in the end
//! ```
//!
//! It is out for the rest of the run: the others must go on without it.

use std::{path::Path, time::Duration};

use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    ActiveFaults,
    disk::{spare_one, stays_out},
    injected::{Healing, Injected},
    target::Target,
};
use crate::{
    cluster::{FaultError, damage},
    history::NodeId,
};

/// How long writes go on that are forgotten later.
const WRITES_FOR: Duration = Duration::from_millis(800);
/// Revisions that a node must have gone on by since the copy of its files was made.
const FORGETS_AT_LEAST: i64 = 10;
/// How long it may take to get there.
const GOES_ON_WITHIN: Duration = Duration::from_secs(10);
/// How long a node that was down for its copy may take to serve again.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// Time between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// One node loses its log and nothing else, as when the disk of the log is not mounted.
pub(super) async fn lose_log(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    spare_one(active).await?;
    let forgetful = active.choose(Target::One, rng).await?[0];
    forget_among_the_lagging(active, forgetful, rng, damage::lose_log).await
}

/// A follower is put back to an old copy of its files that was made while it was down.
pub(super) async fn old_copy_follower(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    spare_one(active).await?;
    let leader = active.observer().leader().await;
    let mut free = active.choose(Target::All, rng).await?;
    free.retain(|node| Some(*node) != leader);
    if leader.is_none() || free.is_empty() {
        return Err(FaultError::Skipped(
            "no node is known to be a follower at the moment".into(),
        ));
    }
    let node = free[rng.random_range(0..free.len())];
    let dir = data_dir(active, node)?;
    let copy = active.while_down(node, async || damage::copy(&dir)).await?;
    let served = active.wait_until_serving(node, SERVES_WITHIN).await;
    served.map_err(|why| FaultError::Failed(format!("node {node} does not come back: {why}")))?;
    goes_on(active, node).await?;
    forget_among_the_lagging(active, node, rng, |dir| damage::put_back(&copy, dir)).await
}

/// The leader is put back to an old copy of its files that was made while it led, at one moment, as a
/// snapshot of its disk is. All others are there.
pub(super) async fn old_copy_leader(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    spare_one(active).await?;
    let node = active.choose(Target::Leader, rng).await?[0];
    let dir = data_dir(active, node)?;
    active.pause(&[node]).await?;
    let copy = damage::copy(&dir);
    active.resume(&[node]).await?;
    let copy = copy?;
    goes_on(active, node).await?;
    let change = |dir: &Path| damage::put_back(&copy, dir);
    let done = forget(active, node, &dir, change, async || {
        active.start(&[node]).await
    })
    .await?;
    out(active, node, done).await
}

fn data_dir(active: &ActiveFaults, node: NodeId) -> Result<std::path::PathBuf, FaultError> {
    let dir = active.cluster().data_dir(node);
    dir.ok_or_else(|| FaultError::unsupported("get at the files of a node"))
}

/// Waits until a node has promised more than a copy of its files knows.
async fn goes_on(active: &ActiveFaults, node: NodeId) -> Result<(), FaultError> {
    let revision = async || {
        let states = active.observer().states(&[node], POLL_INTERVAL).await;
        let state = states.first().filter(|state| state.error.is_none());
        state.map(|state| state.revision)
    };
    let deadline = Instant::now() + GOES_ON_WITHIN;
    let mut first = None;
    loop {
        let now = revision().await;
        first = first.or(now);
        if let (Some(first), Some(now)) = (first, now)
            && now >= first + FORGETS_AT_LEAST
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(FaultError::Skipped(format!(
                "node {node} was not written to for {GOES_ON_WITHIN:?}, so there was nothing to forget"
            )));
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// As many as the cluster survives go and miss writes; the rest goes; one of the rest forgets; and it is
/// back first, together with those that lag.
async fn forget_among_the_lagging(
    active: &ActiveFaults,
    forgetful: NodeId,
    rng: &mut StdRng,
    change: impl FnOnce(&Path) -> Result<damage::Damage, FaultError>,
) -> Result<Injected, FaultError> {
    let dir = data_dir(active, forgetful)?;
    let mut others = active.choose(Target::All, rng).await?;
    others.retain(|node| *node != forgetful);
    let survives = (active.ids().len() - 1) / 2;
    if others.len() < survives + 1 {
        return Err(FaultError::Skipped(
            "too few nodes are free to lag behind".into(),
        ));
    }
    let first = rng.random_range(0..others.len());
    others.rotate_left(first);
    let rest = others.split_off(survives);
    let lagging = others;
    active.kill(&lagging).await?;
    sleep(WRITES_FOR).await;
    if let Err(error) = active.kill(&rest).await {
        active.start(&lagging).await?;
        return Err(error);
    }
    let done = forget(active, forgetful, &dir, change, async || {
        active.start(&lagging).await?;
        active.start(&[forgetful]).await
    })
    .await;
    let done = match done {
        // It says that it stays out, or takes part: the rest has no part in that.
        Ok(done) => out(active, forgetful, done).await,
        Err(error) => Err(error),
    };
    active.start(&rest).await?;
    done
}

/// Takes a node down, changes its files, and has it started by `start`, whatever came of the change.
async fn forget(
    active: &ActiveFaults,
    node: NodeId,
    dir: &Path,
    change: impl FnOnce(&Path) -> Result<damage::Damage, FaultError>,
    start: impl AsyncFnOnce() -> Result<(), FaultError>,
) -> Result<damage::Damage, FaultError> {
    let killed = active.kill(&[node]).await;
    let changed = match killed {
        Ok(()) => {
            let changed = change(dir);
            // It may refuse to come back, which is right.
            active.may_end(node).await;
            let told = active.cluster().files_changed(node).await;
            told.and(changed)
        }
        Err(error) => Err(error),
    };
    start().await?;
    changed
}

/// Waits until the node says that it stays out; the run goes on without it.
async fn out(
    active: &ActiveFaults,
    node: NodeId,
    done: damage::Damage,
) -> Result<Injected, FaultError> {
    match stays_out(active, node).await {
        Some(why) => {
            active.give_up(node, &why).await;
            let detail = format!("node {node}: {done}; it stays out: {why}");
            Ok(Injected::new(vec![node], detail, Healing::None))
        }
        None => Err(FaultError::Failed(format!(
            "node {node}: {done}; it has forgotten what it promised and takes part again"
        ))),
    }
}
