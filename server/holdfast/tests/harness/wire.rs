//! A request on the wire, without a client's own timer: what a node itself says at the deadline.

use bytes::{Bytes, BytesMut};
use holdfast_proto::framing::framed;
use prost::Message;
use tokio::net::TcpStream;
use tonic::{Code, Status};

use super::Node;

/// Connections to one node, for requests that wait as long as the node lets them.
#[derive(Clone)]
pub struct Wire {
    requests: h2::client::SendRequest<Bytes>,
    origin: String,
}

impl Wire {
    /// A connection of its own to a node.
    pub async fn connect(node: &Node) -> Wire {
        let address = node.config.node.client_addr;
        let socket = TcpStream::connect(address).await.unwrap();
        let (requests, connection) = h2::client::handshake(socket).await.unwrap();
        // It ends with the node or with the last request.
        tokio::spawn(connection);
        Wire {
            requests,
            origin: format!("http://{address}"),
        }
    }

    /// Sends one request with this `grpc-timeout` and metadata, and tells the status that the node answers.
    pub async fn ask(
        &self,
        path: &str,
        message: &impl Message,
        metadata: &[(&str, &str)],
    ) -> Result<(), Status> {
        let mut request = http::Request::post(format!("{}{path}", self.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let data = [framed(message).unwrap()];
        self.exchange(request, &data, Ending::WithData)
            .await
            .map(drop)
    }

    /// Sends one request whose body is cut into these frames, and tells what comes back: the data and the
    /// metadata of the answer.
    pub async fn ask_in_frames(
        &self,
        path: &str,
        frames: &[Bytes],
        ending: Ending,
    ) -> Result<(Bytes, http::HeaderMap), Status> {
        let request = http::Request::post(format!("{}{path}", self.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let request = request.body(()).unwrap();
        self.exchange(request, frames, ending).await
    }

    async fn exchange(
        &self,
        request: http::Request<()>,
        frames: &[Bytes],
        ending: Ending,
    ) -> Result<(Bytes, http::HeaderMap), Status> {
        let mut requests = self.requests.clone().ready().await.map_err(broken)?;
        let (answer, mut body) = requests.send_request(request, false).map_err(broken)?;
        for (i, frame) in frames.iter().enumerate() {
            let ends = ending == Ending::WithData && i + 1 == frames.len();
            body.send_data(frame.clone(), ends).map_err(broken)?;
        }
        match ending {
            Ending::WithData if frames.is_empty() => {
                body.send_data(Bytes::new(), true).map_err(broken)?;
            }
            Ending::WithData => {}
            Ending::EmptyFrame => body.send_data(Bytes::new(), true).map_err(broken)?,
            Ending::Trailers => body.send_trailers(Default::default()).map_err(broken)?,
        }
        let (parts, mut body) = answer.await.map_err(broken)?.into_parts();
        if let Some(status) = Status::from_header_map(&parts.headers) {
            judged(status)?;
        }
        let mut received = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(broken)?;
            received.extend_from_slice(&data);
            body.flow_control()
                .release_capacity(data.len())
                .map_err(broken)?;
        }
        let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
        judged(Status::from_header_map(&trailers).expect("an answer ends with a status"))?;
        Ok((received.freeze(), parts.headers))
    }
}

/// How a stream of frames ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the last frame of data.
    WithData,
    /// With a frame of data that is empty.
    EmptyFrame,
    /// With trailers.
    Trailers,
}

fn judged(status: Status) -> Result<(), Status> {
    match status.code() {
        Code::Ok => Ok(()),
        _ => Err(status),
    }
}

fn broken(error: h2::Error) -> Status {
    Status::unknown(format!("the connection broke: {error}"))
}
