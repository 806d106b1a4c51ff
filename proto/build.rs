//! Compiles the .proto files with protox, so that a build needs nothing but a Rust toolchain.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 9] = [
    "etcd/kv.proto",
    "etcd/rpc.proto",
    "holdfast/admin.proto",
    "holdfast/command.proto",
    "holdfast/keyspaces.proto",
    "holdfast/peer.proto",
    "holdfast/registry.proto",
    "holdfast/sessions.proto",
    "holdfast/snapshot.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let services = env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .bytes(".")
        .codec_path("crate::codec::MessageCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
