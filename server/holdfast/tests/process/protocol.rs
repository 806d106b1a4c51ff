//! What clients of other makers send: compressed messages, large metadata, services that are not
//! there. Each gets an answer of gRPC, and the connection goes on.

use bytes::Bytes;
use holdfast_proto::{
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, kv_client::KvClient,
        request_op::Request as Operation,
    },
    framing::framed,
};
use tonic::{
    Code, Request, Status, body::Body, codec::CompressionEncoding, metadata::AsciiMetadataValue,
};
use tower::{Service, ServiceExt};

use crate::harness::{Cluster, Ending, PATIENCE, Wire, channel, run, within};

fn put(value: Vec<u8>) -> PutRequest {
    PutRequest {
        key: b"k".as_slice().into(),
        value: value.into(),
        ..Default::default()
    }
}

fn get() -> RangeRequest {
    RangeRequest {
        key: b"k".as_slice().into(),
        ..Default::default()
    }
}

/// How an answer was compressed.
fn encoding<T>(answer: &tonic::Response<T>) -> Option<&str> {
    answer.metadata().get("grpc-encoding")?.to_str().ok()
}

#[test]
fn messages_are_compressed_as_the_client_asks_and_bounded_unpacked() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let at = channel(&cluster.node(1).client_url());
        let value = vec![b'v'; 1 << 20];
        for (with, name) in [
            (CompressionEncoding::Gzip, "gzip"),
            (CompressionEncoding::Zstd, "zstd"),
        ] {
            let mut packs = KvClient::new(at.clone())
                .send_compressed(with)
                .accept_compressed(with);
            within(PATIENCE, packs.put(put(value.clone())))
                .await
                .unwrap();
            let answer = tokio::time::timeout(PATIENCE, packs.range(get()));
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(encoding(&answer), Some(name));
            assert_eq!(answer.into_inner().kvs[0].value, value);

            // One that could read it and has not asked for it.
            let mut could = KvClient::new(at.clone()).accept_compressed(with);
            let answer = tokio::time::timeout(PATIENCE, could.range(get()));
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(encoding(&answer), None);

            // Small on the wire, and 64 MiB of zeros.
            let bomb = packs.put(put(vec![0; 64 << 20]));
            let refused = within(PATIENCE, bomb).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
            let kept = within(PATIENCE, packs.range(get())).await.unwrap();
            assert_eq!(
                kept.kvs[0].value, value,
                "a refused request changes nothing"
            );
        }
        cluster.node_mut(1).check_alive().unwrap();
    });
}

#[test]
fn large_metadata_and_unknown_services_get_a_status_and_the_connection_goes_on() {
    run(async |rng| {
        let cluster = Cluster::start(rng).await;
        let mut at = channel(&cluster.node(1).client_url());
        let mut kv = KvClient::new(at.clone());
        for bytes in [20_000, 200_000] {
            let mut request = Request::new(get());
            let value = AsciiMetadataValue::try_from(vec![b'x'; bytes]).unwrap();
            request.metadata_mut().insert("large", value);
            let refused = within(PATIENCE, kv.range(request)).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
            assert!(refused.message().contains("metadata"), "{refused}");
            within(PATIENCE, kv.range(get())).await.unwrap();
        }
        for (path, says) in [
            (
                "/etcdserverpb.Watch/Watch",
                "service etcdserverpb.Watch is not served",
            ),
            (
                "/etcdserverpb.KV/Guess",
                "unknown method Guess of service etcdserverpb.KV",
            ),
        ] {
            let mut request = http::Request::new(Body::empty());
            *request.method_mut() = http::Method::POST;
            *request.uri_mut() = path.parse().unwrap();
            let content = "application/grpc".parse().unwrap();
            request.headers_mut().insert("content-type", content);
            let answer = at.ready().await.unwrap().call(request).await.unwrap();
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!(status.code(), Code::Unimplemented, "{status}");
            assert!(status.message().contains(says), "{status}");
        }
    });
}

#[test]
fn what_is_answered_does_not_depend_on_how_a_request_was_cut() {
    run(async |rng| {
        let cluster = Cluster::start(rng).await;
        let wire = tokio::time::timeout(PATIENCE, Wire::connect(cluster.node(2)));
        let wire = wire.await.unwrap();
        let delete = DeleteRangeRequest {
            key: b"gone".as_slice().into(),
            ..Default::default()
        };
        let mut all = get();
        all.range_end = b"l".as_slice().into();
        let txn = TxnRequest {
            success: vec![RequestOp {
                request: Some(Operation::RequestPut(put(b"w".to_vec()))),
            }],
            ..Default::default()
        };
        for (method, request) in [
            ("Put", framed(&put(b"v".to_vec()))),
            ("Range", framed(&get())),
            ("Range", framed(&all)),
            ("Txn", framed(&txn)),
            ("Txn", framed(&TxnRequest::default())),
            ("DeleteRange", framed(&delete)),
        ] {
            let request = request.unwrap();
            let path = format!("/etcdserverpb.KV/{method}");
            let ask = async |frames: &[Bytes], ending| {
                let asked = wire.ask_in_frames(&path, frames, ending);
                let asked = tokio::time::timeout(PATIENCE, asked).await.unwrap();
                let (answer, headers) = asked.unwrap();
                let mut names: Vec<_> = headers.keys().map(|name| name.to_string()).collect();
                names.sort();
                // The header of an answer differs from one to the next, its form does not.
                (answer.len(), answer[..5].to_vec(), names)
            };
            let alone = [request.clone()];
            let whole = ask(&alone, Ending::WithData).await;
            let (prefix, message) = (request.slice(..5), request.slice(5..));
            let bytes: Vec<_> = (0..request.len())
                .map(|i| request.slice(i..i + 1))
                .collect();
            assert_eq!(ask(&alone, Ending::EmptyFrame).await, whole);
            assert_eq!(ask(&alone, Ending::Trailers).await, whole);
            assert_eq!(ask(&[prefix, message], Ending::WithData).await, whole);
            assert_eq!(ask(&bytes, Ending::EmptyFrame).await, whole);
        }
        let request = framed(&put(b"v".to_vec())).unwrap();
        let flagged = |flag: u8| Bytes::from([&[flag][..], &request[1..]].concat());
        let huge = Bytes::from_static(&[0, 0x7f, 0xff, 0xff, 0xff]);
        let garbage = Bytes::from_static(&[0, 0, 0, 0, 2, 0xff, 0xff]);
        for (frame, code, says) in [
            (Bytes::new(), Code::Internal, "Missing request message"),
            (flagged(1), Code::Internal, "no grpc-encoding"),
            (flagged(2), Code::Internal, "invalid compression flag"),
            (huge, Code::OutOfRange, "length too large"),
            (garbage, Code::Internal, "failed to decode"),
        ] {
            let frames = [frame];
            let refused = wire.ask_in_frames("/etcdserverpb.KV/Put", &frames, Ending::WithData);
            let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
            assert!(refused.message().contains(says), "{refused}");
        }
        // The connection goes on.
        let request = put(b"v".to_vec());
        let goes_on = wire.ask("/etcdserverpb.KV/Put", &request, &[]);
        tokio::time::timeout(PATIENCE, goes_on)
            .await
            .unwrap()
            .unwrap();
    });
}
