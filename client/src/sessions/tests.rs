use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::time::timeout;

use super::*;

fn id(name: &str) -> MetadataValue<Ascii> {
    name.parse().expect("ASCII")
}

impl Sessions {
    /// A ticket if there is one at once; opens no lane.
    fn try_ticket(&self) -> Option<Ticket<'_>> {
        match self.try_claim()? {
            Claim::Ticket(ticket) => Some(ticket),
            Claim::Open(_) => None,
        }
    }

    async fn ticket(&self) -> Ticket<'_> {
        match self.claim().await {
            Claim::Ticket(ticket) => ticket,
            Claim::Open(_) => panic!("all lanes are open"),
        }
    }

    fn must_open(&self) -> Opening<'_> {
        match self.try_claim() {
            Some(Claim::Open(opening)) => opening,
            Some(Claim::Ticket(ticket)) => panic!("a ticket: {:?}", ticket.session()),
            None => panic!("to wait"),
        }
    }
}

/// Lanes that the cluster knows already.
fn open() -> Sessions {
    let sessions = Sessions::new();
    for (at, lane) in sessions.lanes.iter().enumerate() {
        *lane.lock() = Lane::Open(Window::new(id(&format!("lane-{at}")), WINDOW));
    }
    sessions
}

#[test]
fn one_writer_registers_for_a_lane_while_the_others_wait() {
    let sessions = Sessions::new();
    let opening = sessions.must_open();
    assert!(sessions.try_claim().is_none(), "somebody registers");
    opening.open(id("a"), WINDOW);
    let mut held = Vec::new();
    for seq in 1..=WINDOW {
        let ticket = sessions.try_ticket().expect("open");
        assert_eq!((ticket.client_id(), ticket.seq()), (id("a"), seq));
        held.push(ticket);
    }
    // The first lane is full: the next is registered for, and nobody is kept from the first.
    let opening = sessions.must_open();
    held.remove(0);
    let ticket = sessions.try_ticket().expect("room in the first lane");
    assert_eq!(ticket.client_id(), id("a"));
    drop(opening);
    let opening = sessions.must_open();
    assert_eq!(opening.lane, 1, "closed again by who gave it up");
}

#[test]
fn a_lane_is_as_wide_as_the_cluster_remembers() {
    let sessions = Sessions::new();
    sessions.must_open().open(id("a"), 2);
    let _held = [(); 2].map(|()| sessions.try_ticket().expect("two fit"));
    assert_eq!(sessions.must_open().lane, 1);
}

#[test]
fn a_forgotten_id_is_not_used_again_and_its_writes_end_quietly() {
    let sessions = Sessions::new();
    sessions.must_open().open(id("a"), WINDOW);
    let (first, second) = (
        sessions.try_ticket().unwrap(),
        sessions.try_ticket().unwrap(),
    );
    sessions.forget(first.session());
    sessions.must_open().open(id("b"), WINDOW);
    // Told twice, by each of the writes under it.
    sessions.forget(second.session());
    let third = sessions.try_ticket().expect("open");
    assert_eq!((third.client_id(), third.seq()), (id("b"), 1));
    drop((first, second));
    let fourth = sessions.try_ticket().expect("open");
    assert_eq!((fourth.client_id(), fourth.seq()), (id("b"), 2));
}

#[test]
fn numbers_start_at_one_and_stay_in_the_first_lane_while_it_has_room() {
    let sessions = open();
    for expected in 1..=1000 {
        let ticket = sessions.try_ticket().expect("one at a time");
        assert_eq!((ticket.session.lane, ticket.seq), (0, expected));
    }
}

#[test]
fn one_slow_write_closes_its_lane_only() {
    let sessions = open();
    let slow = sessions.try_ticket().expect("room");
    for _ in 1..WINDOW {
        assert_eq!(sessions.try_ticket().expect("room").session.lane, 0);
    }
    assert_eq!(sessions.try_ticket().expect("room").session.lane, 1);
    drop(slow);
    assert_eq!(sessions.try_ticket().expect("room").session.lane, 0);
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
    let sessions = std::sync::Arc::new(open());
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
    let sessions = open();
    let mut held: Vec<Ticket<'_>> = Vec::new();
    for _ in 0..20_000 {
        if rng.random_bool(0.52)
            && let Some(ticket) = sessions.try_ticket()
        {
            held.push(ticket);
            let lane = held.last().expect("just pushed").session.lane;
            let seqs = held
                .iter()
                .filter(|t| t.session.lane == lane)
                .map(|t| t.seq);
            let (low, high) = (seqs.clone().min(), seqs.max());
            let span = high.expect("held") - low.expect("held");
            assert!(span < WINDOW, "span {span} in lane {lane}");
        } else {
            held.shuffle(&mut rng);
            held.pop();
        }
    }
}
