//! A request on the wire, without a client's own timer: what a node itself says at the deadline.

use bytes::{BufMut, Bytes, BytesMut};
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
        let mut requests = self.requests.clone().ready().await.map_err(broken)?;
        let (answer, mut body) = requests.send_request(request, false).map_err(broken)?;
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.encoded_len() as u32);
        message.encode(&mut framed).unwrap();
        body.send_data(framed.freeze(), true).map_err(broken)?;
        let (parts, mut body) = answer.await.map_err(broken)?.into_parts();
        if let Some(status) = Status::from_header_map(&parts.headers) {
            return judged(status);
        }
        while let Some(data) = body.data().await {
            let length = data.map_err(broken)?.len();
            body.flow_control()
                .release_capacity(length)
                .map_err(broken)?;
        }
        let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
        judged(Status::from_header_map(&trailers).expect("an answer ends with a status"))
    }
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
