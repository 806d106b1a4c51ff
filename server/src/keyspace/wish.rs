//! From what an operator asks for to what placement understands, and what may be asked for at all.

use std::{collections::BTreeMap, time::Duration};

use holdfast_placement::{Cluster, Health, Home, Load, Node, Objectives, Survive, Wish};
use holdfast_proto::v1::{Keyspace, KeyspaceSettings, SurvivalGoal};

use super::registry::{ChangeError, Contents};
use crate::{
    config::Config,
    detector::{Report, State},
    limits::{
        KEYSPACE_FAILOVER_ZONES_MAX as FAILOVER_ZONES_MAX,
        KEYSPACE_OWNER_CHARACTERS_MAX as OWNER_CHARACTERS_MAX,
        KEYSPACE_REPLICAS_MAX as REPLICAS_MAX, KEYSPACE_ZONE_CHARACTERS_MAX as ZONE_CHARACTERS_MAX,
    },
    raft::NodeId,
};

/// Zones from which none may be lost for good in a cluster that spreads a keyspace over zones.
const ZONES_FOR_SURVIVAL: usize = 3;

/// What is told of a value that was sent: enough to know it by, for a status must stay small.
pub fn beginning(value: &str) -> String {
    format!(
        "{:?}",
        value.chars().take(OWNER_CHARACTERS_MAX).collect::<String>()
    )
}

/// Refuses settings that no cluster could meet.
pub fn check(settings: &KeyspaceSettings) -> Result<(), String> {
    let refuse = |field: &str, value: &dyn std::fmt::Display, right: &str| {
        Err(format!("{field} = {value}: {right}"))
    };
    let survive = settings.survive;
    if SurvivalGoal::try_from(survive).is_err() {
        return refuse("survive", &survive, "must be node or zone");
    }
    if settings.replicas > REPLICAS_MAX {
        let right = format!("must be at most {REPLICAS_MAX}");
        return refuse("replicas", &settings.replicas, &right);
    }
    if settings.failover.len() > FAILOVER_ZONES_MAX {
        let right = format!("must name at most {FAILOVER_ZONES_MAX} zones");
        return refuse("failover", &settings.failover.len(), &right);
    }
    if settings.failover.iter().any(String::is_empty) {
        return refuse("failover", &"\"\"", "must be names of zones");
    }
    let mut zones = settings.failover.iter().chain([&settings.home]);
    if let Some(zone) = zones.find(|zone| zone.chars().count() > ZONE_CHARACTERS_MAX) {
        let right = format!("a zone has at most {ZONE_CHARACTERS_MAX} characters");
        return refuse("home, failover", &beginning(zone), &right);
    }
    let owner = &settings.owner;
    if owner.chars().count() > OWNER_CHARACTERS_MAX || owner.chars().any(char::is_control) {
        let right = format!("must be one line of at most {OWNER_CHARACTERS_MAX} characters");
        return refuse("owner", &beginning(owner), &right);
    }
    Ok(())
}

/// What is asked of the placement of a keyspace.
pub fn of(name: &str, settings: &KeyspaceSettings, cluster: &Cluster) -> Wish {
    Wish {
        name: name.to_owned(),
        home: match settings.home.as_str() {
            "" => Home::Auto,
            zone => Home::Zone(zone.to_owned()),
        },
        failover: settings.failover.clone(),
        survive: match settings.survive() {
            SurvivalGoal::Node => Survive::Node,
            SurvivalGoal::Zone => Survive::Zone,
            SurvivalGoal::Unspecified => possible_goal(cluster),
        },
        replicas: usize::try_from(settings.replicas).ok().filter(|n| *n > 0),
    }
}

/// The best goal that the zones of a cluster allow.
fn possible_goal(cluster: &Cluster) -> Survive {
    match cluster.zones().len() >= ZONES_FOR_SURVIVAL {
        true => Survive::Zone,
        false => Survive::Node,
    }
}

/// The same in the words of the API.
pub fn goal(survive: Survive) -> SurvivalGoal {
    match survive {
        Survive::Node => SurvivalGoal::Node,
        Survive::Zone => SurvivalGoal::Zone,
    }
}

/// What the owner of a keyspace counts on.
pub fn objectives(settings: &KeyspaceSettings) -> Objectives {
    Objectives {
        rto: Some(settings.rto_ms)
            .filter(|ms| *ms > 0)
            .map(Duration::from_millis),
        rpo: None,
    }
}

/// The nodes of the cluster and how this node sees them, `now` after any epoch.
pub fn cluster(config: &Config, reports: &[Report], now: Duration) -> Cluster {
    let health = |id: NodeId| {
        let report = reports.iter().find(|report| report.node == id);
        match report.map(|report| (report.state, report.since)) {
            Some((State::Suspected(_), since)) => Health::Down {
                since: now.saturating_sub(since.unwrap_or_default()),
            },
            Some((State::Sick(_), _)) => Health::Sick,
            _ => Health::Healthy,
        }
    };
    let members = config.cluster.members.iter();
    let nodes = members.map(|member| {
        let node = Node {
            zone: member.zone.clone(),
            health: health(member.id),
        };
        (member.id, node)
    });
    let mut cluster = Cluster {
        now,
        nodes: nodes.collect(),
        ..Cluster::default()
    };
    if let Some(here) = config.this_member() {
        for report in reports {
            let there = config.cluster.members.iter().find(|m| m.id == report.node);
            if let (Some(there), Some(round_trip)) = (there, report.round_trip) {
                cluster.round_trips.set(&here.zone, &there.zone, round_trip);
            }
        }
    }
    cluster
}

/// How many replicas each node has, and of keyspaces that are at home in its zone.
fn load(contents: &Contents, cluster: &Cluster) -> BTreeMap<NodeId, Load> {
    let mut load: BTreeMap<NodeId, Load> = BTreeMap::new();
    for keyspace in contents.keyspaces.values() {
        let home = keyspace
            .settings
            .as_ref()
            .map_or("", |settings| &settings.home);
        for node in &keyspace.voters {
            let load = load.entry(*node).or_default();
            load.replicas += 1;
            load.home += usize::from(
                cluster
                    .nodes
                    .get(node)
                    .is_some_and(|node| node.zone == home),
            );
        }
    }
    load
}

/// A new keyspace with the voters that it is to begin with.
pub fn place(
    name: &str,
    settings: &KeyspaceSettings,
    cluster: &Cluster,
    contents: &Contents,
) -> Result<Keyspace, ChangeError> {
    let wish = of(name, settings, cluster);
    let id = contents.next_group();
    let choice =
        holdfast_placement::choose_voters(id, &wish, None, cluster, &load(contents, cluster));
    let choice = choice.map_err(|unmet| ChangeError::Refused(unmet.to_string()))?;
    Ok(Keyspace {
        name: name.to_owned(),
        group_id: id,
        settings: Some(KeyspaceSettings {
            survive: goal(wish.survive).into(),
            ..settings.clone()
        }),
        voters: choice.nodes().into_iter().collect(),
        ..Keyspace::default()
    })
}

/// In which order the voters of a keyspace should lead. A home that follows the writes is not known here; then
/// each keyspace draws an order of its own.
pub fn election_order(keyspace: &Keyspace, zones: &BTreeMap<NodeId, String>) -> Vec<NodeId> {
    let settings = keyspace.settings.clone().unwrap_or_default();
    let wish = of(&keyspace.name, &settings, &Cluster::default());
    let voters = keyspace
        .voters
        .iter()
        .filter_map(|node| Some((*node, zones.get(node)?.clone())));
    holdfast_placement::election_order(&wish, None, &voters.collect(), keyspace.group_id)
}

/// Whether a keyspace can be as it was altered, with the voters that it has.
pub fn check_altered(
    keyspace: &Keyspace,
    cluster: &Cluster,
    contents: &Contents,
) -> Result<(), ChangeError> {
    let settings = keyspace.settings.clone().unwrap_or_default();
    let wish = of(&keyspace.name, &settings, cluster);
    let id = keyspace.group_id;
    let choice =
        holdfast_placement::choose_voters(id, &wish, None, cluster, &load(contents, cluster));
    choice.map_err(|unmet| ChangeError::Refused(unmet.to_string()))?;
    let voters = &keyspace.voters;
    if let Some(wanted) = wish.replicas.filter(|wanted| *wanted != voters.len()) {
        return Err(ChangeError::Refused(format!(
            "replicas = {wanted}: keyspace {:?} has {} voters, and those of a keyspace are not changed yet",
            keyspace.name,
            voters.len()
        )));
    }
    if wish.survive == Survive::Zone
        && let Some(zone) = zone_with_quorum(voters, cluster)
    {
        return Err(ChangeError::Refused(format!(
            "survive = zone: most voters of keyspace {:?} are in {zone}, and those of a keyspace are not changed yet",
            keyspace.name
        )));
    }
    Ok(())
}

/// The zone without which the voters are no quorum, if there is one.
fn zone_with_quorum<'a>(voters: &[NodeId], cluster: &'a Cluster) -> Option<&'a str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in voters.iter().filter_map(|id| cluster.nodes.get(id)) {
        *counts.entry(&node.zone).or_default() += 1;
    }
    let survives = |count: usize| 2 * (voters.len() - count) > voters.len();
    let zone = counts.into_iter().find(|(_, count)| !survives(*count));
    zone.map(|(zone, _)| zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(zones: &[&str]) -> Cluster {
        let nodes = (1..).zip(zones).map(|(id, zone)| {
            let node = Node {
                zone: (*zone).to_owned(),
                health: Health::Healthy,
            };
            (id, node)
        });
        Cluster {
            nodes: nodes.collect(),
            ..Cluster::default()
        }
    }

    #[test]
    fn settings_that_no_cluster_could_meet_are_refused_with_field_and_value() {
        let whole = KeyspaceSettings {
            home: "zone-a".into(),
            failover: vec!["zone-b".into()],
            owner: "shop@example.com".into(),
            ..Default::default()
        };
        assert_eq!(check(&whole), Ok(()));
        let wrong = |change: fn(&mut KeyspaceSettings)| {
            let mut settings = whole.clone();
            change(&mut settings);
            check(&settings).expect_err("it is wrong")
        };
        assert!(wrong(|s| s.survive = 7).starts_with("survive = 7"));
        assert!(wrong(|s| s.replicas = 11).starts_with("replicas = 11"));
        assert!(wrong(|s| s.failover.push(String::new())).starts_with("failover"));
        let long = wrong(|s| s.home = "z".repeat(1_000_000));
        assert!(
            long.starts_with("home") && long.len() < 1_000,
            "{}",
            long.len()
        );
        let long = wrong(|s| s.owner = "o".repeat(1_000_000));
        assert!(long.len() < 1_000, "{}", long.len());
        assert!(wrong(|s| s.owner = "two\nlines".into()).starts_with("owner"));
    }

    #[test]
    fn a_goal_that_was_not_stated_is_the_best_one_possible() {
        let three = cluster(&["a", "b", "c"]);
        let contents = Contents::default();
        let placed = place("orders", &KeyspaceSettings::default(), &three, &contents).unwrap();
        assert_eq!(placed.voters, [1, 2, 3]);
        assert_eq!(placed.settings.unwrap().survive(), SurvivalGoal::Zone);
        let two = cluster(&["a", "b", "b"]);
        let placed = place("orders", &KeyspaceSettings::default(), &two, &contents).unwrap();
        assert_eq!(placed.settings.unwrap().survive(), SurvivalGoal::Node);
        let zone = KeyspaceSettings {
            survive: SurvivalGoal::Zone.into(),
            ..Default::default()
        };
        let refused = place("orders", &zone, &two, &contents).unwrap_err();
        assert!(refused.to_string().contains("3 zones"), "{refused}");
    }

    #[test]
    fn altering_refuses_what_the_voters_do_not_meet() {
        let five = cluster(&["a", "a", "a", "b", "c"]);
        let mut keyspace = Keyspace {
            name: "orders".into(),
            group_id: 7,
            voters: vec![1, 2, 4],
            ..Default::default()
        };
        let contents = Contents::default();
        let mut alter = |settings: KeyspaceSettings| {
            keyspace.settings = Some(settings);
            check_altered(&keyspace, &five, &contents).map_err(|e| e.to_string())
        };
        let node = KeyspaceSettings {
            survive: SurvivalGoal::Node.into(),
            home: "b".into(),
            ..Default::default()
        };
        assert_eq!(alter(node.clone()), Ok(()));
        let zone = KeyspaceSettings {
            survive: SurvivalGoal::Zone.into(),
            ..Default::default()
        };
        assert!(alter(zone).unwrap_err().contains("are in a"));
        let more = KeyspaceSettings {
            replicas: 5,
            ..node
        };
        assert!(alter(more).unwrap_err().starts_with("replicas = 5"));
    }
}
