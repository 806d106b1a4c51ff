//! Whether a fault took effect, as anybody can see who stands outside: a command that succeeds and does
//! nothing is no fault.
//!
//! | fault | seen | disproved |
//! | --- | --- | --- |
//! | killed, stopped, without power | the connection that was held to the node has ended, or nothing answers there | it answers, and the connection is the same |
//! | paused | it takes connections and answers nothing, while others answer | it answers |
//! | cut off from the others | it answers no linearizable read, while others do | it does, in a cluster that is cut by commands |
//! | installs slowly | its log tells of an install that took longer than a sender waits for a sign of life, and it does not deny it when asked | |
//! | cut off from clients | nothing answers where clients reach it, while others answer | it answers |
//!
//! - What a request that was sent after the fault was made says counts, and nothing that was sent before.
//!   Silence counts only while somebody else answers: else it may have another cause.
//! - A node that answers again after its connection has ended was started by somebody else, such as a
//!   supervisor: its fault was made, and that is told.
//! - Of what has no effect that shows outside, nothing is claimed; the reason is told.
//! - Looking changes nothing: a fault is held as long as it would have been.

mod install;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

use self::install::{installed, look_for_install};
use super::{ActiveFaults, Fault, Observer, injected::Injected, installs::Installs};
use crate::{
    cluster::{Node, existing::KIND},
    history::{NodeId, Phase},
};

/// How long a node may take to accept a connection, or to answer, that is to be seen alive.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// How long after a fault was made its effect may show at the latest: signals and rules take a moment.
const SHOWS_WITHIN: Duration = Duration::from_secs(2);
/// Shortest silence from which anything can be concluded.
const SILENCE_MIN: Duration = Duration::from_millis(300);
/// Time between two questions whose answers are not waited for.
const ASK_EVERY: Duration = Duration::from_millis(150);
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What was seen of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It took effect.
    Seen(String),
    /// It cannot be told.
    Unseen(String),
    /// It did not.
    Disproved(String),
}

impl Effect {
    pub(super) fn phase(&self) -> Phase {
        match self {
            Effect::Seen(_) => Phase::Seen,
            Effect::Unseen(_) => Phase::Unseen,
            Effect::Disproved(_) => Phase::Disproved,
        }
    }

    pub(super) fn words(&self) -> &str {
        match self {
            Effect::Seen(words) | Effect::Unseen(words) | Effect::Disproved(words) => words,
        }
    }

    /// Of the nodes of one fault: it was made if it was made to one of them.
    fn of_all(effects: Vec<(NodeId, Effect)>) -> Self {
        let words: Vec<String> = effects
            .iter()
            .map(|(node, effect)| format!("node {node} {}", effect.words()))
            .collect();
        let words = words.join("; ");
        let any = |wanted: Phase| effects.iter().any(|(_, effect)| effect.phase() == wanted);
        if any(Phase::Seen) {
            Effect::Seen(words)
        } else if any(Phase::Unseen) {
            Effect::Unseen(words)
        } else {
            Effect::Disproved(words)
        }
    }
}

/// What a fault does that may show outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Processes end.
    Ends,
    /// Processes end, and others take their place.
    Restarts,
    /// Processes hang.
    Hangs,
    /// Nodes reach no majority.
    LosesPeers,
    /// Clients do not reach a node.
    LosesClients,
    /// The cluster itself says that it is done.
    Answered,
    /// A node installs a snapshot for a long time.
    Installs,
    /// Nothing that shows.
    Hidden(&'static str),
}

impl Kind {
    fn of(fault: Fault) -> Self {
        match fault {
            Fault::Kill(_)
            | Fault::KillStaggered
            | Fault::KillLeaderLast
            | Fault::KillSilently
            | Fault::LaggingCandidate
            | Fault::Power(_)
            | Fault::PowerStalled => Kind::Ends,
            Fault::Restart(_) => Kind::Restarts,
            Fault::Pause(_) => Kind::Hangs,
            Fault::IsolateOne
            | Fault::PartitionOne
            | Fault::PartitionLeader
            | Fault::PartitionHalves
            | Fault::PartitionOneWay => Kind::LosesPeers,
            Fault::PartitionClients => Kind::LosesClients,
            Fault::PartitionRing
            | Fault::PartitionDirection
            | Fault::DirectionFollowers
            | Fault::DirectionFromLeader
            | Fault::DirectionToLeader => Kind::Hidden("every node still sees a majority"),
            Fault::SlowLink | Fault::SlowBandwidth | Fault::Loss | Fault::Reset => {
                Kind::Hidden("how links behave is not measured")
            }
            Fault::LoseAnswers => Kind::Hidden("which answers are lost is not seen"),
            Fault::ClockJump | Fault::ClockSkew => Kind::Hidden("no node tells its clock"),
            Fault::FullDisk(_)
            | Fault::SlowFsync(_)
            | Fault::FailFsync
            | Fault::StallDisk(_)
            | Fault::HangDisk => Kind::Hidden("what a disk does is seen by its node alone"),
            Fault::SlowInstall => Kind::Installs,
            Fault::FullLog => Kind::Hidden("where a node logs is its own affair"),
            Fault::IdleConnections => Kind::Hidden("connections are counted by their node alone"),
            Fault::TearLog
            | Fault::TruncateLog
            | Fault::FlipBit
            | Fault::Wipe
            | Fault::LoseLog
            | Fault::OldCopyFollower
            | Fault::OldCopyLeader => Kind::Hidden("files are seen by their node alone"),
            Fault::BusyMachine => Kind::Hidden("what else a machine does is no node's affair"),
            Fault::Compact | Fault::MoveLeader => Kind::Answered,
        }
    }
}

/// A connection to each node, held while a fault is made: its end shows that the process has ended,
/// however soon another one answers at the same address.
pub(super) struct Held {
    kind: Kind,
    connections: BTreeMap<NodeId, Connection>,
    /// Logs that are followed from before the fault on.
    logs: BTreeMap<NodeId, Installs>,
}

/// Held open by a task, which ends with the connection.
struct Connection {
    task: AbortHandle,
}

impl Connection {
    async fn open(node: Node) -> Option<(NodeId, Self)> {
        let opened = timeout(ANSWERS_WITHIN, async {
            let stream = TcpStream::connect(node.direct.clone()).await.ok()?;
            h2::client::handshake(stream).await.ok()
        });
        let (requests, connection) = opened.await.ok()??;
        let held = tokio::spawn(async move {
            // A connection without anybody who could send requests is closed.
            let _requests: h2::client::SendRequest<bytes::Bytes> = requests;
            let _ = connection.await;
        });
        let task = held.abort_handle();
        Some((node.id, Self { task }))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks a node something for so long; whether it answered.
type Question = Arc<dyn Fn(Node, Duration) -> BoxFuture<'static, bool> + Send + Sync>;

fn says(observer: &Observer, address: fn(&Node) -> &str) -> Question {
    let observer = observer.clone();
    Arc::new(move |node, within| {
        let observer = observer.clone();
        Box::pin(async move { observer.says(address(&node), within).await })
    })
}

fn reads(observer: &Observer) -> Question {
    let observer = observer.clone();
    Arc::new(move |node, within| {
        let observer = observer.clone();
        Box::pin(async move { observer.reads(&node.direct, within).await })
    })
}

impl Held {
    /// Before a fault is made.
    pub(super) async fn before(fault: Fault, active: &ActiveFaults) -> Self {
        let kind = Kind::of(fault);
        let mut connections = BTreeMap::new();
        if matches!(kind, Kind::Ends | Kind::Restarts) {
            let nodes = active.cluster().nodes().to_vec();
            let opened = nodes.into_iter().map(Connection::open);
            connections.extend(join_all(opened).await.into_iter().flatten());
        }
        let mut logs = BTreeMap::new();
        if kind == Kind::Installs {
            let nodes = active.cluster().nodes().iter();
            let files =
                nodes.filter_map(|node| Some((node.id, active.cluster().log_file(node.id)?)));
            logs.extend(files.map(|(node, file)| (node, Installs::follow(file))));
        }
        Self {
            kind,
            connections,
            logs,
        }
    }

    /// Looks at what a fault does that has just been made, for `patience` at most where it takes silence
    /// to see it. What takes long to show is looked at for as long, unless `stop` says so.
    pub(super) async fn look(
        &self,
        active: &ActiveFaults,
        injected: &Injected,
        patience: Duration,
        stop: &watch::Receiver<bool>,
    ) -> Effect {
        let whole = patience;
        let patience = patience.min(SHOWS_WITHIN);
        let observer = active.observer();
        let nodes = active.cluster().nodes().to_vec();
        let (hit, others): (Vec<Node>, Vec<Node>) = nodes
            .into_iter()
            .partition(|node| injected.nodes.contains(&node.id));
        // Links that the harness has in its own hands are cut, whatever a node answers.
        let by_command = active.cluster().describe().kind == KIND;
        let mut looks: Vec<BoxFuture<'static, (NodeId, Effect)>> = Vec::new();
        for node in hit {
            let (id, others) = (node.id, others.clone());
            let look: BoxFuture<'static, Effect> = match self.kind {
                Kind::Answered => return Effect::Seen("as the cluster answered".to_owned()),
                Kind::Hidden(why) => return Effect::Unseen(why.to_owned()),
                Kind::Ends | Kind::Restarts => {
                    let held = self.connections.get(&id);
                    let held = held.map(|connection| connection.task.clone());
                    let says = says(observer, |node| &node.direct);
                    Box::pin(look_for_end(says, self.kind, node, held, patience))
                }
                Kind::Hangs => {
                    let says = says(observer, |node| &node.direct);
                    Box::pin(look_for_silence(says, node, others, patience))
                }
                Kind::Installs => match self.logs.get(&id) {
                    None => Box::pin(async {
                        Effect::Unseen("has a log that cannot be read".to_owned())
                    }),
                    Some(installs) => {
                        let counted = installed(observer, id);
                        let (installs, stop) = (installs.clone(), stop.clone());
                        Box::pin(look_for_install(installs, counted, whole, stop))
                    }
                },
                Kind::LosesClients => {
                    let says = says(observer, |node| &node.endpoint);
                    Box::pin(look_for_loss(says, node, others, patience))
                }
                Kind::LosesPeers => {
                    let lost = look_for_loss(reads(observer), node, others, patience);
                    Box::pin(async move {
                        match lost.await {
                            Effect::Disproved(_) if !by_command => Effect::Unseen(
                                "answers linearizable reads although it is cut off".to_owned(),
                            ),
                            effect => effect,
                        }
                    })
                }
            };
            looks.push(Box::pin(async move { (id, look.await) }));
        }
        match (self.kind, looks.is_empty()) {
            (Kind::Answered, _) => Effect::Seen("as the cluster answered".to_owned()),
            (Kind::Hidden(why), _) => Effect::Unseen(why.to_owned()),
            (_, true) => Effect::Unseen("no node was hit".to_owned()),
            (_, false) => Effect::of_all(join_all(looks).await),
        }
    }

    /// Nodes that were taken down and answer before they are started: somebody else has started them.
    pub(super) async fn started_by_others(
        &self,
        active: &ActiveFaults,
        injected: &Injected,
    ) -> Vec<NodeId> {
        let mut started = Vec::new();
        if self.kind != Kind::Ends {
            return started;
        }
        for node in active.cluster().nodes() {
            let held = self.connections.get(&node.id);
            if injected.nodes.contains(&node.id)
                && held.is_some_and(|connection| connection.task.is_finished())
                && active.observer().says(&node.direct, ANSWERS_WITHIN).await
            {
                started.push(node.id);
            }
        }
        started
    }
}

/// Processes end: a connection is lost, or the node is not there any more.
async fn look_for_end(
    says: Question,
    kind: Kind,
    node: Node,
    held: Option<AbortHandle>,
    patience: Duration,
) -> Effect {
    let deadline = Instant::now() + patience.max(SILENCE_MIN);
    loop {
        let answers = says(node.clone(), ANSWERS_WITHIN).await;
        // Asked in this order: what has ended by now is no process that answered before.
        let ended = held.as_ref().map(AbortHandle::is_finished);
        let over = Instant::now() >= deadline;
        match (ended, answers) {
            (Some(true), true) if kind == Kind::Ends => {
                return Effect::Seen(
                    "had ended and answers again: somebody else has started it".to_owned(),
                );
            }
            (Some(true), _) => {
                return Effect::Seen("has ended: its connections are closed".to_owned());
            }
            (None, false) => return Effect::Seen("answers nobody".to_owned()),
            (Some(false), false) if over => {
                return Effect::Unseen(
                    "answers nobody, and its connections are not closed".to_owned(),
                );
            }
            (Some(false), true) if over => {
                return Effect::Disproved("goes on answering, and nothing has ended".to_owned());
            }
            (None, true) if over => {
                return Effect::Unseen(
                    "answers, and whether it had ended in between is not known".to_owned(),
                );
            }
            _ => sleep(POLL_INTERVAL).await,
        }
    }
}

/// Processes hang: the system takes connections for them, and nothing answers.
async fn look_for_silence(
    says: Question,
    node: Node,
    others: Vec<Node>,
    patience: Duration,
) -> Effect {
    let connect = TcpStream::connect(node.direct.clone());
    if let Ok(Err(error)) = timeout(ANSWERS_WITHIN, connect).await {
        return Effect::Unseen(format!(
            "takes no connections, so it does not hang: {error}"
        ));
    }
    look_for_loss(says, node, others, patience).await
}

/// One node answers no more, while another one does: asked from now to the end of `patience`.
async fn look_for_loss(
    question: Question,
    node: Node,
    others: Vec<Node>,
    patience: Duration,
) -> Effect {
    if patience < SILENCE_MIN {
        return Effect::Unseen("was looked at for too short a time".to_owned());
    }
    let begun = Instant::now();
    let end = begun + patience;
    // When each of them was asked last what it answered.
    let last = Arc::new(Mutex::new(Some(begun)));
    let last_of_others = Arc::new(Mutex::new(None));
    let it = ask_until(end, question.clone(), node, last.clone());
    let all = others
        .into_iter()
        .map(|other| ask_until(end, question.clone(), other, last_of_others.clone()));
    let all = join_all(all);
    tokio::select! {
        _ = async { tokio::join!(it, all) } => {}
        () = sleep_until(end) => {}
    }
    let last = last.lock().unwrap_or(begun);
    let silent = end - last;
    // A node that was hit is silent for all of it but a moment. One that is well may be kept from answering
    // for a part, on a machine under load.
    if silent < (patience / 2).max(SILENCE_MIN) {
        return Effect::Disproved(format!(
            "goes on answering {} ms after it was done",
            patience.as_millis()
        ));
    }
    if silent < (patience * 3 / 4).max(SILENCE_MIN) {
        return Effect::Unseen(format!(
            "has not answered for {} of {} ms, as a node that is only busy may",
            silent.as_millis(),
            patience.as_millis()
        ));
    }
    let last_of_others = *last_of_others.lock();
    match last_of_others {
        Some(at) if at > last => Effect::Seen(format!(
            "has not answered for {} ms, and others have",
            silent.as_millis()
        )),
        _ => Effect::Unseen("does not answer, and nobody else does".to_owned()),
    }
}

/// Asks a node again and again, whether or not it has answered what it was asked before: one answer that
/// is late is no silence. Notes when it was asked what it answered.
async fn ask_until(
    end: Instant,
    question: Question,
    node: Node,
    answered: Arc<Mutex<Option<Instant>>>,
) {
    let mut asked = JoinSet::new();
    loop {
        let now = Instant::now();
        let left = end.saturating_duration_since(now);
        if left.is_zero() {
            return;
        }
        let (answer, answered) = (question(node.clone(), left), answered.clone());
        asked.spawn(async move {
            if answer.await {
                let mut answered = answered.lock();
                *answered = (*answered).max(Some(now));
            }
        });
        sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests;
