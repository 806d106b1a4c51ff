//! The two gRPC servers of a node.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use holdfast_proto::{
    FILE_DESCRIPTOR_SET,
    etcdserverpb::{
        cluster_server::{self, ClusterServer},
        kv_server::{self, KvServer},
        maintenance_server::{self, MaintenanceServer},
    },
    gathering::Gathering,
    peer::peer_server::PeerServer as PeerGrpc,
    v1::{
        admin_server::{self, AdminServer},
        keyspaces_server::{self, KeyspacesServer},
        sessions_server::{self, SessionsServer},
    },
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::StreamExt;
use tonic::{
    codec::CompressionEncoding::{Gzip, Zstd},
    service::Routes,
    transport::Server,
};
use tonic_health::pb::health_server;
use tonic_reflection::pb::v1::server_reflection_server;
use tower::util::MapResponse;

use super::{
    admin::AdminService,
    authority::AuthorityStream,
    cluster::ClusterService,
    connections,
    context::ServiceContext,
    direct::Direct,
    health,
    keyspaces::KeyspacesService,
    kv::KvService,
    listener::{self, Settles},
    maintenance::MaintenanceService,
    peer::PeerServer,
    protocol::{Protocol, Served},
    reads::{self, LargeReads},
    sessions::SessionsService,
};
use crate::{detector::Doorway, limits};

/// Why a server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("{field} {address}: {source}")]
    Bind {
        /// Field of the configuration that names it.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The description of the services does not load.
    #[error("server reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A server that runs until it is told to stop.
pub struct Serving {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Serving {
    /// Takes no new requests, and waits for those under way, up to `patience`.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(patience, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

async fn bind(field: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Bind {
            field,
            address,
            source,
        })
}

/// A server for peers, with what they may have sent before it is read.
pub(super) fn peer_builder() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(limits::CLIENT_KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::CLIENT_KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(limits::METADATA_WIRE_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits::STREAMS_GIVEN_UP_MAX))
        .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::PEER_CONNECTION_WINDOW_BYTES)
}

fn run(
    name: &'static str,
    start: impl FnOnce(
        std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> std::pin::Pin<
        Box<dyn Future<Output = Result<(), tonic::transport::Error>> + Send>,
    >,
) -> Serving {
    let (stop, mut stopping) = watch::channel(false);
    let serving = start(Box::pin(async move {
        // A sender that is gone means that nobody waits for the server any more.
        let _ = stopping.wait_for(|stop| *stop).await;
    }));
    let task = tokio::spawn(async move {
        if let Err(e) = serving.await {
            tracing::error!(server = name, error = %e, "a server ended");
        }
    });
    Serving { stop, task }
}

/// What the port of clients serves.
const CLIENT_SERVICES: Served = &[
    kv_server::SERVICE_NAME,
    cluster_server::SERVICE_NAME,
    maintenance_server::SERVICE_NAME,
    admin_server::SERVICE_NAME,
    keyspaces_server::SERVICE_NAME,
    sessions_server::SERVICE_NAME,
    health_server::SERVICE_NAME,
    server_reflection_server::SERVICE_NAME,
];

/// Lets clients compress; whether answers are, [`Protocol`] decides. What a message is when it is
/// unpacked counts against the same bound as one that was not packed.
macro_rules! compressed {
    ($service:expr) => {
        $service
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .send_compressed(Gzip)
            .send_compressed(Zstd)
    };
}

/// Serves clients on the address that the configuration names, over so many connections.
pub async fn serve_clients(
    context: Arc<ServiceContext>,
    connections_max: usize,
) -> Result<Serving, ServeError> {
    let socket = bind("node.client_addr", context.config.node.client_addr).await?;
    let incoming = listener::accept(
        socket,
        "clients",
        connections_max,
        Settles::ByHandshake,
        None,
    )
    .map(|connection| connection.map(AuthorityStream::new).map(Gathering::new));
    // A little more than the limit, so that a request slightly too large gets etcd's status.
    let message_max = context.request_bytes_max() + limits::REQUEST_OVERHEAD_BYTES_MAX as usize;
    let reads = Arc::new(LargeReads::new());
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let reporting = tokio::spawn(health::report(reporter, context.clone()));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let kv = Arc::new(KvService::new(context.clone(), reads.clone()));
    let routes = Routes::new(compressed!(
        KvServer::from_arc(kv.clone()).max_decoding_message_size(message_max)
    ))
    .add_service(compressed!(ClusterServer::new(ClusterService::new(
        context.clone()
    ))))
    .add_service(compressed!(MaintenanceServer::new(
        MaintenanceService::new(context.clone(), reads)
    )))
    .add_service(compressed!(SessionsServer::new(SessionsService::new(
        context.clone()
    ))))
    .add_service(compressed!(KeyspacesServer::new(KeyspacesService::new(
        context.clone()
    ))))
    .add_service(compressed!(AdminServer::new(AdminService::new(context))))
    .add_service(compressed!(health_service))
    .add_service(compressed!(reflection.build_v1()?))
    .prepare();
    let library = MapResponse::new(routes, reads::paced);
    let library = Protocol::new(library, CLIENT_SERVICES);
    let direct = Arc::new(Direct::new(kv, library, message_max));
    Ok(run("clients", |stopped| {
        Box::pin(async move {
            let answer = move |request| {
                let direct = direct.clone();
                async move { direct.answer(request).await }
            };
            connections::serve(incoming, stopped, answer).await;
            reporting.abort();
            Ok(())
        })
    }))
}

/// Serves peers, over so many connections; those of failure detectors go through `doorway`.
pub async fn serve_peers(
    address: SocketAddr,
    server: PeerServer,
    connections_max: usize,
    doorway: Doorway,
) -> Result<Serving, ServeError> {
    let socket = bind("node.peer_addr", address).await?;
    let incoming = listener::accept(
        socket,
        "peers",
        connections_max,
        Settles::BySignature,
        Some(doorway),
    )
    .map(|connection| connection.map(Gathering::new));
    let message_max = limits::PEER_MESSAGE_BYTES_MAX as usize;
    let router = peer_builder().add_service(
        PeerGrpc::new(server)
            .max_decoding_message_size(message_max)
            .max_encoding_message_size(message_max),
    );
    Ok(run("peers", |stopped| {
        Box::pin(router.serve_with_incoming_shutdown(incoming, stopped))
    }))
}
