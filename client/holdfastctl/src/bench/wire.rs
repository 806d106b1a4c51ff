//! Unary calls of gRPC on bare HTTP/2: a load generator shares its machine with what it measures.
//!
//! A client for applications balances, names services and hands every message from task to task, and takes as
//! much of a processor for a request as a server does. Here a worker writes its request into the connection and
//! waits for the frames of the answer. What comes is checked: the status, and that there is a message.
//!
//! Protocol: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use h2::client::SendRequest;
use holdfast_client::{
    Bytes, KEYSPACE,
    proto::{
        framing::{PREFIX_BYTES, framed},
        gathering::Gathering,
        metadata::TIMEOUT,
    },
};
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use prost::Message;
use tokio::{net::TcpStream, sync::Mutex, time::timeout};
use tonic::{Code, Status};

/// Bytes that may be on their way to a stream, and to all streams of a connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// A connection to one endpoint, made when it is first needed and again after it broke.
pub(super) struct Wire {
    authority: String,
    headers: HeaderMap,
    patience: Duration,
    /// Connections made so far.
    made: AtomicU64,
    connection: Mutex<Option<Connection>>,
}

/// - `number` tells connections to the endpoint apart.
#[derive(Clone)]
struct Connection {
    number: u64,
    requests: SendRequest<Bytes>,
}

fn unavailable(what: &str, error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("{what}: {error}"))
}

impl Wire {
    /// To the host and port of `uri`. `patience` bounds connecting, and every call.
    pub(super) fn new(
        uri: &Uri,
        keyspace: Option<HeaderValue>,
        patience: Duration,
    ) -> Result<Self, &'static str> {
        if uri.scheme_str() != Some("http") {
            return Err("it must begin with http://");
        }
        let authority = uri.authority().ok_or("it names no host")?;
        let mut headers = HeaderMap::new();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let grpc = HeaderValue::from_static("application/grpc");
        headers.insert(header::CONTENT_TYPE, grpc);
        let millis = patience.as_millis().clamp(1, 99_999_999);
        let allowed = HeaderValue::try_from(format!("{millis}m")).expect("digits and a letter");
        headers.insert(TIMEOUT, allowed);
        if let Some(keyspace) = keyspace {
            headers.insert(KEYSPACE, keyspace);
        }
        Ok(Wire {
            authority: match authority.port() {
                Some(_) => authority.to_string(),
                None => format!("{authority}:80"),
            },
            headers,
            patience,
            made: AtomicU64::new(0),
            connection: Mutex::default(),
        })
    }

    /// Calls `method` (`/service/name`), and checks what it answers.
    pub(super) async fn call(&self, method: &str, message: &impl Message) -> Result<(), Status> {
        match timeout(self.patience, self.exchange(method, message)).await {
            Ok(answered) => answered,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    async fn exchange(&self, method: &str, message: &impl Message) -> Result<(), Status> {
        let frame =
            framed(message).ok_or_else(|| Status::invalid_argument("a message of 4 GiB"))?;
        let Connection { number, requests } = self.connected().await?;
        let mut requests = match requests.ready().await {
            Ok(requests) => requests,
            Err(error) => {
                self.forget(number).await;
                return Err(unavailable("the connection broke", error));
            }
        };
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(method)
            .build()
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        *request.headers_mut() = self.headers.clone();
        let broke = |e| unavailable("the connection broke", e);
        let (answer, mut body) = requests.send_request(request, false).map_err(broke)?;
        body.send_data(frame, true).map_err(broke)?;
        let (head, mut body) = answer.await.map_err(broke)?.into_parts();
        if head.status != http::StatusCode::OK {
            let why = format!("HTTP status {}", head.status);
            return Err(Status::unknown(why));
        }
        let mut received = 0;
        while let Some(data) = body.data().await {
            let data = data.map_err(broke)?;
            received += data.len();
            body.flow_control()
                .release_capacity(data.len())
                .map_err(broke)?;
        }
        let trailers = body.trailers().await.map_err(broke)?;
        let status = Status::from_header_map(trailers.as_ref().unwrap_or(&head.headers));
        match status {
            Some(status) if status.code() != Code::Ok => Err(status),
            Some(_) if received >= PREFIX_BYTES => Ok(()),
            Some(_) => Err(Status::internal("the answer has no message")),
            None => Err(Status::internal("the answer has no status")),
        }
    }

    /// The connection. While one is made all calls wait for it.
    async fn connected(&self) -> Result<Connection, Status> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let made = Connection {
            number: self.made.fetch_add(1, Ordering::Relaxed),
            requests: self.connect().await?,
        };
        *connection = Some(made.clone());
        Ok(made)
    }

    /// The next call connects again, unless another has done so.
    async fn forget(&self, number: u64) {
        let mut connection = self.connection.lock().await;
        connection.take_if(|connection| connection.number == number);
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>, Status> {
        let cannot = |e| unavailable("cannot connect", e);
        let socket = TcpStream::connect(&self.authority).await.map_err(cannot)?;
        socket.set_nodelay(true).map_err(cannot)?;
        let (connection, driver) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(Gathering::new(socket))
            .await
            .map_err(|e| unavailable("cannot connect", e))?;
        // It ends with the connection, and whoever waits for an answer learns why.
        tokio::spawn(driver);
        Ok(connection)
    }
}
