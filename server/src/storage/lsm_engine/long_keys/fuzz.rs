//! Buckets of long keys, whole and damaged.

use super::*;
use crate::fuzz;

#[test]
fn fuzz_buckets() {
    let bucket = Bucket::from([
        (Bytes::from_static(b"suffix"), Bytes::from_static(b"value")),
        (Bytes::new(), Bytes::new()),
    ]);
    let written = encode(&bucket).unwrap().to_vec();
    fuzz::check("long-keys", [written], |bytes| {
        let records = Bytes::copy_from_slice(bytes);
        if let Ok(bucket) = decode(b"a name", records, Path::new("db")) {
            let again = encode(&bucket).unwrap_or_default();
            let again = decode(b"a name", again, Path::new("db")).unwrap();
            assert_eq!(again, bucket);
        }
    });
}
