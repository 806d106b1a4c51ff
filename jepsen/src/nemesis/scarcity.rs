//! What a node needs and cannot have: somewhere to write its log lines, descriptors for connections, a
//! disk that answers, peace while it catches up.
//!
//! None of these is a crash, and none may become one: a node goes on without, or ends and says why.

use std::{net::SocketAddr, time::Duration};

use rand::rngs::StdRng;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    ActiveFaults, Fault,
    injected::{Healing, Injected},
    installs::Installs,
    process::named,
    target::Target,
};
use crate::{
    cluster::{FaultError, SyncFault},
    history::NodeId,
};

/// How long a restarted node may take to serve before the next one is restarted.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// How long the leader is down while nobody can write log lines.
const LEADER_DOWN: Duration = Duration::from_millis(800);
/// Connections to each address of each node: more than a node has descriptors when it is started with
/// the 256 that some systems give.
const IDLE_CONNECTIONS: usize = 260;
/// How long one of them may take to be accepted.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(5);
/// Time after which one that was closed is opened again.
const OPENED_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A sync that hangs takes so much longer: longer than any run.
const HANGS_FOR: Duration = Duration::from_secs(7 * 86_400);
/// How long a node is away so that it needs a snapshot, if the others keep little of their logs.
const AWAY_FOR: Duration = Duration::from_secs(4);
/// How much longer each sync takes until the node installs: enough to be seen beginning.
const FIRST_SYNC_DELAY: Duration = Duration::from_millis(500);
/// How much longer each takes from then on. An install syncs often enough to take longer than a sender waits for
/// a sign of life, and is over before a run of three minutes is.
const INSTALL_SYNC_DELAY: Duration = Duration::from_secs(8);
/// How long a node that is back may take until it installs.
const INSTALLS_WITHIN: Duration = Duration::from_secs(60);
/// Time between two looks at its log: short beside a sync.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// All nodes come back, one after the other, with their log lines going to a device that is full; then
/// the leader is killed, which gives the others something to say.
pub(super) async fn full_log(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(Target::All, rng).await?;
    let muted = async {
        set_output(active, &nodes, true).await?;
        restart_in_turn(active, &nodes).await?;
        let leader = active.choose(Target::Leader, rng).await?;
        active.kill(&leader).await?;
        sleep(LEADER_DOWN).await;
        active.start(&leader).await?;
        Ok(leader)
    };
    match muted.await {
        Ok(leader) => {
            let detail = format!(
                "log lines of {} go to a full device; then {} (leader) killed",
                named(&nodes),
                named(&leader)
            );
            Ok(Injected::new(nodes.clone(), detail, Healing::Output(nodes)))
        }
        Err(error) => {
            unmute(active, &nodes).await?;
            Err(error)
        }
    }
}

/// Log lines of these nodes go to their files again.
pub(super) async fn unmute(active: &ActiveFaults, nodes: &[NodeId]) -> Result<(), FaultError> {
    set_output(active, nodes, false).await?;
    restart_in_turn(active, nodes).await
}

async fn set_output(active: &ActiveFaults, nodes: &[NodeId], full: bool) -> Result<(), FaultError> {
    for node in nodes {
        active.cluster().fill_output(*node, full).await?;
    }
    Ok(())
}

/// SIGTERM to one node after the other, each serving again before the next one goes.
async fn restart_in_turn(active: &ActiveFaults, nodes: &[NodeId]) -> Result<(), FaultError> {
    for node in nodes {
        active.stop(*node).await?;
        active.start(&[*node]).await?;
        let served = active.wait_until_serving(*node, SERVES_WITHIN).await;
        served.map_err(|why| {
            FaultError::Failed(format!("node {node} does not serve after a restart: {why}"))
        })?;
    }
    Ok(())
}

/// Connections to every node over which nothing is ever said; one that the node closes is opened again.
pub(super) async fn idle_connections(
    active: &ActiveFaults,
    id: u64,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let nodes = active.choose(Target::All, rng).await?;
    let doors: Vec<SocketAddr> = nodes
        .iter()
        .flat_map(|node| active.cluster().doors(*node))
        .collect();
    if doors.is_empty() {
        return Err(FaultError::unsupported("tell where its nodes listen"));
    }
    let wanted = doors.len() * IDLE_CONNECTIONS;
    more_descriptors(wanted as u64 + 1024)?;
    let mut callers = JoinSet::new();
    for door in doors.iter().cycle().take(wanted) {
        callers.spawn(call_and_say_nothing(*door));
    }
    active.go_on(id, callers).await;
    let called: Vec<String> = doors.iter().map(ToString::to_string).collect();
    let detail = format!(
        "{IDLE_CONNECTIONS} idle connections to each of {}",
        called.join(", ")
    );
    Ok(Injected::new(nodes, detail, Healing::Tasks))
}

async fn call_and_say_nothing(door: SocketAddr) {
    loop {
        if let Ok(Ok(mut stream)) = timeout(ACCEPTED_WITHIN, TcpStream::connect(door)).await {
            let mut heard = [0; 1024];
            // What the node says first is its own business; until it hangs up.
            while matches!(stream.read(&mut heard).await, Ok(1..)) {}
        }
        sleep(OPENED_AGAIN_AFTER).await;
    }
}

/// Lets this process have so many descriptors.
fn more_descriptors(wanted: u64) -> Result<(), FaultError> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call fills a structure of ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(FaultError::Failed(
            std::io::Error::last_os_error().to_string(),
        ));
    }
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    limit.rlim_cur = wanted;
    // SAFETY: the call reads a structure of ours.
    if wanted > limit.rlim_max || unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(FaultError::Skipped(format!(
            "the harness may have {} descriptors and needs {wanted}; raise its limit (ulimit -n)",
            limit.rlim_max
        )));
    }
    Ok(())
}

/// A follower's disk does not answer any more; its process does.
pub(super) async fn hang_disk(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let leader = active.observer().leader().await;
    let mut free = active.choose(Target::All, rng).await?;
    free.retain(|node| Some(*node) != leader);
    let Some(node) = free.first().copied().filter(|_| leader.is_some()) else {
        return Err(FaultError::Skipped(
            "no node is known to be a follower at the moment".into(),
        ));
    };
    let hangs = SyncFault {
        delay: HANGS_FOR,
        fail: false,
    };
    let hang = active.cluster().set_syncs(node, hangs);
    active.risking(node, hang).await?;
    let detail = format!("fsync of node {node} (follower) hangs");
    Ok(Injected::new(
        vec![node],
        detail,
        Healing::Syncs(vec![node]),
    ))
}

/// A node that was away for long enough to need a snapshot installs it on a disk so slow that the
/// sender could take it for dead. Only then: before it installs, the node has promises to write down, and
/// syncs that take long would keep it from ever getting there.
pub(super) async fn slow_install(
    active: &ActiveFaults,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    let node = active.choose(Target::One, rng).await?[0];
    let Some(log) = active.cluster().log_file(node) else {
        return Err(FaultError::unsupported("read the log of a node"));
    };
    active.kill(&[node]).await?;
    sleep(AWAY_FOR).await;
    let mut installs = Installs::follow(log);
    let slowed = set_syncs(active, node, FIRST_SYNC_DELAY).await;
    active.start(&[node]).await?;
    slowed?;
    let slowed = match until_installing(&mut installs).await {
        Ok(()) => set_syncs(active, node, INSTALL_SYNC_DELAY).await,
        missing => missing,
    };
    if let Err(error) = slowed {
        set_syncs(active, node, Duration::ZERO).await?;
        return Err(error);
    }
    let detail = format!(
        "node {node} was away for {} s and installs a snapshot with fsyncs of {} s",
        AWAY_FOR.as_secs(),
        INSTALL_SYNC_DELAY.as_secs()
    );
    Ok(Injected::new(
        vec![node],
        detail,
        Healing::Syncs(vec![node]),
    ))
}

async fn set_syncs(active: &ActiveFaults, node: NodeId, delay: Duration) -> Result<(), FaultError> {
    let fault = SyncFault { delay, fail: false };
    active.cluster().set_syncs(node, fault).await
}

async fn until_installing(installs: &mut Installs) -> Result<(), FaultError> {
    let deadline = Instant::now() + INSTALLS_WITHIN;
    while Instant::now() < deadline {
        let looked = installs.look();
        looked.map_err(|error| FaultError::Failed(format!("cannot read its log: {error}")))?;
        if installs.under_way().is_some() {
            return Ok(());
        }
        sleep(POLL_INTERVAL).await;
    }
    Err(FaultError::Skipped(format!(
        "the node was not seen to install a snapshot within {INSTALLS_WITHIN:?} of coming back"
    )))
}

pub(super) async fn inject(
    fault: Fault,
    active: &ActiveFaults,
    id: u64,
    rng: &mut StdRng,
) -> Result<Injected, FaultError> {
    match fault {
        Fault::FullLog => full_log(active, rng).await,
        Fault::IdleConnections => idle_connections(active, id, rng).await,
        Fault::HangDisk => hang_disk(active, rng).await,
        _ => slow_install(active, rng).await,
    }
}
