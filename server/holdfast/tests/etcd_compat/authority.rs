//! Which keyspace a request reaches: by metadata, by authority, and by an authority that is none.

use std::time::Duration;

use holdfast_proto::{
    etcdserverpb::{RangeResponse, kv_client::KvClient},
    v1::{GroupsRequest, admin_client::AdminClient},
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request};

use crate::{get, node::Nodes, put, refused};

fn in_keyspace<T>(message: T, keyspace: &str) -> Request<T> {
    let mut request = Request::new(message);
    let keyspace = keyspace.parse().unwrap();
    request.metadata_mut().insert("holdfast-keyspace", keyspace);
    request
}

#[tokio::test]
async fn a_keyspace_is_chosen_by_metadata() {
    let nodes = Nodes::start(1).await;
    let mut kv = nodes.kv(0);
    kv.put(in_keyspace(put("a", "1"), "default")).await.unwrap();
    let read = kv.range(get("a")).await.unwrap().into_inner();
    assert_eq!(read.kvs[0].value, "1", "without a name it is the same");
    refused(
        kv.range(in_keyspace(get("a"), "nope")).await,
        Code::NotFound,
        "holdfast: keyspace \"nope\" does not exist",
    );
    refused(
        kv.put(in_keyspace(put("a", "1"), "system")).await,
        Code::PermissionDenied,
        "holdfast: keyspace \"system\" is the cluster's own",
    );
}

#[tokio::test]
async fn a_keyspace_is_chosen_by_the_first_label_of_the_authority() {
    let nodes = Nodes::start(1).await;
    let port = nodes.port(0);
    let through = |authority: &str| {
        let origin = format!("http://{authority}:{port}").parse().unwrap();
        KvClient::new(nodes.endpoint(0).origin(origin).connect_lazy())
    };
    refused(
        through("orders.localhost").put(put("a", "1")).await,
        Code::NotFound,
        "holdfast: keyspace \"orders\" does not exist",
    );
    refused(
        through("system.localhost").put(put("a", "1")).await,
        Code::PermissionDenied,
        "holdfast: keyspace \"system\" is the cluster's own",
    );
    // A host below no domain of keyspaces names none, whatever its first label is.
    let authorities = [
        "default.localhost",
        "orders.example.com",
        "a.b.localhost",
        "localhost",
    ];
    for (revision, authority) in (2..).zip(authorities) {
        let mut kv = through(authority);
        let written = kv.put(put("a", authority)).await.unwrap().into_inner();
        assert_eq!(written.header.unwrap().revision, revision, "{authority}");
        // Metadata goes before the authority.
        refused(
            kv.range(in_keyspace(get("a"), "nope")).await,
            Code::NotFound,
            "holdfast: keyspace \"nope\" does not exist",
        );
    }
    let groups = AdminClient::new(nodes.channel(0))
        .groups(GroupsRequest {})
        .await;
    let revisions: Vec<_> = groups
        .unwrap()
        .into_inner()
        .groups
        .into_iter()
        .filter(|group| group.keyspace == "default")
        .map(|group| group.revision)
        .collect();
    assert_eq!(revisions, [5]);
}

/// A frame of HTTP/2 on stream `stream`.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    frame.extend_from_slice(payload);
    frame
}

/// Reads a key twice over one connection whose requests have this authority.
async fn read_through(port: u16, authority: &str) -> [RangeResponse; 2] {
    let field = |name: &str, value: &str| {
        let (name_bytes, value_bytes) = (name.len() as u8, value.len() as u8);
        [
            &[0, name_bytes],
            name.as_bytes(),
            &[value_bytes],
            value.as_bytes(),
        ]
        .concat()
    };
    let block = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", "/etcdserverpb.KV/Range"),
        field(":authority", authority),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat();
    let request = get("a").encode_to_vec();
    let message = [&[0, 0, 0, 0, request.len() as u8], &request[..]].concat();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut sent = [&preface[..], &frame(4, 0, 0, b"")].concat();
    for stream in [1, 3] {
        sent.extend_from_slice(&frame(1, 0x4, stream, &block));
        sent.extend_from_slice(&frame(0, 0x1, stream, &message));
    }
    socket.write_all(&sent).await.unwrap();
    let mut answers = [None, None];
    while answers.iter().any(Option::is_none) {
        let mut header = [0; 9];
        socket.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await.unwrap();
        let (kind, stream) = (header[3], header[8]);
        assert!(
            kind != 3 && kind != 7,
            "{authority}: the server resets stream {stream}: {payload:?}"
        );
        // The messages are small: each comes in one frame.
        if kind == 0 && payload.len() > 5 {
            answers[usize::from(stream / 2)] = Some(RangeResponse::decode(&payload[5..]).unwrap());
        }
    }
    answers.map(|answer| answer.unwrap())
}

#[tokio::test]
async fn clients_that_send_their_endpoints_as_authority_are_served() {
    let nodes = Nodes::start(1).await;
    nodes.kv(0).put(put("a", "1")).await.unwrap();
    let port = nodes.port(0);
    for authority in [
        format!("127.0.0.1:{port}"),
        // etcdctl 3.4, when it asks one endpoint.
        format!("http://127.0.0.1:{port}"),
        // The Go client of etcd 3.5.0.
        format!("#initially=[http://127.0.0.1:{port};http://127.0.0.1:1]"),
        format!("#initially=[default.localhost:{port}]"),
        "unix:///tmp/socket".to_owned(),
    ] {
        let reading = read_through(port, &authority);
        let answers = tokio::time::timeout(Duration::from_secs(30), reading).await;
        for answer in answers.expect("it answers") {
            assert_eq!(answer.kvs[0].value, "1", "{authority}");
        }
    }
}
