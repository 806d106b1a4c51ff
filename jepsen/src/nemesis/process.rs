//! Faults of processes: killed, paused, restarted, without power; and two requests of operators
//! that shake a cluster just as well.

use std::time::Duration;

use rand::{rngs::StdRng, seq::SliceRandom};

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
/// How long a node may take to take in what was under way to it when its link was cut.
const DRAINS: Duration = Duration::from_millis(200);
/// For how long a minority hangs and misses writes before the leader goes too. Together with [`LEADERLESS`] it
/// must be longer than the longest time after which a voter that hears no leader stands for election.
pub(crate) const LAGS: Duration = Duration::from_millis(1_600);
/// For how long the others are without a leader before the minority goes on: longer than the leader's lease,
/// and shorter than the shortest time after which one of them stands.
pub(crate) const LEADERLESS: Duration = Duration::from_millis(2_600);
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
    kill_behind_silence(active, id, nodes[0]).await?;
    let detail = format!(
        "{} (leader) killed, and its proxies go on taking connections",
        named(&nodes)
    );
    let healing = Healing::LinksThenStart(nodes.clone());
    Ok(Injected::new(nodes, detail, healing))
}

/// Cuts all that a node says and hears, then kills it.
async fn kill_behind_silence(
    active: &ActiveFaults,
    id: u64,
    node: NodeId,
) -> Result<(), FaultError> {
    let silence = network::silence(node, &active.ids());
    let killed = async {
        active.break_links(id, silence).await?;
        active.kill(&[node]).await
    };
    let killed = killed.await;
    if killed.is_err() {
        active.heal_links(id).await?;
    }
    killed
}

/// A minority hangs and misses writes, then the leader goes, and nothing tells. Those that are left have all
/// that was acknowledged and are no majority, so they wait. Those that lag go on when the lease of the leader
/// is over: their timers have run out, they stand at once, and are to be refused.
///
/// A failure detector does not help them to the votes of others, as it knows who lags; it does not keep them
/// from standing either, as they have to find out anew who is silent.
pub(super) async fn lagging_candidate(
    active: &ActiveFaults,
    id: u64,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let leader = active.choose(Target::Leader, rng).await?[0];
    let lagging = lagging(active.choose(Target::All, rng).await?, leader, rng);
    if lagging.is_empty() {
        return Err(FaultError::Skipped(
            "all but the leader are held by other faults".into(),
        ));
    }
    leave_behind(active, id, leader, lagging).await
}

/// As many followers as the cluster goes on without.
fn lagging(mut nodes: Vec<NodeId>, leader: NodeId, rng: &mut StdRng) -> Vec<NodeId> {
    let minority = nodes.len().saturating_sub(1) / 2;
    nodes.retain(|node| *node != leader);
    nodes.shuffle(rng);
    nodes.truncate(minority);
    nodes.sort_unstable();
    nodes
}

/// Pauses some, kills the leader silently while they lag, and lets them go on. Their links to the leader are
/// cut first and stay so: what it sends meanwhile would wait for them, and they would hear it once more.
pub(super) async fn leave_behind(
    active: &ActiveFaults,
    id: u64,
    leader: NodeId,
    lagging: Vec<NodeId>,
) -> Result<Injected, FaultError> {
    let apart = network::apart(leader, &lagging);
    active.break_links(id, apart).await?;
    tokio::time::sleep(DRAINS).await;
    if let Err(error) = active.pause(&lagging).await {
        active.heal_links(id).await?;
        return Err(error);
    }
    tokio::time::sleep(LAGS).await;
    let gone = kill_behind_silence(active, id, leader).await;
    if gone.is_ok() {
        tokio::time::sleep(LEADERLESS).await;
    }
    active.resume(&lagging).await?;
    gone?;
    let detail = format!(
        "{} paused, then node {leader} (leader) killed silently, then {} resumed",
        named(&lagging),
        named(&lagging)
    );
    let healing = Healing::LinksThenStart(vec![leader]);
    Ok(Injected::new(vec![leader], detail, healing))
}

/// One node goes and misses writes, then the rest goes. The node that lags is back first; it must not lead
/// before it has what the others have.
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

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_minority_of_the_followers_lags() {
        let mut rng = StdRng::seed_from_u64(3);
        for (count, expected) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 3)] {
            for leader in 1..=count {
                let lagging = lagging((1..=count).collect(), leader, &mut rng);
                assert_eq!(lagging.len(), expected, "of {count}");
                assert!(!lagging.contains(&leader), "{lagging:?}");
                assert!(lagging.is_sorted());
            }
        }
    }
}
