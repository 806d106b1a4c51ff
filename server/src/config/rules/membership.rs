//! Rules about who this node is, how it is reached, and who its first peers are.

use std::collections::BTreeMap;

use super::Rules;
use crate::{config::Config, limits};

impl Rules {
    fn url(&mut self, field: &str, url: &str, addr_field: &str) {
        if let Some(wrong) = url_problem(url) {
            let remedy = match addr_field {
                "" => format!("{wrong}; give http://HOST:PORT"),
                addr_field => format!(
                    "{wrong}; give http://HOST:PORT as others reach this node (it follows from {addr_field} \
                     only when that is not a wildcard address)"
                ),
            };
            self.refuse(field, url, remedy);
        }
    }

    pub(super) fn node(&mut self, config: &Config) {
        let node = &config.node;
        if node.id == 0 {
            self.refuse(
                "node.id",
                "",
                "every node needs a number of 1 or more that no other node ever had: --id 1",
            );
        }
        if node.zone.is_empty() {
            self.refuse(
                "node.zone",
                "",
                "name the failure domain of this node: --zone zone-a",
            );
        } else {
            self.name("node.zone", &node.zone, "zone-a");
        }
        if node.data_dir.as_os_str().is_empty() {
            self.refuse(
                "node.data_dir",
                "",
                "name the directory that the node keeps everything in: --data-dir DIR",
            );
        }
        self.within(
            "node.worker_threads",
            node.worker_threads as u64,
            1,
            limits::WORKER_THREADS_MAX,
        );
        for (field, addr) in [
            ("node.client_addr", node.client_addr),
            ("node.peer_addr", node.peer_addr),
        ] {
            if addr.port() == 0 {
                self.refuse(
                    field,
                    addr,
                    "other nodes and clients must know the port: give one from 1 to 65535",
                );
            }
        }
        if node.client_addr.port() == node.peer_addr.port()
            && (node.client_addr.ip() == node.peer_addr.ip()
                || node.client_addr.ip().is_unspecified()
                || node.peer_addr.ip().is_unspecified())
        {
            self.refuse(
                "node.peer_addr",
                node.peer_addr,
                format!(
                    "is also node.client_addr ({}): give them different ports",
                    node.client_addr
                ),
            );
        }
        if node.client_addr.port() != 0 {
            self.url(
                "node.advertise_client_url",
                &node.advertise_client_url,
                "node.client_addr",
            );
        }
        self.keyspace_domains(&node.keyspace_domains);
        if node.peer_addr.port() != 0 {
            self.url(
                "node.advertise_peer_url",
                &node.advertise_peer_url,
                "node.peer_addr",
            );
        }
    }

    /// Domains are names (RFC 1123, 2.1), and one of numbers only could be the end of an address.
    pub(super) fn keyspace_domains(&mut self, domains: &[String]) {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        for domain in domains {
            let is_number = domain
                .rsplit('.')
                .next()
                .is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()));
            if !domain.split('.').all(is_label) || is_number {
                self.refuse(
                    "node.keyspace_domains",
                    domain,
                    "must be the name of a domain without a dot at either end, such as holdfast.example.com",
                );
            }
        }
    }

    pub(super) fn cluster(&mut self, config: &Config) {
        let (node, cluster) = (&config.node, &config.cluster);
        self.name("cluster.name", &cluster.name, "holdfast");
        let mut seen: BTreeMap<String, (u64, &str)> = BTreeMap::new();
        for (at, member) in cluster.members.iter().enumerate() {
            let field = |name: &str| format!("cluster.members[{at}].{name}");
            // What this node says of itself is checked under `node`.
            let this = member.id == node.id;
            if member.id == 0 && !this {
                self.refuse(field("id"), 0, "must be 1 or more");
            }
            if !this {
                self.name(&field("zone"), &member.zone, "zone-a");
                self.url(&field("peer_url"), &member.peer_url, "");
                self.url(&field("client_url"), &member.client_url, "");
            }
            if cluster.members[..at]
                .iter()
                .any(|other| other.id == member.id)
            {
                self.refuse(
                    field("id"),
                    member.id,
                    "is given to two members: every node has its own",
                );
            }
            for (name, url) in [
                ("peer_url", &member.peer_url),
                ("client_url", &member.client_url),
            ] {
                if url.is_empty() {
                    continue;
                }
                if let Some((id, other)) = seen.insert(url.clone(), (member.id, name)) {
                    self.refuse(
                        field(name),
                        url,
                        format!(
                            "is also the {other} of member {id}: every URL leads to one listener"
                        ),
                    );
                }
            }
        }
        if node.id == 0 {
            return;
        }
        let Some(member) = config.this_member() else {
            let ids: Vec<String> = cluster
                .members
                .iter()
                .map(|member| member.id.to_string())
                .collect();
            self.refuse(
                "cluster.members",
                ids.join(", "),
                format!(
                    "does not contain this node ({}): add it, or correct node.id",
                    node.id
                ),
            );
            return;
        };
        for (field, own, listed_as, listed) in [
            ("node.zone", &node.zone, "zone", &member.zone),
            (
                "node.advertise_peer_url",
                &node.advertise_peer_url,
                "peer_url",
                &member.peer_url,
            ),
            (
                "node.advertise_client_url",
                &node.advertise_client_url,
                "client_url",
                &member.client_url,
            ),
        ] {
            if !own.is_empty() && own != listed {
                self.refuse(
                    field,
                    own,
                    format!(
                        "cluster.members says {listed_as} {listed} for node {}: make them equal",
                        node.id
                    ),
                );
            }
        }
    }
}

/// What is wrong with the URL of a listener; `None` if nothing is.
fn url_problem(url: &str) -> Option<&'static str> {
    if url.is_empty() {
        return Some("is needed here");
    }
    let Ok(uri) = url.parse::<http::Uri>() else {
        return Some("is no URL");
    };
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Some("asks for TLS, which this version does not serve"),
        _ => return Some("has no scheme http"),
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Some("has a path");
    }
    match uri.port_u16() {
        None | Some(0) => return Some("has no port"),
        Some(_) => {}
    }
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    match host.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Some("is a wildcard address, which nobody can connect to"),
        _ => None,
    }
}
