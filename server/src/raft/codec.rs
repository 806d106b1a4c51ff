//! Between openraft's types, the messages of `holdfast.peer.v1`, and the entries of the log.
//!
//! A log id is a pair (term, index): with one leader per term the leader's id adds nothing.
//! A missing log id is a missing message, never a zero.

#[cfg(test)]
mod fuzz;

use bytes::Bytes;
use holdfast_proto::peer;
use openraft::{EntryPayload, raft::StreamAppendError};

use super::type_config::{Entry, LeaderId, LogId, Membership, Proposal, TypeConfig, Vote};
use crate::storage::log;

/// Kind of a log entry, on disk and on the wire.
const KIND_BLANK: u8 = 0;
pub(super) const KIND_COMMAND: u8 = 1;
pub(super) const KIND_MEMBERSHIP: u8 = 2;

/// A message or a stored entry that does not decode.
#[derive(Debug, thiserror::Error)]
#[error("{what} does not decode: {why}")]
pub struct DecodeError {
    what: &'static str,
    why: String,
}

impl DecodeError {
    pub(super) fn new(what: &'static str, why: impl ToString) -> Self {
        Self {
            what,
            why: why.to_string(),
        }
    }
}

impl From<DecodeError> for std::io::Error {
    fn from(e: DecodeError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, e)
    }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: term.into(),
        index,
    }
}

pub(super) fn log_id_to_wire(id: &LogId) -> peer::LogId {
    peer::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub(super) fn log_id_from_wire(id: peer::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(super) fn vote_to_wire(vote: &Vote) -> peer::Vote {
    peer::Vote {
        term: vote.leader_id.term,
        voted_for: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(super) fn vote_from_wire(vote: Option<peer::Vote>) -> Result<Vote, DecodeError> {
    let vote = vote.ok_or_else(|| DecodeError::new("vote", "the field is missing"))?;
    Ok(Vote {
        leader_id: LeaderId {
            term: vote.term,
            voted_for: vote.voted_for,
        },
        committed: vote.committed,
    })
}

/// 17 bytes: term, node (both little endian), committed.
pub(super) fn vote_to_bytes(vote: &Vote) -> Bytes {
    let mut out = Vec::with_capacity(17);
    out.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    out.extend_from_slice(&vote.leader_id.voted_for.to_le_bytes());
    out.push(u8::from(vote.committed));
    out.into()
}

pub(super) fn vote_from_bytes(bytes: &[u8]) -> Result<Vote, DecodeError> {
    let wrong = || DecodeError::new("stored vote", format!("{} bytes, expected 17", bytes.len()));
    let (term, rest) = bytes.split_first_chunk::<8>().ok_or_else(wrong)?;
    let (node, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
    let [committed] = rest else {
        return Err(wrong());
    };
    Ok(Vote {
        leader_id: LeaderId {
            term: u64::from_le_bytes(*term),
            voted_for: u64::from_le_bytes(*node),
        },
        committed: *committed != 0,
    })
}

/// 16 bytes: term, index (both little endian).
pub(super) fn log_id_to_bytes(id: &LogId) -> Bytes {
    let mut out = Vec::with_capacity(16);
    out.extend_from_slice(&id.leader_id.term.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
    out.into()
}

pub(super) fn log_id_from_bytes(bytes: &[u8]) -> Result<LogId, DecodeError> {
    let wrong = || {
        DecodeError::new(
            "stored log id",
            format!("{} bytes, expected 16", bytes.len()),
        )
    };
    let (term, rest) = bytes.split_first_chunk::<8>().ok_or_else(wrong)?;
    let index: [u8; 8] = rest.try_into().map_err(|_| wrong())?;
    Ok(log_id(u64::from_le_bytes(*term), u64::from_le_bytes(index)))
}

pub(super) fn membership_to_bytes(membership: &Membership) -> Bytes {
    serde_json::to_vec(membership)
        .expect("a membership has string keys only and always serializes")
        .into()
}

pub(super) fn membership_from_bytes(bytes: &[u8]) -> Result<Membership, DecodeError> {
    serde_json::from_slice(bytes).map_err(|e| DecodeError::new("membership", e))
}

fn payload_parts(payload: EntryPayload<Proposal, u64, super::type_config::Voter>) -> (u8, Bytes) {
    match payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(proposal) => (KIND_COMMAND, proposal.0),
        EntryPayload::Membership(m) => (KIND_MEMBERSHIP, membership_to_bytes(&m)),
    }
}

fn payload_from_parts(
    kind: u32,
    payload: Bytes,
) -> Result<EntryPayload<Proposal, u64, super::type_config::Voter>, DecodeError> {
    match u8::try_from(kind) {
        Ok(KIND_BLANK) => Ok(EntryPayload::Blank),
        Ok(KIND_COMMAND) => Ok(EntryPayload::Normal(Proposal(payload))),
        Ok(KIND_MEMBERSHIP) => Ok(EntryPayload::Membership(membership_from_bytes(&payload)?)),
        _ => Err(DecodeError::new(
            "log entry",
            format!("unknown kind {kind}"),
        )),
    }
}

pub(super) fn entry_to_log(entry: Entry) -> log::Entry {
    let (kind, payload) = payload_parts(entry.payload);
    log::Entry {
        term: entry.log_id.leader_id.term,
        index: entry.log_id.index,
        kind,
        payload,
    }
}

pub(super) fn entry_from_log(entry: log::Entry) -> Result<Entry, DecodeError> {
    Ok(Entry {
        log_id: log_id(entry.term, entry.index),
        payload: payload_from_parts(u32::from(entry.kind), entry.payload)?,
    })
}

fn entry_to_wire(entry: Entry) -> peer::Entry {
    let (kind, payload) = payload_parts(entry.payload);
    peer::Entry {
        term: entry.log_id.leader_id.term,
        index: entry.log_id.index,
        kind: u32::from(kind),
        payload,
    }
}

fn entry_from_wire(entry: peer::Entry) -> Result<Entry, DecodeError> {
    Ok(Entry {
        log_id: log_id(entry.term, entry.index),
        payload: payload_from_parts(entry.kind, entry.payload)?,
    })
}

pub(super) type AppendEntriesRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(super) type StreamAppendResult = openraft::raft::StreamAppendResult<TypeConfig>;

/// `flushed` is the last index that the leader has flushed in its own log.
pub(super) fn append_to_wire(
    group_id: u64,
    request: AppendEntriesRequest,
    flushed: u64,
) -> peer::AppendRequest {
    peer::AppendRequest {
        group_id,
        vote: Some(vote_to_wire(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_wire),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_wire),
        entries: request.entries.into_iter().map(entry_to_wire).collect(),
        leader_flushed: flushed,
    }
}

pub(super) fn append_from_wire(
    request: peer::AppendRequest,
) -> Result<AppendEntriesRequest, DecodeError> {
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(request.vote)?,
        prev_log_id: request.prev_log_id.map(log_id_from_wire),
        leader_commit: request.leader_commit.map(log_id_from_wire),
        entries: request
            .entries
            .into_iter()
            .map(entry_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

pub(super) fn append_result_to_wire(
    result: &StreamAppendResult,
    short_of_space: bool,
) -> peer::AppendResponse {
    use peer::append_response::Result as Wire;
    let wire = match result {
        Ok(matched) => Wire::Matched(peer::Matched {
            log_id: matched.as_ref().map(log_id_to_wire),
        }),
        Err(StreamAppendError::Conflict(id)) => Wire::Conflict(log_id_to_wire(id)),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(vote_to_wire(vote)),
    };
    peer::AppendResponse {
        result: Some(wire),
        short_of_space,
    }
}

pub(super) fn append_result_from_wire(
    response: peer::AppendResponse,
) -> Result<StreamAppendResult, DecodeError> {
    use peer::append_response::Result as Wire;
    match response.result {
        Some(Wire::Matched(m)) => Ok(Ok(m.log_id.map(log_id_from_wire))),
        Some(Wire::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(log_id_from_wire(id)))),
        Some(Wire::HigherVote(vote)) => {
            let vote = vote_from_wire(Some(vote))?;
            Ok(Err(StreamAppendError::HigherVote(vote)))
        }
        None => Err(DecodeError::new("append response", "no result is set")),
    }
}
