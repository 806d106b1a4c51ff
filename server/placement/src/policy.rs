//! How patient, how fast and how careful placement is.
//!
//! One struct holds every number that a decision depends on, with its unit and the reason for its default, so that an
//! operator can change them together and a simulation can shrink them.

use std::time::Duration;

/// Times, bounds and shares that decisions keep to. All of them may change from call to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a node must have been healthy and caught up before a leadership moves to it. 10 s: longer
    /// than a restart takes to show whether it holds.
    pub home_wait: Duration,
    /// The wait doubles each time a node is lost again, up to this. 10 min.
    pub home_wait_max: Duration,
    /// For each such time that a node stays healthy, one doubling is forgiven. 10 min.
    pub flap_forgiven_after: Duration,
    /// With how many entries behind the leader a node still counts as caught up. 1,000: a fraction of a
    /// second of replication, which a transfer waits for.
    pub lag_entries_max: u64,
    /// Time between two moves of leaderships that nobody is in a hurry for: homecoming and balance.
    /// 200 ms, so that a hundred groups are home within half a minute.
    pub leader_move_interval: Duration,
    /// How many such moves may be under way at once. 1: a transfer stalls the writes of its group for
    /// a moment, and clients should never see that of many.
    pub leader_moves_in_flight_max: usize,
    /// How many keyspaces may change their voters at once. 4: each copies a whole state to a new node.
    pub voter_changes_in_flight_max: usize,
    /// How many of these may be for balance alone. 1.
    pub replica_moves_in_flight_max: usize,
    /// After how long without a sign of life a node counts as dead for good. 5 min: copying its replicas
    /// costs more than waiting for a reboot.
    pub dead_after: Duration,
    /// How long a step may take to show before it counts as failed. 10 s; not the time that a learner
    /// needs to catch up.
    pub step_patience: Duration,
    /// How long a keyspace is left alone after a failed step; doubles with each. 1 s.
    pub retry_wait: Duration,
    /// The longest such time. 60 s.
    pub retry_wait_max: Duration,
    /// How long a keyspace whose voters change keeps others from starting. 10 min, the time to copy a large
    /// state; one that is stuck for longer does not hold up the rest.
    pub catch_up_patience: Duration,
    /// Over how long writes are counted before an automatic home is reconsidered. 10 min.
    pub auto_window: Duration,
    /// How many windows in a row must favour the same zone. 3.
    pub auto_windows: u32,
    /// The share of the writes of a window, in percent, above which it favours a zone. 60: with less, about
    /// as many writes would become slower as faster.
    pub auto_share_percent: u64,
    /// Writes in a window below which it favours nobody. 1,000: an idle keyspace stays where it is.
    pub auto_writes_min: u64,
    /// How long writes are expected to stall when a leader is lost, for predictions. 1 s.
    pub failover_expected: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            home_wait: Duration::from_secs(10),
            home_wait_max: Duration::from_secs(600),
            flap_forgiven_after: Duration::from_secs(600),
            lag_entries_max: 1_000,
            leader_move_interval: Duration::from_millis(200),
            leader_moves_in_flight_max: 1,
            voter_changes_in_flight_max: 4,
            replica_moves_in_flight_max: 1,
            dead_after: Duration::from_secs(300),
            step_patience: Duration::from_secs(10),
            retry_wait: Duration::from_secs(1),
            retry_wait_max: Duration::from_secs(60),
            catch_up_patience: Duration::from_secs(600),
            auto_window: Duration::from_secs(600),
            auto_windows: 3,
            auto_share_percent: 60,
            auto_writes_min: 1_000,
            failover_expected: Duration::from_secs(1),
        }
    }
}
