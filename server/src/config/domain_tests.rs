//! Which domains may stand above the names of keyspaces.

use super::{Given, load};

#[test]
fn domains_of_keyspaces_are_names() {
    let with = |domains: &str| {
        let mut given = Given::default();
        for (flag, text) in [
            ("id", "1"),
            ("zone", "zone-a"),
            ("data-dir", "data"),
            ("keyspace-domains", domains),
        ] {
            given.flags.insert(flag.to_owned(), text.to_owned());
        }
        let loaded = load(&given).map_err(|e| e.to_string());
        loaded.map(|config| config.node.keyspace_domains)
    };
    assert_eq!(
        with("example.com, localhost").unwrap(),
        ["example.com", "localhost"]
    );
    assert!(with("").unwrap().is_empty(), "no host names a keyspace");
    for wrong in [
        ".example.com",
        "example.com.",
        "a..b",
        "10.0.0.1",
        "a b",
        "-a.b",
    ] {
        let refused = with(wrong).unwrap_err();
        assert!(refused.contains("node.keyspace_domains = "), "{refused}");
    }
}
