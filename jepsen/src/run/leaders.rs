//! Asks again and again who leads: for the timeline of the report, and for what is expected of leaders.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    evidence::leadership::{GroupLeadership, Leadership},
    history::{NodeId, jsonl::Recorder},
    nemesis::Observer,
};

/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long the groups of a cluster that serves may be without a leader before a run.
const LED_WITHIN: Duration = Duration::from_secs(30);
/// Changes that are kept: more than any page shows.
const CHANGES_MAX: usize = 10_000;

/// Who led when.
#[derive(Default)]
pub struct Leaders {
    /// The keyspace that clients reach.
    pub all: Vec<Leadership>,
    /// Each group, in the order in which changes were seen.
    pub of_groups: Vec<GroupLeadership>,
}

/// Waits until each group that the nodes know has a leader: a new cluster serves as soon as the keyspace of the
/// clients is led, and the first election of another group is none that a run is to judge.
///
/// # Errors
///
/// Half a minute was not enough; says for which groups.
pub(super) async fn until_all_are_led(observer: &Observer) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let groups = observer.leaders_of_groups().await;
        let Some(missing) = missing(&groups) else {
            return Ok(());
        };
        if begun.elapsed() > LED_WITHIN {
            return Err(format!("{missing}, after {LED_WITHIN:?}"));
        }
        sleep(ASK_EVERY).await;
    }
}

/// What is missing until all groups are led.
fn missing(groups: &BTreeMap<String, (Option<NodeId>, u64)>) -> Option<String> {
    let leaderless = groups.iter().filter(|(_, (leader, _))| leader.is_none());
    let names: Vec<&str> = leaderless.map(|(name, _)| name.as_str()).collect();
    match names.is_empty() {
        true if groups.is_empty() => Some("no node tells who leads its groups".into()),
        true => None,
        false => Some(format!("no leader of {}", names.join(", "))),
    }
}

/// Notes each change until `stop` says so. Groups are asked for where the nodes know them.
pub(super) async fn watch_leaders(
    observer: Observer,
    recorder: Arc<Recorder>,
    knows_groups: bool,
    mut stop: watch::Receiver<bool>,
) -> Leaders {
    let mut leaders = Leaders::default();
    let mut latest: BTreeMap<String, (Option<NodeId>, u64)> = BTreeMap::new();
    loop {
        let said = observer.leadership().await;
        let now = Leadership {
            at_ns: elapsed_ns(&recorder),
            leader: said.map(|(leader, _)| leader),
            term: said.map_or(0, |(_, term)| term),
        };
        let changes = &mut leaders.all;
        let same = |last: &Leadership| (last.leader, last.term) == (now.leader, now.term);
        if !changes.last().is_some_and(same) && changes.len() < CHANGES_MAX {
            changes.push(now);
        }
        if knows_groups {
            let said = observer.leaders_of_groups().await;
            let at_ns = elapsed_ns(&recorder);
            for (group, now) in said {
                note(&mut leaders.of_groups, &mut latest, group, now, at_ns);
            }
        }
        // A sender that is gone is an order to stop, too.
        if timeout(ASK_EVERY, stop.wait_for(|stopped| *stopped))
            .await
            .is_ok()
        {
            return leaders;
        }
    }
}

fn elapsed_ns(recorder: &Recorder) -> u64 {
    u64::try_from(recorder.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Notes what was said of a group, if it is new. That the nodes which know most do not answer takes no term
/// back.
fn note(
    changes: &mut Vec<GroupLeadership>,
    latest: &mut BTreeMap<String, (Option<NodeId>, u64)>,
    group: String,
    (leader, term): (Option<NodeId>, u64),
    at_ns: u64,
) {
    let known = latest.get(&group).copied();
    let is_news = known.is_none_or(|known| term >= known.1 && known != (leader, term));
    if is_news && changes.len() < CHANGES_MAX {
        latest.insert(group.clone(), (leader, term));
        let led = Leadership {
            at_ns,
            leader,
            term,
        };
        changes.push(GroupLeadership { group, led });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_led_when_each_that_is_known_has_a_leader() {
        let groups = |said: &[(&str, Option<NodeId>)]| {
            let said = said.iter().map(|(name, led)| (name.to_string(), (*led, 1)));
            missing(&said.collect())
        };
        assert_eq!(groups(&[("default", Some(2)), ("system", Some(1))]), None);
        assert_eq!(
            groups(&[("default", Some(2)), ("system", None)]).as_deref(),
            Some("no leader of system")
        );
        assert!(groups(&[]).is_some(), "nobody answers");
    }

    #[test]
    fn changes_are_noted_and_no_term_goes_back() {
        let (mut changes, mut latest) = (Vec::new(), BTreeMap::new());
        let said = [
            (Some(1), 3),
            (Some(1), 3),
            (None, 3),
            (None, 2),
            (Some(2), 4),
        ];
        for (at_ns, now) in said.into_iter().enumerate() {
            let group = "default".to_owned();
            note(&mut changes, &mut latest, group, now, at_ns as u64);
        }
        note(&mut changes, &mut latest, "system".to_owned(), (None, 1), 9);
        let noted: Vec<_> = changes
            .iter()
            .map(|change| (change.led.at_ns, change.led.leader, change.led.term))
            .collect();
        let expected = [(0, Some(1), 3), (2, None, 3), (4, Some(2), 4), (9, None, 1)];
        assert_eq!(noted, expected);
    }
}
