//! What clients of other makers send: compressed messages, large metadata, services that are not
//! there. Each gets an answer of gRPC, and the connection goes on.

use holdfast_proto::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};
use tonic::{
    Code, Request, Status, body::Body, codec::CompressionEncoding, metadata::AsciiMetadataValue,
};
use tower::{Service, ServiceExt};

use crate::harness::{Cluster, PATIENCE, channel, run, within};

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
