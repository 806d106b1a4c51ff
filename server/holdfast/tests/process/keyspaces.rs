//! Keyspaces that operators create, alter and drop, on real nodes that are killed meanwhile.

use std::time::Duration;

use holdfast_client::{
    Client,
    proto::v1::{Keyspace, KeyspaceSettings, SurvivalGoal},
};
use holdfast_proto::{
    etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient},
    v1::{CreateKeyspaceRequest, keyspaces_client::KeyspacesClient},
};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{Cluster, PATIENCE, channel, run, until};

async fn create(client: &Client, name: &str) -> Keyspace {
    let created = client
        .create_keyspace(name, KeyspaceSettings::default())
        .await
        .unwrap();
    assert!(created.serves, "{name} serves when it is created");
    created.keyspace.unwrap()
}

/// Reads the key of a keyspace.
async fn value(client: &Client, keyspace: &str) -> Option<Vec<u8>> {
    let keyspace = client.keyspace(keyspace).unwrap();
    let found = keyspace.get("key").await.unwrap().kvs;
    found.first().map(|kv| kv.value.to_vec())
}

async fn until_unknown(client: &Client, keyspace: &str) {
    let what = format!("keyspace {keyspace} is gone");
    until(&what, PATIENCE, async || {
        let keyspace = client.keyspace(keyspace).unwrap();
        match keyspace.get("key").await {
            Ok(_) => Err("it answers".to_owned()),
            Err(error) if error.to_string().contains("does not exist") => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

#[test]
fn a_keyspace_is_written_to_through_every_node_as_soon_as_it_is_created_and_is_there_after_a_crash()
{
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let client = cluster.client(1).await;
        for round in 0..10 {
            let name = format!("orders-{round}");
            create(&client, &name).await;
            // Every node by itself, at once: none may say that there is no such keyspace.
            for node in &cluster.nodes {
                let mut kv = KvClient::new(channel(&node.client_url()));
                let mut put = tonic::Request::new(PutRequest {
                    key: "key".into(),
                    value: format!("{round} of node {}", node.id).into(),
                    ..Default::default()
                });
                put.set_timeout(Duration::from_secs(5));
                let keyspace = name.parse().unwrap();
                put.metadata_mut().insert("holdfast-keyspace", keyspace);
                kv.put(put).await.unwrap();
            }
        }
        cluster.groups += 10;
        for id in 1..=3 {
            cluster.node_mut(id).kill9();
        }
        for id in 1..=3 {
            cluster.node_mut(id).start();
        }
        cluster.until_leaders().await;
        for round in 0..10 {
            let found = value(&client, &format!("orders-{round}")).await;
            assert_eq!(found, Some(format!("{round} of node 3").into_bytes()));
        }
        assert_eq!(
            value(&client, "default").await,
            None,
            "keyspaces share nothing"
        );
        let names = client
            .keyspaces()
            .await
            .unwrap()
            .into_iter()
            .map(|k| k.name);
        let names: Vec<String> = names.collect();
        assert_eq!(names.len(), 11, "{names:?}");
        assert_eq!(names[0], "default");
    });
}

#[test]
fn a_keyspace_is_dropped_for_good_and_its_name_can_be_had_again() {
    run(async |rng| {
        let mut cluster = Cluster::start(rng).await;
        let client = cluster.client(1).await;
        let first = create(&client, "orders").await;
        let orders = client.keyspace("orders").unwrap();
        // Nobody has written to it, and still its name must be repeated.
        let refused = client
            .drop_keyspace("orders", "order", false)
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("confirm = \"order\""),
            "{refused}"
        );
        orders.put("key", "1").await.unwrap();
        let refused = client
            .drop_keyspace("orders", "orders", false)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("is in use"), "{refused}");
        assert_eq!(value(&client, "orders").await, Some(b"1".to_vec()));
        // A node that is away drops it when it comes back.
        cluster.node_mut(3).kill9();
        client
            .drop_keyspace("orders", "orders", true)
            .await
            .unwrap();
        until_unknown(&client, "orders").await;
        until("its health is unknown", PATIENCE, async || {
            let mut health = HealthClient::new(channel(&cluster.node(1).client_url()));
            let service = "holdfast.keyspace.orders".to_owned();
            match health.check(HealthCheckRequest { service }).await {
                Err(status) if status.code() == Code::NotFound => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let second = create(&client, "orders").await;
        assert!(second.group_id > first.group_id, "ids are never used again");
        assert_eq!(
            value(&client, "orders").await,
            None,
            "nothing of the first is left"
        );
        orders.put("key", "2").await.unwrap();
        cluster.node_mut(3).start();
        cluster.groups += 1;
        cluster.until_leaders().await;
        until(
            "node 3 runs the second and not the first",
            PATIENCE,
            async || {
                let told = cluster.node(3).groups().await?;
                let ids: Vec<u64> = told.groups.iter().map(|group| group.id).collect();
                match ids.contains(&second.group_id) && !ids.contains(&first.group_id) {
                    true => Ok(()),
                    false => Err(format!("{ids:?}")),
                }
            },
        )
        .await;
        assert_eq!(value(&client, "orders").await, Some(b"2".to_vec()));
        let refused = client
            .drop_keyspace("default", "default", true)
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("cannot be dropped"),
            "{refused}"
        );
        let refused = client
            .drop_keyspace("nope", "nope", true)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("does not exist"), "{refused}");
    });
}

#[test]
fn what_a_keyspace_cannot_be_is_refused_with_the_reason() {
    run(async |rng| {
        let cluster = Cluster::start(rng).await;
        let client = cluster.client(2).await;
        let mut keyspaces = KeyspacesClient::new(channel(&cluster.node(2).client_url()));
        let mut create = async |name: &str, settings: KeyspaceSettings| {
            let request = CreateKeyspaceRequest {
                name: name.to_owned(),
                settings: Some(settings),
            };
            let refused = keyspaces.create(request).await.unwrap_err();
            (refused.code(), refused.message().to_owned())
        };
        let settings = KeyspaceSettings::default;
        for name in ["", "Orders", "a.b", "-a", "system"] {
            let (code, message) = create(name, settings()).await;
            assert_eq!(code, Code::InvalidArgument, "{message}");
            assert!(message.contains("a-z, 0-9"), "{message}");
        }
        let (code, message) = create("default", settings()).await;
        assert_eq!(code, Code::AlreadyExists, "{message}");
        let nowhere = KeyspaceSettings {
            home: "zone-x".into(),
            ..settings()
        };
        let (code, message) = create("orders", nowhere).await;
        assert_eq!(code, Code::FailedPrecondition, "{message}");
        assert!(
            message.contains("zone-x") && message.contains("zone-a"),
            "{message}"
        );
        let many = KeyspaceSettings {
            replicas: 5,
            ..settings()
        };
        let (code, message) = create("orders", many).await;
        assert_eq!(code, Code::FailedPrecondition, "{message}");
        assert!(message.contains("5"), "{message}");
        assert_eq!(client.keyspaces().await.unwrap().len(), 1, "only `default`");
        let altered = client
            .alter_keyspace("orders", settings(), &["owner"])
            .await
            .unwrap_err();
        assert!(altered.to_string().contains("does not exist"), "{altered}");
    });
}

#[test]
fn settings_are_altered_one_by_one_also_those_of_default() {
    run(async |rng| {
        let cluster = Cluster::start(rng).await;
        let client = cluster.client(1).await;
        let given = KeyspaceSettings {
            home: "zone-b".into(),
            failover: vec!["zone-c".into()],
            owner: "shop@example.com".into(),
            ..Default::default()
        };
        client
            .create_keyspace("orders", given.clone())
            .await
            .unwrap();
        let home = KeyspaceSettings {
            home: "zone-a".into(),
            owner: "not taken".into(),
            ..Default::default()
        };
        for (name, owner) in [("orders", "shop@example.com"), ("default", "")] {
            let altered = client.alter_keyspace(name, home.clone(), &["home"]).await;
            assert_eq!(altered.unwrap().settings.unwrap().home, "zone-a");
            for node in 1..=3 {
                let asked = cluster.client(node).await;
                let found = asked.describe_keyspace(name).await.unwrap();
                let settings = found.settings.unwrap();
                assert_eq!(
                    (settings.home.as_str(), settings.owner.as_str()),
                    ("zone-a", owner)
                );
                assert_eq!(found.voters, [1, 2, 3]);
            }
        }
        let orders = client.describe_keyspace("orders").await.unwrap();
        assert_eq!(
            orders.settings.unwrap().survive(),
            SurvivalGoal::Zone,
            "three zones"
        );
        let refused = client
            .alter_keyspace("orders", home, &["colour"])
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("colour"), "{refused}");
    });
}

#[test]
fn a_host_names_a_keyspace_below_a_domain_that_the_configuration_names_and_nowhere_else() {
    run(async |rng| {
        let cluster = Cluster::start_with(rng, |config| {
            config.node.keyspace_domains = vec!["db.example.com".to_owned()];
        })
        .await;
        let client = cluster.client(1).await;
        create(&client, "orders").await;
        let url = cluster.node(1).client_url();
        let put = async |host: &str| {
            let origin = format!("http://{host}:2379").parse().unwrap();
            let endpoint = Endpoint::from_shared(url.clone()).unwrap().origin(origin);
            let mut kv = KvClient::new(endpoint.connect_lazy());
            let put = PutRequest {
                key: "key".into(),
                value: host.to_owned().into(),
                ..Default::default()
            };
            kv.put(put).await
        };
        put("orders.db.example.com").await.unwrap();
        // A host whose name happens to begin like that, and one that is the domain itself.
        put("orders.example.com").await.unwrap();
        put("orders.localhost").await.unwrap();
        put("orders").await.unwrap();
        put("db.example.com").await.unwrap();
        assert_eq!(
            value(&client, "orders").await.unwrap(),
            b"orders.db.example.com"
        );
        assert_eq!(value(&client, "default").await.unwrap(), b"db.example.com");
        let unknown = put("stock.db.example.com").await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
        assert!(unknown.message().contains("\"stock\""), "{unknown}");
        let read = RangeRequest {
            key: "key".into(),
            ..Default::default()
        };
        let mut system = tonic::Request::new(read);
        let name = "system".parse().unwrap();
        system.metadata_mut().insert("holdfast-keyspace", name);
        let refused = KvClient::new(channel(&url))
            .range(system)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    });
}
