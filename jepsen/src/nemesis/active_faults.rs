//! What is broken at the moment, and by how many.
//!
//! Several nemeses work on one cluster. Each takes claims here: a node is down, a node is paused, a
//! link is bad. What is claimed twice is whole only when both claims are given back. One lock makes
//! one caller at a time of all of them, which is what a [`Cluster`] asks for. Under the same lock it is
//! decided whether a claim stays within the blast radius; one that does not is skipped.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{Rng, seq::SliceRandom};
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    BlastRadius, Fault, Observer,
    claims::{Claims, give_back},
    ending::Ending,
    target::Target,
};
use crate::{
    cluster::{Cluster, FaultError, Link, LinkFault},
    history::NodeId,
};

/// Time between two looks at a node that may end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The cluster and the claims on it. Clones share them.
#[derive(Clone)]
pub struct ActiveFaults {
    cluster: Arc<dyn Cluster>,
    observer: Observer,
    claims: Arc<Mutex<Claims>>,
    /// What goes on while a fault lasts, such as connections that are held open. Dropping it ends it.
    tasks: Arc<Mutex<BTreeMap<u64, JoinSet<()>>>>,
    /// Blast radius of the run, or of a fault that states a larger one by its name.
    radius: BlastRadius,
}

impl ActiveFaults {
    /// A cluster on which nothing is broken.
    pub fn new(cluster: Arc<dyn Cluster>, observer: Observer) -> Self {
        Self {
            cluster,
            observer,
            claims: Arc::default(),
            tasks: Arc::default(),
            radius: BlastRadius::default(),
        }
    }

    /// The same cluster and claims, with another blast radius.
    pub fn within(mut self, radius: BlastRadius) -> Self {
        self.radius = radius;
        self
    }

    /// The cluster as a fault may use it: what the fault takes by its name it may.
    pub(super) fn of(&self, fault: Fault) -> Self {
        let count = self.ids().len();
        let own = fault.own_radius().unwrap_or(self.radius);
        let larger = own.nodes(count) > self.radius.nodes(count);
        self.clone().within(if larger { own } else { self.radius })
    }

    /// Waits until a fault may take a node, at most so long: where nemeses have to share a blast radius,
    /// they take turns.
    pub(super) async fn room(&self, patience: Duration) {
        let all = self.ids();
        let most = self.radius.nodes(all.len());
        let deadline = Instant::now() + patience;
        while most < all.len() && Instant::now() < deadline {
            if self.claims.lock().await.taken(&all).len() < most {
                return;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Refuses a claim that takes more nodes than the blast radius has.
    fn check(&self, claims: &Claims, claim: impl FnOnce(&mut Claims)) -> Result<(), FaultError> {
        let all = self.ids();
        let mut after = claims.clone();
        claim(&mut after);
        let taken = after.taken(&all);
        let most = self.radius.nodes(all.len());
        if taken.len() <= most || taken.len() <= claims.taken(&all).len() {
            return Ok(());
        }
        let taken: Vec<String> = taken.iter().map(ToString::to_string).collect();
        Err(FaultError::Skipped(format!(
            "it would take nodes {} at the same time, and the blast radius is {most} of {} nodes \
             (--blast-radius)",
            taken.join(", "),
            all.len()
        )))
    }

    /// The cluster.
    pub fn cluster(&self) -> &dyn Cluster {
        &*self.cluster
    }

    /// Asks the cluster about itself.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Ids of all nodes.
    pub fn ids(&self) -> Vec<NodeId> {
        self.cluster.nodes().iter().map(|node| node.id).collect()
    }

    /// Nodes that cannot take part any more, and why.
    pub async fn out(&self) -> BTreeMap<NodeId, String> {
        self.claims.lock().await.out.clone()
    }

    /// Gives a node up for this run.
    pub(super) async fn give_up(&self, node: NodeId, why: &str) {
        self.claims.lock().await.out.insert(node, why.to_owned());
    }

    /// Says that a node may end by itself from now on.
    pub(super) async fn may_end(&self, node: NodeId) {
        self.claims.lock().await.may_end.insert(node);
    }

    /// Does something to a node over which it may end, or stop taking part.
    pub(super) async fn risking(
        &self,
        node: NodeId,
        how: impl Future<Output = Result<(), FaultError>>,
    ) -> Result<(), FaultError> {
        let mut claims = self.claims.lock().await;
        self.check(&claims, |claims| {
            claims.at_risk.insert(node);
        })?;
        claims.may_end.insert(node);
        let done = how.await;
        if done.is_ok() {
            claims.at_risk.insert(node);
        }
        done
    }

    /// Says that nodes are at no risk any more.
    pub(super) async fn no_risk(&self, nodes: &[NodeId]) {
        let mut claims = self.claims.lock().await;
        claims.at_risk.retain(|node| !nodes.contains(node));
    }

    /// Nodes to hit, drawn from those that nobody holds.
    pub(super) async fn choose(
        &self,
        target: Target,
        rng: &mut impl Rng,
    ) -> Result<Vec<NodeId>, FaultError> {
        let leader = match target {
            Target::Leader => self.observer.leader().await,
            _ => None,
        };
        let claims = self.claims.lock().await;
        let free = |node: &NodeId| {
            !claims.down.contains_key(node)
                && !claims.paused.contains_key(node)
                && !claims.out.contains_key(node)
        };
        let all = self.ids();
        let mut there: Vec<NodeId> = all.iter().copied().filter(free).collect();
        there.shuffle(rng);
        let majority = all.len() / 2 + 1;
        let skipped = |why: &str| Err(FaultError::Skipped(why.to_owned()));
        match target {
            Target::One => there.truncate(1),
            Target::Minority => there.truncate((all.len() - majority).max(1)),
            Target::Majority => there.truncate(majority),
            Target::All => {}
            Target::Leader => match leader {
                Some(leader) if there.contains(&leader) => there = vec![leader],
                Some(_) => return skipped("the leader is held by another fault"),
                None => return skipped("there is no leader at the moment"),
            },
            Target::Zone => {
                let Some(first) = there.first() else {
                    return skipped("no node is free");
                };
                let zone = self.zone(*first).to_owned();
                there.retain(|node| self.zone(*node) == zone);
            }
        }
        if there.is_empty() {
            return skipped("no node is free");
        }
        there.sort_unstable();
        Ok(there)
    }

    fn zone(&self, id: NodeId) -> &str {
        let node = self.cluster.nodes().iter().find(|node| node.id == id);
        node.map_or("", |node| &node.zone)
    }

    /// SIGKILL to all of them, as close together as can be.
    pub(super) async fn kill(&self, nodes: &[NodeId]) -> Result<(), FaultError> {
        let kills = async {
            let kills = nodes.iter().map(|node| self.cluster.kill(*node));
            let killed = futures_util::future::join_all(kills).await;
            killed.into_iter().collect()
        };
        self.bring_down(nodes, kills).await
    }

    /// A power cut of all of them at once.
    pub(super) async fn cut_power(&self, nodes: &[NodeId]) -> Result<(), FaultError> {
        self.bring_down(nodes, self.cluster.cut_power(nodes)).await
    }

    /// Asks one node to stop.
    pub(super) async fn stop(&self, node: NodeId) -> Result<(), FaultError> {
        self.bring_down(&[node], self.cluster.stop(node)).await
    }

    /// Takes nodes down, all of them or none: where that fails, those that are down are started again,
    /// as nobody would give them back.
    async fn bring_down(
        &self,
        nodes: &[NodeId],
        how: impl Future<Output = Result<(), FaultError>>,
    ) -> Result<(), FaultError> {
        let mut claims = self.claims.lock().await;
        self.check(&claims, |claims| claims.take_down(nodes))?;
        let done = how.await;
        if done.is_ok() {
            claims.take_down(nodes);
            return done;
        }
        for node in nodes {
            if !claims.down.contains_key(node) && !self.cluster.is_running(*node).await {
                // A node that does not start is told by the end of the run.
                let _ = self.cluster.start(*node).await;
            }
        }
        done
    }

    /// Gives back that these nodes are down; those that nobody else holds are started.
    pub(super) async fn start(&self, nodes: &[NodeId]) -> Result<(), FaultError> {
        let mut claims = self.claims.lock().await;
        for node in nodes {
            if give_back(&mut claims.down, *node) {
                self.cluster.start(*node).await?;
            }
        }
        Ok(())
    }

    /// Starts nodes again that were allowed to end, or to stop a keyspace, and do so within `patience`:
    /// a failure that a node has met may be on its way to its end. That is what an operator does when
    /// the cause is gone. From then on none of them may end.
    pub(super) async fn restart_ended(
        &self,
        nodes: &[NodeId],
        patience: Duration,
    ) -> Result<Vec<NodeId>, FaultError> {
        let deadline = Instant::now() + patience;
        let mut ended = Vec::new();
        loop {
            let mut claims = self.claims.lock().await;
            let mut going = false;
            for node in nodes {
                if !claims.may_end.contains(node) {
                    continue;
                }
                let down = claims.down.contains_key(node);
                let hope = Instant::now() < deadline;
                let restarted = !down && self.restart_if_ended(*node, hope).await?;
                if restarted {
                    ended.push(*node);
                }
                if down || restarted || Instant::now() >= deadline {
                    claims.may_end.remove(node);
                    claims.at_risk.remove(node);
                } else {
                    going = true;
                }
            }
            drop(claims);
            if !going {
                return Ok(ended);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Starts a node again that has ended, or that has stopped a keyspace and has no `hope` to end.
    async fn restart_if_ended(&self, node: NodeId, hope: bool) -> Result<bool, FaultError> {
        let ending = if !self.cluster.is_running(node).await {
            Ending::Ended(self.cluster.ended_with(node).await)
        } else if self.observer.stopped(node).await.is_none() || hope {
            return Ok(false);
        } else {
            self.cluster.kill(node).await?;
            Ending::NeitherServesNorEnds
        };
        self.cluster.start(node).await?;
        ending.judge(node, &self.cluster.describe().target)?;
        Ok(true)
    }

    /// SIGSTOP to all of them, or to none.
    pub(super) async fn pause(&self, nodes: &[NodeId]) -> Result<(), FaultError> {
        let mut claims = self.claims.lock().await;
        self.check(&claims, |claims| {
            claims.paused.extend(nodes.iter().map(|node| (*node, 1)));
        })?;
        for (done, node) in nodes.iter().enumerate() {
            if let Err(error) = self.cluster.pause(*node).await {
                // Nobody would give back those before it.
                for node in &nodes[..done] {
                    if give_back(&mut claims.paused, *node) {
                        self.cluster.resume(*node).await?;
                    }
                }
                return Err(error);
            }
            *claims.paused.entry(*node).or_default() += 1;
        }
        Ok(())
    }

    /// SIGCONT, where nobody else holds the node.
    pub(super) async fn resume(&self, nodes: &[NodeId]) -> Result<(), FaultError> {
        let mut claims = self.claims.lock().await;
        for node in nodes {
            if give_back(&mut claims.paused, *node) {
                self.cluster.resume(*node).await?;
            }
        }
        Ok(())
    }

    /// Makes links bad on behalf of a fault.
    pub(super) async fn break_links(
        &self,
        fault: u64,
        links: Vec<(Link, LinkFault)>,
    ) -> Result<(), FaultError> {
        let mut claims = self.claims.lock().await;
        self.check(&claims, |claims| {
            claims.links.insert(fault, links.clone());
        })?;
        claims.links.insert(fault, links.clone());
        let merged = claims.merged(links.iter().map(|(link, _)| *link));
        let done = self.cluster.set_links(&merged).await;
        if done.is_err() {
            claims.links.remove(&fault);
        }
        done
    }

    /// Gives the links of a fault back.
    pub(super) async fn heal_links(&self, fault: u64) -> Result<(), FaultError> {
        let mut claims = self.claims.lock().await;
        let Some(links) = claims.links.remove(&fault) else {
            return Ok(());
        };
        let merged = claims.merged(links.iter().map(|(link, _)| *link));
        self.cluster.set_links(&merged).await
    }

    /// Goes on with these tasks on behalf of a fault.
    pub(super) async fn go_on(&self, fault: u64, tasks: JoinSet<()>) {
        self.tasks.lock().await.insert(fault, tasks);
    }

    /// Ends the tasks of a fault.
    pub(super) async fn end_tasks(&self, fault: u64) {
        self.tasks.lock().await.remove(&fault);
    }

    /// Holds one node down while `work` is done on its files, then starts it.
    pub(super) async fn while_down<T>(
        &self,
        node: NodeId,
        work: impl AsyncFnOnce() -> Result<T, FaultError>,
    ) -> Result<T, FaultError> {
        self.kill(&[node]).await?;
        let done = work().await;
        self.start(&[node]).await?;
        done
    }

    /// Makes everything whole, whoever broke it: links, syncs, clocks, disks, then processes.
    ///
    /// # Errors
    ///
    /// What could not be healed; the rest is healed all the same.
    pub async fn heal_all(&self) -> Result<(), FaultError> {
        let mut claims = self.claims.lock().await;
        let mut failed = Vec::new();
        let mut note = |done: Result<(), FaultError>| {
            if let Err(FaultError::Failed(why)) = done {
                failed.push(why);
            }
        };
        claims.links.clear();
        note(self.cluster.heal_links().await);
        self.tasks.lock().await.clear();
        for node in self.ids() {
            note(self.cluster.set_syncs(node, Default::default()).await);
            note(self.cluster.set_clock(node, Default::default()).await);
            note(self.cluster.fill_disk(node, false).await);
            note(self.cluster.fill_output(node, false).await);
            if claims.paused.remove(&node).is_some() {
                note(self.cluster.resume(node).await);
            }
            let held = claims.down.remove(&node).is_some();
            let ended = claims.may_end.remove(&node);
            claims.at_risk.remove(&node);
            if claims.out.contains_key(&node) {
                continue;
            }
            if held {
                note(self.cluster.start(node).await);
            } else if ended {
                note(self.restart_if_ended(node, false).await.map(drop));
            }
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(FaultError::Failed(failed.join("; ")))
        }
    }

    /// Nodes that ended although nobody had a hand in it.
    pub async fn ended_by_themselves(&self) -> Vec<NodeId> {
        let claims = self.claims.lock().await;
        let mut ended = Vec::new();
        for node in self.ids() {
            let excused = claims.down.contains_key(&node)
                || claims.out.contains_key(&node)
                || claims.may_end.contains(&node);
            if !excused && !self.cluster.is_running(node).await {
                ended.push(node);
            }
        }
        ended
    }

    /// Waits until a node serves again, as it says itself.
    pub(super) async fn wait_until_serving(
        &self,
        node: NodeId,
        patience: Duration,
    ) -> Result<(), String> {
        let nodes = self.cluster.nodes();
        let endpoint = nodes.iter().find(|n| n.id == node).map(|n| &n.direct);
        let endpoint = endpoint.ok_or_else(|| format!("there is no node {node}"))?;
        self.observer.until_serving(endpoint, patience).await
    }
}
