//! Leaders are where their keyspaces are at home, on real nodes that are killed and come back.

use std::time::Duration;

use holdfast_client::{Client, proto::v1::KeyspaceSettings};

use crate::harness::{Cluster, PATIENCE, run, until};

/// A home must have been well for ten seconds, and a busy machine takes its time.
const HOME_WITHIN: Duration = Duration::from_secs(90);

async fn create(client: &Client, name: &str, home: &str, failover: &[&str]) {
    let settings = KeyspaceSettings {
        home: home.to_owned(),
        failover: failover.iter().map(|zone| (*zone).to_owned()).collect(),
        ..Default::default()
    };
    client.create_keyspace(name, settings).await.unwrap();
}

/// Waits until a node leads a keyspace, as another node sees it.
async fn until_led_by(
    cluster: &Cluster,
    keyspace: &str,
    leader: u64,
    asked: u64,
    patience: Duration,
) {
    let what = format!("node {leader} leads {keyspace}");
    until(&what, patience, async || {
        let told = cluster.node(asked).groups().await?;
        let group = told.groups.iter().find(|group| group.keyspace == keyspace);
        match group {
            Some(group) if group.leader == leader => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[test]
fn leaders_live_at_home_fail_over_in_the_stated_order_and_return_while_writes_go_on() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let client = cluster.client(1).await;
        // Nodes 1, 2 and 3 are in zones a, b and c.
        let homes = [
            ("a-then-c", "zone-a", "zone-c", 1, 3),
            ("a-then-b", "zone-a", "zone-b", 1, 2),
            ("b-then-a", "zone-b", "zone-a", 2, 1),
            ("c-then-a", "zone-c", "zone-a", 3, 1),
        ];
        for (name, home, failover, _, _) in homes {
            create(&client, name, home, &[failover]).await;
        }
        cluster.groups += homes.len();
        for (name, _, _, leader, _) in homes {
            until_led_by(&cluster, name, leader, 2, HOME_WITHIN).await;
        }
        // Zone a is lost: what was led there goes where its order says, all else stays.
        cluster.node_mut(1).kill9();
        until_led_by(&cluster, "a-then-c", 3, 2, PATIENCE).await;
        until_led_by(&cluster, "a-then-b", 2, 3, PATIENCE).await;
        until_led_by(&cluster, "b-then-a", 2, 3, PATIENCE).await;
        until_led_by(&cluster, "c-then-a", 3, 2, PATIENCE).await;
        // It comes back, and takes over without a write that fails.
        let near = cluster.client(2).await;
        let writer = tokio::spawn(async move {
            let mut written = 0_u64;
            let (orders, others) = (
                near.keyspace("a-then-c").unwrap(),
                near.keyspace("a-then-b").unwrap(),
            );
            loop {
                let value = written.to_string();
                orders
                    .put("key", value.clone())
                    .await
                    .map_err(|e| e.to_string())?;
                others.put("key", value).await.map_err(|e| e.to_string())?;
                written += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            #[allow(unreachable_code, reason = "it names the type of the result")]
            Ok::<(), String>(())
        });
        cluster.node_mut(1).start();
        until_led_by(&cluster, "a-then-c", 1, 2, HOME_WITHIN).await;
        until_led_by(&cluster, "a-then-b", 1, 2, HOME_WITHIN).await;
        assert!(!writer.is_finished(), "{:?}", writer.await);
        writer.abort();
        // Every move is on record, with its reason.
        let records = client.placement_history(Some("a-then-c")).await.unwrap();
        let home = records.last().unwrap();
        assert_eq!(home.failed_because, "", "{records:?}");
        assert!(home.action.contains("to 1"), "{home:?}");
        assert!(home.reason.contains("zone-a"), "{home:?}");
    });
}
