//! Networks without nodes: what the kernel makes of the rules.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::fs::MetadataExt,
    sync::mpsc,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{tools::Refusal, *};
use crate::cluster::{Link, LinkFault};

/// A process has one network at a time, and so do the tests.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// How long what must come may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for what must not come: many times what a packet takes.
const SILENCE: Duration = Duration::from_millis(300);
const PORT: u16 = 7000;

struct Fixture {
    rules: Rules,
    network: Network,
    _turn: MutexGuard<'static, ()>,
}

fn network(nodes: usize) -> Fixture {
    let turn = ONE_AT_A_TIME.lock();
    let network = Network::create(nodes).unwrap_or_else(|error| panic!("{error}"));
    Fixture {
        rules: Rules::new(Tools::find().unwrap(), network.topology()),
        network,
        _turn: turn,
    }
}

impl Fixture {
    fn at<T: Send>(&self, end: End, what: impl FnOnce() -> T + Send) -> T {
        let topology = self.network.topology();
        let name = match end {
            End::Node(id) => topology.namespace(id),
            End::Clients => topology.hub(),
        };
        run_in(&name, what).unwrap()
    }

    /// A connection to an address of a node: the ends of the one who connects and of the node.
    fn connect(&self, from: End, to: NodeId, address: Ipv4Addr) -> (TcpStream, TcpStream) {
        let listener = self.at(End::Node(to), || {
            TcpListener::bind((address, PORT)).unwrap()
        });
        let to = SocketAddr::from((address, PORT));
        let near = self.at(from, || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        (near, far)
    }

    fn udp(&self, end: End) -> UdpSocket {
        let socket = self.at(end, || {
            UdpSocket::bind((topology::address(end), PORT)).unwrap()
        });
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket
    }

    fn set(&self, from: End, to: End, fault: LinkFault) -> Result<(), FaultError> {
        self.rules.set(&[(Link { from, to }, fault)])
    }
}

fn arrives(mut from: &TcpStream, mut to: &TcpStream, text: &[u8; 5]) -> bool {
    from.write_all(text).unwrap();
    to.set_read_timeout(Some(SILENCE)).unwrap();
    let mut read = [0; 5];
    let result = to.read_exact(&mut read);
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    match result {
        Ok(()) => {
            assert_eq!(&read, text);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            false
        }
    }
}

const CUT: LinkFault = LinkFault {
    cut: true,
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    bytes_per_second: 0,
    loss: 0.0,
    reset: false,
};
const N1: End = End::Node(1);
const N2: End = End::Node(2);

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tools::find_in(&[dir.path().to_owned()]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`ip`") && text.contains("iproute2"), "{text}");
    let text = NetnsError::NotRoot { user: 1000 }.to_string();
    assert!(
        text.contains("user 1000") && text.contains("sudo"),
        "{text}"
    );
    let refusal = |output: &str| Refusal {
        command: "ip netns add x".to_owned(),
        output: output.to_owned(),
    };
    let refused = |output| NetnsError::refused("do it", refusal(output)).to_string();
    assert!(refused("mount: Operation not permitted").contains("CAP_NET_ADMIN"));
    assert!(refused("Unknown device type").contains("kernel"));
}

#[test]
fn names_tell_their_owner() {
    let topology: Topology = serde_json::from_str(r#"{"owner":4711,"nodes":2}"#).unwrap();
    assert_eq!(topology.to_text(), r#"{"owner":4711,"nodes":2}"#);
    for name in [topology.hub(), topology.namespace(2)] {
        assert_eq!(topology::owner_of(&name), Some(4711), "{name}");
    }
    for name in ["hf-4711-other", "hf-x-hub", "hf-1", "other-1-hub", "hf-1-n"] {
        assert_eq!(topology::owner_of(name), None, "{name}");
    }
    for nodes in [0, NODES_MAX + 1] {
        let error = Network::create(nodes).unwrap_err();
        assert!(matches!(error, NetnsError::Options(_)), "{error}");
    }
}

mod needs_netns {
    use super::*;

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn a_cut_is_one_way_and_ends() {
        let net = network(2);
        let (one, two) = net.connect(N1, 2, topology::address(N2));
        assert!(arrives(&one, &two, b"hello") && arrives(&two, &one, b"world"));

        net.set(N1, N2, CUT).unwrap();
        // Again is no change.
        net.set(N1, N2, CUT).unwrap();
        assert!(!arrives(&one, &two, b"later"));
        assert!(arrives(&two, &one, b"there"));
        let (udp_one, udp_two) = (net.udp(N1), net.udp(N2));
        let mut buffer = [0; 16];
        let to_two = (topology::address(N2), PORT);
        udp_one.send_to(b"lost", to_two).unwrap();
        assert!(udp_two.recv(&mut buffer).is_err());
        udp_two
            .send_to(b"seen", (topology::address(N1), PORT))
            .unwrap();
        assert_eq!(udp_one.recv(&mut buffer).unwrap(), 4);
        // Clients are another link.
        let (client, node) = net.connect(End::Clients, 1, topology::address(N1));
        assert!(arrives(&client, &node, b"hello") && arrives(&node, &client, b"world"));

        net.rules.heal().unwrap();
        udp_one.send_to(b"passes", to_two).unwrap();
        assert_eq!(udp_two.recv(&mut buffer).unwrap(), 6);
        // The kernel sends again what was dropped, on the same connection.
        let mut read = [0; 5];
        (&two).read_exact(&mut read).unwrap();
        assert_eq!(&read, b"later");
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn cut_clients_leave_the_direct_address_alone() {
        let net = network(1);
        let (client, node) = net.connect(End::Clients, 1, topology::address(N1));
        let (direct, asked) = net.connect(End::Clients, 1, topology::direct_address(N1));
        net.set(End::Clients, N1, CUT).unwrap();
        net.set(N1, End::Clients, CUT).unwrap();
        assert!(!arrives(&client, &node, b"lost.") && !arrives(&node, &client, b"lost!"));
        assert!(arrives(&direct, &asked, b"hello") && arrives(&asked, &direct, b"world"));
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn a_share_of_the_packets_is_lost() {
        let net = network(2);
        let (one, two) = (net.udp(N1), net.udp(N2));
        two.set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let loss = LinkFault {
            loss: 0.3,
            ..LinkFault::default()
        };
        let arrived = || {
            let mut count = 0;
            // Few at a time, so that none is lost for want of a buffer.
            for _ in 0..20 {
                for _ in 0..100 {
                    one.send_to(b"packet", (topology::address(N2), PORT))
                        .unwrap();
                }
                while two.recv(&mut [0; 16]).is_ok() {
                    count += 1;
                }
            }
            count
        };
        assert_eq!(arrived(), 2000);
        net.set(N1, N2, loss).unwrap();
        // 1400 are expected, with a standard deviation of 21.
        let count = arrived();
        assert!((1250..=1550).contains(&count), "{count} of 2000");
        let total = LinkFault { loss: 1.0, ..loss };
        net.set(N1, N2, total).unwrap();
        assert_eq!(arrived(), 0);
        let more = LinkFault { loss: 1.5, ..loss };
        net.set(N1, N2, more).unwrap_err();
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn a_reset_reaches_the_sender() {
        let net = network(2);
        let (one, two) = net.connect(N1, 2, topology::address(N2));
        let (bystander, other) = net.connect(End::Clients, 2, topology::address(N2));
        let reset = LinkFault {
            reset: true,
            ..LinkFault::default()
        };
        net.set(N1, N2, reset).unwrap();
        (&one).write_all(b"hello").unwrap();
        let error = (&one).read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(!arrives(&two, &bystander, b"quiet"));
        assert!(arrives(&bystander, &other, b"hello") && arrives(&other, &bystander, b"world"));
        net.rules.heal().unwrap();
        let (one, two) = net.connect(N1, 2, topology::address(N2));
        assert!(arrives(&one, &two, b"hello"));
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn a_rate_holds_up_what_exceeds_it() {
        let net = network(2);
        const BYTES: usize = 600_000;
        let transfer = || {
            let (one, two) = net.connect(N1, 2, topology::address(N2));
            let begun = Instant::now();
            let sender = std::thread::spawn(move || (&one).write_all(&[7; BYTES]).unwrap());
            (&two).read_exact(&mut vec![0; BYTES]).unwrap();
            sender.join().unwrap();
            begun.elapsed()
        };
        let rate = LinkFault {
            bytes_per_second: 200_000,
            ..LinkFault::default()
        };
        let free = transfer();
        net.set(N1, N2, rate).unwrap();
        let held = transfer();
        println!("{BYTES} bytes in {free:?}, with a rate in {held:?}");
        // The bytes of a second and 16 KiB may pass at once.
        assert!(held >= Duration::from_millis(1800), "{held:?}");
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn a_delay_is_made_or_skipped_as_a_whole() {
        let net = network(2);
        let (one, two) = net.connect(N1, 2, topology::address(N2));
        let slow = LinkFault {
            delay: Duration::from_millis(100),
            jitter: Duration::from_millis(10),
            ..LinkFault::default()
        };
        let links = [(N2, N1, CUT), (N1, N2, slow)];
        let links = links.map(|(from, to, fault)| (Link { from, to }, fault));
        match net.rules.set(&links) {
            Ok(()) => {
                net.set(N2, N1, LinkFault::default()).unwrap();
                let begun = Instant::now();
                assert!(arrives(&one, &two, b"hello"));
                assert!(begun.elapsed() >= Duration::from_millis(100));
            }
            Err(error) => {
                assert!(matches!(error, FaultError::Skipped(_)), "{error}");
                assert!(error.to_string().contains("netem"), "{error}");
                println!("{error}");
                // Nor was the cut made that came with it.
                assert!(arrives(&two, &one, b"hello"));
            }
        }
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn links_that_do_not_exist_are_refused() {
        let net = network(2);
        for (from, to) in [(N1, N1), (N1, End::Node(3)), (End::Node(0), N1)] {
            let error = net.set(from, to, CUT).unwrap_err();
            assert!(matches!(error, FaultError::Failed(_)), "{error}");
        }
    }

    #[test]
    #[ignore = "needs root, ip and nft"]
    fn a_network_takes_its_inhabitants_with_it() {
        let net = network(1);
        let topology = net.network.topology().clone();
        let (pid, sleeper) = mpsc::channel();
        net.at(N1, || {
            let child = std::process::Command::new("sleep").arg("600").spawn();
            pid.send(child.unwrap()).unwrap();
        });
        let mut sleeper = sleeper.recv().unwrap();
        let second = Network::create(1).unwrap_err();
        assert!(second.to_string().contains("already"), "{second}");
        // Waiting reaps it, which the removal waits for.
        let waiter = std::thread::spawn(move || sleeper.wait().unwrap());
        drop(net);
        assert!(!waiter.join().unwrap().success());
        for name in [topology.hub(), topology.namespace(1)] {
            assert!(!topology::namespace_file(&name).exists(), "{name}");
            let error = run_in(&name, || ()).unwrap_err();
            assert!(error.to_string().contains(&name), "{error}");
        }
        let error = topology.check_inside().unwrap_err();
        assert!(matches!(error, NetnsError::Outside { .. }), "{error}");
    }
}

mod needs_mount {
    use super::*;

    #[test]
    #[ignore = "needs root, to mount a tmpfs"]
    fn a_full_disk_stays_full_until_it_is_relieved() {
        let dir = tempfile::tempdir().unwrap();
        let device = || fs::metadata(dir.path()).unwrap().dev();
        let outer = device();
        let mut disk = Disk::mount("holdfast-test", dir.path(), 4 << 20).unwrap();
        assert_ne!(device(), outer);
        let file = dir.path().join("file");
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        disk.fill().unwrap();
        disk.fill().unwrap();
        let more = dir.path().join("more");
        let is_full = || match fs::write(&more, [1; 4096]) {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                true
            }
        };
        assert!(is_full());
        fs::remove_file(&file).unwrap();
        let begun = Instant::now();
        while !is_full() {
            assert!(begun.elapsed() < PATIENCE, "what was freed stays free");
        }
        disk.relieve().unwrap();
        disk.relieve().unwrap();
        fs::write(&file, vec![2; 3 << 20]).unwrap();
        disk.fill().unwrap();
        drop(disk);
        assert_eq!(device(), outer);
    }
}
