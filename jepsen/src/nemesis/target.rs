//! Which nodes a fault hits.

/// Which nodes a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One node, whichever.
    One,
    /// The node that leads.
    Leader,
    /// As many nodes as the cluster survives.
    Minority,
    /// As many nodes as the cluster does not survive.
    Majority,
    /// All nodes.
    All,
    /// All nodes of a zone.
    Zone,
}
