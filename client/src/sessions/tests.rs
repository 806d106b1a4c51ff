use std::{collections::HashSet, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::time::timeout;

use super::*;

/// Lanes that the cluster knows already.
fn open() -> Sessions {
    let sessions = Sessions::new();
    for lane in &sessions.lanes {
        lane.lock().open = true;
    }
    sessions
}

#[test]
fn the_first_write_of_a_lane_travels_alone() {
    let sessions = Sessions::new();
    let mut opening: Vec<_> = (0..OPENING_MAX)
        .map(|_| sessions.try_ticket().expect("room"))
        .collect();
    for (lane, ticket) in opening.iter().enumerate() {
        assert_eq!((ticket.lane, ticket.seq), (lane, 1));
    }
    assert!(sessions.try_ticket().is_none(), "enough lanes are opening");
    let mut first = opening.remove(0);
    first.succeeded();
    drop(first);
    for seq in 2..=WINDOW + 1 {
        let ticket = sessions.try_ticket().expect("open");
        assert_eq!((ticket.lane, ticket.seq), (0, seq));
        opening.push(ticket);
    }
    // Lane 0 is full and three lanes are opening: one more may.
    let ticket = sessions.try_ticket().expect("a fourth");
    assert_eq!((ticket.lane, ticket.seq), (OPENING_MAX, 1));
    assert!(sessions.try_ticket().is_none());
}

#[test]
fn a_first_write_without_an_answer_takes_its_id_with_it() {
    let sessions = Sessions::new();
    let first = sessions.try_ticket().expect("room");
    let id = first.client_id();
    drop(first);
    let mut second = sessions.try_ticket().expect("room");
    assert_eq!((second.lane, second.seq), (0, 1));
    assert_ne!(second.client_id(), id);
    let id = second.client_id();
    second.succeeded();
    drop(second);
    // Once the id is known, a lost write does not cost it.
    drop(sessions.try_ticket().expect("room"));
    let fourth = sessions.try_ticket().expect("room");
    assert_eq!((fourth.client_id(), fourth.seq), (id, 3));
}

#[test]
fn ids_are_distinct_and_of_the_form_the_server_expects() {
    let sessions = Sessions::new();
    let ids: HashSet<String> = sessions
        .lanes
        .iter()
        .map(|l| l.lock().id.to_str().expect("ASCII").to_owned())
        .collect();
    assert_eq!(ids.len(), LANES);
    for id in ids {
        assert_eq!(id.len(), 32, "{id}");
        assert!(
            id.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
            "{id}"
        );
    }
}

#[test]
fn numbers_start_at_one_and_stay_in_the_first_lane_while_it_has_room() {
    let sessions = open();
    for expected in 1..=1000 {
        let ticket = sessions.try_ticket().expect("one at a time");
        assert_eq!((ticket.lane, ticket.seq), (0, expected));
    }
}

#[test]
fn one_slow_write_closes_its_lane_only() {
    let sessions = open();
    let slow = sessions.try_ticket().expect("room");
    for _ in 1..WINDOW {
        assert_eq!(sessions.try_ticket().expect("room").lane, 0);
    }
    assert_eq!(sessions.try_ticket().expect("room").lane, 1);
    drop(slow);
    assert_eq!(sessions.try_ticket().expect("room").lane, 0);
}

#[tokio::test]
async fn a_full_client_waits_until_the_oldest_write_of_a_lane_ends() {
    let sessions = open();
    let mut tickets: Vec<_> = Vec::new();
    while let Some(ticket) = sessions.try_ticket() {
        tickets.push(ticket);
    }
    assert_eq!(tickets.len() as u64, WINDOW * LANES as u64);
    // Not the oldest of its lane: no room yet.
    drop(tickets.remove(5));
    assert!(
        timeout(Duration::from_millis(20), sessions.ticket())
            .await
            .is_err()
    );
    // Now the six oldest are done; six waiters get in, a seventh does not.
    drop(tickets.drain(..5));
    let waiting = (0..6).map(|_| sessions.ticket());
    let mut seqs = Vec::new();
    for ticket in waiting {
        let ticket = timeout(Duration::from_secs(10), ticket)
            .await
            .expect("room for six");
        seqs.push(ticket.seq);
        tickets.push(ticket);
    }
    assert_eq!(seqs, [129, 130, 131, 132, 133, 134]);
    assert!(
        timeout(Duration::from_millis(20), sessions.ticket())
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_waiter_is_forgotten() {
    let sessions = std::sync::Arc::new(Sessions::new());
    let tasks: Vec<_> = (0..6000)
        .map(|_| {
            let sessions = sessions.clone();
            tokio::spawn(async move {
                let mut ticket = sessions.ticket().await;
                tokio::task::yield_now().await;
                ticket.succeeded();
            })
        })
        .collect();
    for task in tasks {
        timeout(Duration::from_secs(30), task)
            .await
            .expect("every waiter gets in")
            .expect("task");
    }
}

#[test]
fn numbers_in_flight_never_span_the_window() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let sessions = open();
    let mut held: Vec<Ticket<'_>> = Vec::new();
    for _ in 0..20_000 {
        if rng.random_bool(0.52)
            && let Some(ticket) = sessions.try_ticket()
        {
            held.push(ticket);
            let lane = held.last().expect("just pushed").lane;
            let seqs = held.iter().filter(|t| t.lane == lane).map(|t| t.seq);
            let (low, high) = (seqs.clone().min(), seqs.max());
            let span = high.expect("held") - low.expect("held");
            assert!(span < WINDOW, "span {span} in lane {lane}");
        } else {
            held.shuffle(&mut rng);
            held.pop();
        }
    }
}
