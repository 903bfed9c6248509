//! `mlxctl pull` downloads a model completely or says why not, whatever goes wrong: the environment's own
//! `huggingface_hub` against a hub on loopback.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::hub::{Faults, Hub, REPO};
use crate::support::{Entry, Instance, PATIENCE, signal};

/// Size of a weights file in the made-up model, bytes.
const SHARD: usize = 6 << 20;

/// A safetensors file with one tensor.
fn shard(tensor: &str) -> Vec<u8> {
    let header = format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[{SHARD}],"data_offsets":[0,{SHARD}]}}}}"#);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..SHARD).map(|at| (at / 4096).to_le_bytes()[0]));
    file
}

fn model() -> Vec<(String, Vec<u8>)> {
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    [
        ("config.json", br#"{"model_type":"llama"}"#.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("chat_template.jinja", b"{{ messages }}".to_vec()),
        ("model.safetensors.index.json", index.as_bytes().to_vec()),
        ("model-1.safetensors", shard("a")),
        ("model-2.safetensors", shard("b")),
        ("pytorch_model.bin", vec![1; 1000]),
        ("consolidated.safetensors", vec![2; 1000]),
        ("consolidated.safetensors.index.json", br#"{"weight_map":{}}"#.to_vec()),
        ("modeling.py", b"print('never')".to_vec()),
        ("README.md", b"# Model".to_vec()),
        ("original/config.json", b"{}".to_vec()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .to_vec()
}

/// A registry with one model from the hub, and a cache of its own.
struct Laptop {
    instance: Instance,
    hub: Hub,
    home: tempfile::TempDir,
}

impl Laptop {
    fn new(files: Vec<(String, Vec<u8>)>) -> Self {
        let instance = Instance::real(vec![Entry::new("32b", "manual").repo(REPO)]);
        Self { instance, hub: Hub::new(files), home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.instance.mlxctl(args);
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE", "NO_PROXY"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", self.hub.address());
        command.env("no_proxy", "127.0.0.1");
        command
    }

    fn pull(&self, more: &[&str]) -> Output {
        self.command(&[&["pull", "32b"], more].concat()).output().unwrap()
    }

    fn pulled(&self, more: &[&str]) -> String {
        let output = self.pull(more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code and message of a failed pull.
    fn refused(&self, more: &[&str]) -> (Option<i32>, String) {
        let output = self.pull(more);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    fn storage(&self) -> PathBuf {
        self.home.path().join("hub/models--org--model")
    }

    fn snapshot(&self) -> PathBuf {
        let commit = fs::read_to_string(self.storage().join("refs/main")).unwrap();
        self.storage().join("snapshots").join(commit)
    }

    /// Names of the model's files in the cache, as a backend would find them.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.snapshot())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Sizes of partial downloads.
    fn partials(&self) -> Vec<usize> {
        let Ok(entries) = fs::read_dir(self.storage().join("blobs")) else { return Vec::new() };
        let partial = entries
            .map(Result::unwrap)
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(".incomplete"));
        partial
            .filter_map(|entry| usize::try_from(entry.metadata().ok()?.len()).ok())
            .filter(|size| *size > 0)
            .collect()
    }

    fn assert_whole(&self) {
        for (name, bytes) in model().iter().filter(|(name, _)| name.ends_with(".safetensors")).take(2) {
            assert!(fs::read(self.snapshot().join(name)).unwrap() == *bytes, "{name} is not what it was");
        }
        assert_eq!(self.partials(), [0; 0]);
    }
}

#[test]
fn a_model_is_downloaded_with_the_files_that_mlx_lm_reads_and_no_others() {
    let laptop = Laptop::new(model());
    let output = laptop.pull(&[]);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{err}");
    assert!(out.contains("verified") && out.contains("12.6 MB in 2 files"), "{out}");
    assert!(err.contains("12.6 MB in 6 files") && err.contains("licence: apache-2.0"), "{err}");
    assert!(err.contains("pulling 100 %"), "{err}");
    laptop.assert_whole();
    let expected = [
        "chat_template.jinja",
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(laptop.files(), expected);
    laptop.hub.asked();
    assert!(laptop.pulled(&[]).contains("verified"));
    assert_eq!(laptop.hub.asked(), [], "what is there is not downloaded again");
    let listed = laptop.command(&["models", "--json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains(r#""complete": true"#));
}

#[test]
fn a_download_that_was_cut_off_resumes_from_there() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults {
        cut_after: Some(SHARD / 2),
        cuts: 2,
        away_after_cuts: true,
        ..Faults::default()
    });
    let (code, err) = laptop.refused(&["--timeout", "0s"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("cannot be reached") && err.contains("to resume"), "{err}");
    let kept: usize = laptop.partials().iter().sum();
    assert!((SHARD / 2..2 * SHARD).contains(&kept), "{kept}");
    laptop.hub.set(Faults::default());
    laptop.hub.asked();
    let out = laptop.pulled(&[]);
    assert!(out.contains("verified"), "{out}");
    laptop.assert_whole();
    let asked = laptop.hub.asked();
    let sent: usize = asked.iter().map(|asked| asked.sent).sum();
    assert!(asked.iter().any(|asked| asked.from > 0), "{asked:?}");
    assert_eq!(sent + kept, 2 * shard("a").len(), "no byte was sent twice: {asked:?}");
}

#[test]
fn a_connection_that_is_repeatedly_cut_does_not_end_a_download() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { cut_after: Some(2 << 20), cuts: 4, ..Faults::default() });
    assert!(laptop.pulled(&[]).contains("verified"));
    laptop.assert_whole();
    assert!(laptop.hub.asked().iter().filter(|asked| asked.from > 0).count() >= 3);
}

#[test]
fn a_hub_that_ignores_ranges_costs_bytes_but_does_no_damage() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { cut_after: Some(2 << 20), cuts: 1, no_ranges: true, ..Faults::default() });
    assert!(laptop.pulled(&[]).contains("verified"));
    laptop.assert_whole();
}

#[test]
fn ctrl_c_keeps_what_was_downloaded() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { pause: Duration::from_millis(20), ..Faults::default() });
    let mut child =
        laptop.command(&["pull", "32b"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while laptop.partials().iter().sum::<usize>() < 2 << 20 {
        assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(child.id().cast_signed(), nix::sys::signal::Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("interrupted") && err.contains("mlxctl pull 32b to resume"), "{err}");
    let kept: usize = laptop.partials().iter().sum();
    laptop.hub.set(Faults::default());
    laptop.hub.asked();
    laptop.pulled(&[]);
    laptop.assert_whole();
    let sent: usize = laptop.hub.asked().iter().map(|asked| asked.sent).sum();
    assert_eq!(sent + kept, 2 * shard("a").len());
}

#[test]
fn a_killed_pull_leaves_no_process_that_downloads() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { pause: Duration::from_millis(20), ..Faults::default() });
    let mut child =
        laptop.command(&["pull", "32b"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while laptop.partials().is_empty() {
        assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    laptop.hub.set(Faults::default());
    // It would be refused as busy while the other one lives.
    while !laptop.pull(&[]).status.success() {
        assert!(began.elapsed() < PATIENCE, "{:?}", laptop.refused(&[]));
    }
    laptop.assert_whole();
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_the_first_byte() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { claim_more: 1 << 60, ..Faults::default() });
    let (code, err) = laptop.refused(&[]);
    assert_eq!(code, Some(75), "{err}");
    assert!(err.contains("too little disk space") && err.contains("nothing was downloaded"), "{err}");
    assert_eq!(laptop.hub.asked(), []);
    assert!(!laptop.storage().exists());
}

#[test]
fn a_file_that_differs_from_the_hubs_listing_is_not_kept() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { change_a_byte: true, ..Faults::default() });
    let (code, err) = laptop.refused(&[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("arrived with another content"), "{err}");
    assert!(!laptop.storage().join("refs/main").exists(), "a backend must not find it");
    laptop.hub.set(Faults::default());
    laptop.pulled(&[]);
    laptop.assert_whole();
}

#[test]
fn a_file_that_ends_before_its_listed_size_is_not_accepted() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { claim_more: 100, ..Faults::default() });
    let (code, err) = laptop.refused(&["--timeout", "0s"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("model-") && !laptop.storage().join("refs/main").exists(), "{err}");
}

#[test]
fn damage_in_the_cache_is_found_and_repaired() {
    let laptop = Laptop::new(model());
    laptop.pulled(&[]);
    let shard = fs::canonicalize(laptop.snapshot().join("model-2.safetensors")).unwrap();
    // Cut off: detected by its size alone.
    fs::write(&shard, &fs::read(&shard).unwrap()[..1000]).unwrap();
    laptop.pulled(&[]);
    laptop.assert_whole();
    // One byte changed: detected by reading the file.
    let mut bytes = fs::read(&shard).unwrap();
    bytes[SHARD] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let output = laptop.pull(&["--verify"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("model-2.safetensors is damaged"));
    laptop.assert_whole();
}

#[test]
fn code_in_a_model_is_refused_before_its_weights_are_downloaded() {
    let mut files = model();
    files[0].1 = br#"{"model_type":"llama","model_file":"modeling.py"}"#.to_vec();
    let laptop = Laptop::new(files);
    let (code, err) = laptop.refused(&[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("CVE-2026-5843"), "{err}");
    assert!(laptop.hub.asked().iter().all(|asked| !asked.file.ends_with(".safetensors")));
}

#[test]
fn an_unsupported_family_is_refused_by_name_before_its_weights_are_downloaded() {
    for (config, says) in [
        (r#"{"model_type":"deepseek_v9"}"#, "mlx-lm 0."),
        (r#"{"model_type":"deepseek_v9"}"#, "has no deepseek_v9"),
        (r#"{"model_type":"llama","num_hidden_layers":1000000000000}"#, "num_hidden_layers: 1000000000000"),
    ] {
        let mut files = model();
        files[0].1 = config.as_bytes().to_vec();
        let laptop = Laptop::new(files);
        let (code, err) = laptop.refused(&[]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains(says) && err.contains("setup --upgrade"), "{err}");
        assert!(laptop.hub.asked().iter().all(|asked| !asked.file.ends_with(".safetensors")));
    }
}

#[test]
fn what_the_hub_refuses_is_explained() {
    let laptop = Laptop::new(model());
    let cases = [
        ((404, "RepoNotFound", "Repository not found"), "no such model, or the model is private", "HF_TOKEN"),
        (
            (401, "RepoNotFound", "Invalid username or password."),
            "no such model, or the model is private",
            "HF_TOKEN",
        ),
        (
            (403, "GatedRepo", "Access to model org/model is restricted"),
            "licence must be accepted",
            "HF_TOKEN",
        ),
        ((500, "", "oops"), "answered with an error", "HF_ENDPOINT"),
    ];
    for (refuse, why, hint) in cases {
        laptop.hub.set(Faults { refuse: Some(refuse), ..Faults::default() });
        let (code, err) = laptop.refused(&["--timeout", "0s"]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains(why) && err.contains(hint), "{refuse:?}: {err}");
    }
    let offline = laptop.command(&["pull", "32b"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&offline.stderr).contains("unset HF_HUB_OFFLINE"));
    let nobody = laptop.command(&["pull", "32b"]).env("HF_ENDPOINT", "http://127.0.0.1:9").output().unwrap();
    let err = String::from_utf8_lossy(&nobody.stderr);
    assert!(err.contains("cannot be reached") && err.contains("HF_ENDPOINT"), "{err}");
}

#[test]
fn the_token_is_sent_along() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { token: Some("hf_secret"), ..Faults::default() });
    let (code, err) = laptop.refused(&[]);
    assert!(code == Some(1) && !err.contains("hf_secret"), "{err}");
    let output = laptop.command(&["pull", "32b"]).env("HF_TOKEN", "hf_secret").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    laptop.assert_whole();
}

#[test]
fn a_backend_serves_what_was_pulled_without_the_hub() {
    let folder = crate::real::tiny_model();
    let files = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = files
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap()));
    let mut laptop = Laptop::new(files.collect());
    laptop.pulled(&[]);
    laptop.hub.set(Faults { refuse: Some((500, "", "must not be asked")), ..Faults::default() });
    // The supervisor passes the cache's path on to its backends.
    laptop.instance.env("HF_HOME", laptop.home.path().to_str().unwrap());
    laptop.instance.serve_again();
    laptop.instance.expect(0, &["start", "32b"]);
    laptop.instance.end();
}

#[test]
fn the_built_in_model_is_made_and_a_folder_only_checked() {
    let folder = crate::real::tiny_model();
    let instance = Instance::real(vec![
        Entry::new("tiny", "manual"),
        Entry::new("folder", "manual").repo(folder.to_str().unwrap()),
    ]);
    assert!(instance.expect(0, &["pull", "tiny"]).contains("verified"));
    assert!(instance.expect(0, &["pull", "folder"]).contains(folder.to_str().unwrap()));
    assert!(instance.run(&["pull", "nobody"]).status.code() == Some(4));
}

/// Names from a hub, or from something in its place, are checked before they become paths.
#[test]
fn what_a_hub_names_never_becomes_a_path_outside_the_cache() {
    let laptop = Laptop::new(model());
    let outside = laptop.home.path().join("hub/precious");
    fs::create_dir_all(laptop.home.path().join("hub")).unwrap();
    fs::write(&outside, "years of work").unwrap();
    for faults in [
        Faults { commit: Some("../../../precious"), ..Faults::default() },
        Faults { commit: Some("main"), ..Faults::default() },
        Faults { blob: Some("../../precious"), ..Faults::default() },
        Faults { blob: Some("/etc/passwd"), ..Faults::default() },
    ] {
        laptop.hub.set(faults.clone());
        let (code, words) = laptop.refused(&["--verify"]);
        assert_eq!(code, Some(1), "{faults:?}: {words}");
        assert!(words.contains("which is not a hash"), "{faults:?}: {words}");
        assert_eq!(fs::read_to_string(&outside).unwrap(), "years of work");
        assert!(!laptop.storage().join("snapshots").exists(), "{faults:?}");
    }
}

#[test]
fn a_file_never_grows_past_the_size_that_is_listed() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { claim_less: 1 << 20, ..Faults::default() });
    let (code, words) = laptop.refused(&["--timeout", "1s"]);
    assert_eq!(code, Some(1));
    assert!(words.contains("longer than the") || words.contains("another content"), "{words}");
    let listed = shard("a").len() - (1 << 20);
    assert!(laptop.partials().iter().all(|size| *size <= listed), "{:?}", laptop.partials());
}

#[test]
fn a_busy_hub_is_retried_when_it_says_but_not_beyond_the_timeout() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { busy: 2, ..Faults::default() });
    laptop.pulled(&[]);
    laptop.assert_whole();
    laptop.hub.set(Faults { busy: 1000, ..Faults::default() });
    let (code, words) = laptop.refused(&["--timeout", "1s"]);
    assert_eq!(code, Some(1));
    assert!(words.contains("asks to wait 1 s, longer than --timeout"), "{words}");
}

#[test]
fn a_web_page_in_place_of_the_hub_is_reported_as_a_network_problem() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { portal: true, ..Faults::default() });
    let (code, words) = laptop.refused(&[]);
    assert_eq!(code, Some(1));
    assert!(words.contains("sign-in page") && words.contains("HF_ENDPOINT"), "{words}");
    assert!(!words.contains("mlxctl setup"), "{words}");
}

#[test]
fn escape_sequences_from_a_hub_do_not_reach_the_terminal() {
    let laptop = Laptop::new(model());
    laptop.hub.set(Faults { license: Some("\u{1b}]0;owned\u{7} mit \u{9b}2J"), ..Faults::default() });
    let output = laptop.pull(&[]);
    let words = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(words.contains("^[]0;owned^G mit"), "{words}");
    assert!(!words.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{words:?}");
    laptop.hub.set(Faults { refuse: Some((500, "X", "\u{9b}31m no")), ..Faults::default() });
    let (_, words) = laptop.refused(&["--timeout", "1s"]);
    assert!(!words.contains('\u{9b}'), "{words:?}");
}
