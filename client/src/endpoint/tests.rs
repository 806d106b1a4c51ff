use super::*;

#[test]
fn endpoints_are_given_in_several_forms() {
    for (given, url) in [
        ("127.0.0.1:2389", "http://127.0.0.1:2389"),
        ("http://127.0.0.1:2389/", "http://127.0.0.1:2389"),
        (" Node-A.example:1 ", "http://node-a.example:1"),
        ("localhost", "http://localhost:2379"),
        ("[::1]:2379", "http://[::1]:2379"),
        ("http://[::1]", "http://[::1]:2379"),
    ] {
        assert_eq!(&*normalize(given).expect(given), url, "{given}");
    }
}

#[test]
fn endpoints_that_cannot_be_used_are_refused_with_the_reason() {
    for (given, reason) in [
        ("https://a:1", "TLS"),
        ("ftp://a:1", "scheme"),
        ("http://a:1/v3", "end after the port"),
        ("http://a:1/?x=1", "end after the port"),
        ("http://user@a:1", "user names"),
        ("a:99999", "port"),
        ("a:x", "port"),
        ("", "not a URL"),
        ("a b:1", "not a URL"),
    ] {
        let error = normalize(given).expect_err(given).to_string();
        assert!(error.contains(reason), "{given}: {error}");
    }
}

#[test]
fn wildcard_addresses_are_not_for_clients() {
    assert!(!is_reachable_address("http://0.0.0.0:2379"));
    assert!(!is_reachable_address("http://[::]:2379"));
    assert!(is_reachable_address("http://127.0.0.1:2379"));
}
