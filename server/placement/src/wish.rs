//! What the owner of a keyspace asks for, and why it may be refused.
//!
//! A wish says where writes come from, what must be survived and who takes over. It is checked
//! against the nodes by [`choose_voters`](crate::choose_voters) before it is promised; the refusal says what
//! would be right.

use thiserror::Error;

/// Where a keyspace is led while all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// In this zone.
    Zone(String),
    /// In the zone that most writes have come from for a long while.
    Auto,
}

/// What a keyspace must survive without losing data or standing still for longer than an election: the
/// survival goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survive {
    /// The loss of any one node.
    Node,
    /// The loss of any one zone.
    Zone,
}

impl std::fmt::Display for Survive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Zone => "zone",
        })
    }
}

/// What the owner of a keyspace asks of its placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The name of the keyspace, for messages.
    pub name: String,
    /// Where it is led while all is well.
    pub home: Home,
    /// Zones that take over from home, the first one first. Those that are not listed come last.
    pub failover: Vec<String>,
    /// What must be survived.
    pub survive: Survive,
    /// How many voters, an odd number from 3; `None` for 3, or 5 where zones must be survived and five
    /// nodes or more can share them out.
    pub replicas: Option<usize>,
}

impl Wish {
    /// A wish for a home, with the survival goal `zone` and everything else by default.
    pub fn new(name: impl Into<String>, home: Home) -> Self {
        Self {
            name: name.into(),
            home,
            failover: Vec::new(),
            survive: Survive::Zone,
            replicas: None,
        }
    }

    /// The home zone: the one that is wished for, or the one that was found for an automatic home.
    pub fn home_zone<'a>(&'a self, auto_home: Option<&'a str>) -> Option<&'a str> {
        match &self.home {
            Home::Zone(zone) => Some(zone),
            Home::Auto => auto_home,
        }
    }
}

/// Why the present nodes cannot do what a wish asks. Nodes that are dead for good do not count.
///
/// None of it passes by itself: either the wish changes, or the nodes do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unmet {
    /// A zone is named that has no node.
    #[error("{role} names zone {zone}, which has no node; zones with nodes: {}", list(.known))]
    UnknownZone {
        /// `home` or `failover`.
        role: &'static str,
        /// The zone.
        zone: String,
        /// All zones that have a node.
        known: Vec<String>,
    },
    /// A zone stands twice in home and failover order.
    #[error("zone {zone} is named twice in home and failover order; once is enough")]
    RepeatedZone {
        /// The zone.
        zone: String,
    },
    /// An even number of voters survives no more than one voter less.
    #[error("{replicas} replicas survive no more than {} would; ask for {} or {}", .replicas.saturating_sub(1), .replicas.saturating_sub(1).max(3), .replicas + 1)]
    EvenReplicas {
        /// How many were asked for.
        replicas: usize,
    },
    /// One replica survives nothing.
    #[error(
        "survival goal {survive} needs 3 replicas or more, and {replicas} is asked for: it would survive nothing"
    )]
    TooFewReplicas {
        /// The goal.
        survive: Survive,
        /// How many were asked for.
        replicas: usize,
    },
    /// There are not enough nodes for that many voters.
    #[error("survival goal {survive} with {replicas} replicas needs {replicas} nodes that are not dead for good, and there are {usable}; {}", more_nodes(*.replicas, *.usable))]
    TooFewNodes {
        /// The goal.
        survive: Survive,
        /// How many voters it takes.
        replicas: usize,
        /// How many nodes can hold one.
        usable: usize,
    },
    /// With two zones, one of them holds a quorum.
    #[error("survival goal zone needs 3 zones with nodes that are not dead for good, and there are {}: {}; add a node in another zone, or ask for survival goal node", .zones.len(), list(.zones))]
    TooFewZones {
        /// Zones that have such a node.
        zones: Vec<String>,
    },
    /// Some zone would hold a quorum, because the others have too few nodes.
    #[error("{replicas} replicas cannot be spread over the zones so that none holds {}: there is room for {room}; add nodes in the smaller zones, or ask for fewer replicas", .replicas / 2 + 1)]
    ZonesTooSmall {
        /// How many voters it takes.
        replicas: usize,
        /// For how many there is room, with no more than a minority in a zone.
        room: usize,
    },
}

/// Names in a row; "none" for no names.
fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

fn more_nodes(replicas: usize, usable: usize) -> String {
    let missing = replicas.saturating_sub(usable);
    let mut text = format!("add {missing}");
    if usable >= 3 {
        text.push_str(" or ask for 3 replicas");
    }
    text
}
