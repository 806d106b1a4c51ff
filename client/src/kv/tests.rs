use super::*;

#[test]
fn prefix_end_is_the_smallest_key_above_the_prefix() {
    assert_eq!(&prefix_end(b"a")[..], b"b");
    assert_eq!(&prefix_end(b"a/")[..], b"a0");
    assert_eq!(&prefix_end(b"a\xff\xff")[..], b"b");
    assert_eq!(&prefix_end(b"\xff\xff")[..], b"\0");
    assert_eq!(&prefix_end(b"")[..], b"\0");
}

#[test]
fn an_empty_prefix_and_an_empty_start_mean_every_key() {
    for request in [
        Get::new("").prefix().into_request(),
        Get::new("").from_key().into_request(),
    ] {
        assert_eq!(
            (&request.key[..], &request.range_end[..]),
            (&b"\0"[..], &b"\0"[..])
        );
    }
    let delete = Delete::new("").prefix().into_request();
    assert_eq!(
        (&delete.key[..], &delete.range_end[..]),
        (&b"\0"[..], &b"\0"[..])
    );
}

#[test]
fn every_option_of_get_reaches_the_message() {
    let request = Get::new("k")
        .range_end("m")
        .limit(3)
        .revision(9)
        .sort(SortTarget::Mod, SortOrder::Descend)
        .keys_only()
        .count_only()
        .serializable()
        .min_mod_revision(1)
        .max_mod_revision(2)
        .min_create_revision(4)
        .max_create_revision(5)
        .into_request();
    let expected = RangeRequest {
        key: "k".into(),
        range_end: "m".into(),
        limit: 3,
        revision: 9,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Mod.into(),
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 1,
        max_mod_revision: 2,
        min_create_revision: 4,
        max_create_revision: 5,
    };
    assert_eq!(request, expected);
}
