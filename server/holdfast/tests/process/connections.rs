//! Strangers who open connections and say nothing, more of them than a node may open files.

use std::{os::unix::process::CommandExt, time::Duration};

use holdfast_proto::etcdserverpb::PutRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Cluster, History, PATIENCE, run, within};

/// Files that a node may open, at most.
const FILES: u64 = 256;
/// Strangers at each port.
const STRANGERS: usize = 260;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The preface, settings, and the acknowledgement of the server's.
const HANDSHAKE: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";

#[test]
fn strangers_take_no_files_and_keep_nobody_out() {
    run(async |rng| {
        holdfast_server::raise_open_files();
        let mut cluster = Cluster::start(rng).await;
        for id in [1, 2, 3] {
            cluster.node_mut(id).term().await;
        }
        for id in [1, 2, 3] {
            cluster.node_mut(id).start_as(|command| {
                // SAFETY: the call is safe between fork and exec, and keeps no reference.
                unsafe {
                    command.pre_exec(|| {
                        let limit = libc::rlimit {
                            rlim_cur: FILES / 2,
                            rlim_max: FILES,
                        };
                        match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
                            0 => Ok(()),
                            _ => Err(std::io::Error::last_os_error()),
                        }
                    });
                }
            });
        }
        cluster.until_leaders().await;
        let mut history = History::default();
        let mut strangers = Vec::new();
        for (round, begins) in [b"".as_slice(), PREFACE, HANDSHAKE].into_iter().enumerate() {
            for node in &cluster.nodes {
                for port in [node.config.node.client_addr, node.config.node.peer_addr] {
                    for _ in 0..STRANGERS {
                        let mut stranger = TcpStream::connect(port).await.unwrap();
                        // It may have been closed already: that is what is expected.
                        let _ = stranger.write_all(begins).await;
                        strangers.push(stranger);
                    }
                }
            }
            // The channels of the harness were made in the first round, among the strangers.
            for number in 0..40 {
                let key = format!("{round}/{number}");
                let value = "x".repeat(1 << 20);
                let request = PutRequest {
                    key: key.clone().into(),
                    value: value.clone().into(),
                    ..Default::default()
                };
                let mut kv = cluster.node(1 + number % 3).kv();
                let answer = within(PATIENCE, kv.put(request)).await.unwrap();
                history.acknowledge(&key, &value, answer.header.unwrap().revision);
            }
            for node in &mut cluster.nodes {
                node.check_alive().unwrap();
            }
        }
        for node in &cluster.nodes {
            let log = node.log();
            assert!(log.contains("the limit of open files is low"), "{log}");
            assert!(log.contains("too many connections"), "{log}");
            let warnings = log.matches("too many connections").count();
            assert!(warnings < 50, "{warnings} lines");
        }
        cluster.verify(&history).await;
        drop(strangers);
    });
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    run(async |rng| {
        let cluster = Cluster::start(rng).await;
        let node = cluster.node(1);
        for port in [node.config.node.client_addr, node.config.node.peer_addr] {
            for begins in [b"".as_slice(), PREFACE] {
                let mut stranger = TcpStream::connect(port).await.unwrap();
                stranger.write_all(begins).await.unwrap();
                let mut answer = Vec::new();
                let closed = stranger.read_to_end(&mut answer);
                let closed = tokio::time::timeout(Duration::from_secs(60), closed).await;
                assert!(closed.is_ok(), "{port} keeps a silent connection");
            }
        }
    });
}
