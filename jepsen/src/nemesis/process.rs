//! Faults of processes: killed, paused, restarted, without power; and two requests of operators
//! that shake a cluster just as well.

use std::time::Duration;

use rand::rngs::StdRng;

use super::{
    ActiveFaults,
    injected::{Healing, Injected},
    network,
    target::Target,
};
use crate::{
    cluster::{FaultError, SyncFault},
    history::NodeId,
};

/// How long those that are left go on after the first nodes of a staggered kill are gone.
const FALL_BEHIND: Duration = Duration::from_millis(800);
/// How long syncs stall before the power goes.
const STALL: Duration = Duration::from_millis(400);
/// How long a restarted node may take to serve before the next one is restarted.
const SERVES_WITHIN: Duration = Duration::from_secs(30);

/// Nodes in words.
pub(super) fn named(nodes: &[NodeId]) -> String {
    let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    match ids.len() {
        1 => format!("node {}", ids[0]),
        _ => format!("nodes {}", ids.join(", ")),
    }
}

fn suffix(target: Target) -> &'static str {
    match target {
        Target::Leader => " (leader)",
        Target::Zone => " (a whole zone)",
        Target::All => " (all)",
        Target::One | Target::Minority | Target::Majority => "",
    }
}

pub(super) async fn kill(
    active: &ActiveFaults,
    target: Target,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(target, rng).await?;
    active.kill(&nodes).await?;
    let detail = format!("{}{} killed", named(&nodes), suffix(target));
    Ok(Injected::new(nodes.clone(), detail, Healing::Start(nodes)))
}

/// The leader goes, and nothing tells: its proxies take connections and bytes for it, and keep those open
/// that there are. They fall silent first, since what a process that ends says must not get out.
pub(super) async fn kill_silently(
    active: &ActiveFaults,
    id: u64,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(Target::Leader, rng).await?;
    let silence = network::silence(nodes[0], &active.ids());
    active.break_links(id, silence).await?;
    if let Err(error) = active.kill(&nodes).await {
        active.heal_links(id).await?;
        return Err(error);
    }
    let detail = format!(
        "{} (leader) killed, and its proxies go on taking connections",
        named(&nodes)
    );
    let healing = Healing::LinksThenStart(nodes.clone());
    Ok(Injected::new(nodes, detail, healing))
}

/// One node goes and misses writes, then the rest goes. The node that lags is back first and asks
/// for the leadership before those that have more than it: they must refuse.
pub(super) async fn kill_staggered(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let first = active.choose(Target::One, rng).await?;
    kill_in_turn(active, first, async || {
        active.choose(Target::All, rng).await
    })
    .await
}

/// All but the leader go, and it takes writes that it cannot commit; then it goes. The others are back
/// first and choose a leader, whose entries must replace those.
pub(super) async fn kill_leader_last(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let leader = active.choose(Target::Leader, rng).await?;
    let mut others = active.choose(Target::All, rng).await?;
    others.retain(|node| !leader.contains(node));
    if others.is_empty() {
        return Err(FaultError::Skipped(
            "all but the leader are held by other faults".into(),
        ));
    }
    kill_in_turn(active, others, async || Ok(leader)).await
}

/// Kills the first, and a while later those that are chosen then. They are started in the same order.
async fn kill_in_turn(
    active: &ActiveFaults,
    first: Vec<NodeId>,
    choose: impl AsyncFnOnce() -> Result<Vec<NodeId>, FaultError>,
) -> Result<Injected, FaultError> {
    active.kill(&first).await?;
    tokio::time::sleep(FALL_BEHIND).await;
    let rest = match choose().await {
        Ok(rest) => rest,
        // Other faults hold the rest. Only the first are killed then.
        Err(FaultError::Skipped(_)) => Vec::new(),
        Err(failed) => return Err(failed),
    };
    active.kill(&rest).await?;
    let detail = match rest.as_slice() {
        [] => format!("{} killed", named(&first)),
        rest => format!("{} killed, then {}", named(&first), named(rest)),
    };
    let mut in_turn = first;
    in_turn.extend(rest);
    let healing = Healing::StartInTurn(in_turn.clone());
    Ok(Injected::new(in_turn, detail, healing))
}

pub(super) async fn cut_power(
    active: &ActiveFaults,
    target: Target,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(target, rng).await?;
    active.cut_power(&nodes).await?;
    let detail = format!("{}{} without power", named(&nodes), suffix(target));
    Ok(Injected::new(nodes.clone(), detail, Healing::Start(nodes)))
}

/// The syncs of all nodes stall, then the power goes: what was promised meanwhile was promised too soon.
pub(super) async fn cut_power_stalled(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(Target::All, rng).await?;
    let stalled = SyncFault {
        delay: STALL * 10,
        fail: false,
    };
    let cut = async {
        set_syncs(active, &nodes, stalled).await?;
        tokio::time::sleep(STALL).await;
        active.cut_power(&nodes).await
    };
    let cut = cut.await;
    set_syncs(active, &nodes, SyncFault::default()).await?;
    cut?;
    let detail = format!("syncs of {} stalled, then no power", named(&nodes));
    Ok(Injected::new(nodes.clone(), detail, Healing::Start(nodes)))
}

async fn set_syncs(
    active: &ActiveFaults,
    nodes: &[NodeId],
    fault: SyncFault,
) -> Result<(), FaultError> {
    for node in nodes {
        active.cluster().set_syncs(*node, fault).await?;
    }
    Ok(())
}

pub(super) async fn pause(
    active: &ActiveFaults,
    target: Target,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(target, rng).await?;
    active.pause(&nodes).await?;
    let detail = format!("{}{} paused", named(&nodes), suffix(target));
    Ok(Injected::new(nodes.clone(), detail, Healing::Resume(nodes)))
}

/// One node after the other, each serving again before the next one goes.
pub(super) async fn restart(
    active: &ActiveFaults,
    target: Target,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(target, rng).await?;
    for node in &nodes {
        active.stop(*node).await?;
        active.start(&[*node]).await?;
        if nodes.len() > 1 {
            // Should it not serve, the end of the run tells why; the faults go on.
            let _ = active.wait_until_serving(*node, SERVES_WITHIN).await;
        }
    }
    let detail = format!("{}{} restarted", named(&nodes), suffix(target));
    Ok(Injected::new(nodes, detail, Healing::None))
}

pub(super) async fn compact(active: &ActiveFaults) -> Result<Injected, FaultError> {
    match active.observer().compact().await {
        Ok(Some(revision)) => {
            let detail = format!("compacted at revision {revision}");
            Ok(Injected::new(Vec::new(), detail, Healing::None))
        }
        Ok(None) => Err(FaultError::Skipped("there is nothing to compact".into())),
        Err(e) => Err(FaultError::Skipped(format!("not compacted: {e}"))),
    }
}

pub(super) async fn move_leader(active: &ActiveFaults) -> Result<Injected, FaultError> {
    match active.observer().move_leader().await {
        Ok(leader) => {
            let detail = format!("node {leader} leads now");
            Ok(Injected::new(vec![leader], detail, Healing::None))
        }
        Err(e) => Err(FaultError::Skipped(format!(
            "the leader was not moved: {e}"
        ))),
    }
}
