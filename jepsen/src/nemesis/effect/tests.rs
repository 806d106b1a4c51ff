use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::*;

fn node(id: NodeId) -> Node {
    Node {
        id,
        zone: format!("zone-{id}"),
        endpoint: "127.0.0.1:1".to_owned(),
        direct: "127.0.0.1:1".to_owned(),
    }
}

/// Asks nodes of which those in `silent` do not answer.
async fn looked(silent: &'static [NodeId], errs: bool) -> Effect {
    let question: Question = Arc::new(move |node, within| {
        Box::pin(async move {
            if !silent.contains(&node.id) {
                return true;
            }
            // An error is no answer, however soon it comes.
            if !errs {
                sleep(within).await;
            }
            false
        })
    });
    look_for_loss(question, node(1), vec![node(2)], Duration::from_secs(2)).await
}

#[tokio::test]
async fn silence_counts_while_somebody_else_answers() {
    for errs in [false, true] {
        assert_eq!(looked(&[1], errs).await.phase(), Phase::Seen);
        assert_eq!(looked(&[], errs).await.phase(), Phase::Disproved);
        assert_eq!(looked(&[1, 2], errs).await.phase(), Phase::Unseen);
    }
}

/// The effect on a node that answers until `moment`, and not after it.
async fn silent_after(moment: Duration) -> Effect {
    let answers = Arc::new(AtomicBool::new(true));
    let present = answers.clone();
    let question: Question = Arc::new(move |node, _| {
        let answers = node.id == 2 || present.load(Ordering::SeqCst);
        Box::pin(async move { answers })
    });
    let look = look_for_loss(question, node(1), vec![node(2)], Duration::from_secs(2));
    let stop = async {
        sleep(moment).await;
        answers.store(false, Ordering::SeqCst);
    };
    tokio::join!(look, stop).0
}

#[tokio::test]
async fn an_effect_may_take_a_moment_and_no_more() {
    for (ms, phase) in [
        (300, Phase::Seen),
        // As if a busy machine had kept it from answering for the rest.
        (750, Phase::Unseen),
        (1_500, Phase::Disproved),
    ] {
        let effect = silent_after(Duration::from_millis(ms)).await;
        assert_eq!(effect.phase(), phase, "{ms} ms: {effect:?}");
    }
}

#[tokio::test]
async fn the_end_of_a_process_is_the_end_of_its_connections() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut there = node(1);
    there.direct = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = Arc::new(AtomicBool::new(false));
    let served = serving.clone();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        served.store(true, Ordering::SeqCst);
        tokio::select! {
            _ = connection.accept() => {}
            _ = stopped => {}
        }
    });
    let (_, held) = Connection::open(there.clone()).await.unwrap();
    assert!(!held.task.is_finished());
    stop.send(()).unwrap();
    server.await.unwrap();
    let begun = Instant::now();
    while !held.task.is_finished() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it is held still"
        );
        sleep(Duration::from_millis(5)).await;
    }
    assert!(Connection::open(there).await.is_none());
}

#[test]
fn one_node_that_is_hit_makes_a_fault() {
    let seen = || Effect::Seen("has ended".into());
    let disproved = || Effect::Disproved("goes on".into());
    let both = Effect::of_all(vec![(1, seen()), (2, disproved())]);
    assert_eq!(
        both,
        Effect::Seen("node 1 has ended; node 2 goes on".into())
    );
    let none = Effect::of_all(vec![(2, disproved())]);
    assert_eq!(none.phase(), Phase::Disproved);
}
