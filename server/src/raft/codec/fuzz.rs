//! What peers send and what the log holds: messages, votes, memberships, marks.

use prost::Message as _;

use super::*;
use crate::{fuzz, raft::state_machine::decode_applied};

fn entry(kind: u32, payload: &'static [u8]) -> peer::Entry {
    peer::Entry {
        term: 3,
        index: 9,
        kind,
        payload: Bytes::from_static(payload),
    }
}

const MEMBERSHIP: &[u8] = br#"{"configs":[[1,2,3]],"nodes":{"1":{"zone":"a","peer_url":"p","client_url":"c"},"2":{"zone":"b","peer_url":"p","client_url":"c"},"3":{"zone":"c","peer_url":"p","client_url":"c"}}}"#;

#[test]
fn fuzz_appends() {
    let vote = peer::Vote {
        term: 3,
        voted_for: 1,
        committed: true,
    };
    let request = peer::AppendRequest {
        group_id: 2,
        vote: Some(vote),
        prev_log_id: Some(peer::LogId { term: 2, index: 8 }),
        leader_commit: Some(peer::LogId { term: 2, index: 7 }),
        entries: vec![entry(0, b""), entry(1, b"a command"), entry(2, MEMBERSHIP)],
        leader_flushed: 9,
    };
    let appends = |bytes: &[u8]| {
        let Ok(request) = peer::AppendRequest::decode(bytes) else {
            return;
        };
        if let Ok(decoded) = append_from_wire(request) {
            let again = append_to_wire(2, decoded, 0);
            append_from_wire(again).expect("what this node encodes");
        }
    };
    fuzz::check("append", [request.encode_to_vec()], appends);
}

#[test]
fn fuzz_other_messages_of_peers() {
    let answer = peer::AppendResponse {
        result: Some(peer::append_response::Result::Conflict(peer::LogId {
            term: 2,
            index: 8,
        })),
        short_of_space: false,
    };
    let forward = peer::Forward {
        id: 1,
        group_id: 2,
        request: Some(peer::forward::Request::ReadIndex(peer::ReadIndex {})),
    };
    let seeds = [answer.encode_to_vec(), forward.encode_to_vec()];
    fuzz::check("peer-message", seeds, |bytes| {
        if let Ok(answer) = peer::AppendResponse::decode(bytes) {
            let _ = append_result_from_wire(answer);
        }
        if let Ok(request) = peer::VoteRequest::decode(bytes) {
            let _ = vote_from_wire(request.vote);
        }
        let _ = peer::ForwardBatch::decode(bytes);
        let _ = peer::ForwardReplyBatch::decode(bytes);
        let _ = peer::HeartbeatBatch::decode(bytes);
        let _ = peer::SnapshotChunk::decode(bytes);
        let _ = holdfast_proto::snapshot::Chunk::decode(bytes);
    });
}

#[test]
fn fuzz_votes_marks_and_memberships() {
    let vote = Vote {
        leader_id: LeaderId {
            term: 3,
            voted_for: 1,
        },
        committed: true,
    };
    let mark = holdfast_proto::snapshot::AppliedRecord {
        term: 3,
        index: 9,
        has_applied: true,
        membership_term: 1,
        membership_index: 1,
        membership: Bytes::from_static(MEMBERSHIP),
        has_membership: true,
    };
    let seeds = [
        vote_to_bytes(&vote).to_vec(),
        log_id_to_bytes(&log_id(3, 9)).to_vec(),
        MEMBERSHIP.to_vec(),
        mark.encode_to_vec(),
    ];
    membership_from_bytes(MEMBERSHIP).expect("a membership");
    fuzz::check("raft-record", seeds, |bytes| {
        if let Ok(vote) = vote_from_bytes(bytes) {
            let again = vote_from_bytes(&vote_to_bytes(&vote)).unwrap();
            assert_eq!(again, vote);
        }
        if let Ok(id) = log_id_from_bytes(bytes) {
            assert_eq!(log_id_to_bytes(&id), bytes);
        }
        if let Ok(membership) = membership_from_bytes(bytes) {
            let again = membership_from_bytes(&membership_to_bytes(&membership));
            assert_eq!(again.unwrap(), membership);
        }
        let _ = decode_applied(bytes);
    });
}
