use http_body::Body as _;

use super::*;

const MIB: usize = 1024 * 1024;

/// Keeps `bytes` in answers of a tenth of a MiB.
fn fill(reading: &Reading, bytes: usize) -> Result<(), WalkError> {
    for _ in 0..bytes / (MIB / 10) {
        reading.keep(MIB / 20)?;
    }
    Ok(())
}

fn used(reads: &LargeReads) -> usize {
    reads.memory.used.lock().bytes
}

/// What must come now comes within a minute, whatever the machine does besides.
async fn now<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), answer)
        .await
        .expect("it comes long before a minute")
}

async fn until(condition: impl Fn() -> bool) {
    now(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_ends_and_leaves_its_place() {
    let reads = Arc::new(LargeReads::bounded(1, 100 * MIB));
    let ended = Arc::new(AtomicBool::new(false));
    let endless = tokio::spawn({
        let (reads, ended) = (reads.clone(), ended.clone());
        async move {
            let work = move |reading: &Reading| {
                while reading.walk().is_ok() {}
                ended.store(true, Ordering::Relaxed);
            };
            reads.run(work).await.map(|_| ())
        }
    });
    until(|| reads.working.available_permits() == 0).await;
    let mut next = std::pin::pin!(reads.run(|_| "done"));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
    assert!(early.is_err(), "one at a time");
    assert!(!ended.load(Ordering::Relaxed));
    endless.abort();
    let (answer, _) = now(next).await.expect("there is a place");
    assert_eq!(answer, "done");
    assert!(ended.load(Ordering::Relaxed));
}

#[tokio::test]
async fn answers_share_their_memory_and_one_may_go_beyond_it() {
    let reads = Arc::new(LargeReads::bounded(8, 20 * MIB));
    let small = |_: &Reading| ();
    let large = |bytes: usize| move |reading: &Reading| fill(reading, bytes);
    let (filled, first) = now(reads.run(large(15 * MIB))).await.expect("a place");
    filled.expect("within the bound");
    assert!(
        (13 * MIB..20 * MIB).contains(&used(&reads)),
        "{}",
        used(&reads)
    );
    // This one does not fit beside it, and goes beyond the bound alone.
    let (filled, second) = now(reads.run(large(40 * MIB))).await.expect("a place");
    filled.expect("one may");
    assert!(used(&reads) > 50 * MIB);
    // So the next one waits; one that needs next to nothing does not.
    let third = tokio::spawn({
        let reads = reads.clone();
        async move { reads.run(large(10 * MIB)).await }
    });
    until(|| reads.working.available_permits() == 7).await;
    now(reads.run(small)).await.expect("a small answer");
    assert!(!third.is_finished());
    drop(second);
    drop(first);
    let (filled, third) = now(third).await.expect("no panic").expect("a place");
    filled.expect("there is room again");
    assert!(used(&reads) >= 8 * MIB);
    drop(third);
    assert_eq!(used(&reads), 0, "all is given back");
    assert!(!reads.memory.used.lock().beyond);
}

#[tokio::test]
async fn a_read_that_waits_for_memory_ends_with_its_caller() {
    let reads = Arc::new(LargeReads::bounded(8, 2 * MIB));
    let work = |reading: &Reading| fill(reading, 10 * MIB);
    let (filled, held) = now(reads.run(work)).await.expect("a place");
    filled.expect("it goes beyond the bound alone");
    let waits = tokio::spawn({
        let reads = reads.clone();
        async move { reads.run(work).await.map(|_| ()) }
    });
    until(|| reads.working.available_permits() == 7).await;
    waits.abort();
    until(|| reads.working.available_permits() == 8).await;
    drop(held);
    assert_eq!(used(&reads), 0);
}

#[tokio::test]
async fn what_an_answer_lets_go_is_not_held_until_it_is_sent() {
    let reads = LargeReads::bounded(1, 100 * MIB);
    let work = |reading: &Reading| {
        fill(reading, 50 * MIB)?;
        for _ in 0..480 {
            reading.let_go(MIB / 20);
        }
        Ok::<_, WalkError>(())
    };
    let (filled, held) = now(reads.run(work)).await.expect("a place");
    filled.expect("within the bound");
    assert!(used(&reads) < 5 * MIB, "{}", used(&reads));
    let mut answer = tonic::Response::new(());
    held.until_sent(&mut answer);
    assert!(used(&reads) > 0, "until it is sent");

    let message = Bytes::from(vec![7; 3 * limits::RESPONSE_SLICE_BYTES + 1]);
    let body = tonic::body::Body::new(http_body_util::Full::new(message.clone()));
    let (_, (), extensions) = answer.into_parts();
    let mut answer = Response::new(body);
    *answer.extensions_mut() = extensions;
    let answer = paced(answer);
    let mut body = answer.into_body();
    let mut slices = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        assert!(used(&reads) > 0, "not all is sent");
        slices.push(frame.expect("no error").into_data().expect("data"));
    }
    assert_eq!(slices.len(), 4);
    assert_eq!(slices.concat(), message);
    drop(body);
    assert_eq!(used(&reads), 0);
}
