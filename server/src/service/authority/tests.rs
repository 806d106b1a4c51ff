use super::*;
use crate::service::http2::{SETTINGS, frame};

/// RFC 7541, C.3.1 and C.4.1: the same request, plain and Huffman-coded.
const PLAIN: &[u8] = b"\x82\x86\x84\x41\x0fwww.example.com";
const CODED: &[u8] = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
/// `http://`, as etcdctl codes the beginning of the authority: 41 bits.
const CODED_HTTP_BITS: [u8; 5] = [0x9d, 0x29, 0xae, 0xe3, 0x0c];

fn headers(authority: &[u8]) -> Vec<u8> {
    let mut block = b"\x83\x86\x41".to_vec();
    hpack::write_string(authority, &mut block);
    block.extend_from_slice(b"\x40\x02te\x08trailers");
    frame(HEADERS, END_HEADERS, &block)
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, b"\x00\x03\x00\x00\x00\x64"),
        frames.concat(),
    ]
    .concat()
}

/// What the library sees, however the bytes arrive.
fn seen(input: &[u8]) -> Vec<u8> {
    let mut rewriter = AuthorityRewriter::new();
    let mut whole = BytesMut::new();
    rewriter.push(input, &mut whole);
    for piece in [1, 2, 7, 10, 64] {
        let (mut rewriter, mut out) = (AuthorityRewriter::new(), BytesMut::new());
        for part in input.chunks(piece) {
            rewriter.push(part, &mut out);
        }
        assert_eq!(out, whole, "in pieces of {piece}");
    }
    whole.to_vec()
}

#[test]
fn the_authority_is_found_plain_and_coded() {
    for block in [PLAIN, CODED] {
        let literal = hpack::authority(block).unwrap();
        assert_eq!(literal.value, b"www.example.com");
        assert_eq!(literal.at, 4..block.len());
    }
    let named = b"\x00\x0a:authority\x01a";
    assert_eq!(hpack::authority(named).unwrap().value, b"a");
    let behind_others = b"\x3f\xe1\x1f\x83\x04\x05/path\x0f\x01\x01v\x41\x01a\x86";
    assert_eq!(hpack::authority(behind_others).unwrap().value, b"a");
}

#[test]
fn the_longest_strings_keep_their_length() {
    for length in [0, 1, 126, 127, 128, 254, 255, 300, 16_000] {
        let mut block = vec![0x41];
        hpack::write_string(&vec![b'a'; length], &mut block);
        let literal = hpack::authority(&block).unwrap();
        assert_eq!((literal.value.len(), literal.at.end), (length, block.len()));
    }
}

#[test]
fn blocks_without_an_authority_or_cut_short_have_none() {
    assert_eq!(hpack::authority(b""), None);
    assert_eq!(hpack::authority(b"\x82\x86\xbe"), None);
    for end in 0..CODED.len() {
        assert_eq!(hpack::authority(&CODED[..end]), None, "cut at {end}");
    }
    // The filling of the last byte is not of ones.
    let mut wrong = CODED.to_vec();
    *wrong.last_mut().unwrap() = 0xfc;
    assert_eq!(hpack::authority(&wrong), None);
}

#[test]
fn what_etcds_clients_send_becomes_their_first_endpoint() {
    // Sent; what is left of it behind the filling.
    for (sent, proper) in [
        ("http://127.0.0.1:2379", "@127.0.0.1:2379"),
        ("https://orders.example.com", "@orders.example.com"),
        ("http://[::1]:2379", "@[::1]:2379"),
        ("http://a:1/", "@a:1"),
        ("#initially=[http://a:2379;http://b:2379]", "@a:2379"),
        ("#initially=[orders.localhost:1]", "@orders.localhost:1"),
        ("#initially=[http://[::1]:2379]", "@[::1]:2379"),
        ("unix:///tmp/socket", ""),
        ("/", ""),
    ] {
        let got = replacement(sent.as_bytes()).unwrap();
        assert_eq!(got.len(), sent.len(), "{sent}");
        assert!(is_authority(&got), "{sent}");
        let got: http::uri::Authority = got.as_slice().try_into().unwrap();
        let proper = format!("{proper:x>width$}", width = sent.len());
        assert_eq!(got.as_str(), proper, "{sent}");
    }
    for proper in [
        "localhost:2379",
        "orders.localhost",
        "[::1]:2379",
        "a_b:1",
        "",
    ] {
        assert_eq!(replacement(proper.as_bytes()), None, "{proper}");
    }
}

#[test]
fn a_connection_with_a_proper_authority_is_left_alone_for_good() {
    let input = connection(&[
        headers(b"localhost:2379"),
        frame(0, 1, b"data"),
        headers(b"http://a:1"),
    ]);
    assert_eq!(seen(&input), input);
}

#[test]
fn every_request_of_a_connection_is_mended_and_the_rest_kept() {
    let data = frame(0, 1, b"\x00\x00\x00\x00\x00");
    let sent = [
        headers(b"http://a:1"),
        data.clone(),
        headers(b"http://a:1"),
        data.clone(),
    ];
    let mended = [
        headers(b"xxxxxx@a:1"),
        data.clone(),
        headers(b"xxxxxx@a:1"),
        data,
    ];
    assert_eq!(seen(&connection(&sent)), connection(&mended));
}

#[test]
fn a_coded_authority_is_mended_with_its_frame_length() {
    // "http://" takes 41 bits; "0" is five zero bits; two ones fill the last byte.
    let mut block = b"\x83\x86\x41\x86".to_vec();
    block.extend_from_slice(&CODED_HTTP_BITS);
    block.push(0b0000_0011);
    assert_eq!(hpack::authority(&block).unwrap().value, b"http://0");
    block.push(0x86);
    let mended = frame(HEADERS, END_HEADERS, b"\x83\x86\x41\x08xxxxxx@0\x86");
    assert_eq!(
        seen(&connection(&[frame(HEADERS, END_HEADERS, &block)])),
        connection(&[mended])
    );
}

#[test]
fn a_priority_is_kept_and_paddings_and_continuations_are_not_touched() {
    let block = b"\x83\x41\x0ahttp://a:1";
    let with_priority = |block: &[u8]| {
        frame(
            HEADERS,
            END_HEADERS | PRIORITY,
            &[b"\x00\x00\x00\x00\x10", block].concat(),
        )
    };
    assert_eq!(
        seen(&connection(&[with_priority(block)])),
        connection(&[with_priority(b"\x83\x41\x0axxxxxx@a:1")])
    );
    for flags in [0, END_HEADERS | PADDED] {
        let input = connection(&[frame(HEADERS, flags, block)]);
        assert_eq!(seen(&input), input);
    }
}

#[test]
fn garbage_passes_as_it_came() {
    let too_long = [
        &b"\x00\x50\x00\x01\x04\x00\x00\x00\x01"[..],
        &[0x41; 20_480],
    ]
    .concat();
    for input in [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        [PREFACE, &[0xff; 40]].concat(),
        connection(&[too_long]),
        connection(&[frame(HEADERS, END_HEADERS, b"\xff\xff\xff\xff\xff")]),
        connection(&[frame(HEADERS, END_HEADERS | PRIORITY, b"\x00")]),
        connection(&[frame(HEADERS, END_HEADERS, b"")]),
    ] {
        let passed = seen(&input);
        assert!(input.starts_with(&passed), "nothing is made up");
        // A frame that is not complete may be held until the connection ends.
        assert!(input.len() - passed.len() <= FRAME_HEADER + FRAME_BYTES_MAX);
    }
}

#[tokio::test]
async fn a_connection_that_ends_early_gives_all_it_got() {
    use tokio::io::AsyncReadExt;

    let whole = connection(&[headers(b"http://a:1")]);
    for end in 0..whole.len() {
        let mut got = Vec::new();
        AuthorityStream::new(&whole[..end])
            .read_to_end(&mut got)
            .await
            .unwrap();
        assert_eq!(got, &whole[..end]);
    }
    let mut got = Vec::new();
    AuthorityStream::new(&whole[..])
        .read_to_end(&mut got)
        .await
        .unwrap();
    assert_eq!(got, connection(&[headers(b"xxxxxx@a:1")]));
}
