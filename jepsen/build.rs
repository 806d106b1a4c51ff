//! Builds the shim that is loaded into the nodes of a cluster, for the harness to carry with it.
//!
//! The compiler is called directly: a shared library of its own, without dependencies, from one
//! command, needs no package. Where nodes cannot load it, an empty file takes its place.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=shim");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let out = PathBuf::from(variable("OUT_DIR")).join("shim.so");
    let supported = variable("CARGO_CFG_TARGET_OS") == "linux"
        && variable("CARGO_CFG_TARGET_ENV") == "gnu"
        && matches!(
            variable("CARGO_CFG_TARGET_ARCH").as_str(),
            "x86_64" | "aarch64"
        );
    if !supported {
        std::fs::write(&out, b"").expect("the build directory is writable");
        return;
    }
    let mut command = Command::new(variable("RUSTC"));
    command
        .args(["--crate-name", "holdfast_jepsen_shim"])
        .args(["--crate-type", "cdylib", "--edition", "2024", "-O"])
        .args(["-C", "panic=abort", "-C", "strip=symbols"])
        .args(["--target", &variable("TARGET")])
        .arg("-o")
        .arg(&out)
        .arg(PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("shim/lib.rs"));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        command.args(["-C", &format!("linker={linker}")]);
    }
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("the shim does not compile ({status})"),
        Err(error) => panic!("cannot run {command:?}: {error}"),
    }
}
