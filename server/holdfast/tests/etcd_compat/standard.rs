//! The services that gRPC itself defines: health and server reflection.

use std::collections::BTreeSet;

use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{node::Nodes, refused};

#[tokio::test]
async fn health_and_reflection_answer() {
    let nodes = Nodes::start(1).await;
    let mut health = HealthClient::new(nodes.channel(0));
    for service in ["", "etcdserverpb.KV"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        // The state is looked at now and then; a watch tells when it is there.
        let mut states = health.watch(request.clone()).await.unwrap().into_inner();
        while states.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest {
        service: "nope".to_owned(),
    };
    refused(
        health.check(unknown).await,
        Code::NotFound,
        "service not registered",
    );

    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(nodes.channel(0));
    let answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let answer = answers
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let services: BTreeSet<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in [
        "etcdserverpb.KV",
        "etcdserverpb.Cluster",
        "etcdserverpb.Maintenance",
        "grpc.health.v1.Health",
        "holdfast.v1.Admin",
    ] {
        assert!(
            services.contains(service),
            "{service} is not in {services:?}"
        );
    }
}
