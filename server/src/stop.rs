//! How far a node is that stops: whoever waits for it can say what it waits for.

/// What a node that stops is doing. Every step but the first may hang with what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has not begun to stop: it still starts, or no thread is free to stop it.
    NotBegun,
    /// Other voters take over what this node leads.
    HandOver,
    /// Requests of clients under way are answered.
    DrainClients,
    /// The groups stop.
    StopGroups,
    /// Streams of other nodes end.
    DrainPeers,
    /// What is applied goes down to the disk.
    FlushState,
    /// What is queued for the log is written and synced.
    CloseLog,
    /// Everything is stopped and durable.
    Done,
}

impl Step {
    /// What a stop in this step waits for.
    pub fn waits_for(self) -> &'static str {
        match self {
            Self::NotBegun => "the node to begin to stop (it still starts, or its threads hang)",
            Self::HandOver => "other nodes to take over its leaderships",
            Self::DrainClients => "requests of clients under way",
            Self::StopGroups => "its groups to stop",
            Self::DrainPeers => "streams of other nodes to end",
            Self::FlushState => "the state to be written to the disk",
            Self::CloseLog => "the log to be written to the disk",
            Self::Done => "the process to end",
        }
    }
}
