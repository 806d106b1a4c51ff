//! When faults are made: one task for each nemesis asked for.
//!
//! ```text
//!   pause ─▶ begin ─▶ broken ─▶ seen or not ── hold ──▶ heal ─▶ healed ─▶ pause ─▶ …   until the time is up
//!               └────▶ skipped, with the reason
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch},
    time::Instant,
};

use super::{
    ActiveFaults, Fault,
    effect::Held,
    injected::{Healing, Injected},
    names,
    process::named,
    scarcity,
};
use crate::{
    cluster::{ClockFault, FaultError, SyncFault},
    history::{FaultEvent, NodeId, Phase, What, jsonl::Recorder},
};

/// Time between the starts of nodes that come back one after the other: long enough to serve alone
/// and to ask for the leadership in vain.
const TURN: Duration = Duration::from_secs(1);

/// How long a fault waits for others to leave it room within the blast radius, before it is skipped.
const ROOM_WITHIN: Duration = Duration::from_secs(60);

/// How long a node that has met a failure may take to end over it.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// A nemesis as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nemesis {
    /// A fault or a group of them.
    pub name: String,
    /// What it draws from.
    pub faults: Vec<Fault>,
}

impl Nemesis {
    /// Reads a list such as `kill,partition`; `none` is no nemesis.
    ///
    /// # Errors
    ///
    /// An unknown name, with the known ones.
    pub fn parse_list(names: &str) -> Result<Vec<Self>, String> {
        let names = names.split(',').map(str::trim);
        let named = names.filter(|name| !name.is_empty() && *name != "none");
        named
            .map(|name| {
                let faults = names::parse(name)?;
                let name = name.to_owned();
                Ok(Nemesis { name, faults })
            })
            .collect()
    }
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Time between the end of a fault and the next of the same nemesis, on average.
    pub interval: Duration,
    /// Time for which a fault is held, on average.
    pub hold: Duration,
    /// Seed of all random choices.
    pub seed: u64,
}

/// What all nemeses of a run share.
pub struct Shared {
    /// The cluster.
    pub active: ActiveFaults,
    /// Where events go.
    pub recorder: Arc<Recorder>,
    /// How often and how long.
    pub plan: Plan,
    /// Number of the next fault.
    pub faults: AtomicU64,
    /// Held together by faults that overlap, and alone by one that must not.
    pub turn: RwLock<()>,
}

/// Breaks and heals until `stop` says so; then heals what it holds and ends.
pub async fn torment(
    shared: Arc<Shared>,
    nemesis: Nemesis,
    number: u64,
    mut stop: watch::Receiver<bool>,
) {
    let seed = shared.plan.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut deck: Vec<Fault> = Vec::new();
    // The first one comes soon; those of other nemeses a little later, so that they overlap.
    let mut pause = shared.plan.interval.mul_f64(0.3 + 0.4 * number as f64);
    loop {
        if wait(pause, &mut stop).await {
            return;
        }
        if deck.is_empty() {
            deck = nemesis.faults.clone();
            deck.shuffle(&mut rng);
        }
        let Some(fault) = deck.pop() else { return };
        let hold = around(shared.plan.hold, &mut rng);
        strike(&shared, fault, hold, &mut rng, &mut stop).await;
        pause = around(shared.plan.interval, &mut rng);
    }
}

/// One fault from beginning to end.
async fn strike(
    shared: &Shared,
    fault: Fault,
    hold: Duration,
    rng: &mut StdRng,
    stop: &mut watch::Receiver<bool>,
) {
    let active = shared.active.of(fault);
    let turn = async {
        if fault.takes_nodes() {
            active.room(ROOM_WITHIN).await;
        }
        take_turn(shared, fault).await
    };
    let turn = tokio::select! {
        turn = turn => turn,
        _ = stop.wait_for(|stopped| *stopped) => return,
    };
    let id = shared.faults.fetch_add(1, Ordering::Relaxed);
    let tell = |phase, nodes: &[NodeId], detail: &str| {
        shared.recorder.record(What::Fault(FaultEvent {
            nemesis: fault.name().to_owned(),
            fault: id,
            phase,
            nodes: nodes.to_vec(),
            detail: detail.to_owned(),
        }));
    };
    tell(Phase::Begin, &[], "");
    let held = Held::before(fault, &active).await;
    let injected = match fault.inject(&active, id, rng).await {
        Ok(injected) => injected,
        Err(FaultError::Skipped(why)) => return tell(Phase::Skipped, &[], &why),
        Err(FaultError::Failed(why)) => return tell(Phase::Error, &[], &why),
    };
    tell(Phase::Broken, &injected.nodes, &injected.detail);
    // What had to be alone is made by now.
    let _together = match turn {
        Turn::Together(guard) => Some(guard),
        Turn::Alone(guard) => {
            drop(guard);
            None
        }
    };
    let broken = Instant::now();
    // To its end, even if the run is over: what nobody has looked at would count as made. Only what takes
    // minutes to show ends with the run.
    let effect = held.look(&active, &injected, hold, stop).await;
    tell(effect.phase(), &injected.nodes, effect.words());
    wait(hold.saturating_sub(broken.elapsed()), stop).await;
    let started = held.started_by_others(&active, &injected).await;
    let started = match started.as_slice() {
        [] => String::new(),
        nodes => format!(
            "{} run already: somebody else has started them",
            named(nodes)
        ),
    };
    tell(Phase::Heal, &injected.nodes, &started);
    match heal(&shared.active, id, &injected).await {
        Ok(detail) => tell(Phase::Healed, &injected.nodes, &detail),
        Err(why) => tell(Phase::Error, &injected.nodes, &why.to_string()),
    }
}

/// The right to make a fault.
enum Turn<'a> {
    Together(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

/// Waits until no other fault is in the way. One that wants to be alone is next as soon as those that
/// are there have been healed.
async fn take_turn(shared: &Shared, fault: Fault) -> Turn<'_> {
    match fault.wants_to_be_alone() {
        true => Turn::Alone(shared.turn.write().await),
        false => Turn::Together(shared.turn.read().await),
    }
}

async fn heal(active: &ActiveFaults, id: u64, injected: &Injected) -> Result<String, FaultError> {
    match &injected.healing {
        Healing::None => {}
        Healing::Start(nodes) => active.start(nodes).await?,
        Healing::StartInTurn(nodes) => {
            for (number, node) in nodes.iter().enumerate() {
                if number > 0 {
                    tokio::time::sleep(TURN).await;
                }
                active.start(&[*node]).await?;
            }
        }
        Healing::Resume(nodes) => active.resume(nodes).await?,
        Healing::Links => active.heal_links(id).await?,
        Healing::Syncs(nodes) => {
            for node in nodes {
                let whole = SyncFault::default();
                active.cluster().set_syncs(*node, whole).await?;
            }
            return restarted(active, nodes).await;
        }
        Healing::Clock(node) => {
            let whole = ClockFault::default();
            active.cluster().set_clock(*node, whole).await?;
        }
        Healing::Room(nodes) => {
            for node in nodes {
                active.cluster().fill_disk(*node, false).await?;
            }
            return restarted(active, nodes).await;
        }
        Healing::Output(nodes) => scarcity::unmute(active, nodes).await?,
        Healing::Tasks => active.end_tasks(id).await,
        Healing::LinksThenStart(nodes) => {
            active.heal_links(id).await?;
            active.start(nodes).await?;
        }
    }
    Ok(String::new())
}

async fn restarted(active: &ActiveFaults, nodes: &[NodeId]) -> Result<String, FaultError> {
    let ended = active.restart_ended(nodes, ENDS_WITHIN).await?;
    Ok(if ended.is_empty() {
        String::new()
    } else {
        format!("{} had stopped over it, started again", named(&ended))
    })
}

/// Waits; whether the time of the nemeses is up.
async fn wait(time: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    // A sender that is gone is an order to stop, too.
    let stopped = tokio::time::timeout(time, stop.wait_for(|stopped| *stopped));
    stopped.await.is_ok()
}

/// Between half and one and a half times as long.
fn around(time: Duration, rng: &mut StdRng) -> Duration {
    time.mul_f64(rng.random_range(0.5..1.5))
}

#[cfg(test)]
mod tests;
