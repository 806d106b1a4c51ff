//! The standard gRPC health service: serving means that this node can answer linearizable reads.

use std::{sync::Arc, time::Duration};

use tonic_health::{ServingStatus, server::HealthReporter};

use super::context::ServiceContext;

/// Services whose health is told; the empty name stands for the whole node.
const SERVICES: [&str; 2] = ["", "etcdserverpb.KV"];
/// Time between two looks at the groups, each of which asks their leaders for a read.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Keeps the reported health true until the context's owner has gone.
pub(super) async fn report(reporter: HealthReporter, context: Arc<ServiceContext>) {
    let mut told = None;
    loop {
        let groups = context.keyspaces.all();
        let mut serving = !groups.is_empty();
        for group in &groups {
            serving &= context.leader(group).await.is_some();
        }
        if told != Some(serving) {
            told = Some(serving);
            let health = if serving {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            for service in SERVICES {
                reporter.set_service_status(service, health).await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
