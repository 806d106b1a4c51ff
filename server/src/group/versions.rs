//! Which version of the state machine each member has, as it said itself.
//!
//! Members say it when they introduce themselves, in both directions, and again whenever they start.
//! The leader of a group raises the version of its state when every voter has said that it knows the
//! later one, so no node meets a command that it would have to skip:
//!
//! ```text
//!   introductions ──▶ MemberVersions ──▶ raise(): leads? all voters known? ──▶ SetSettings
//! ```
//!
//! A member that was replaced by an earlier program after that stops at the first thing it does not
//! know, and says what to start instead.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use holdfast_mvcc::VERSION;
use holdfast_proto::command::{Command, Settings, command::Op};
use tokio::sync::watch;

use super::Group;
use crate::raft::NodeId;

/// Pause before the version is tried to be raised again, when nothing has changed meanwhile.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long one try may take.
const RAISE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the members of the cluster have said.
pub struct MemberVersions(watch::Sender<BTreeMap<NodeId, u32>>);

impl MemberVersions {
    /// Of the node `me`, which has heard of nobody yet.
    pub fn new(me: NodeId) -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(BTreeMap::from([(me, VERSION)]))))
    }

    /// A member has said its version; 0 is what one says that has no such word.
    pub fn heard(&self, node: NodeId, version: u32) {
        self.0.send_if_modified(|said| {
            let version = version.max(1);
            said.insert(node, version) != Some(version)
        });
    }

    /// The latest version that all of these have said that they know, or those that have said
    /// nothing yet.
    fn common(&self, voters: &[NodeId]) -> Result<u32, Vec<NodeId>> {
        let said = self.0.borrow();
        let silent = voters.iter().filter(|node| !said.contains_key(node));
        let silent: Vec<NodeId> = silent.copied().collect();
        if !silent.is_empty() {
            return Err(silent);
        }
        Ok(voters.iter().map(|node| said[node]).min().unwrap_or(1))
    }
}

/// With what a group takes part in a cluster of several versions.
#[derive(Clone)]
pub struct Raising {
    /// What the members have said.
    pub versions: Arc<MemberVersions>,
    /// Settings that a state gets which has none.
    pub first_settings: Settings,
}

impl Group {
    /// Version that the state has been raised to, as far as this node has applied.
    pub fn version(&self) -> u32 {
        self.read().0.version
    }

    /// Waits until the state has been raised to `version`, unless a voter stands in the way. Says what
    /// it waits for when it gives up.
    pub async fn raised_to(&self, version: u32, deadline: Instant) -> Result<(), String> {
        let mut published = self.raft.shared().watch();
        let mut versions = self.raising.versions.0.subscribe();
        loop {
            if published.borrow_and_update().version >= version {
                return Ok(());
            }
            versions.borrow_and_update();
            let voters = self.status().voters;
            let in_the_way = match self.raising.versions.common(&voters) {
                Err(silent) => Some(format!("nodes {silent:?} have not said their version yet")),
                // Nobody votes before the first membership is applied.
                Ok(common) if common < version && !voters.is_empty() => {
                    Some(format!("a voter knows version {common} only"))
                }
                Ok(_) => None,
            };
            if let Some(why) = in_the_way {
                return Err(why);
            }
            tokio::select! {
                changed = published.changed() => if changed.is_err() {
                    return Err("the group is shut down".to_owned());
                },
                // Its sender lives in `self`.
                _ = versions.changed() => {}
                () = tokio::time::sleep_until(deadline.into()) => {
                    return Err("the version was not raised in time".to_owned());
                }
            }
        }
    }

    /// What the state is to be raised to now: nothing unless this node leads and all voters know a later
    /// version than the present one.
    pub(super) fn due(&self) -> Option<Settings> {
        let known = self.version();
        let leader = self.leadership().borrow().leader;
        let voters = self.status().voters;
        if known >= VERSION || leader != Some(self.node_id) || voters.is_empty() {
            return None;
        }
        let common = self.raising.versions.common(&voters).ok()?;
        let version = Some(common.min(VERSION)).filter(|version| *version > known)?;
        let settings = match known {
            1 => self.raising.first_settings,
            // It has settings of its own.
            _ => Settings::default(),
        };
        Some(Settings {
            version,
            ..settings
        })
    }

    async fn raise_if_due(&self) {
        let Some(settings) = self.due() else {
            return;
        };
        let version = settings.version;
        let command = Command {
            op: Some(Op::SetSettings(settings)),
            ..Default::default()
        };
        match self.propose(command, Instant::now() + RAISE_TIMEOUT).await {
            Ok(_) => tracing::info!(
                group = self.id(),
                version,
                "all members know this version; the state was raised to it"
            ),
            Err(e) => tracing::debug!(group = self.id(), error = %e, "version not raised yet"),
        }
    }
}

/// Raises the version of a group whenever it may be, until it is that of this program.
///
/// What it waits for are events: another leader, another word of a member, something applied, such as the
/// first membership. Only what was tried in vain is tried again after a while.
pub(super) async fn raise(group: Weak<Group>) {
    let Some((mut leadership, mut versions, mut published)) = group.upgrade().map(|group| {
        let versions = group.raising.versions.0.subscribe();
        (group.leadership(), versions, group.raft.shared().watch())
    }) else {
        return;
    };
    loop {
        let stopped = leadership.borrow_and_update().stopped.is_some();
        versions.borrow_and_update();
        published.borrow_and_update();
        let again = {
            let Some(group) = group.upgrade() else {
                return;
            };
            if stopped || group.version() >= VERSION {
                return;
            }
            group.raise_if_due().await;
            group.due().is_some()
        };
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() {
                return;
            },
            changed = versions.changed() => if changed.is_err() {
                return;
            },
            changed = published.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(AGAIN_AFTER), if again => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_voters_know_is_what_the_least_of_them_said_and_nothing_while_one_is_silent() {
        let versions = MemberVersions::new(1);
        let voters = [1, 2, 3];
        assert_eq!(versions.common(&voters), Err(vec![2, 3]));
        versions.heard(2, VERSION + 1);
        versions.heard(3, 0);
        assert_eq!(versions.common(&voters), Ok(1), "3 has no such word");
        versions.heard(3, VERSION);
        assert_eq!(versions.common(&voters), Ok(VERSION));
        versions.heard(3, 1);
        assert_eq!(
            versions.common(&voters),
            Ok(1),
            "3 was started with an earlier program"
        );
    }
}
