//! What the program says to input that makes no sense: a clear error, exit code 2, nothing left
//! running.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output},
};

use tempfile::tempdir;

/// Runs the program. Its directory for temporary files is `dir`, so what it starts carries that name.
fn jepsen(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-jepsen"))
        .current_dir(dir)
        .args(args)
        .output()
        .expect("the program starts")
}

/// Exit code 2, all of `words` in the error, and no process that knows `dir`.
fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    let output = jepsen(dir, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    for word in words {
        assert!(
            error.contains(word),
            "{args:?} does not say {word:?}: {error}"
        );
    }
    let left = processes_naming(&dir.display().to_string());
    assert!(left.is_empty(), "{args:?} left {left:?} running");
}

fn processes_naming(text: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").expect("Linux has processes");
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| *name != *own))
        .filter_map(|path| fs::read(path.join("cmdline")).ok())
        .map(|words| String::from_utf8_lossy(&words).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    let dir = tempdir().unwrap();
    let words = ["unknown workload `regster`", "register", "counter-retry"];
    refused(dir.path(), &["run", "--workload", "regster"], &words);
    let words = ["unknown nemesis `kil`", "kill-leader", "partition"];
    refused(dir.path(), &["run", "--nemesis", "kil"], &words);
    refused(dir.path(), &["run", "--time", "5 parsecs"], &["60s"]);
    refused(
        dir.path(),
        &["suite", "quick", "--only", "no-such"],
        &["--list"],
    );
}

#[test]
fn a_missing_program_is_named() {
    let dir = tempdir().unwrap();
    let bin = dir.path().join("none").display().to_string();
    for args in [&["run"][..], &["suite", "smoke"]] {
        let args: Vec<&str> = args.iter().copied().chain(["--bin", &bin]).collect();
        refused(dir.path(), &args, &[&bin, "--bin"]);
    }
}

#[test]
fn a_cluster_that_does_not_answer_is_named() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("cluster.toml");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let text = format!("[[nodes]]\nid = 1\nzone = \"a\"\nendpoint = \"{address}\"\n");
    fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let args = ["run", "--cluster", "existing", "--cluster-file", &file];
    refused(dir.path(), &args, &["not reachable", "node 1", &address]);
    refused(dir.path(), &args[..3], &["--cluster-file"]);
}

#[test]
fn a_history_that_was_cut_off_is_told() {
    let dir = tempdir().unwrap();
    let line = r#"{"index":0,"time":1,"client":{"process":0,"node":1,"kind":"invoke","op":{"f":"read","key":1}}}"#;
    let history = dir.path().join("history.jsonl");
    fs::write(&history, format!("{line}\n{}", &line[..40])).unwrap();
    let at = dir.path().display().to_string();
    refused(
        dir.path(),
        &["check", &at],
        &["truncated at line 2", "1 complete"],
    );
    // What there is decides nothing, and says so.
    refused(dir.path(), &["check", "--truncated", &at], &[]);
    fs::write(&history, "").unwrap();
    refused(dir.path(), &["check", &at], &["empty"]);
    let missing = dir.path().join("missing").display().to_string();
    refused(dir.path(), &["check", &missing], &[&missing]);
}

/// Runs `check` on a directory: exit code, and the last line that begins with `verdict`.
fn checked(dir: &Path) -> (Option<i32>, String) {
    let output = jepsen(dir, &["check", &dir.display().to_string()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdict = text.lines().rfind(|line| line.starts_with("verdict: "));
    let verdict = verdict.unwrap_or_else(|| panic!("no verdict: {output:?}"));
    (output.status.code(), verdict.to_owned())
}

#[test]
fn a_run_is_judged_again_and_its_evidence_written_anew() {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/revision/good-concurrent-writes.jsonl");
    fs::copy(recorded, path("history.jsonl")).unwrap();
    // A run that broke off left its history and nothing else.
    assert_eq!(
        checked(dir.path()),
        (Some(2), "verdict: unknown".to_owned())
    );
    let results = |key: &str| {
        let text = fs::read_to_string(path("results.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json[key].clone()
    };
    assert_eq!(results("verdict"), "unknown");
    assert!(
        results("reasons").to_string().contains("broke off"),
        "{}",
        results("reasons")
    );
    // It stays one that broke off, and the page is made again.
    fs::write(path("report.html"), "old").unwrap();
    assert_eq!(
        checked(dir.path()),
        (Some(2), "verdict: unknown".to_owned())
    );
    assert!(fs::metadata(path("report.html")).unwrap().len() > 1_000);
    assert!(results("reasons").to_string().contains("broke off"));
    // What the nodes said contradicts the history: all of it is gone.
    let state = r#"[{"node":1,"revision":1,"hash":7,"compact_revision":0}]"#;
    fs::write(path("states.json"), state).unwrap();
    assert_eq!(
        checked(dir.path()),
        (Some(1), "verdict: invalid".to_owned())
    );
    assert!(results("lost").as_u64().unwrap() > 0, "{}", results("lost"));
    assert!(results("findings").to_string().contains("behind-history"));
    // A file that cannot be read is told, and there is a verdict all the same.
    fs::write(path("states.json"), "[").unwrap();
    assert_eq!(
        checked(dir.path()),
        (Some(2), "verdict: unknown".to_owned())
    );
}

#[test]
fn a_recorded_history_is_given_to_jepsens_checkers() {
    let dir = tempdir().unwrap();
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/linearizability/bad-not-linearizable-deleted-read.jsonl");
    let recorded = recorded.display().to_string();
    let edn = dir.path().join("history.edn");
    let args = ["check", &recorded, "--edn", edn.to_str().unwrap()];
    let output = jepsen(dir.path(), &args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let events = fs::read_to_string(&recorded).unwrap();
    let operations = fs::read_to_string(&edn).unwrap();
    assert_eq!(operations.lines().count(), events.lines().count());
    assert!(operations.contains(":f :write :value [1 :absent]"));
    // A directory is no file.
    let at = dir.path().display().to_string();
    refused(dir.path(), &["check", &recorded, "--edn", &at], &[&at]);
}

/// Not by root either, which becomes nobody for this.
#[test]
fn namespaces_without_root_are_refused() {
    const NOBODY: u32 = 65_534;
    let dir = tempdir().unwrap();
    let program = dir.path().join("holdfast-jepsen");
    fs::copy(env!("CARGO_BIN_EXE_holdfast-jepsen"), &program).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut run = Command::new(&program);
    run.current_dir(dir.path())
        .args(["run", "--cluster", "netns"]);
    // SAFETY: asks for an id and does nothing else.
    if unsafe { libc::geteuid() } == 0 {
        run.uid(NOBODY).gid(NOBODY);
    }
    let output = run.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("need root"), "{error}");
    assert!(error.contains("choose the local cluster"), "{error}");
}
