//! status, members, move-leader.

use std::collections::BTreeMap;

use holdfast_client::{
    Client, Error, ErrorKind,
    proto::{
        etcdserverpb::{HashKvResponse, StatusResponse},
        v1::Node,
    },
};
use serde_json::{Value, json};

use super::peers::{self, Seen};
use crate::{
    args::{MoveLeaderArgs, StatusArgs},
    exit::{Code, Failure},
    output::{self, Format, Screen, id},
};

/// What is known of one node.
struct Row {
    endpoint: String,
    zone: String,
    status: Result<StatusResponse, Error>,
    /// The revision asked for, and the answer.
    hash: Option<(i64, Result<HashKvResponse, Error>)>,
    /// What it sees of the others, if it answers.
    seen: Seen,
}

/// The nodes by id; none where the server has no zones to tell.
async fn nodes(client: &Client) -> Result<BTreeMap<u64, Node>, Error> {
    match client.nodes().await {
        Ok(nodes) => Ok(nodes.into_iter().map(|node| (node.id, node)).collect()),
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported(_)) => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

pub async fn status(
    client: &Client,
    given: &[String],
    args: &StatusArgs,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    let nodes = nodes(client).await?;
    let mut endpoints: Vec<String> = given.to_vec();
    match nodes.is_empty() {
        true => {
            let members = client.members().await?;
            endpoints.extend(
                members
                    .into_iter()
                    .flat_map(|m| m.client_ur_ls.into_iter().take(1)),
            );
        }
        false => endpoints.extend(nodes.values().map(|node| node.client_url.clone())),
    }
    let mut rows = BTreeMap::new();
    for (order, endpoint) in endpoints.into_iter().enumerate() {
        let status = client.status(&endpoint).await;
        let seen_as = match &status {
            Ok(status) => status.header.map_or(0, |h| h.member_id),
            // Nobody there: the list of nodes may say who should be.
            Err(_) => match nodes
                .values()
                .find(|n| strip(&n.client_url) == strip(&endpoint))
            {
                Some(node) => node.id,
                None => order as u64,
            },
        };
        let zone = nodes
            .get(&seen_as)
            .map(|node| node.zone.clone())
            .unwrap_or_default();
        // A node may be known under two addresses: the one that answers is shown.
        let row = Row {
            endpoint,
            zone,
            status,
            hash: None,
            seen: None,
        };
        let slot = rows.entry(seen_as);
        match slot {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(row);
            }
            std::collections::btree_map::Entry::Occupied(mut slot) => {
                if slot.get().status.is_err() {
                    slot.insert(row);
                }
            }
        }
    }
    let ids: Vec<u64> = rows.keys().copied().collect();
    let mut rows: Vec<Row> = rows.into_values().collect();
    for row in rows.iter_mut().filter(|row| row.status.is_ok()) {
        row.seen = peers::ask(client, &row.endpoint).await;
    }
    if args.hash {
        add_hashes(client, &mut rows).await;
    }
    if args.peers && screen.format != Format::Json {
        let seen = rows.iter_mut().map(|row| match &row.status {
            Ok(_) => row.seen.take(),
            Err(error) => Some(Err(error.clone())),
        });
        let seen: Vec<(u64, Seen)> = ids.into_iter().zip(seen).collect();
        peers::show(&seen, screen)?;
    } else {
        show_status(&rows, args.hash, screen)?;
    }
    let reached = rows.iter().filter(|row| row.status.is_ok()).count();
    Ok(match reached {
        0 => Code::Unreachable,
        n if n == rows.len() => Code::Ok,
        _ => Code::Failed,
    })
}

fn strip(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

/// At the highest revision that every node that answered has.
async fn add_hashes(client: &Client, rows: &mut [Row]) {
    let revision_of = |row: &Row| {
        row.status
            .as_ref()
            .ok()
            .and_then(|s| s.header)
            .map(|h| h.revision)
    };
    let Some(revision) = rows.iter().filter_map(revision_of).min() else {
        return;
    };
    for row in rows {
        if row.status.is_ok() {
            row.hash = Some((revision, client.hash_kv(&row.endpoint, revision).await));
        }
    }
}

fn show_status(rows: &[Row], hash: bool, screen: &mut Screen) -> Result<(), Failure> {
    if screen.format == Format::Json {
        let rows: Value = rows.iter().map(status_json).collect();
        return Ok(screen.json(&rows)?);
    }
    let mut head = vec![
        "endpoint", "id", "zone", "version", "db size", "leader", "term", "index", "applied",
        "revision",
    ];
    if hash {
        head.push("hash");
    }
    head.extend(["complains of", "errors"]);
    if screen.format == Format::Plain {
        screen.line(head.join("\t"))?;
    }
    let mut table = output::table(head);
    for row in rows {
        let cells = status_cells(row, hash);
        if screen.format == Format::Table {
            table.add_row(cells);
        } else {
            screen.line(cells.join("\t"))?;
        }
    }
    if screen.format == Format::Table {
        screen.table(&table)?;
    }
    Ok(())
}

fn status_cells(row: &Row, hash: bool) -> Vec<String> {
    let mut cells = vec![strip(&row.endpoint).to_string()];
    let mut errors = Vec::new();
    match &row.status {
        Ok(status) => {
            let header = status.header.unwrap_or_default();
            cells.extend([
                id(header.member_id),
                row.zone.clone(),
                status.version.clone(),
                output::size(status.db_size),
                match status.leader {
                    0 => "none".into(),
                    leader if leader == header.member_id => "this".into(),
                    leader => id(leader),
                },
                status.raft_term.to_string(),
                status.raft_index.to_string(),
                status.raft_applied_index.to_string(),
                header.revision.to_string(),
            ]);
            errors.extend(status.errors.iter().cloned());
        }
        Err(error) => {
            cells.extend([String::new(), row.zone.clone()]);
            cells.extend(std::iter::repeat_n(String::new(), 7));
            errors.push(error.to_string());
        }
    }
    if hash {
        cells.push(match &row.hash {
            Some((revision, Ok(hash))) => format!("{:08x} at {revision}", hash.hash),
            Some((_, Err(error))) => {
                errors.push(error.to_string());
                String::new()
            }
            None => String::new(),
        });
    }
    if let Some(Err(error)) = &row.seen {
        errors.push(error.to_string());
    }
    cells.push(peers::complaints(&row.seen));
    cells.push(errors.join("; "));
    cells
}

fn status_json(row: &Row) -> Value {
    let mut json = json!({ "endpoint": row.endpoint, "zone": row.zone });
    match &row.status {
        Ok(status) => {
            json["status"] = json!({
                "header": output::header(status.header.as_ref()),
                "version": status.version,
                "db_size": status.db_size,
                "db_size_in_use": status.db_size_in_use,
                "leader": status.leader,
                "raft_term": status.raft_term,
                "raft_index": status.raft_index,
                "raft_applied_index": status.raft_applied_index,
                "is_learner": status.is_learner,
                "errors": status.errors,
            });
        }
        Err(error) => json["error"] = json!(error.to_string()),
    }
    match &row.seen {
        Some(Ok(seen)) => json["peers"] = peers::json(seen),
        Some(Err(error)) => json["peers_error"] = json!(error.to_string()),
        None => {}
    }
    match &row.hash {
        Some((revision, Ok(hash))) => {
            json["hash_kv"] = json!({
                "hash": hash.hash,
                "revision": revision,
                "compact_revision": hash.compact_revision,
            });
        }
        Some((_, Err(error))) => json["hash_error"] = json!(error.to_string()),
        None => {}
    }
    json
}

pub async fn members(client: &Client, screen: &mut Screen) -> Result<Code, Failure> {
    let nodes = nodes(client).await?;
    let members = client.members().await?;
    let zone = |id: u64| nodes.get(&id).map_or("", |node| &node.zone);
    let mut table = output::table(["id", "name", "zone", "peer", "client", "learner"]);
    let mut list = Vec::new();
    for m in &members {
        let cells = [
            id(m.id),
            m.name.clone(),
            zone(m.id).to_owned(),
            m.peer_ur_ls.join(","),
            m.client_ur_ls.join(","),
            m.is_learner.to_string(),
        ];
        match screen.format {
            Format::Plain => screen.line(cells.join("\t"))?,
            Format::Table => {
                table.add_row(cells);
            }
            Format::Json => list.push(json!({
                "id": m.id,
                "name": m.name,
                "zone": zone(m.id),
                "peer_urls": m.peer_ur_ls,
                "client_urls": m.client_ur_ls,
                "is_learner": m.is_learner,
            })),
        }
    }
    match screen.format {
        Format::Plain => {}
        Format::Table => screen.table(&table)?,
        Format::Json => screen.json(&json!(list))?,
    }
    Ok(Code::Ok)
}

pub async fn move_leader(
    client: &Client,
    args: &MoveLeaderArgs,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    let leader = client.transfer_leader(args.node).await?;
    match screen.format {
        Format::Json => screen.json(&json!({ "leader": leader }))?,
        Format::Plain | Format::Table => screen.line(format!("leader: {}", id(leader)))?,
    }
    Ok(Code::Ok)
}
