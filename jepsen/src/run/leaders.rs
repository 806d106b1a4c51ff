//! Asks again and again who leads, for the timeline of the report.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use crate::{evidence::leadership::Leadership, history::jsonl::Recorder, nemesis::Observer};

/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Changes that are kept: more than any page shows.
const CHANGES_MAX: usize = 10_000;

/// Notes each change until `stop` says so.
pub(super) async fn watch_leaders(
    observer: Observer,
    recorder: Arc<Recorder>,
    mut stop: watch::Receiver<bool>,
) -> Vec<Leadership> {
    let mut changes: Vec<Leadership> = Vec::new();
    loop {
        let said = observer.leadership().await;
        let now = Leadership {
            at_ns: u64::try_from(recorder.elapsed().as_nanos()).unwrap_or(u64::MAX),
            leader: said.map(|(leader, _)| leader),
            term: said.map_or(0, |(_, term)| term),
        };
        let same = |last: &Leadership| (last.leader, last.term) == (now.leader, now.term);
        if !changes.last().is_some_and(same) && changes.len() < CHANGES_MAX {
            changes.push(now);
        }
        // A sender that is gone is an order to stop, too.
        if timeout(ASK_EVERY, stop.wait_for(|stopped| *stopped))
            .await
            .is_ok()
        {
            return changes;
        }
    }
}
