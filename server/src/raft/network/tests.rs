//! What a leader concludes from the answers of its followers.

use super::*;
use crate::raft::{
    promises::Broken,
    scripted::{self, AppendAnswers, Fate, Script, answered, confirm, put, until, within_a_minute},
    transport::BoxStream,
};

/// The one of three whose memory goes.
const FORGETFUL: NodeId = 3;

/// Followers that take what they are sent. The log of one of them ends at `known`, and a request that
/// does not begin there or before it conflicts with that log.
#[derive(Default)]
struct Followers {
    known: Arc<Mutex<Option<u64>>>,
}

fn conflict_or_confirm(
    known: &mut Option<u64>,
    request: &peer::AppendRequest,
) -> peer::AppendResponse {
    if let Some(before) = request.prev_log_id
        && known.is_none_or(|known| known < before.index)
    {
        return peer::AppendResponse {
            result: Some(peer::append_response::Result::Conflict(before)),
            ..Default::default()
        };
    }
    let last = request.entries.last().map(|entry| entry.index);
    *known = last.max(*known);
    confirm(request)
}

impl Script for Followers {
    fn append(&self, to: NodeId, requests: BoxStream<peer::AppendRequest>) -> Fate<AppendAnswers> {
        let known = self.known.clone();
        answered(requests, move |request| match to {
            FORGETFUL => conflict_or_confirm(&mut known.lock(), request),
            _ => confirm(request),
        })
    }

    fn heartbeat(&self, to: NodeId, request: peer::AppendRequest) -> Fate<peer::AppendResponse> {
        match to {
            // It is the stream that shows what it has.
            FORGETFUL => Box::pin(std::future::pending()),
            _ => Box::pin(std::future::ready(Ok(confirm(&request)))),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_lost_what_it_had_confirmed_is_an_alarm_and_one_that_never_had_it_is_none()
{
    let followers = Arc::new(Followers::default());
    let (raft, _log, _dir) =
        scripted::leader(followers.clone(), scripted::of_a_lasting_leader()).await;
    for _ in 0..10 {
        within_a_minute("answer", raft.propose(put()))
            .await
            .unwrap();
    }
    let last = raft.status().last_log_index;
    until("confirmation of the last entry", || {
        raft.status().matched.get(&FORGETFUL) == Some(&Some(last))
    })
    .await;
    assert_eq!(raft.broken_promises(), [], "it was empty, and has all now");

    *followers.known.lock() = None;
    let term = raft.status().leadership.term;
    // openraft, built with its assertions, does not go on after such an answer.
    let _ = within_a_minute("answer", raft.propose(put())).await;
    until("alarm", || !raft.broken_promises().is_empty()).await;
    let found = Broken {
        node: FORGETFUL,
        group: 1,
        promised: Reach { term, index: last },
        conflict: last,
    };
    assert_eq!(raft.broken_promises(), [found]);
}
