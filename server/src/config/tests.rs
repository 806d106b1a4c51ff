//! Every rule has a test that breaks it alone, and a test that what keeps it is accepted.

use std::collections::{BTreeMap, BTreeSet};

use super::settings::{Kind, SETTINGS};
use super::*;

fn member(id: u64, zone: &str) -> Member {
    Member {
        id,
        zone: zone.to_owned(),
        peer_url: format!("http://10.0.0.{id}:2380"),
        client_url: format!("http://10.0.0.{id}:2379"),
    }
}

/// Node 2 of three, with nothing else given.
fn sound() -> Config {
    let mut config = Config::default();
    config.node.id = 2;
    config.node.zone = "zone-b".to_owned();
    config.node.data_dir = "data".into();
    config.node.client_addr = "10.0.0.2:2379".parse().unwrap();
    config.node.peer_addr = "10.0.0.2:2380".parse().unwrap();
    config.cluster.members = vec![
        member(1, "zone-a"),
        member(2, "zone-b"),
        member(3, "zone-c"),
    ];
    config
}

fn problems(config: Config) -> Vec<Problem> {
    match config.resolve() {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(problems)) => problems,
        Err(other) => panic!("{other}"),
    }
}

/// The change makes exactly one problem: of this field, with this value, and with this in its remedy.
fn refused(change: impl FnOnce(&mut Config), field: &str, value: &str, remedy: &str) {
    let mut config = sound();
    change(&mut config);
    let found = problems(config);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].field.as_str(), found[0].value.as_str()),
        (field, value),
        "{}",
        found[0]
    );
    assert!(
        found[0].remedy.contains(remedy),
        "`{}` lacks `{remedy}`",
        found[0].remedy
    );
}

#[test]
fn what_follows_from_other_values_is_filled_in() {
    let config = sound().resolve().unwrap();
    assert_eq!(config.node.advertise_client_url, "http://10.0.0.2:2379");
    assert_eq!(config.node.advertise_peer_url, "http://10.0.0.2:2380");
    assert_eq!(config.raft.quorum_loss_probe_interval_ms, 10_000);
    assert_eq!(config.this_member(), Some(&member(2, "zone-b")));
    assert_eq!(config.warnings(), Vec::<String>::new());
    assert_eq!(
        config.clone().resolve().unwrap(),
        config,
        "resolving twice changes nothing"
    );
}

#[test]
fn a_node_alone_is_a_cluster_of_one() {
    let mut config = sound();
    config.cluster.members.clear();
    let config = config.resolve().unwrap();
    assert_eq!(config.cluster.members, [member(2, "zone-b")]);
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn a_slash_at_the_end_of_a_url_means_nothing() {
    let mut config = sound();
    config.node.advertise_peer_url = "http://10.0.0.2:2380/".to_owned();
    config.cluster.members[0].peer_url.push('/');
    let config = config.resolve().unwrap();
    assert_eq!(config.node.advertise_peer_url, "http://10.0.0.2:2380");
    assert_eq!(config.cluster.members[0], member(1, "zone-a"));
}

#[test]
fn the_node_must_say_who_it_is() {
    let found = problems(Config::default());
    let fields: Vec<&str> = found.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(
        fields,
        ["node.id", "node.zone", "node.data_dir"],
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .all(|problem| problem.to_string().contains("is not given: ")),
        "{found:?}"
    );
    refused(
        |c| c.node.zone = "zone b".to_owned(),
        "node.zone",
        "zone b",
        "letters, digits",
    );
}

#[test]
fn addresses_have_ports_of_their_own() {
    refused(
        |c| c.node.client_addr.set_port(0),
        "node.client_addr",
        "10.0.0.2:0",
        "give one from 1 to 65535",
    );
    refused(
        |c| {
            c.node.peer_addr = "0.0.0.0:2379".parse().unwrap();
            c.node.advertise_peer_url = "http://10.0.0.2:2380".to_owned();
        },
        "node.peer_addr",
        "0.0.0.0:2379",
        "is also node.client_addr",
    );
}

#[test]
fn advertised_urls_are_such_that_others_can_connect() {
    let wildcard = |c: &mut Config| c.node.client_addr = "0.0.0.0:2379".parse().unwrap();
    refused(
        wildcard,
        "node.advertise_client_url",
        "",
        "follows from node.client_addr",
    );
    for (url, why) in [
        ("http://0.0.0.0:2380", "wildcard"),
        ("http://[::]:2380", "wildcard"),
        ("https://10.0.0.2:2380", "TLS"),
        ("10.0.0.2:2380", "scheme"),
        ("http://10.0.0.2", "no port"),
        ("http://10.0.0.2:2380/kv", "a path"),
        ("http://10 0 0 2:2380", "no URL"),
    ] {
        let set = |c: &mut Config| {
            c.node.advertise_peer_url = url.to_owned();
            c.cluster.members[1].peer_url = url.to_owned();
        };
        refused(set, "node.advertise_peer_url", url, why);
        refused(
            |c| c.cluster.members[2].peer_url = url.to_owned(),
            "cluster.members[2].peer_url",
            url,
            why,
        );
    }
}

#[test]
fn members_are_distinct_and_contain_this_node() {
    refused(
        |c| c.cluster.members[2].id = 1,
        "cluster.members[2].id",
        "1",
        "given to two members",
    );
    refused(
        |c| c.cluster.members[2].client_url = "http://10.0.0.1:2380".to_owned(),
        "cluster.members[2].client_url",
        "http://10.0.0.1:2380",
        "is also the peer_url of member 1",
    );
    refused(
        |c| {
            c.cluster.members.remove(1);
        },
        "cluster.members",
        "1, 3",
        "does not contain this node (2)",
    );
    refused(
        |c| c.cluster.members[1].zone = "zone-x".to_owned(),
        "node.zone",
        "zone-b",
        "says zone zone-x",
    );
    refused(
        |c| c.cluster.members[1].peer_url = "http://10.0.0.9:2380".to_owned(),
        "node.advertise_peer_url",
        "http://10.0.0.2:2380",
        "make them equal",
    );
    refused(
        |c| c.cluster.members[1].client_url = "http://10.0.0.9:2379".to_owned(),
        "node.advertise_client_url",
        "http://10.0.0.2:2379",
        "make them equal",
    );
    refused(
        |c| c.cluster.members[0].id = 0,
        "cluster.members[0].id",
        "0",
        "1 or more",
    );
    refused(
        |c| c.cluster.members[0].zone.clear(),
        "cluster.members[0].zone",
        "",
        "such as zone-a",
    );
    refused(
        |c| c.cluster.name.clear(),
        "cluster.name",
        "",
        "such as holdfast",
    );
}

#[test]
fn even_clusters_and_heavy_zones_are_warned_of() {
    let mut config = sound();
    config.cluster.members.push(member(4, "zone-b"));
    let warnings = config.resolve().unwrap().warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("use 3 or 5"), "{}", warnings[0]);
    assert!(
        warnings[1].contains("zone zone-b has 2 of 4"),
        "{}",
        warnings[1]
    );
}

#[test]
fn raft_times_fit_each_other() {
    refused(
        |c| c.raft.heartbeat_interval_ms = 1_500,
        "raft.heartbeat_interval_ms",
        "1.5s",
        "less than half of raft.election_timeout_min_ms (3s)",
    );
    refused(
        |c| c.raft.heartbeat_interval_ms = 0,
        "raft.heartbeat_interval_ms",
        "0ms",
        "at least 1ms",
    );
    refused(
        |c| c.raft.election_timeout_min_ms = 5_000,
        "raft.election_timeout_min_ms",
        "5s",
        "less than raft.election_timeout_max_ms (5s)",
    );
    refused(
        |c| c.raft.worst_voter_rtt_ms = 301,
        "raft.election_timeout_min_ms",
        "3s",
        "at least ten times raft.worst_voter_rtt_ms (301ms): give 3010ms or more",
    );
    refused(
        |c| c.raft.worst_voter_rtt_ms = 0,
        "raft.worst_voter_rtt_ms",
        "0ms",
        "at least 1ms",
    );
    refused(
        |c| c.raft.quorum_loss_probe_interval_ms = 9_999,
        "raft.quorum_loss_probe_interval_ms",
        "9999ms",
        "give 10s or more",
    );
    refused(
        |c| c.raft.quorum_loss_probe_interval_ms = 25 * 3_600_000,
        "raft.quorum_loss_probe_interval_ms",
        "25h",
        "at most 24h",
    );
}

#[test]
fn raft_bounds_are_within_what_works() {
    refused(
        |c| c.raft.max_payload_entries = 0,
        "raft.max_payload_entries",
        "0",
        "from 1 to 65536",
    );
    refused(
        |c| c.raft.log_entries_max = 0,
        "raft.log_entries_max",
        "0",
        "at least 1",
    );
    refused(
        |c| c.raft.log_bytes_max = 31 << 20,
        "raft.log_bytes_max",
        "31 MiB",
        "give 32 MiB or more",
    );
}

#[test]
fn limits_are_within_what_works() {
    refused(
        |c| c.limits.request_bytes_max = 100,
        "limits.request_bytes_max",
        "100 B",
        "from 1 KiB to 16 MiB",
    );
    refused(
        |c| {
            c.limits.request_bytes_max = 17 << 20;
            c.storage.log_segment_bytes = 64 << 20;
            c.storage.table_bytes_max = 64 << 20;
        },
        "limits.request_bytes_max",
        "17 MiB",
        "from 1 KiB to 16 MiB",
    );
    refused(
        |c| c.limits.txn_ops_max = 0,
        "limits.txn_ops_max",
        "0",
        "from 1 to 16384",
    );
    refused(
        |c| c.limits.proposals_in_flight_max = 0,
        "limits.proposals_in_flight_max",
        "0",
        "from 1",
    );
    refused(
        |c| c.limits.reads_waiting_max = 0,
        "limits.reads_waiting_max",
        "0",
        "from 1",
    );
    refused(
        |c| c.limits.forward_queue_requests_max = 0,
        "limits.forward_queue_requests_max",
        "0",
        "from 1",
    );
    refused(
        |c| c.limits.proposals_in_flight_bytes_max = 1 << 20,
        "limits.proposals_in_flight_bytes_max",
        "1 MiB",
        "limits.request_bytes_max is 1.5 MiB",
    );
    refused(
        |c| c.limits.snapshot_bytes_per_second_max = 1,
        "limits.snapshot_bytes_per_second_max",
        "1 B",
        "at least one chunk per second",
    );
}

#[test]
fn storage_holds_what_a_request_may_carry() {
    refused(
        |c| c.storage.log_segment_bytes = 1000,
        "storage.log_segment_bytes",
        "1000 B",
        "from 1 MiB to 1 GiB",
    );
    refused(
        |c| c.storage.log_segment_bytes = 2 << 20,
        "storage.log_segment_bytes",
        "2 MiB",
        "give 3 MiB or more",
    );
    refused(
        |c| c.storage.log_bytes_max = 127 << 20,
        "storage.log_bytes_max",
        "127 MiB",
        "give 128 MiB or more",
    );
    refused(
        |c| c.storage.table_bytes_max = 1 << 20,
        "storage.table_bytes_max",
        "1 MiB",
        "at least 4 MiB",
    );
    refused(
        |c| c.limits.request_bytes_max = 9 << 20,
        "storage.log_segment_bytes",
        "16 MiB",
        "give 18 MiB or more",
    );
    refused(
        |c| c.storage.cache_bytes = 0,
        "storage.cache_bytes",
        "0 B",
        "at least 4 MiB",
    );
    refused(
        |c| c.storage.flush_interval_ms = 5,
        "storage.flush_interval_ms",
        "5ms",
        "from 10ms to 1h",
    );
}

#[test]
fn a_misspelt_log_level_is_refused() {
    for level in ["inof", "", "info,", "info,holdfast_server", "x=loud"] {
        refused(
            |c| c.log.level = level.to_owned(),
            "log.level",
            level,
            "must be error, warn",
        );
    }
    for level in [
        "off",
        "DEBUG",
        "info,holdfast_server::raft=debug",
        "warn, sled=off",
    ] {
        let mut config = sound();
        config.log.level = level.to_owned();
        assert!(problems(config).is_empty(), "{level}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let mut config = sound();
    config.raft.max_payload_entries = 0;
    config.node.worker_threads = 1025;
    config.storage.cache_bytes = 0;
    let message = config.resolve().unwrap_err().to_string();
    for field in [
        "raft.max_payload_entries = 0",
        "node.worker_threads = 1025",
        "storage.cache_bytes = 0 B",
    ] {
        assert!(message.contains(field), "{message}");
    }
}

#[test]
fn toml_is_read_back_as_it_was_written() {
    for config in [Config::default(), sound(), sound().resolve().unwrap()] {
        let text = config.to_toml();
        assert_eq!(Config::from_toml(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn toml_takes_sizes_and_times_with_and_without_units() {
    let config = Config::from_toml(
        "[raft]\nheartbeat_interval_ms = 60\nelection_timeout_max_ms = \"1.5s\"\n\
         [limits]\nrequest_bytes_max = \"2 MiB\"\n[storage]\nlog_segment_bytes = 4194304\n",
    )
    .unwrap();
    assert_eq!(
        (
            config.raft.heartbeat_interval_ms,
            config.raft.election_timeout_max_ms
        ),
        (60, 1500)
    );
    assert_eq!(
        (
            config.limits.request_bytes_max,
            config.storage.log_segment_bytes
        ),
        (2 << 20, 4 << 20)
    );
}

#[test]
fn toml_of_another_shape_is_refused_with_the_place() {
    for (text, expected) in [
        ("[raft]\nheartbeat = 5\n", "unknown field `heartbeat`"),
        ("[rafts]\n", "unknown field `rafts`"),
        ("[storage]\nfsync = false\n", "unknown field `fsync`"),
        (
            "[raft]\nheartbeat_interval_ms = \"fast\"\n",
            "`fast` is not a time such as",
        ),
        (
            "[raft]\nheartbeat_interval_ms = -5\n",
            "`-5` is not a time such as",
        ),
        (
            "[limits]\nrequest_bytes_max = \"1 MB\"\n",
            "`1 MB` is not a size such as",
        ),
        ("[limits]\nrequest_bytes_max = 1.5\n", "a size such as"),
        (
            "[node]\nclient_addr = \"localhost:2379\"\n",
            "invalid socket address",
        ),
        ("[log]\nformat = \"xml\"\n", "unknown variant `xml`"),
        ("[[cluster.members]]\nid = 1\n", "missing field `zone`"),
    ] {
        let message = Config::from_toml(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("line"), "{message}");
    }
}

#[test]
fn the_last_source_wins_and_errors_name_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("holdfast.toml");
    std::fs::write(
        &file,
        "[node]\nid = 1\nzone = \"zone-a\"\ndata_dir = \"d\"\n[limits]\ntxn_ops_max = 1\nreads_waiting_max = 0\n",
    )
    .unwrap();
    let mut given = Given {
        file: Some(file.clone()),
        ..Given::default()
    };
    given
        .environment
        .insert("HOLDFAST_LIMITS_TXN_OPS_MAX".to_owned(), "2".to_owned());
    given
        .environment
        .insert("HOLDFAST_RAFT_LOG_ENTRIES_MAX".to_owned(), "0".to_owned());
    given.flags.insert("txn-ops-max".to_owned(), "3".to_owned());
    given
        .flags
        .insert("cache-bytes".to_owned(), "1KiB".to_owned());
    let message = load(&given).unwrap_err().to_string();
    for part in [
        format!("limits.reads_waiting_max = 0 (from {})", file.display()),
        "raft.log_entries_max = 0 (from the environment variable HOLDFAST_RAFT_LOG_ENTRIES_MAX)"
            .to_owned(),
        "storage.cache_bytes = 1 KiB (from --cache-bytes)".to_owned(),
    ] {
        assert!(message.contains(&part), "{message}");
    }
    std::fs::write(
        &file,
        "[node]\nid = 1\nzone = \"zone-a\"\ndata_dir = \"d\"\n",
    )
    .unwrap();
    given.environment.remove("HOLDFAST_RAFT_LOG_ENTRIES_MAX");
    given.flags.remove("cache-bytes");
    assert_eq!(load(&given).unwrap().limits.txn_ops_max, 3);
    given.flags.remove("txn-ops-max");
    assert_eq!(load(&given).unwrap().limits.txn_ops_max, 2);
}

#[test]
fn a_value_of_the_wrong_kind_names_its_source() {
    let mut given = Given::default();
    for (flag, text) in [
        ("id", "one"),
        ("client-addr", "localhost:2379"),
        ("log-format", "xml"),
        ("flush-interval-ms", "soon"),
        ("cache-bytes", "1MB"),
        ("initial-cluster", "1=zone-a"),
    ] {
        given.flags.insert(flag.to_owned(), text.to_owned());
    }
    let message = load(&given).unwrap_err().to_string();
    for part in [
        "node.id = one (from --id): must be a whole number",
        "node.client_addr = localhost:2379 (from --client-addr): must be an IP address and a port",
        "log.format = xml (from --log-format): must be plain or json",
        "storage.flush_interval_ms = soon (from --flush-interval-ms): must be a time such as",
        "storage.cache_bytes = 1MB (from --cache-bytes): must be a size such as",
        "cluster.members = 1=zone-a (from --initial-cluster): `1=zone-a` must be ID=ZONE=PEER_URL=CLIENT_URL",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_initial_cluster_is_read_from_its_short_form() {
    let mut given = Given::default();
    let members = "1=zone-a=http://10.0.0.1:2380=http://10.0.0.1:2379, \
                   2=zone-b=http://10.0.0.2:2380=http://10.0.0.2:2379,3=zone-c=http://10.0.0.3:2380=http://10.0.0.3:2379,";
    for (flag, text) in [
        ("id", "2"),
        ("zone", "zone-b"),
        ("data-dir", "data"),
        ("client-addr", "10.0.0.2:2379"),
        ("peer-addr", "10.0.0.2:2380"),
        ("initial-cluster", members),
    ] {
        given.flags.insert(flag.to_owned(), text.to_owned());
    }
    assert_eq!(load(&given).unwrap(), sound().resolve().unwrap());
}

#[test]
fn a_missing_file_is_an_error() {
    let given = Given {
        file: Some("/nonexistent/holdfast.toml".into()),
        ..Given::default()
    };
    let message = load(&given).unwrap_err().to_string();
    assert!(
        message.contains("/nonexistent/holdfast.toml cannot be read"),
        "{message}"
    );
}

#[test]
fn misspelt_variables_are_noticed() {
    let names = [
        "HOLDFAST_NODE_IDD",
        "HOLDFAST_NODE_ID",
        "HOLDFAST_ENDPOINTS",
        "HOLDFAST_CONFIG",
        "PATH",
    ];
    let environment: BTreeMap<_, _> = names
        .iter()
        .map(|name| ((*name).to_owned(), String::new()))
        .collect();
    assert_eq!(unknown_variables(&environment), ["HOLDFAST_NODE_IDD"]);
}

/// The list of settings and the structs have the same values, each once and of the same kind.
#[test]
fn settings_and_structs_agree() {
    let mut config = Config::default();
    config.cluster.members.push(member(1, "zone-a"));
    let table: toml::Table = toml::from_str(&config.to_toml()).unwrap();
    let fields: BTreeSet<String> = table
        .iter()
        .flat_map(|(section, values)| {
            values
                .as_table()
                .unwrap()
                .keys()
                .map(move |name| format!("{section}.{name}"))
        })
        .collect();
    let listed: BTreeSet<String> = SETTINGS.iter().map(|setting| setting.field()).collect();
    assert_eq!(listed, fields);
    let flags: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.flag).collect();
    assert_eq!(flags.len(), SETTINGS.len(), "every flag is given out once");
    for setting in SETTINGS {
        let value = &table[setting.section][setting.name];
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Array(_) => {
                assert!(matches!(setting.kind, Kind::Members | Kind::Domains));
                continue;
            }
            other => other.to_string(),
        };
        setting
            .kind
            .parse(&text)
            .unwrap_or_else(|error| panic!("{}: {text}: {error}", setting.field()));
        assert_eq!(
            setting.kind == Kind::Bytes,
            setting.name.contains("bytes"),
            "{}",
            setting.field()
        );
        assert_eq!(
            setting.kind == Kind::Millis,
            setting.name.ends_with("_ms"),
            "{}",
            setting.field()
        );
    }
}

/// The file that operators begin with.
const EXAMPLE: &str = include_str!("../../../deploy/holdfast.toml");

#[test]
fn the_example_file_shows_every_setting_and_changes_no_default() {
    for setting in SETTINGS {
        let shown = match setting.kind {
            Kind::Members => EXAMPLE.contains("[[cluster.members]]"),
            _ => {
                let section = format!("\n[{}]\n", setting.section);
                let (_, section) = EXAMPLE.split_once(&section).unwrap();
                let section = section.split("\n[").next().unwrap();
                let value = format!("{} = ", setting.name);
                section
                    .lines()
                    .any(|line| line.trim_start_matches("# ").starts_with(&value))
            }
        };
        assert!(shown, "{} is not in the example", setting.field());
    }
    let example = Config::from_toml(EXAMPLE).unwrap();
    let default = Config::default();
    assert_eq!(example.raft, default.raft);
    assert_eq!(example.limits, default.limits);
    assert_eq!(example.storage, default.storage);
    assert_eq!(example.log, default.log);
    assert_eq!(example.cluster.name, default.cluster.name);
    let resolved = example.resolve().unwrap();
    assert!(resolved.warnings().is_empty(), "{:?}", resolved.warnings());
}
