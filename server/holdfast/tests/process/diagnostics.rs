//! Diagnostics share no fate with consensus: whatever becomes of standard error, nodes serve, elect
//! and stop.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{PipeReader, Read, Write, pipe},
    os::fd::AsRawFd,
    process::Stdio,
    sync::{Arc, Mutex},
};

use rand::rngs::StdRng;

use crate::harness::{Cluster, PATIENCE, run, until};

/// A standard error for a node, and what must live as long as it.
type Outlet = fn() -> (Stdio, Option<PipeReader>);

fn full() -> (Stdio, Option<PipeReader>) {
    let full = File::options().write(true).open("/dev/full").unwrap();
    (full.into(), None)
}

fn closed() -> (Stdio, Option<PipeReader>) {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    (writer.into(), None)
}

/// A pipe that takes not one byte more until somebody reads.
fn unread() -> (Stdio, Option<PipeReader>) {
    let (reader, mut writer) = pipe().unwrap();
    // SAFETY: the descriptor is open, and the call touches no memory.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
    writer
        .write_all(&vec![b'\n'; usize::try_from(size).unwrap()])
        .unwrap();
    (writer.into(), Some(reader))
}

/// All nodes of a cluster run with such a standard error, under load, and one of them is killed.
async fn serves_elects_and_stops(rng: &mut StdRng, outlet: Outlet) {
    let mut cluster = Cluster::start_with(rng, |config| {
        // As much as there is to log, so that queues fill.
        config.log.level = "debug".to_string();
    })
    .await;
    let mut readers = BTreeMap::new();
    for id in [1, 2, 3] {
        cluster.node_mut(id).term().await;
    }
    for id in [1, 2, 3] {
        let (stderr, reader) = outlet();
        cluster.node_mut(id).start_as(|command| {
            command.stderr(stderr);
        });
        readers.extend(reader.map(|reader| (id, reader)));
    }
    cluster.until_leaders().await;
    let load = cluster.load(8).await;
    load.until_more(200).await;
    let leader = cluster.leader().await;
    cluster.node_mut(leader).kill9();
    load.until_more(200).await;
    let history = load.stop().await;
    cluster.verify(&history).await;
    for id in cluster.others(leader) {
        cluster.node_mut(id).check_alive().unwrap();
    }
    if let Some(reader) = readers.remove(&cluster.others(leader)[0]) {
        let read = Arc::new(Mutex::new(Vec::new()));
        std::thread::spawn({
            let read = read.clone();
            move || read_all(reader, &read)
        });
        until("lost lines are told of", PATIENCE, async || {
            let text = String::from_utf8_lossy(&read.lock().unwrap()).into_owned();
            match text.contains("lines of the log were lost here") {
                true => Ok(()),
                false => Err(text),
            }
        })
        .await;
    }
    for id in cluster.others(leader) {
        let status = cluster.node_mut(id).term().await;
        assert!(status.success(), "node {id}: {status}");
    }
}

fn read_all(mut reader: PipeReader, into: &Mutex<Vec<u8>>) {
    let mut bytes = vec![0; 4096];
    while let Ok(n @ 1..) = reader.read(&mut bytes) {
        into.lock().unwrap().extend_from_slice(&bytes[..n]);
    }
}

#[test]
fn a_standard_error_on_a_full_disk_costs_only_lines() {
    run(async |rng| {
        serves_elects_and_stops(rng, full).await;
    });
}

#[test]
fn a_standard_error_that_was_closed_costs_only_lines() {
    run(async |rng| {
        serves_elects_and_stops(rng, closed).await;
    });
}

#[test]
fn a_standard_error_that_nobody_reads_costs_only_lines() {
    run(async |rng| {
        serves_elects_and_stops(rng, unread).await;
    });
}
