//! Streams to a peer of which one is not read: the others pass.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use holdfast_proto::peer::{
    self,
    peer_server::{Peer, PeerServer as PeerGrpc},
};
use tonic::{Request, Response, Status, Streaming, transport::server::TcpIncoming};

use super::{
    Gate,
    client::{GrpcTransport, PeerAddress, Sender},
};
use crate::{
    limits,
    raft::{NodeId, PeerTransport},
    service::server::peer_builder,
};

const TO: NodeId = 2;
/// The group whose requests the peer takes from the connection one by one, and never the second.
const STUCK: u64 = 1;
const LIVELY: u64 = 2;

/// A peer that answers everything but the appends of one group.
struct HalfAsleep;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl Peer for HalfAsleep {
    async fn placed(
        &self,
        _: Request<peer::PlacedRequest>,
    ) -> Result<Response<peer::PlacedResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it here"))
    }

    async fn hand_over(
        &self,
        _: Request<peer::HandOverRequest>,
    ) -> Result<Response<peer::HandOverResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it here"))
    }

    async fn leading(
        &self,
        _: Request<peer::LeadingRequest>,
    ) -> Result<Response<peer::LeadingResponse>, Status> {
        Ok(Response::new(peer::LeadingResponse::default()))
    }

    async fn hello(
        &self,
        _: Request<peer::HelloRequest>,
    ) -> Result<Response<peer::HelloResponse>, Status> {
        unused()
    }

    async fn vote(
        &self,
        _: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        Ok(Response::new(peer::VoteResponse::default()))
    }

    type AppendStream = Replies<peer::AppendResponse>;

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.expect("a first request");
        if first.group_id == STUCK {
            // Kept, so that the stream stays open.
            let never = stream::once(async move {
                let _kept = requests;
                std::future::pending().await
            });
            return Ok(Response::new(Box::pin(never)));
        }
        let first = stream::once(std::future::ready(Ok(first)));
        let answers = first.chain(requests);
        let answers = answers.map(|request| request.map(|_| peer::AppendResponse::default()));
        Ok(Response::new(Box::pin(answers)))
    }

    type HeartbeatStream = Replies<peer::HeartbeatBatchResponse>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<peer::HeartbeatBatch>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let answers = request.into_inner().map(|batch| {
            let answer = |heartbeat: peer::Heartbeat| peer::HeartbeatResponse {
                id: heartbeat.id,
                response: Some(peer::AppendResponse::default()),
                unavailable: String::new(),
            };
            let responses = batch?.heartbeats.into_iter().map(answer).collect();
            Ok(peer::HeartbeatBatchResponse { responses })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type SnapshotStream = Replies<peer::SnapshotAck>;

    async fn snapshot(
        &self,
        _: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        unused()
    }

    type FetchSnapshotStream = Replies<peer::SnapshotChunk>;

    async fn fetch_snapshot(
        &self,
        _: Request<peer::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        unused()
    }

    async fn transfer_leader(
        &self,
        _: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        unused()
    }

    async fn survey(
        &self,
        _: Request<peer::SurveyMessage>,
    ) -> Result<Response<peer::SurveyMessage>, Status> {
        unused()
    }

    type ForwardStream = Replies<peer::ForwardReplyBatch>;

    async fn forward(
        &self,
        _: Request<Streaming<peer::ForwardBatch>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        unused()
    }
}

async fn transport() -> GrpcTransport {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", incoming.local_addr().unwrap());
    let message_max = limits::PEER_MESSAGE_BYTES_MAX as usize;
    let service = PeerGrpc::new(HalfAsleep).max_decoding_message_size(message_max);
    tokio::spawn(
        peer_builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let sender = Sender {
        cluster_id: 1,
        node_id: 1,
        incarnation: 1,
    };
    let peers = [PeerAddress { id: TO, url }];
    GrpcTransport::new(
        sender,
        &peers,
        Duration::from_secs(60),
        16,
        Arc::new(Gate::open_to([TO])),
    )
    .unwrap()
}

/// A request of half a mebibyte.
fn request(group_id: u64) -> peer::AppendRequest {
    peer::AppendRequest {
        group_id,
        entries: vec![peer::Entry {
            payload: Bytes::from(vec![7; 512 * 1024]),
            ..Default::default()
        }],
        ..Default::default()
    }
}

async fn within_a_minute<T>(what: &str, done: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), done).await;
    done.unwrap_or_else(|_| panic!("{what}: not within a minute"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_holds_up_no_other() {
    let transport = transport().await;
    // Several that are stuck, each as full as it gets.
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = taken.clone();
        let requests = stream::repeat_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            request(STUCK)
        });
        let opened = transport.append(TO, Box::pin(requests));
        let answers = within_a_minute("opening a stuck stream", opened)
            .await
            .unwrap();
        stuck.push((answers, taken));
    }
    // The windows are full when nothing more is taken.
    let total = || -> u64 {
        stuck
            .iter()
            .map(|(_, taken)| taken.load(Ordering::Relaxed))
            .sum()
    };
    let full = async {
        let mut before = 0;
        while total() != before || before == 0 {
            before = total();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    within_a_minute("filling the windows", full).await;

    let requests = stream::repeat_with(|| request(LIVELY)).take(40);
    let opened = transport.append(TO, Box::pin(requests));
    let answers = within_a_minute("another append stream", opened)
        .await
        .unwrap();
    let answered = within_a_minute("its answers", answers.count()).await;
    assert_eq!(answered, 40, "20 MiB went by");
    let heartbeat = transport.heartbeat(TO, peer::AppendRequest::default());
    within_a_minute("a heartbeat", heartbeat).await.unwrap();
    let patience = Duration::from_secs(60);
    let vote = transport.vote(TO, peer::VoteRequest::default(), patience);
    within_a_minute("a vote", vote).await.unwrap();
    drop(stuck);
}
