//! The standard gRPC health service, for each keyspace and for the node.
//!
//! | service | serving means |
//! | --- | --- |
//! | `holdfast.keyspace.NAME` | this node answers linearizable reads of the keyspace NAME |
//! | `etcdserverpb.KV` | the same of the keyspace `default`, which stock clients reach |
//! | empty | the same of one keyspace of clients at least: the node is of use to somebody |
//!
//! One keyspace in trouble does not take a node away from the clients of the others. A node that
//! stays out of its cluster serves nothing.
//!
//! Whether a group is served is known from what the leaders say of all their groups together
//! ([`super::peer::leading`]): a look at a group asks nobody anything. Whoever looks at the leaders of all
//! groups also tells the log when they change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    context::ServiceContext,
    leaders::{Leaders, News},
};
use crate::{
    group::Group,
    keyspace::{DEFAULT, SYSTEM},
    limits,
};

/// Stands for the whole node, by the definition of the health service.
const NODE: &str = "";
/// What a stock client uses.
const KV: &str = "etcdserverpb.KV";
/// Comes before the name of a keyspace.
const KEYSPACE_PREFIX: &str = "holdfast.keyspace.";
/// Time between two looks at the groups. Nothing new is known sooner.
const POLL_INTERVAL: Duration = limits::LEADERS_ASKED_EVERY;

/// Keeps the reported health true until the context's owner has gone.
pub(super) async fn report(mut reporter: HealthReporter, context: Arc<ServiceContext>) {
    let mut told = BTreeMap::new();
    let mut leaders = Leaders::default();
    loop {
        let stays_out = context.stays_out.read().is_some();
        let groups = context.keyspaces.all();
        if stays_out || groups.is_empty() {
            leaders.forget();
        }
        let mut serving = BTreeMap::new();
        for group in &groups {
            let leader = group.serving_leader().filter(|_| !stays_out);
            serving.insert(group.keyspace(), leader.is_some());
            if !stays_out && let Some(news) = leaders.seen(group.id(), leader, Instant::now()) {
                tell(&context, group, news);
            }
        }
        leaders.keep(&groups.iter().map(|group| group.id()).collect());
        let now = services(&serving);
        let gone: BTreeSet<String> = told.keys().cloned().collect();
        let gone = gone.into_iter().filter(|name| !now.contains_key(name));
        let (dropped, gone): (Vec<_>, Vec<_>) = gone.partition(|service| {
            let name = service.strip_prefix(KEYSPACE_PREFIX);
            name.is_some_and(|name| context.registry.knows(name) == Some(false))
        });
        for service in dropped {
            // As of any name that is no service: whoever watches it is told that it is unknown.
            reporter.clear_service_status(&service).await;
            told.remove(&service);
        }
        let gone = gone.into_iter().map(|name| (name, false));
        for (service, serves) in now.into_iter().chain(gone) {
            if told.insert(service.clone(), serves) != Some(serves) {
                let health = if serves {
                    ServingStatus::Serving
                } else {
                    ServingStatus::NotServing
                };
                reporter.set_service_status(service, health).await;
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn tell(context: &ServiceContext, group: &Group, news: News) {
    let (id, keyspace) = (group.id(), group.keyspace());
    let term = group.leadership().borrow().term;
    match news {
        News::Leader {
            leader,
            before,
            without,
        } => tracing::info!(
            group = id,
            keyspace,
            leader,
            term,
            ?before,
            ?without,
            "the group has a leader"
        ),
        News::Lack { before, without } => {
            let member = context.config.this_member();
            tracing::warn!(
                group = id,
                keyspace,
                term,
                ?before,
                ?without,
                known_to_peers_as = member.map(|member| member.peer_url.as_str()),
                listens_on = %context.config.node.peer_addr,
                "the group has no leader that a quorum follows, so writes and linearizable reads wait: see \
                 which members run, and whether they reach each other and this node at its address"
            );
        }
    }
}

/// The health of every service, from whether each keyspace is served.
fn services(keyspaces: &BTreeMap<&str, bool>) -> BTreeMap<String, bool> {
    let mut services: BTreeMap<_, _> = keyspaces
        .iter()
        .map(|(name, serves)| (format!("{KEYSPACE_PREFIX}{name}"), *serves))
        .collect();
    let default = keyspaces.get(DEFAULT).copied().unwrap_or(false);
    let any = keyspaces
        .iter()
        .any(|(name, serves)| *serves && *name != SYSTEM);
    services.insert(KV.to_string(), default);
    services.insert(NODE.to_string(), any);
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_keyspace_in_trouble_leaves_the_node_to_the_others() {
        let health = |keyspaces: &[(&'static str, bool)], service: &str| {
            services(&keyspaces.iter().copied().collect())[service]
        };
        let half = [(SYSTEM, true), (DEFAULT, false), ("orders", true)];
        assert!(health(&half, NODE), "orders is served");
        assert!(!health(&half, KV), "stock clients are not");
        assert!(!health(&half, "holdfast.keyspace.default"));
        assert!(health(&half, "holdfast.keyspace.orders"));
        assert!(health(&half, "holdfast.keyspace.system"));
        let no_system = [(SYSTEM, false), (DEFAULT, true)];
        assert!(health(&no_system, NODE) && health(&no_system, KV));
        let only_system = [(SYSTEM, true), (DEFAULT, false)];
        assert!(!health(&only_system, NODE), "no client can use it");
        assert!(
            !health(&[], NODE) && !health(&[], KV),
            "not taking part yet"
        );
    }
}
