//! Detectors on the loopback interface, with the sockets of the system between them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::atomic::AtomicBool,
};

use super::*;
use crate::detector::{Evidence, Part, Report, State, message::LONGEST_MESSAGE_BYTES};

const PATIENCE: Duration = Duration::from_secs(60);

/// A detector with the port of its node.
struct Running {
    detector: Detector,
    vitals: Arc<Vitals>,
    address: SocketAddr,
    closes: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl Running {
    fn start(me: NodeId, session: u64, listener: TcpListener, peers: &[(NodeId, String)]) -> Self {
        let vitals = Arc::new(Vitals::default());
        let watched = Watched {
            cluster_id: 77,
            me,
            session,
            peers: peers.iter().filter(|peer| peer.0 != me).cloned().collect(),
        };
        let detector = Detector::start(watched, vitals.clone()).unwrap();
        let (address, doorway) = (listener.local_addr().unwrap(), detector.doorway());
        let closes = Arc::new(AtomicBool::new(false));
        let accepting = std::thread::spawn({
            let closes = closes.clone();
            move || {
                for stream in listener.incoming() {
                    if closes.load(Ordering::Acquire) {
                        return;
                    }
                    doorway.enter(stream.unwrap());
                }
            }
        });
        Self {
            detector,
            vitals,
            address,
            closes,
            accepting,
        }
    }

    /// Says goodbye and closes the port.
    fn stop(self) {
        let (address, closes, accepting) = (self.address, self.closes, self.accepting);
        self.detector.stop();
        close(address, &closes, accepting);
    }

    /// As the system does when a process is killed: the port is closed, and all that was open.
    fn kill(self) {
        let (address, closes, accepting) = (self.address, self.closes, self.accepting);
        close(address, &closes, accepting);
        drop(self.detector);
    }

    /// Waits until what is known is as it should be.
    fn until(&self, what: &str, is: impl Fn(&Views) -> bool) -> Duration {
        let (begun, views) = (Instant::now(), self.detector.views());
        while !is(&views.borrow()) {
            let waited = begun.elapsed();
            assert!(waited < PATIENCE, "{what}: {:#?}", views.borrow());
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }

    /// Waits until what is reported, of the nodes by id, is as it should be.
    fn until_reported(&self, what: &str, is: impl Fn(&[Report]) -> bool) {
        let (begun, reporter) = (Instant::now(), self.detector.reporter());
        while !is(&reporter.report()) {
            let waited = begun.elapsed();
            assert!(waited < PATIENCE, "{what}: {:#?}", reporter.report());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn close(address: SocketAddr, closes: &AtomicBool, accepting: JoinHandle<()>) {
    closes.store(true, Ordering::Release);
    drop(TcpStream::connect(address));
    accepting.join().unwrap();
}

/// A proxy in front of `to` that goes on accepting, and keeps what it has accepted open, when nobody is
/// there any more.
fn proxy(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for near in listener.incoming() {
            let near = near.unwrap();
            if let Ok(far) = TcpStream::connect(to) {
                for (mut from, mut to) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far.try_clone().unwrap(), near.try_clone().unwrap()),
                ] {
                    std::thread::spawn(move || io::copy(&mut from, &mut to));
                }
            }
            kept.push(near);
        }
    });
    address
}

fn evidence(views: &Views, subject: NodeId) -> Option<Evidence> {
    Some(views.suspicion(views.me(), subject)?.evidence)
}

fn ports(count: u64) -> (Vec<TcpListener>, Vec<(NodeId, String)>) {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let urls = listeners.iter().zip(1..).map(|(listener, id)| {
        let address = listener.local_addr().unwrap();
        (id, format!("http://{address}"))
    });
    let urls = urls.collect();
    (listeners, urls)
}

#[test]
fn detectors_meet_see_one_go_and_come_back() {
    let (listeners, urls) = ports(3);
    let mut running: Vec<_> = listeners
        .into_iter()
        .zip(1..)
        .map(|(listener, id)| Running::start(id, 10 + id, listener, &urls))
        .collect();
    for node in &running {
        node.until("all hear all", |views| {
            (1..=3).all(|id| views.session(id) == Some(10 + id))
        });
        node.until_reported("all are alive, and it is known how far away", |reports| {
            reports.iter().all(|report| report.state == State::Alive)
                && reports
                    .iter()
                    .filter(|report| report.round_trip.is_some())
                    .count()
                    == 2
        });
    }
    let address = running[2].address;
    running.pop().unwrap().stop();
    for node in &running {
        let after = node.until("3 is gone", |views| views.is_suspected(3, 1..=3));
        println!("a majority holds 3 for gone after {after:?}");
        node.until_reported("3 is told to be gone", |reports| {
            reports[2].node == 3 && reports[2].state == State::Suspected(Evidence::Gone)
        });
        assert!(!node.detector.views().borrow().is_suspected(2, 1..=3));
    }
    let again = Running::start(3, 99, TcpListener::bind(address).unwrap(), &urls);
    for node in &running {
        node.until("3 is back", |views| {
            views.session(3) == Some(99) && views.suspicions().count() == 0
        });
    }
    again.until("it hears all", |views| (1..=3).all(|id| views.hears(id)));
    again.vitals.while_the_log_works(|| {
        running[0].until("3 is sick", |views| {
            views
                .stalled(3)
                .is_some_and(|stall| stall.part == Part::LogSync)
        });
        running[0].until_reported("3 is told to be sick, and lives anew", |reports| {
            reports[2].state == State::Sick(Part::LogSync) && reports[2].heard < reports[2].patience
        });
        again.until_reported("it says so itself", |reports| {
            reports[2].state == State::Sick(Part::LogSync) && reports[2].heard.is_none()
        });
    });
    running[0].until("3 is well", |views| views.stalled(3).is_none());
    again.stop();
    running.into_iter().for_each(Running::stop);
}

#[test]
fn who_is_killed_is_gone_and_behind_a_proxy_that_accepts_for_it_silent() {
    for proxied in [false, true] {
        let (listeners, mut urls) = ports(3);
        if proxied {
            let third = listeners[2].local_addr().unwrap();
            urls[2].1 = format!("http://{}", proxy(third));
        }
        let mut running: Vec<_> = listeners
            .into_iter()
            .zip(1..)
            .map(|(listener, id)| Running::start(id, 10 + id, listener, &urls))
            .collect();
        for node in &running {
            node.until("all hear all", |views| (1..=3).all(|id| views.hears(id)));
        }
        running.pop().unwrap().kill();
        let died = Instant::now();
        for node in &running {
            node.until("3 is suspected", |views| views.is_suspected(3, 1..=3));
            println!("proxied: {proxied}, a majority after {:?}", died.elapsed());
            let expected = if proxied {
                Evidence::Silent
            } else {
                Evidence::Gone
            };
            assert_eq!(evidence(&node.detector.views().borrow(), 3), Some(expected));
        }
        running.into_iter().for_each(Running::stop);
    }
}

#[test]
fn a_peer_whose_name_is_looked_up_is_met_too() {
    let (listeners, urls) = ports(2);
    let port = |url: &str| url.rsplit(':').next().unwrap().to_string();
    let names: Vec<_> = urls
        .iter()
        .map(|(id, url)| (*id, format!("http://localhost:{}", port(url))))
        .collect();
    let running: Vec<_> = listeners
        .into_iter()
        .zip(1..)
        .map(|(listener, id)| Running::start(id, 10 + id, listener, &names))
        .collect();
    for node in &running {
        node.until("both hear both", |views| views.hears(1) && views.hears(2));
    }
    running.into_iter().for_each(Running::stop);
}

/// What a detector does with a stranger: how long the connection lives.
fn knock(address: SocketAddr, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // One that is closed meanwhile does not take everything.
    let _ = stream.write_all(bytes);
    let mut answer = [0; 2 * LONGEST_MESSAGE_BYTES];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return begun.elapsed(),
            Ok(_) => assert!(begun.elapsed() < PATIENCE, "it is kept"),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return begun.elapsed();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn strangers_are_shown_out() {
    let (mut listeners, urls) = ports(2);
    let silent = listeners.pop().unwrap();
    let node = Running::start(1, 11, listeners.pop().unwrap(), &urls);
    let greeting = Greeting {
        cluster_id: 77,
        from: 2,
        to: 1,
        session: 5,
    };
    let wrong = [
        Greeting {
            cluster_id: 78,
            ..greeting
        },
        Greeting {
            from: 3,
            ..greeting
        },
        Greeting { to: 2, ..greeting },
        Greeting {
            session: 0,
            ..greeting
        },
    ];
    for greeting in wrong {
        knock(node.address, &greeting.encode());
    }
    let garbage = [greeting.encode().as_slice(), &[0xff; 64]].concat();
    for hostile in [
        &b"hello"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 100],
        &garbage,
    ] {
        knock(node.address, hostile);
    }
    let mute = knock(node.address, &greeting.encode()[..20]);
    assert!(mute >= limits::DETECTOR_GREETING_MAX, "{mute:?}");
    let many: Vec<_> = (0..4 * limits::DETECTOR_STRANGERS_MAX)
        .map(|_| TcpStream::connect(node.address).unwrap())
        .collect();
    // None of it counts as the peer, which has only a port that accepts.
    node.until("2 is silent", |views| {
        evidence(views, 2) == Some(Evidence::Silent)
    });
    drop(many);
    drop(silent);
    node.until("2 is gone", |views| {
        evidence(views, 2) == Some(Evidence::Gone)
    });
    node.stop();
}

#[test]
fn a_name_that_means_several_addresses_is_gone_only_if_all_refuse() {
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    let mut addresses = Addresses::default();
    assert_eq!(addresses.failure(), Failure::Other, "none is known");
    addresses.failed(&refused);
    assert_eq!(addresses.failure(), Failure::Refused);
    addresses.failed(&io::ErrorKind::HostUnreachable.into());
    assert_eq!(addresses.failure(), Failure::Other);
}
