use holdfast_client::{
    Bytes, Delete, Get, Put, SortOrder, SortTarget, proto::etcdserverpb::TxnRequest,
};

use super::*;

fn parse(text: &str) -> Result<TxnRequest, String> {
    parse_as(text, Encoding::Text)
}

fn parse_as(text: &str, encoding: Encoding) -> Result<TxnRequest, String> {
    let mut parser = Parser::new(encoding);
    for line in text.lines() {
        parser.line(line).map_err(|error| error.to_string())?;
    }
    Ok(parser.finish().into_request())
}

#[test]
fn the_example_of_etcdctl() {
    let text = r#"mod("key1") > "0"

put key1 "overwrote-key1"

put key1 "created-key1"
put key2 "some extra key"

"#;
    let expected = Txn::new()
        .when([Compare::mod_revision("key1").greater(0)])
        .and_then([Put::new("key1", "overwrote-key1")])
        .or_else([
            Put::new("key1", "created-key1"),
            Put::new("key2", "some extra key"),
        ]);
    assert_eq!(parse(text), Ok(expected.into_request()));
}

#[test]
fn every_left_side_and_relation() {
    let text = r#"
        version("a") = "1"
        ver(a) != 1
        create("b") < "2"
        c(b)>2
        mod("c") = 0x10
        m('c') = '3'
        value("d") = "x y"
        val(d) = xy
        lease("e") = "0"
    "#;
    let expected = Txn::new().when([
        Compare::version("a").equal(1),
        Compare::version("a").not_equal(1),
        Compare::create_revision("b").less(2),
        Compare::create_revision("b").greater(2),
        Compare::mod_revision("c").equal(16),
        Compare::mod_revision("c").equal(3),
        Compare::value("d").equal("x y"),
        Compare::value("d").equal("xy"),
        Compare::lease("e").equal(0),
    ]);
    assert_eq!(parse(text.trim()), Ok(expected.into_request()));
}

#[test]
fn operations_take_the_options_of_the_commands() {
    let text = "\n\
        put k v --lease 0x1f --prev-kv\n\
        put k --ignore-value\n\
        get a z --limit 3 --sort-by modify --order descend\n\
        get p --prefix --keys-only\n\
        del x --prefix --prev-kv\n\
        put n -5\n";
    let ops: Vec<Op> = vec![
        Put::new("k", "v").lease(31).prev_kv().into(),
        Put::new("k", "").ignore_value().into(),
        Get::new("a")
            .range_end("z")
            .limit(3)
            .sort(SortTarget::Mod, SortOrder::Descend)
            .into(),
        Get::new("p").prefix().keys_only().into(),
        Delete::new("x").prefix().prev_kv().into(),
        Put::new("n", "-5").into(),
    ];
    assert_eq!(parse(text), Ok(Txn::new().and_then(ops).into_request()));
}

#[test]
fn quotes_and_escapes() {
    for (text, bytes) in [
        (r#""a b""#, &b"a b"[..]),
        (r#""""#, b""),
        (r#"'a "b" \n'"#, br#"a "b" \n"#),
        (
            r#""\"\\\n\t\x00\xff\377\u00e9\U0001F600""#,
            b"\"\\\n\t\0\xff\xff\xc3\xa9\xf0\x9f\x98\x80",
        ),
        (r#"a"b c"'d e'f"#, b"ab cd ef"),
        ("grün", "grün".as_bytes()),
    ] {
        assert_eq!(words(text), Ok(vec![bytes.to_vec()]), "{text}");
    }
    assert_eq!(
        words("  a  'b'\t\"c\" "),
        Ok(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()])
    );
    for wrong in [
        r#""a"#,
        "'a",
        r#""\q""#,
        r#""\x0""#,
        r#""\400""#,
        r#""\ud800""#,
        r#""\"#,
    ] {
        assert!(words(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn binary_keys_can_be_given_in_hexadecimal() {
    let text = "value(\"ff00\") = \"01\"\n\nput ff00 02\n";
    let (key, old, new) = (Bytes::from_static(b"\xff\0"), "\x01", "\x02");
    let expected = Txn::new()
        .when([Compare::value(key.clone()).equal(old)])
        .and_then([Put::new(key, new)]);
    assert_eq!(parse_as(text, Encoding::Hex), Ok(expected.into_request()));
}

#[test]
fn mistakes_are_told_with_line_and_reason() {
    for (text, reason) in [
        ("mod(\"k\" > \"0\"", "line 1: a comparison looks like"),
        ("mod(\"k\") ~ \"0\"", "relation"),
        ("mod(\"k\") > \"x\"", "number"),
        ("mod(\"k\") > -1", "number"),
        ("size(\"k\") > \"0\"", "unknown left side \"size\""),
        ("mod(\"k\") > \"0\" x", "a comparison looks like"),
        ("\nput k", "line 2: put needs a value"),
        ("\nput", "required"),
        ("\nwatch k", "unrecognized subcommand"),
        ("\nget k --nope", "unexpected argument"),
        ("\nput k \"v", "not closed"),
        ("\n\n\nput k v", "line 4: text after the end"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(reason), "{text:?}: {error}");
    }
}

#[test]
fn blocks_may_be_missing() {
    assert_eq!(parse(""), Ok(TxnRequest::default()));
    let expected = Txn::new().or_else([Delete::new("k")]).into_request();
    assert_eq!(parse("\n\ndel k"), Ok(expected));
}
