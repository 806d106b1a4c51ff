//! Faults on plain TCP, without a store behind.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;
use crate::cluster::{FaultError, Link};

/// Longer than any step takes on a machine that works.
const PATIENCE: Duration = Duration::from_secs(30);
const SEED: u64 = 7;
const TO_NODE: Link = Link {
    from: End::Clients,
    to: End::Node(2),
};
const TO_CLIENTS: Link = Link {
    from: End::Node(2),
    to: End::Clients,
};

/// A proxy of node 2 in a cluster of three, and what listens behind it.
struct Rig {
    links: Arc<Links>,
    proxy: Proxy,
    behind: TcpListener,
    log: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Rig {
    async fn new(openers: Openers) -> Self {
        Self::after(openers, |_| {}).await
    }

    /// One whose proxy begins to look after `before` has used its address.
    async fn after(openers: Openers, before: impl FnOnce(SocketAddr)) -> Self {
        let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("cluster.log");
        let links = Arc::new(Links::new(&[1, 2, 3]));
        let front = Front {
            node: 2,
            addr: behind.local_addr().unwrap(),
            openers,
            links: links.clone(),
            log: Arc::new(ClusterLog::open(&log).unwrap()),
            seed: SEED,
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        before(listener.local_addr().unwrap());
        Self {
            links,
            proxy: Proxy::start(listener, front).unwrap(),
            behind,
            log,
            _dir: dir,
        }
    }

    async fn open(&self) -> TcpStream {
        within(TcpStream::connect(self.proxy.addr())).await.unwrap()
    }

    /// Both ends of a connection.
    async fn pair(&self) -> (TcpStream, TcpStream) {
        let near = self.open().await;
        (near, within(self.behind.accept()).await.unwrap().0)
    }

    fn set(&self, link: Link, fault: LinkFault) {
        self.links.set(&[(link, fault)]).unwrap();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("it takes not so long")
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    within(stream.write_all(bytes)).await.unwrap();
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut seen = vec![0; bytes.len()];
    within(stream.read_exact(&mut seen)).await.unwrap();
    assert!(
        seen == bytes,
        "other bytes than were sent, or in another order"
    );
}

/// Nothing comes in for a while. That nothing comes at all cannot be waited for; a proxy that
/// lets bytes pass does so within a millisecond.
async fn expect_silence(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(Duration::from_millis(200), stream.read(&mut byte)).await;
    assert!(read.is_err(), "something came through: {read:?}");
}

async fn expect_reset(stream: &mut TcpStream) {
    let mut bytes = [0; 64];
    let error = loop {
        match within(stream.read(&mut bytes)).await {
            Ok(0) => panic!("closed, not reset"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

fn pattern(length: usize) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(SEED);
    (0..length).map(|_| rng.random()).collect()
}

fn cut() -> LinkFault {
    LinkFault {
        cut: true,
        ..LinkFault::default()
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_and_either_end_may_close_first() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near, mut far) = rig.pair().await;
    let bytes = pattern(3 << 20);
    let (sent, mut seen) = (bytes.clone(), Vec::new());
    let far = tokio::spawn(async move {
        within(far.read_to_end(&mut seen)).await.unwrap();
        send(&mut far, &seen).await;
    });
    send(&mut near, &sent).await;
    near.shutdown().await.unwrap();
    expect(&mut near, &bytes).await;
    far.await.unwrap();
    assert_eq!(within(near.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_cut_holds_one_direction_and_loses_nothing() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near, mut far) = rig.pair().await;
    send(&mut near, b"before").await;
    expect(&mut far, b"before").await;
    rig.set(TO_NODE, cut());
    let bytes = pattern(200_000);
    send(&mut near, &bytes).await;
    near.shutdown().await.unwrap();
    expect_silence(&mut far).await;
    send(&mut far, b"the other way").await;
    expect(&mut near, b"the other way").await;
    rig.links.heal();
    expect(&mut far, &bytes).await;
    assert_eq!(within(far.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_new_connection_waits_until_both_directions_are_healed() {
    let rig = Rig::new(Openers::Clients).await;
    for link in [TO_NODE, TO_CLIENTS] {
        rig.set(link, cut());
        let mut gives_up = rig.open().await;
        send(&mut gives_up, b"gives up").await;
        drop(gives_up);
        let mut waits = rig.open().await;
        send(&mut waits, b"waits").await;
        expect_silence(&mut waits).await;
        let arrived = timeout(Duration::from_millis(200), rig.behind.accept()).await;
        assert!(arrived.is_err(), "a connection came through");
        rig.links.heal();
        let (mut far, _) = within(rig.behind.accept()).await.unwrap();
        expect(&mut far, b"waits").await;
    }
}

#[tokio::test]
async fn what_is_under_way_in_a_cut_is_bounded() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near, mut far) = rig.pair().await;
    rig.set(TO_NODE, cut());
    let chunk = pattern(1 << 20);
    let mut sent = 0;
    // Until the sender is stopped by TCP.
    while let Ok(written) = timeout(Duration::from_millis(500), near.write(&chunk)).await {
        sent += written.unwrap();
        // The queue, and what the kernel holds for four sockets.
        assert!(sent < 64 << 20, "the proxy takes all that it is given");
    }
    rig.links.heal();
    let mut left = sent;
    let mut bytes = vec![0; 1 << 20];
    while left > 0 {
        left -= within(far.read(&mut bytes)).await.unwrap();
    }
    println!("{sent} bytes were under way");
}

#[tokio::test]
async fn a_delay_is_kept_by_all_and_waited_for_by_many_at_once() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near, mut far) = rig.pair().await;
    let delay = Duration::from_millis(150);
    let fault = LinkFault {
        delay,
        ..LinkFault::default()
    };
    rig.set(TO_NODE, fault);
    let sending = tokio::spawn(async move {
        let mut sent = Vec::new();
        for number in 0..50_u32 {
            sent.push(Instant::now());
            send(&mut near, &number.to_be_bytes()).await;
            sleep(Duration::from_millis(2)).await;
        }
        (near, sent)
    });
    let mut arrived = Vec::new();
    for number in 0..50_u32 {
        expect(&mut far, &number.to_be_bytes()).await;
        arrived.push(Instant::now());
    }
    let (_near, sent) = sending.await.unwrap();
    for (sent, arrived) in sent.iter().zip(&arrived) {
        let taken = *arrived - *sent;
        assert!(taken >= delay, "arrived after {taken:?}");
    }
    let all = arrived[49] - sent[0];
    assert!(all < delay * 25, "one after the other: {all:?}");
}

#[tokio::test]
async fn jitter_keeps_the_order() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near, mut far) = rig.pair().await;
    rig.set(
        TO_NODE,
        LinkFault {
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(50),
            ..LinkFault::default()
        },
    );
    let bytes = pattern(300_000);
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        for chunk in sent.chunks(1000) {
            send(&mut near, chunk).await;
            tokio::task::yield_now().await;
        }
        near
    });
    expect(&mut far, &bytes).await;
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_rate_is_shared_by_the_connections_of_a_link() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near_a, mut far_a) = rig.pair().await;
    let (mut near_b, mut far_b) = rig.pair().await;
    rig.set(
        TO_NODE,
        LinkFault {
            bytes_per_second: 200_000,
            ..LinkFault::default()
        },
    );
    let bytes = pattern(50_000);
    let begun = Instant::now();
    send(&mut near_a, &bytes).await;
    send(&mut near_b, &bytes).await;
    tokio::join!(expect(&mut far_a, &bytes), expect(&mut far_b, &bytes));
    let taken = begun.elapsed();
    // 100,000 bytes take half a second, less what a late timer may make up for.
    assert!(taken >= Duration::from_millis(480), "took {taken:?}");
    // The other direction has its whole rate.
    send(&mut far_a, &bytes).await;
    expect(&mut near_a, &bytes).await;
    println!("100,000 bytes at 200,000 per second took {taken:?}");
}

#[tokio::test]
async fn loss_stalls_and_loses_nothing() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near, mut far) = rig.pair().await;
    rig.set(
        TO_NODE,
        LinkFault {
            loss: 0.2,
            ..LinkFault::default()
        },
    );
    let bytes = pattern(20_000);
    let begun = Instant::now();
    send(&mut near, &bytes).await;
    expect(&mut far, &bytes).await;
    let taken = begun.elapsed();
    // With this seed at least one of the 14 segments is lost.
    assert!(taken >= Duration::from_millis(200), "took {taken:?}");
    println!("14 segments at a loss of 20 % took {taken:?}");
    // When everything is lost, nothing arrives.
    rig.set(
        TO_NODE,
        LinkFault {
            loss: 1.0,
            ..LinkFault::default()
        },
    );
    send(&mut near, b"lost").await;
    expect_silence(&mut far).await;
    rig.links.heal();
    expect(&mut far, b"lost").await;
}

#[tokio::test]
async fn healing_lets_go_at_once_of_what_was_delayed() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near, mut far) = rig.pair().await;
    for fault in [
        LinkFault {
            delay: PATIENCE * 10,
            ..LinkFault::default()
        },
        LinkFault {
            bytes_per_second: 1,
            ..LinkFault::default()
        },
    ] {
        rig.set(TO_NODE, fault);
        send(&mut near, &[7; 1000]).await;
        sleep(Duration::from_millis(50)).await;
        rig.links.heal();
        expect(&mut far, &[7; 1000]).await;
    }
}

#[tokio::test]
async fn a_reset_link_resets_now_and_later_until_it_is_healed() {
    let rig = Rig::new(Openers::Clients).await;
    let fault = LinkFault {
        reset: true,
        ..LinkFault::default()
    };
    let (mut near, mut far) = rig.pair().await;
    rig.set(TO_CLIENTS, fault);
    expect_reset(&mut near).await;
    expect_reset(&mut far).await;
    let begun = Instant::now();
    let (mut near, mut far) = rig.pair().await;
    send(&mut near, b"alive for a while").await;
    expect_reset(&mut near).await;
    expect_reset(&mut far).await;
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(40), "after {taken:?}");
    rig.links.heal();
    let (mut near, mut far) = rig.pair().await;
    expect_silence(&mut near).await;
    send(&mut near, b"stays").await;
    expect(&mut far, b"stays").await;
}

#[tokio::test]
async fn who_resets_is_seen_at_the_other_end() {
    let rig = Rig::new(Openers::Clients).await;
    let (near, mut far) = rig.pair().await;
    near.set_zero_linger().unwrap();
    drop(near);
    expect_reset(&mut far).await;

    let (mut near, mut far) = rig.pair().await;
    send(&mut near, b"established").await;
    expect(&mut far, b"established").await;
    rig.set(TO_CLIENTS, cut());
    far.set_zero_linger().unwrap();
    drop(far);
    // A cut hides it.
    expect_silence(&mut near).await;
    rig.links.heal();
    expect_reset(&mut near).await;
}

#[tokio::test]
async fn a_node_that_is_down_refuses_at_once() {
    let Rig {
        proxy,
        behind,
        links: _links,
        ..
    } = Rig::new(Openers::Clients).await;
    drop(behind);
    let begun = Instant::now();
    let mut near = within(TcpStream::connect(proxy.addr())).await.unwrap();
    expect_reset(&mut near).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn shutting_down_ends_the_connections() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near, mut far) = rig.pair().await;
    let addr = rig.proxy.addr();
    rig.proxy.shut_down().await;
    for stream in [&mut near, &mut far] {
        assert!(matches!(
            within(stream.read(&mut [0])).await,
            Ok(0) | Err(_)
        ));
    }
    let refused = within(TcpStream::connect(addr)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn peers_are_told_apart_and_strangers_refused() {
    let owners = Owners::default();
    let rig = Rig::new(Openers::Nodes(owners.clone())).await;
    // This process is no node yet.
    let mut near = rig.open().await;
    expect_reset(&mut near).await;
    assert_eq!(rig.proxy.unattributed(), 1);
    let log = std::fs::read_to_string(&rig.log).unwrap();
    let port = near.local_addr().unwrap().port().to_string();
    assert!(
        log.contains("no process of the cluster") && log.contains(&port),
        "{log}"
    );

    // Now it is node 1: of the faults towards node 2, its own counts and no other.
    owners.insert(1, std::process::id());
    let (mut near, mut far) = rig.pair().await;
    let towards = |from| Link {
        from: End::Node(from),
        to: End::Node(2),
    };
    rig.set(towards(3), cut());
    rig.set(TO_NODE, cut());
    send(&mut near, b"one").await;
    expect(&mut far, b"one").await;
    rig.set(towards(1), cut());
    send(&mut near, b"two").await;
    expect_silence(&mut far).await;
    rig.links.heal();
    expect(&mut far, b"two").await;
    assert_eq!(rig.proxy.unattributed(), 1);
}

#[tokio::test]
async fn who_gave_up_before_the_proxy_looked_is_nobody_and_is_not_refused() {
    let owners = Owners::default();
    owners.insert(1, std::process::id());
    let gave_up = 20;
    let rig = Rig::after(Openers::Nodes(owners), |addr| {
        // The kernel takes connections before anybody looks.
        for _ in 0..gave_up {
            drop(std::net::TcpStream::connect(addr).unwrap());
        }
    })
    .await;
    let (mut near, mut far) = rig.pair().await;
    send(&mut near, b"one").await;
    expect(&mut far, b"one").await;
    within(async {
        while rig.proxy.gone() < gave_up {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(rig.proxy.gone(), gave_up);
    assert_eq!(rig.proxy.unattributed(), 0);
    let log = std::fs::read_to_string(&rig.log).unwrap();
    assert!(!log.contains("refused"), "{log}");
}

#[test]
fn faults_that_make_no_sense_are_refused_as_a_whole() {
    let links = Links::new(&[1, 2]);
    let link = |from, to| Link { from, to };
    let refuse = |faults: &[(Link, LinkFault)]| match links.set(faults) {
        Err(FaultError::Failed(text)) => text,
        other => panic!("not refused: {other:?}"),
    };
    let good = link(End::Node(1), End::Node(2));
    for bad in [
        link(End::Node(1), End::Node(3)),
        link(End::Node(1), End::Node(1)),
        link(End::Clients, End::Clients),
    ] {
        let text = refuse(&[(good, cut()), (bad, cut())]);
        assert!(text.contains("there is no"), "{text}");
    }
    let mut nonsense = LinkFault::default();
    for loss in [-0.1, 1.1, f64::NAN] {
        nonsense.loss = loss;
        assert!(refuse(&[(good, cut()), (good, nonsense)]).contains("0 to 1"));
    }
    let state = links.state(good.from, good.to);
    assert_eq!(*state.watch().borrow(), LinkFault::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_link_passes_many_bytes() {
    let rig = Rig::new(Openers::Clients).await;
    let (mut near, mut far) = rig.pair().await;
    let total = 64 << 20;
    let begun = Instant::now();
    let sending = tokio::spawn(async move {
        let chunk = pattern(1 << 20);
        for _ in 0..64 {
            send(&mut near, &chunk).await;
        }
        near
    });
    let (mut seen, mut bytes) = (0, vec![0; 1 << 20]);
    while seen < total {
        seen += within(far.read(&mut bytes)).await.unwrap();
    }
    let rate = total as f64 / begun.elapsed().as_secs_f64() / 1e6;
    let mut near = sending.await.unwrap();
    let begun = Instant::now();
    for _ in 0..1000 {
        send(&mut near, b"ping").await;
        expect(&mut far, b"ping").await;
        send(&mut far, b"pong").await;
        expect(&mut near, b"pong").await;
    }
    let trip = begun.elapsed() / 1000;
    println!("{rate:.0} MB/s, round trip {trip:?}");
    assert_eq!(seen, total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_that_come_and_go_lose_nothing() {
    let rig = Rig::new(Openers::Clients).await;
    let bytes = Arc::new(pattern(4 << 20));
    let mut streams = JoinSet::new();
    for number in 0..4_u64 {
        let (near, far) = rig.pair().await;
        for (end, stream) in [near, far].into_iter().enumerate() {
            let bytes = bytes.clone();
            let mut rng = StdRng::seed_from_u64(SEED + 2 * number + end as u64);
            streams.spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let sent = bytes.clone();
                let sending = async move {
                    let mut left = sent.as_slice();
                    while !left.is_empty() {
                        let length = rng.random_range(1..=50_000).min(left.len());
                        within(to.write_all(&left[..length])).await.unwrap();
                        left = &left[length..];
                        sleep(Duration::from_millis(rng.random_range(0..20))).await;
                    }
                    to.shutdown().await.unwrap();
                };
                let mut seen = Vec::new();
                let reading = async { within(from.read_to_end(&mut seen)).await.unwrap() };
                tokio::join!(sending, reading);
                assert!(seen == *bytes, "other bytes than were sent");
            });
        }
    }
    let mut rng = StdRng::seed_from_u64(SEED);
    for _ in 0..60 {
        let link = if rng.random() { TO_NODE } else { TO_CLIENTS };
        let mut ms = |most| Duration::from_millis(rng.random_range(0..=most));
        let (delay, jitter) = (ms(30), ms(30));
        let fault = LinkFault {
            cut: rng.random_bool(0.3),
            delay,
            jitter,
            bytes_per_second: if rng.random() { 5_000_000 } else { 0 },
            loss: if rng.random() { 0.01 } else { 0.0 },
            reset: false,
        };
        rig.set(link, fault);
        sleep(Duration::from_millis(20)).await;
    }
    rig.links.heal();
    let begun = Instant::now();
    while let Some(stream) = within(streams.join_next()).await {
        stream.unwrap();
    }
    println!("all there {:?} after healing", begun.elapsed());
}
