//! What the nodes see of each other, for `status`.
//!
//! Every node has a failure detector of its own, and they may differ: a broken link is seen by its two ends.
//! So each view stands beside the node that has it.

use holdfast_client::{
    Client, Error, ErrorKind,
    proto::v1::{Peer, PeerState, PeersResponse},
};
use serde_json::{Value, json};

use crate::{
    exit::Failure,
    output::{self, Format, Screen, id},
};

/// What one node sees, or why it is not known; nothing where the server has no detector to ask.
pub type Seen = Option<Result<PeersResponse, Error>>;

/// Asks one node.
pub async fn ask(client: &Client, endpoint: &str) -> Seen {
    match client.peers(endpoint).await {
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported(_)) => None,
        seen => Some(seen),
    }
}

/// The word for a state, which names the part that does not get on.
fn state(peer: &Peer) -> String {
    match peer.state() {
        PeerState::Unspecified => "unknown".to_owned(),
        PeerState::NotMet => "not met".to_owned(),
        PeerState::Alive => "alive".to_owned(),
        PeerState::Sick => format!("sick ({})", peer.stalled_part),
        PeerState::Silent => "silent".to_owned(),
        PeerState::Gone => "gone".to_owned(),
    }
}

/// Whom a node complains of, in a few words: empty if of nobody.
pub fn complaints(seen: &Seen) -> String {
    let Some(Ok(seen)) = seen else {
        return String::new();
    };
    let complained_of = seen
        .peers
        .iter()
        .filter(|peer| peer.state() != PeerState::Alive);
    let words: Vec<String> = complained_of
        .map(|peer| match peer.node_id == seen.node_id {
            true => format!("this {}", state(peer)),
            false => format!("{} {}", id(peer.node_id), state(peer)),
        })
        .collect();
    words.join(", ")
}

/// Milliseconds for people.
fn time(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{} s", ms / 1_000),
        _ => format!("{} min", ms / 60_000),
    }
}

/// A row for each node that each node sees.
pub fn show(seen: &[(u64, Seen)], screen: &mut Screen) -> Result<(), Failure> {
    let head = [
        "seen by",
        "node",
        "state",
        "for",
        "last heard",
        "round trip",
        "patience",
        "errors",
    ];
    let mut table = output::table(head);
    if screen.format == Format::Plain {
        screen.line(head.join("\t"))?;
    }
    for cells in seen.iter().flat_map(|(node, seen)| rows(*node, seen)) {
        match screen.format {
            Format::Table => {
                table.add_row(cells);
            }
            _ => screen.line(cells.join("\t"))?,
        }
    }
    if screen.format == Format::Table {
        screen.table(&table)?;
    }
    Ok(())
}

fn rows(node: u64, seen: &Seen) -> Vec<[String; 8]> {
    let seen = match seen {
        None => return Vec::new(),
        Some(Ok(seen)) => seen,
        Some(Err(error)) => {
            let mut cells: [String; 8] = Default::default();
            cells[0] = id(node);
            cells[7] = error.to_string();
            return vec![cells];
        }
    };
    let others = seen.peers.iter().filter(|peer| {
        // Of itself a node has something to say only if it complains.
        peer.node_id != seen.node_id || peer.state() != PeerState::Alive
    });
    let cells = others.map(|peer| {
        let met = peer.state() != PeerState::NotMet;
        let other = peer.node_id != seen.node_id;
        let shown = |is: bool, text: String| if is { text } else { String::new() };
        [
            id(node),
            id(peer.node_id),
            state(peer),
            shown(met, time(peer.since_ms)),
            shown(met && other, time(peer.heard_ms)),
            shown(
                peer.round_trip_us > 0,
                format!("{:.2} ms", peer.round_trip_us as f64 / 1e3),
            ),
            shown(other, time(peer.patience_ms)),
            String::new(),
        ]
    });
    cells.collect()
}

/// The same for programs: of every node, with all that was said.
pub fn json(seen: &PeersResponse) -> Value {
    let peers = seen.peers.iter().map(|peer| {
        json!({
            "node_id": peer.node_id,
            "state": match peer.state() {
                PeerState::Unspecified => "unknown",
                PeerState::NotMet => "not-met",
                PeerState::Alive => "alive",
                PeerState::Sick => "sick",
                PeerState::Silent => "silent",
                PeerState::Gone => "gone",
            },
            "since_ms": peer.since_ms,
            "stalled_part": peer.stalled_part,
            "round_trip_us": peer.round_trip_us,
            "patience_ms": peer.patience_ms,
            "heard_ms": peer.heard_ms,
        })
    });
    peers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node_id: u64, state: PeerState) -> Peer {
        Peer {
            node_id,
            state: state.into(),
            since_ms: 3_200,
            round_trip_us: 250,
            patience_ms: 200,
            heard_ms: 31_000,
            ..Peer::default()
        }
    }

    fn seen(peers: Vec<Peer>) -> Seen {
        Some(Ok(PeersResponse { node_id: 1, peers }))
    }

    #[test]
    fn a_row_for_each_other_node_and_for_itself_only_if_it_complains() {
        let itself = Peer {
            node_id: 1,
            state: PeerState::Alive.into(),
            ..Peer::default()
        };
        let silent = peer(2, PeerState::Silent);
        let not_met = Peer {
            node_id: 3,
            state: PeerState::NotMet.into(),
            patience_ms: 200,
            ..Peer::default()
        };
        let shown = rows(1, &seen(vec![itself.clone(), silent, not_met]));
        let lines: Vec<String> = shown.iter().map(|cells| cells.join("|")).collect();
        assert_eq!(
            lines,
            [
                "1|2|silent|3200 ms|31 s|0.25 ms|200 ms|",
                "1|3|not met||||200 ms|"
            ]
        );
        let sick = Peer {
            state: PeerState::Sick.into(),
            stalled_part: "log-sync".to_owned(),
            since_ms: 700_000,
            ..itself
        };
        let shown = rows(1, &seen(vec![sick]));
        assert_eq!(shown[0].join("|"), "1|1|sick (log-sync)|11 min||||");
    }

    #[test]
    fn complaints_are_short_and_name_nobody_who_is_well() {
        let gone = peer(3, PeerState::Gone);
        let alive = peer(2, PeerState::Alive);
        let sick = Peer {
            stalled_part: "apply".to_owned(),
            ..peer(1, PeerState::Sick)
        };
        assert_eq!(
            complaints(&seen(vec![sick, alive.clone(), gone])),
            "this sick (apply), 3 gone"
        );
        assert_eq!(complaints(&seen(vec![alive])), "");
        assert_eq!(complaints(&None), "");
    }

    #[test]
    fn programs_get_every_number() {
        let said = PeersResponse {
            node_id: 1,
            peers: vec![peer(2, PeerState::Gone)],
        };
        assert_eq!(
            json(&said).to_string(),
            r#"[{"heard_ms":31000,"node_id":2,"patience_ms":200,"round_trip_us":250,"since_ms":3200,"stalled_part":"","state":"gone"}]"#
        );
    }

    #[test]
    fn a_server_without_a_detector_has_no_rows() {
        assert!(rows(1, &None).is_empty());
    }
}
