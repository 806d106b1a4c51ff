//! Faults of disks and clocks, and damage to the files of a node that is down.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    ActiveFaults, Fault,
    injected::{Healing, Injected},
    process::named,
    target::Target,
};
use crate::{
    cluster::{ClockFault, FaultError, SyncFault, damage},
    history::NodeId,
};

/// How long a node whose files were damaged may take to serve again, or to say that it stays out.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);
/// How long a disk stands still.
const STALLS_FOR: Duration = Duration::from_secs(2);
/// Time between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(super) async fn slow_fsync(
    active: &ActiveFaults,
    target: Target,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(target, rng).await?;
    let fault = SyncFault {
        delay: Duration::from_millis(rng.random_range(10..=120)),
        fail: false,
    };
    for node in &nodes {
        active.cluster().set_syncs(*node, fault).await?;
    }
    let detail = format!(
        "fsync of {} takes {} ms more",
        named(&nodes),
        fault.delay.as_millis()
    );
    Ok(Injected::new(nodes.clone(), detail, Healing::Syncs(nodes)))
}

pub(super) async fn fail_fsync(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(Target::One, rng).await?;
    let fault = SyncFault {
        delay: Duration::ZERO,
        fail: true,
    };
    for node in &nodes {
        // A node that cannot sync must not go on.
        let fails = active.cluster().set_syncs(*node, fault);
        active.risking(*node, fails).await?;
    }
    let detail = format!("fsync of {} fails", named(&nodes));
    Ok(Injected::new(nodes.clone(), detail, Healing::Syncs(nodes)))
}

/// A disk stands still for a while, and goes on by itself. What its node leads others lead meanwhile.
pub(super) async fn stall(
    active: &ActiveFaults,
    target: Target,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let node = active.choose(target, rng).await?[0];
    let stalled = SyncFault {
        delay: STALLS_FOR,
        fail: false,
    };
    active.cluster().set_syncs(node, stalled).await?;
    sleep(STALLS_FOR).await;
    let whole = SyncFault::default();
    active.cluster().set_syncs(node, whole).await?;
    let detail = format!("no fsync of node {node} returned for {STALLS_FOR:?}");
    Ok(Injected::new(vec![node], detail, Healing::None))
}

pub(super) async fn full(
    active: &ActiveFaults,
    target: Target,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(target, rng).await?;
    for (done, node) in nodes.iter().enumerate() {
        let fill = active.cluster().fill_disk(*node, true);
        if let Err(error) = active.risking(*node, fill).await {
            for filled in &nodes[..done] {
                active.cluster().fill_disk(*filled, false).await?;
            }
            active.no_risk(&nodes).await;
            return Err(error);
        }
    }
    let detail = format!("the disks of {} are full", named(&nodes));
    Ok(Injected::new(nodes.clone(), detail, Healing::Room(nodes)))
}

pub(super) async fn clock(
    fault: Fault,
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let node = active.choose(Target::One, rng).await?[0];
    let sign = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
    let (wrong, detail) = if fault == Fault::ClockJump {
        let seconds = f64::from(2_u32.pow(rng.random_range(0..=16)));
        let offset_seconds = sign * seconds;
        (
            ClockFault {
                offset_seconds,
                drift: 0.0,
            },
            format!("the clock of node {node} is off by {offset_seconds} s"),
        )
    } else {
        let drift = sign * f64::from(rng.random_range(1..=50)) / 100.0;
        (
            ClockFault {
                offset_seconds: 0.0,
                drift,
            },
            format!(
                "the clock of node {node} runs {:.0} % too {}",
                drift.abs() * 100.0,
                if drift > 0.0 { "fast" } else { "slow" }
            ),
        )
    };
    active.cluster().set_clock(node, wrong).await?;
    Ok(Injected::new(vec![node], detail, Healing::Clock(node)))
}

/// Refuses a fault that costs the cluster a node for the rest of the run if that is one too many, or if
/// another node is not there now.
pub(super) async fn spare_one(active: &ActiveFaults) -> Result<(), FaultError> {
    let out = active.out().await;
    let survives = (active.ids().len() - 1) / 2;
    if out.len() >= survives {
        let nodes: Vec<NodeId> = out.into_keys().collect();
        return Err(FaultError::Skipped(format!(
            "the cluster cannot spare a node any more: {} out already",
            named(&nodes)
        )));
    }
    // What is not on this node must be on all others: the damage is to one copy, and a copy that
    // lags is a second one.
    let mut there = active.ids();
    there.retain(|node| !out.contains_key(node));
    let settled = active
        .observer()
        .states(&there, Duration::from_secs(1))
        .await;
    if settled.iter().any(|state| state.error.is_some()) {
        return Err(FaultError::Skipped("another node does not answer".into()));
    }
    Ok(())
}

/// Damages the files of one node. Not while another node is out: what the cluster has left must be
/// able to go on.
pub(super) async fn damage(
    fault: Fault,
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    spare_one(active).await?;
    let node = active.choose(Target::One, rng).await?[0];
    let Some(dir) = active.cluster().data_dir(node) else {
        return Err(FaultError::unsupported("get at the files of a node"));
    };
    let done = active
        .while_down(node, async || {
            let damaged = match fault {
                Fault::TearLog => damage::tear_last_record(&dir, rng),
                Fault::TruncateLog => damage::truncate_log_tail(&dir, rng),
                Fault::FlipBit => damage::flip_bit_in_log_tail(&dir, rng),
                _ => damage::wipe(&dir),
            };
            // It may refuse to come back, which is right.
            active.may_end(node).await;
            active.cluster().files_changed(node).await?;
            damaged
        })
        .await?;
    let mut detail = format!("node {node}: {done}");
    if let Some(why) = stays_out(active, node).await {
        detail = format!("{detail}; it stays out: {why}");
        active.give_up(node, &why).await;
    } else if fault == Fault::Wipe {
        return Err(FaultError::Failed(format!(
            "{detail}; it has lost its memory and takes part again"
        )));
    }
    Ok(Injected::new(vec![node], detail, Healing::None))
}

/// Why a node does not come back, or `None` once it serves.
pub(super) async fn stays_out(active: &ActiveFaults, node: NodeId) -> Option<String> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    loop {
        if !active.cluster().is_running(node).await {
            return Some("its process has ended".to_owned());
        }
        if let Some(why) = active.observer().stays_out(node).await {
            return Some(why);
        }
        let served = active.wait_until_serving(node, POLL_INTERVAL).await;
        match served {
            Ok(()) => return None,
            Err(why) if Instant::now() >= deadline => return Some(why),
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}
