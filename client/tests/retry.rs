//! Retry ids, deadlines, discovery: what goes over the wire, and what an error says.

mod mock;

use std::{
    collections::{HashMap, HashSet},
    future::IntoFuture,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use holdfast_client::{Client, Effect, ErrorKind, ServerKind};
use mock::{Fate, Mock};
use tokio::time::sleep;
use tonic::Status;

async fn connect(mock: &Mock) -> Client {
    Client::connect(mock.urls()).await.expect("connect")
}

/// Waits for a condition; panics with its name after a while.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < give_up, "not so: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_id() {
    let mock = Mock::holdfast(&["a", "b", "c"]);
    let client = connect(&mock).await;
    assert_eq!(client.server_kind(), ServerKind::Holdfast);
    mock.world.script(|write| match write.retry {
        false => Fate::AnswerLost(Status::unavailable("etcdserver: leader changed")),
        true => Fate::Served,
    });
    for n in 1..=3 {
        let answer = client
            .put("k", "v")
            .await
            .expect("the second attempt is answered");
        assert_eq!(
            answer.header.expect("header").revision,
            n,
            "the first attempt's revision"
        );
    }
    mock.world.never_twice();
    let seen = mock.world.seen();
    assert_eq!(seen.len(), 6);
    for (n, pair) in seen.chunks(2).enumerate() {
        let [first, second] = pair else {
            unreachable!("chunks of two")
        };
        assert_eq!((first.seq, first.retry), (n as u64 + 1, false));
        assert_eq!((second.seq, second.retry), (n as u64 + 1, true));
        assert_eq!(first.client_id, second.client_id);
        assert_ne!(first.node, second.node, "another endpoint is tried first");
        assert!(first.timeout.is_some(), "the server is told the deadline");
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_is_asked_for_elsewhere() {
    let mock = Mock::holdfast(&["a", "b", "c"]);
    let urls = mock.urls();
    let hedge = Duration::from_millis(100);
    let client = Client::builder()
        .endpoints(urls)
        .hedge_after(hedge)
        .connect()
        .await
        .expect("connect");
    mock.world.script(|write| {
        if write.retry {
            Fate::Served
        } else {
            Fate::Silence
        }
    });
    let begun = Instant::now();
    client.put("k", "v").await.expect("hedged");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "well before the deadline"
    );
    mock.world.never_twice();
}

#[tokio::test]
async fn against_etcd_an_unknown_outcome_is_reported_not_repeated() {
    let mock = Mock::etcd(3);
    let client = connect(&mock).await;
    assert_eq!(client.server_kind(), ServerKind::Etcd);
    let lost = || Fate::AnswerLost(Status::unavailable("etcdserver: request timed out"));
    mock.world.script(move |_| lost());
    let error = client.put("k", "v").await.expect_err("the answer is lost");
    assert_eq!((error.effect(), error.attempts()), (Effect::Unknown, 1));
    assert_eq!(mock.world.seen().len(), 1);

    // A connection that breaks is no different.
    mock.world.script(|_| Fate::Silence);
    let write = tokio::spawn(client.put("k", "v").into_future());
    until("the write has arrived", || mock.world.seen().len() == 2).await;
    let at = mock.world.seen()[1].node;
    let mut mock = mock;
    let node = mock.nodes.iter_mut().find(|n| n.id == at).expect("node");
    node.kill();
    let error = write
        .await
        .expect("task")
        .expect_err("the connection broke");
    assert!(
        matches!(error.kind(), ErrorKind::Disconnected(_)),
        "{error:?}"
    );
    assert_eq!((error.effect(), error.attempts()), (Effect::Unknown, 1));
}

#[tokio::test]
async fn against_etcd_what_was_not_done_is_repeated() {
    let mock = Mock::etcd(3);
    let client = connect(&mock).await;
    let refusals = AtomicU32::new(0);
    mock.world
        .script(move |_| match refusals.fetch_add(1, Ordering::Relaxed) {
            0 => Fate::Refused(Status::unavailable("etcdserver: no leader")),
            1 => Fate::Refused(Status::resource_exhausted("etcdserver: too many requests")),
            _ => Fate::Served,
        });
    client.put("k", "v").await.expect("the third attempt");
    assert_eq!(mock.world.seen().len(), 3);
}

#[tokio::test]
async fn who_opts_in_gets_unprotected_retries() {
    let mock = Mock::etcd(1);
    let client = Client::builder()
        .endpoints(mock.urls())
        .retry_unprotected_writes(true)
        .connect()
        .await
        .expect("connect");
    let attempts = AtomicU32::new(0);
    mock.world
        .script(move |_| match attempts.fetch_add(1, Ordering::Relaxed) {
            0 => Fate::AnswerLost(Status::unavailable("etcdserver: request timed out")),
            _ => Fate::Served,
        });
    client.put("k", "v").await.expect("repeated");
    assert_eq!(mock.world.state.lock().revision, 2, "it took effect twice");
    let ids = mock.world.seen().into_iter().map(|w| w.client_id);
    assert!(ids.eq(["", ""]), "an etcd gives no ids");
}

#[tokio::test]
async fn without_retry_ids_it_is_a_stock_client() {
    let mock = Mock::holdfast(&["a", "b"]);
    let client = Client::builder()
        .endpoints(mock.urls())
        .retry_ids(false)
        .connect()
        .await
        .expect("connect");
    mock.world
        .script(|_| Fate::AnswerLost(Status::unavailable("etcdserver: leader changed")));
    let error = client.put("k", "v").await.expect_err("the answer is lost");
    assert_eq!((error.effect(), error.attempts()), (Effect::Unknown, 1));
    let seen = mock.world.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].client_id.is_empty(), "no retry id is sent");
}

#[tokio::test]
async fn the_deadline_holds_and_tells_the_last_failure() {
    let mock = Mock::holdfast(&["a", "b", "c"]);
    let client = connect(&mock).await;
    mock.world
        .script(|_| Fate::Refused(Status::unavailable("etcdserver: no leader")));
    let limit = Duration::from_millis(300);
    // A deadline that passes during an attempt leaves that one unknown, as it should. On a busy machine
    // it may take a few deadlines until one passes between two attempts.
    let mut tries = 0;
    let error = loop {
        let begun = Instant::now();
        let error = client
            .put("k", "v")
            .timeout(limit)
            .await
            .expect_err("no leader");
        let took = begun.elapsed();
        assert!(took >= limit && took < limit * 5, "{took:?}");
        tries += 1;
        if error.effect() == Effect::None {
            break error;
        }
        assert!(tries < 20, "nothing was appended by any attempt: {error:?}");
    };
    let ErrorKind::DeadlineExceeded {
        last: Some(last), ..
    } = error.kind()
    else {
        panic!("{error:?}")
    };
    assert!(matches!(last.kind(), ErrorKind::NoLeader));
    assert!(error.attempts() > 3, "{error:?}");

    mock.world.script(|_| Fate::Silence);
    let error = client
        .put("k", "v")
        .timeout(limit)
        .await
        .expect_err("silence");
    assert_eq!(error.effect(), Effect::Unknown);
    let told = mock
        .world
        .seen()
        .last()
        .and_then(|w| w.timeout.clone())
        .expect("grpc-timeout");
    let (digits, unit) = told.split_at(told.len() - 1);
    let told = digits.parse::<u64>().expect("digits") / if unit == "n" { 1_000_000 } else { 1_000 };
    assert!(told <= 300, "{told} ms");
}

#[tokio::test]
async fn a_refusal_after_a_lost_answer_is_vouched_for_by_holdfast() {
    let mock = Mock::holdfast(&["a"]);
    let client = connect(&mock).await;
    mock.world.script(|write| match write.retry {
        false => Fate::Refused(Status::unavailable("etcdserver: leader changed")),
        true => Fate::RefusedForGood(Status::invalid_argument("etcdserver: key not found")),
    });
    let error = client
        .put("k", "")
        .ignore_value()
        .await
        .expect_err("refused");
    assert!(matches!(error.kind(), ErrorKind::KeyNotFound));
    assert_eq!(error.effect(), Effect::None);
}

/// A proxy, a node that does not know the keyspace, a stock etcd behind the same name: none of them
/// knows what became of an earlier attempt.
#[tokio::test]
async fn a_refusal_that_is_not_the_state_machines_leaves_a_lost_answer_in_doubt() {
    let mock = Mock::holdfast(&["a"]);
    let client = connect(&mock).await;
    for refusal in [
        Status::permission_denied("grpc-status header missing, mapped from HTTP status code 403"),
        Status::not_found("holdfast: keyspace \"default\" does not exist"),
        Status::invalid_argument("etcdserver: key not found"),
        Status::invalid_argument("etcdserver: request is too large"),
        Status::unimplemented("no such method"),
        Status::failed_precondition("not here"),
    ] {
        let said = refusal.clone();
        mock.world.script(move |write| match write.retry {
            false => Fate::AnswerLost(Status::unavailable("etcdserver: leader changed")),
            true => Fate::Refused(said.clone()),
        });
        let error = client.put("k", "v").await.expect_err("refused");
        assert_eq!(error.effect(), Effect::Unknown, "{refusal:?}");
        // Alone it tells what became of its own attempt.
        let said = refusal.clone();
        mock.world.script(move |_| Fate::Refused(said.clone()));
        let error = client.put("k", "v").await.expect_err("refused");
        assert_eq!(error.effect(), Effect::None, "{refusal:?}");
    }
    mock.world.never_twice();
}

#[tokio::test]
async fn numbers_in_flight_stay_within_the_window_of_the_server() {
    let mock = Mock::holdfast(&["a", "b"]);
    let client = connect(&mock).await;
    // The second write of every lane is held, so the lane must stop 127 numbers later.
    mock.world.script(|write| match write.seq {
        2 => Fate::Held,
        _ => Fate::Served,
    });
    let writes: Vec<_> = (0..1200)
        .map(|n| tokio::spawn(client.put(format!("{n}"), "v").into_future()))
        .collect();
    until("all but the held ones are done", || {
        let state = mock.world.state.lock();
        let held: HashSet<_> = state
            .seen
            .iter()
            .filter(|w| w.seq == 2)
            .map(|w| &w.client_id)
            .collect();
        state.applied.len() + held.len() >= 1200
    })
    .await;
    let mut highest = HashMap::<String, u64>::new();
    for write in mock.world.seen() {
        let high = highest.entry(write.client_id).or_default();
        *high = write.seq.max(*high);
    }
    assert!(
        highest.len() >= 10,
        "1,200 writes behind held ones need ten lanes: {highest:?}"
    );
    assert!(highest.values().all(|&high| high <= 129), "{highest:?}");
    mock.world.gate.send_replace(true);
    for write in writes {
        write.await.expect("task").expect("write");
    }
    mock.world.never_twice();
}

#[tokio::test]
async fn a_client_registers_once_in_each_keyspace_before_its_first_write() {
    let mock = Mock::holdfast(&["a", "b"]);
    let client = connect(&mock).await;
    let registered = || mock.world.state.lock().registered.clone();
    client.get("k").await.expect("get");
    assert!(registered().is_empty(), "reads need no id");
    let writes: Vec<_> = (0..100)
        .map(|n| tokio::spawn(client.put(format!("{n}"), "v").into_future()))
        .collect();
    for write in writes {
        write.await.expect("task").expect("write");
    }
    mock.world.never_twice();
    assert_eq!(registered().len(), 1, "all fit under one id");
    let orders = client.keyspace("orders").expect("a valid name");
    orders.put("k", "v").await.expect("put");
    let again = client.keyspace("orders").expect("a valid name");
    again.put("k", "v").await.expect("put");
    let (ids, seen) = (registered(), mock.world.seen());
    assert_eq!(ids.len(), 2);
    let last: Vec<_> = seen[100..].iter().map(|w| (&w.client_id, w.seq)).collect();
    assert_eq!(last, [(&ids[1], 1), (&ids[1], 2)]);
}

#[tokio::test]
async fn a_forgotten_client_registers_again_and_loses_no_write() {
    let mock = Mock::holdfast(&["a", "b"]);
    let client = connect(&mock).await;
    client.put("k", "1").await.expect("put");
    let forget_all = || {
        let mut state = mock.world.state.lock();
        state.forgotten = state.registered.iter().cloned().collect();
    };
    forget_all();
    client.put("k", "2").await.expect("under a new id");
    let ids = mock.world.state.lock().registered.clone();
    assert_eq!(ids.len(), 2);
    let seen: Vec<_> = mock
        .world
        .seen()
        .into_iter()
        .map(|w| (w.client_id, w.seq))
        .collect();
    let expected = [(0, 1), (0, 2), (1, 1)].map(|(id, seq)| (ids[id].clone(), seq));
    assert_eq!(seen, expected);
    assert_eq!(mock.world.state.lock().revision, 2);
}

/// What was lost may have taken effect under the id that is forgotten now; under a new one it would
/// take effect again.
#[tokio::test]
async fn a_write_in_doubt_is_never_sent_under_a_new_id() {
    let mock = Mock::holdfast(&["a", "b"]);
    let client = connect(&mock).await;
    client.put("k", "1").await.expect("put");
    mock.world.script(|write| match write.retry {
        false => Fate::AnswerLost(Status::unavailable("etcdserver: leader changed")),
        true => Fate::Served,
    });
    // The answer is lost, and then the client is forgotten.
    let world = mock.world.clone();
    world.forget_after_apply.store(true, Ordering::Relaxed);
    let error = client.put("k", "2").await.expect_err("nobody knows");
    assert!(
        matches!(error.kind(), ErrorKind::ClientForgotten(_)),
        "{error:?}"
    );
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(mock.world.state.lock().revision, 2, "it took effect, once");
    world.forget_after_apply.store(false, Ordering::Relaxed);
    mock.world.script(|_| Fate::Served);
    client.put("k", "3").await.expect("known again");
    assert_eq!(mock.world.state.lock().registered.len(), 2);
}

#[tokio::test]
async fn what_left_no_trace_is_not_marked_as_a_retry() {
    let mock = Mock::holdfast(&["a", "b"]);
    let client = connect(&mock).await;
    let attempts = AtomicU32::new(0);
    mock.world
        .script(move |_| match attempts.fetch_add(1, Ordering::Relaxed) {
            0 => Fate::Refused(Status::unavailable("etcdserver: no leader")),
            1 => Fate::Refused(Status::unavailable("etcdserver: leader changed")),
            _ => Fate::Served,
        });
    client.put("k", "v").await.expect("the third attempt");
    let retries: Vec<_> = mock.world.seen().into_iter().map(|w| w.retry).collect();
    assert_eq!(retries, [false, false, true]);
}

#[tokio::test]
async fn one_endpoint_is_enough_to_find_the_others() {
    for mock in [Mock::holdfast(&["a", "b", "c"]), Mock::etcd(3)] {
        let urls = mock.urls();
        let client = Client::connect(&urls[..1]).await.expect("connect");
        until("all three are known and up", || {
            client.endpoints().iter().filter(|(_, up)| *up).count() == 3
        })
        .await;
        let mut known: Vec<_> = client.endpoints().into_iter().map(|(url, _)| url).collect();
        known.sort();
        let mut expected = urls.clone();
        expected.sort();
        assert_eq!(known, expected);
    }
}

#[tokio::test]
async fn the_same_node_under_two_names_is_used_once() {
    let mock = Mock::holdfast(&["a", "b"]);
    let port = mock.nodes[0].address.port();
    let client = Client::connect([format!("localhost:{port}")])
        .await
        .expect("connect");
    until("both nodes are up", || {
        client.endpoints().iter().filter(|e| e.1).count() == 2
    })
    .await;
    let urls: Vec<_> = client.endpoints().into_iter().map(|(url, _)| url).collect();
    assert_eq!(
        urls,
        [format!("http://localhost:{port}"), mock.urls()[1].clone()]
    );
}

#[tokio::test]
async fn the_preferred_zone_serves_while_it_can() {
    let mut mock = Mock::holdfast(&["zone-a", "zone-b", "zone-c"]);
    let client = Client::builder()
        .endpoints(mock.urls())
        .prefer_zone("zone-b")
        .connect()
        .await
        .expect("connect");
    for _ in 0..100 {
        client.get("k").await.expect("get");
    }
    let reads = mock.world.state.lock().reads.clone();
    assert_eq!(reads, HashMap::from([(2, 100)]));
    mock.nodes[1].kill();
    for _ in 0..100 {
        client.get("k").await.expect("get");
    }
    let reads = mock.world.state.lock().reads.clone();
    assert_eq!(reads.get(&2), Some(&100));
    assert!(
        reads[&1] > 30 && reads[&3] > 30,
        "spread over the other zones: {reads:?}"
    );
}

#[tokio::test]
async fn an_endpoint_of_another_cluster_is_not_used() {
    let ours = Mock::holdfast(&["a"]);
    let theirs = Mock::start(&["a"], true, 8);
    let client = Client::connect(ours.urls()).await.expect("connect");
    client.put("k", "v").await.expect("put");
    let both = [ours.urls(), theirs.urls()].concat();
    let client = Client::connect(both).await.expect("connect");
    until("one of the two is ignored", || {
        client.endpoints().len() == 1
    })
    .await;
    let kept = client.endpoints()[0].0.clone();
    let (used, unused) = if kept == ours.urls()[0] {
        (ours, theirs)
    } else {
        (theirs, ours)
    };
    let before = unused.world.seen().len();
    for _ in 0..20 {
        client.put("k", "v").await.expect("put");
    }
    assert!(used.world.seen().len() >= 20);
    assert_eq!(unused.world.seen().len(), before);
}

#[tokio::test]
async fn the_keyspace_travels_as_metadata() {
    let mock = Mock::holdfast(&["a"]);
    let client = connect(&mock).await;
    client.put("k", "v").await.expect("put");
    let orders = client.keyspace("orders").expect("a valid name");
    orders.put("k", "v").await.expect("put");
    let keyspaces: Vec<_> = mock.world.seen().into_iter().map(|w| w.keyspace).collect();
    assert_eq!(keyspaces, [None, Some("orders".to_owned())]);
    for bad in ["", "a b", "zähler", "a\n"] {
        let error = client.keyspace(bad).expect_err(bad);
        assert!(
            matches!(error.kind(), ErrorKind::InvalidKeyspace(_)),
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_reported_in_time() {
    let mut mock = Mock::holdfast(&["a"]);
    mock.nodes[0].kill();
    let begun = Instant::now();
    let error = Client::builder()
        .endpoints(mock.urls())
        .connect_timeout(Duration::from_millis(300))
        .connect()
        .await
        .expect_err("nobody answers");
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(error.effect(), Effect::None);
    assert!(error.to_string().contains("cannot connect"), "{error}");
}

#[tokio::test]
async fn max_attempts_bounds_the_retries() {
    let mock = Mock::holdfast(&["a", "b"]);
    let client = Client::builder()
        .endpoints(mock.urls())
        .max_attempts(1)
        .connect()
        .await
        .expect("connect");
    mock.world
        .script(|_| Fate::Refused(Status::unavailable("etcdserver: no leader")));
    let error = client.put("k", "v").await.expect_err("one attempt");
    assert!(matches!(error.kind(), ErrorKind::NoLeader), "{error:?}");
    assert_eq!((error.attempts(), error.effect()), (1, Effect::None));
}
