//! Cases one by one, and thousands of seeds.
//!
//! A failure of a seed prints it: `DETECTOR_SEED=n cargo test -p holdfast-server --lib detector` runs that
//! one alone, and `DETECTOR_SEEDS=n` as many.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};

use super::{
    simulation::{Latency, World},
    time::Time,
    views::Evidence,
    vitals::Part,
};
use crate::{limits, raft::NodeId};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const RACK: Latency = Latency {
    least: Duration::from_micros(50),
    jitter: Duration::from_micros(200),
};

/// A world that has been quiet for three seconds.
fn quiet(nodes: u64, latency: Latency) -> World {
    let mut world = World::new(1, nodes, |_| latency);
    run(&mut world, ms(3_000));
    world.is_calm().unwrap();
    world
}

fn run(world: &mut World, time: Duration) {
    world.run(world.now + time, |_, _| ());
}

/// How long it takes until all of `observers` hold that a majority suspects `subject`.
fn suspected_after(
    world: &mut World,
    observers: &[NodeId],
    subject: NodeId,
    within: Duration,
) -> Duration {
    let from = world.now;
    while !observers.iter().all(|at| world.suspects(*at, subject)) {
        run(world, ms(1));
        let passed = world.now.since(from);
        assert!(passed <= within, "not suspected within {within:?}");
    }
    world.now.since(from)
}

fn evidence(world: &World, observer: NodeId, subject: NodeId) -> Option<Evidence> {
    let views = world.views(observer)?;
    Some(views.suspicion(observer, subject)?.evidence)
}

#[test]
fn a_process_that_is_killed_is_gone_within_some_round_trips() {
    let mut world = quiet(3, RACK);
    world.kill(1);
    let after = suspected_after(&mut world, &[2, 3], 1, ms(5));
    println!("killed: suspected by a majority after {after:?}");
    assert_eq!(evidence(&world, 2, 1), Some(Evidence::Gone));
    assert!(!world.suspects(2, 3) && !world.suspects(3, 2));
}

#[test]
fn a_process_that_is_stopped_is_silent_within_a_quarter_of_a_second() {
    for offset in 0..40 {
        let mut world = quiet(3, RACK);
        run(&mut world, ms(offset));
        world.delay(1, ms(60_000));
        let after = suspected_after(&mut world, &[2, 3], 1, ms(250));
        assert!(after > ms(150), "{after:?}: sooner than a hiccup ends");
        assert_eq!(evidence(&world, 2, 1), Some(Evidence::Silent));
    }
}

#[test]
fn a_process_that_goes_on_accuses_nobody_and_is_cleared_at_once() {
    let mut world = quiet(3, RACK);
    world.delay(1, ms(5_000));
    run(&mut world, ms(4_999));
    assert!(world.suspects(2, 1) && world.suspects(3, 1));
    world.run(world.now + ms(500), |world, id| {
        assert!(id != 1 || evidence(world, 1, 2).is_none());
        assert!(id != 1 || evidence(world, 1, 3).is_none());
    });
    world.is_calm().unwrap();
}

#[test]
fn the_next_stop_is_noticed_as_soon_as_the_first() {
    let mut world = quiet(3, RACK);
    for _ in 0..10 {
        for id in 1..=3 {
            world.delay(id, ms(1_500));
            let others: Vec<_> = (1..=3).filter(|other| *other != id).collect();
            suspected_after(&mut world, &others, id, ms(250));
            run(&mut world, ms(1_500));
        }
    }
}

#[test]
fn behind_a_proxy_that_accepts_for_it_a_dead_process_is_silent() {
    let mut world = quiet(3, RACK);
    world.proxied = true;
    world.kill(1);
    suspected_after(&mut world, &[2, 3], 1, ms(250));
    run(&mut world, ms(2_000));
    assert_eq!(evidence(&world, 2, 1), Some(Evidence::Silent));
    world.proxied = false;
    world.start(1);
    run(&mut world, ms(7_000));
    world.is_calm().unwrap();
}

#[test]
fn a_link_that_lets_one_side_through_deposes_nobody() {
    let mut world = quiet(3, RACK);
    world.cut(1, 2, true);
    world.run(world.now + ms(10_000), |world, id| {
        for subject in world.ids() {
            assert!(!world.suspects(id, subject), "{id} of {subject}");
        }
    });
    assert_eq!(evidence(&world, 2, 1), Some(Evidence::Silent));
    assert_eq!(evidence(&world, 1, 2), Some(Evidence::Silent));
    assert_eq!(evidence(&world, 3, 1), None);
    world.cut(1, 2, false);
    run(&mut world, ms(200));
    world.is_calm().unwrap();
}

#[test]
fn who_is_heard_and_hears_nobody_is_suspected_and_so_is_who_hears_and_is_not_heard() {
    for deaf in [true, false] {
        let mut world = quiet(3, RACK);
        for other in [2, 3] {
            let (from, to) = if deaf { (other, 1) } else { (1, other) };
            world.cut(from, to, true);
        }
        suspected_after(&mut world, &[2, 3], 1, ms(300));
        assert!(!world.suspects(2, 3) && !world.suspects(3, 2));
    }
}

#[test]
fn a_restart_is_a_new_session_and_clears_the_suspicion() {
    for away in [1, 10, 50, 400, 5_000] {
        let mut world = quiet(3, RACK);
        let before = world.views(2).unwrap().session(1);
        world.kill(1);
        run(&mut world, ms(away));
        world.start(1);
        run(&mut world, ms(400));
        world.is_calm().unwrap_or_else(|e| panic!("{away} ms: {e}"));
        let after = world.views(2).unwrap().session(1);
        assert!(after.is_some() && after != before, "{away} ms");
    }
}

#[test]
fn who_restarts_while_another_dies_agrees_on_it() {
    let mut world = quiet(3, RACK);
    world.kill(1);
    world.kill(2);
    world.start(2);
    suspected_after(&mut world, &[2, 3], 1, ms(500));
}

#[test]
fn what_an_earlier_start_said_late_means_nothing() {
    let slow = Latency {
        least: ms(20),
        jitter: ms(130),
    };
    let mut world = quiet(3, slow);
    for _ in 0..20 {
        world.kill(1);
        world.start(1);
        run(&mut world, ms(3_000));
        world.is_calm().unwrap();
    }
}

#[test]
fn a_goodbye_is_as_good_as_a_death() {
    let mut world = quiet(3, RACK);
    world.goodbye(1);
    suspected_after(&mut world, &[2, 3], 1, ms(3));
    assert_eq!(evidence(&world, 2, 1), Some(Evidence::Gone));
    run(&mut world, ms(2_000));
    assert!(world.suspects(2, 1), "though it still answers");
    world.kill(1);
    world.start(1);
    run(&mut world, ms(500));
    world.is_calm().unwrap();
}

#[test]
fn a_stall_is_told_to_all_and_its_end_too() {
    let mut world = quiet(3, RACK);
    let stall = |world: &World, at: NodeId| world.views(at).unwrap().stalled(1);
    world.nodes.get_mut(&1).unwrap().stall = Some((Part::LogSync, ms(100)));
    run(&mut world, ms(100));
    assert_eq!(stall(&world, 1), None, "too short to tell");
    world.nodes.get_mut(&1).unwrap().stall = Some((Part::LogSync, ms(700)));
    run(&mut world, ms(100));
    for at in 1..=3 {
        assert_eq!(stall(&world, at).unwrap().part, Part::LogSync, "at {at}");
    }
    assert!(!world.suspects(2, 1), "to be sick is not to be dead");
    world.nodes.get_mut(&1).unwrap().stall = None;
    run(&mut world, ms(100));
    for at in 1..=3 {
        assert_eq!(stall(&world, at), None, "at {at}");
    }
}

#[test]
fn a_machine_with_too_much_to_do_learns_patience_and_still_finds_the_dead() {
    let mut world = quiet(3, RACK);
    let starve = |world: &mut World, time: u64, ids: &[NodeId]| {
        let until = world.now + ms(time);
        while world.now < until {
            for id in ids {
                let late = world.rng.random_range(0..160);
                world.delay(*id, ms(late));
            }
            run(world, ms(80));
        }
    };
    starve(&mut world, 3_000, &[1, 2, 3]);
    let until = world.now + ms(60_000);
    while world.now < until {
        starve(&mut world, 80, &[1, 2, 3]);
        for observer in 1..=3 {
            for subject in 1..=3 {
                assert!(!world.suspects(observer, subject), "at {:?}", world.now);
            }
        }
    }
    world.proxied = true;
    world.kill(1);
    let died = world.now;
    while !(world.suspects(2, 1) && world.suspects(3, 1)) {
        starve(&mut world, 80, &[2, 3]);
        assert!(world.now.since(died) < ms(6_000));
    }
    println!("starved: suspected after {:?}", world.now.since(died));
}

// ---- seeds -----------------------------------------------------------------------------------------

const SEEDS_DEFAULT: u64 = 60;

fn each_seed(of: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("DETECTOR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DETECTOR_SEEDS").unwrap_or(SEEDS_DEFAULT),
    };
    for seed in seeds {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| of(seed)));
        if let Err(panic) = failed {
            eprintln!("seed {seed}: DETECTOR_SEED={seed} runs it alone");
            std::panic::resume_unwind(panic);
        }
    }
}

/// From one rack to the other side of the world, with jitter of up to the same again.
fn any_latency(rng: &mut StdRng) -> Latency {
    let least = Duration::from_micros(100) * 1500u32.pow(rng.random_range(0..=1)) / 10
        * rng.random_range(1..=10);
    let jitter = least.mul_f64(rng.random_range(0.0..1.0));
    Latency {
        least: least / 2,
        jitter: jitter / 2,
    }
}

#[test]
fn with_any_seed_the_dead_are_found_in_time() {
    each_seed(|seed| {
        let nodes = [3, 5][seed as usize % 2];
        let mut world = World::new(seed, nodes, any_latency);
        run(&mut world, ms(4_000));
        world.is_calm().unwrap();
        let wait = world.rng.random_range(0..2_000);
        run(&mut world, ms(wait));
        let others: Vec<_> = (2..=nodes).collect();
        let longest = 2 * ms(150);
        match world.rng.random_range(0..3) {
            0 => {
                world.kill(1);
                // The end of a connection, a refusal, the word of the others.
                suspected_after(&mut world, &others, 1, 2 * longest + ms(20));
            }
            1 => {
                world.delay(1, ms(60_000));
                suspected_after(&mut world, &others, 1, ms(250) + 6 * longest);
            }
            _ => {
                world.proxied = true;
                world.kill(1);
                suspected_after(&mut world, &others, 1, ms(250) + 6 * longest);
            }
        }
        for _ in 0..100 {
            run(&mut world, ms(30));
            for views in others.iter().filter_map(|id| world.views(*id)) {
                for subject in &others {
                    assert!(!views.is_suspected(*subject, 1..=nodes), "{views:?}");
                }
            }
        }
    });
}

/// Longest time after which what befell a node has no effect any more, but for what others hold of it.
const TROUBLE_LASTS: Duration = Duration::from_secs(4);

fn make_trouble(world: &mut World) {
    let ids = world.ids();
    let any = |world: &mut World| ids[world.rng.random_range(0..ids.len())];
    let node = any(world);
    match world.rng.random_range(0..10) {
        0..=3 => {
            let longest = [30, 300, 900, 4_000][world.rng.random_range(0..4)];
            let by = world.rng.random_range(1..longest);
            world.delay(node, ms(by));
        }
        4 if world.nodes[&node].machine.is_some() => world.kill(node),
        4 | 5 => {
            if world.nodes[&node].machine.is_none() {
                world.start(node);
            }
        }
        6..=8 => {
            let other = any(world);
            if node != other {
                let cut = world.rng.random_range(0..3) == 0;
                world.cut(node, other, cut);
            }
        }
        _ => world.proxied = world.rng.random(),
    }
}

/// Notes which nodes are in trouble: they are down, do not run, or do not reach enough others.
fn note_trouble(world: &mut World) {
    let ids = world.ids();
    let now = world.now;
    for id in &ids {
        let broken = ids.iter().filter(|other| {
            *other != id && (world.is_cut(*id, **other) || world.is_cut(**other, *id))
        });
        let broken = broken.count();
        let node = &world.nodes[id];
        let runs = node.machine.is_some() && node.busy_until <= now;
        // Whoever cannot hear it may be joined by nobody: a minority.
        if !runs || broken > ids.len().div_ceil(2) - 1 {
            world.nodes.get_mut(id).unwrap().troubled_at = now;
        }
    }
}

#[test]
fn with_any_seed_who_is_well_is_not_suspected_and_all_is_well_in_the_end() {
    each_seed(|seed| {
        let nodes = [3, 5][seed as usize % 2];
        let mut world = World::new(seed, nodes, any_latency);
        run(&mut world, ms(4_000));
        world.is_calm().unwrap();
        let end = world.now + ms(12_000);
        while world.now < end {
            let several = world.rng.random_range(0..3);
            (0..several).for_each(|_| make_trouble(&mut world));
            let pause = world.rng.random_range(1..1_200);
            let until = world.now + ms(pause);
            while world.now < until {
                note_trouble(&mut world);
                run(&mut world, ms(20));
                note_trouble(&mut world);
                let ids = world.ids();
                for views in ids.iter().filter_map(|id| world.views(*id)) {
                    for subject in &ids {
                        let trouble = world.now.since(world.nodes[subject].troubled_at);
                        let well = trouble > TROUBLE_LASTS;
                        assert!(
                            !(well && views.is_suspected(*subject, ids.iter().copied())),
                            "{views:#?}\n{} holds that a majority suspects {subject} at {:?}\n{:#?}",
                            views.me(),
                            world.now,
                            world.told
                        );
                    }
                }
            }
        }
        world.proxied = false;
        for id in world.ids() {
            if world.nodes[&id].machine.is_none() {
                world.start(id);
            }
            for other in world.ids() {
                world.cut(id, other, false);
            }
        }
        run(&mut world, ms(4_000) + ms(10_000));
        world.is_calm().unwrap();
    });
}

#[test]
fn the_bounds_of_the_detector_fit_together() {
    // A delay that makes silence count anew is shorter than what a silence may be.
    assert!(limits::OWN_DELAY_MIN < limits::SILENCE_SLACK);
    assert!(limits::LATENESS_COUNTED_MAX < limits::LATENESS_STOPPED_MIN);
    assert_eq!(Time::from_micros(5) + ms(1), Time::from_micros(1005));
}
