use std::{collections::HashSet, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::time::timeout;

use super::*;

#[test]
fn ids_are_distinct_and_of_the_form_the_server_expects() {
    let sessions = Sessions::new();
    let ids: HashSet<String> = sessions
        .lanes
        .iter()
        .map(|l| l.id.to_str().expect("ASCII").to_owned())
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
    let sessions = Sessions::new();
    for expected in 1..=1000 {
        let ticket = sessions.try_ticket().expect("one at a time");
        assert_eq!((ticket.lane, ticket.seq), (0, expected));
    }
}

#[test]
fn one_slow_write_closes_its_lane_only() {
    let sessions = Sessions::new();
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
    let sessions = Sessions::new();
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
                let _ticket = sessions.ticket().await;
                tokio::task::yield_now().await;
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
    let sessions = Sessions::new();
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
