//! All problems of a registry are named at once, with their places; no text makes the reader panic.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mlxctl::internals::registry::{Problems, ProcessType, Registry, Source, Start};
use mlxctl::internals::units::Bytes;
use proptest::prelude::*;

const SEED: &str = include_str!("../../config/models.toml");

fn corpus(kind: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/registries").join(kind);
    let mut files: Vec<PathBuf> =
        fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 3);
    let name = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), fs_err::read_to_string(path).unwrap())).collect()
}

fn parse(text: &str) -> Result<Registry, Problems> {
    Registry::parse(Path::new("/etc/mlxctl/models.toml"), text)
}

#[test]
fn valid_registries_are_accepted() {
    for (name, text) in corpus("valid") {
        if let Err(problems) = parse(&text) {
            panic!("{name}:\n{problems}");
        }
    }
}

#[test]
fn every_problem_is_shown_under_its_line() {
    for (name, text) in corpus("invalid") {
        let problems = parse(&text).expect_err(&name);
        insta::assert_snapshot!(format!("invalid_{name}"), problems.render(false));
    }
}

#[test]
fn a_problem_fits_into_one_line_and_has_colour_only_on_request() {
    for (name, text) in corpus("invalid") {
        let problems = parse(&text).expect_err(&name);
        assert_eq!(problems.plain().lines().count(), problems.len(), "{name}");
        assert!(problems.iter().all(|problem| !problem.message.contains(char::is_control)), "{name}");
        assert!(!problems.render(false).contains('\x1b'), "{name}");
        assert!(problems.render(true).contains('\x1b'), "{name}");
    }
    let problems = parse("[[model]]\nname = \"ä\"\nrepo = \"x/y\"\nport = 0\n").unwrap_err();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(
        lines[0].starts_with("/etc/mlxctl/models.toml:2:8: the name `ä` contains `ä`; only letters"),
        "{lines:?}"
    );
    assert_eq!(lines[1], "/etc/mlxctl/models.toml:4:8: `port` = 0 is out of range (1 to 65535)");
}

#[test]
fn registries_are_compared_by_value_not_by_text() {
    assert_eq!(parse(SEED).unwrap(), parse(&format!("# more\n\n{SEED}")).unwrap());
    assert_ne!(parse(SEED).unwrap(), parse(&SEED.replace("8801", "8802")).unwrap());
}

#[test]
fn the_deployment_holds_every_value_of_the_plan() {
    let registry = parse(SEED).unwrap();
    let root = Path::new("/Users/Shared/ganuda");
    assert_eq!(registry.paths.root, root);
    assert_eq!(registry.paths.venv, root.join("mlx_venv"));
    assert_eq!(registry.paths.logs, root.join("logs"));
    assert_eq!(registry.network.host.to_string(), "192.168.132.21");
    assert!(registry.network.allow_from.iter().any(|net| net.contains(&registry.network.host)));
    assert_eq!(registry.python.packages, ["mlx-lm==0.32.2"]);

    let agent = &registry.agent;
    assert_eq!(agent.label, "com.cherokee.mlx-server");
    assert_eq!(agent.process_type, ProcessType::Background);
    assert_eq!((agent.nice, agent.low_priority_io), (10, true));
    assert_eq!(agent.working_directory, root);
    assert_eq!(agent.log, root.join("logs/mlx-server.log"));
    assert_eq!(
        agent.path,
        "/Users/Shared/ganuda/mlx_venv/bin:/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin"
    );
    assert_eq!(agent.exit_timeout, Duration::from_secs(180));

    let reserves: Vec<_> =
        registry.reserves.iter().map(|r| (r.name.as_str(), r.size, r.while_running.len())).collect();
    assert_eq!(reserves, [("macOS + apps", Bytes::gb(10), 0), ("Civ V", Bytes::gb(10), 2)]);

    let [always, demand] = registry.models.as_slice() else { panic!("two models") };
    assert_eq!((always.name.as_str(), always.port, always.start), ("32b", 8800, Start::Always));
    assert_eq!(always.source, Source::Hub("mlx-community/DeepSeek-R1-Distill-Qwen-32B-4bit".into()));
    assert_eq!((always.size, always.target), (Some(Bytes::gb(20)), Some(30.0)));
    let alternatives =
        ["mlx-community/Qwen3-32B-4bit", "mlx-community/Mistral-Small-3.1-24B-Instruct-2503-4bit"];
    assert_eq!(always.alternatives, alternatives);
    assert!(always.restart.enabled);

    assert_eq!((demand.name.as_str(), demand.port, demand.start), ("70b", 8801, Start::Manual));
    assert_eq!(demand.source, Source::Hub("mlx-community/Qwen2.5-72B-Instruct-4bit".into()));
    assert_eq!((demand.size, demand.target), (Some(Bytes::gb(40)), Some(10.0)));
    assert!(!demand.restart.enabled, "70B must not start by itself, not even after a crash");
    assert!(demand.aliases.contains(&"72b".to_owned()));
}

#[test]
fn a_models_own_value_wins_over_the_shared_default() {
    let text = corpus("valid").into_iter().find(|(name, _)| name == "defaults_and_overrides").unwrap().1;
    let registry = parse(&text).unwrap();
    let [a, b] = registry.models.as_slice() else { panic!("two models") };
    assert_eq!((a.server.max_tokens, b.server.max_tokens), (Some(512), Some(2048)));
    assert_eq!(a.server.temperature, Some(0.6), "what the model does not set comes from the defaults");
    assert_eq!((a.memory.concurrency, b.memory.concurrency), (8, 6));
    assert_eq!((a.limits.in_flight, b.limits.in_flight), (6, 6));
    assert_eq!((a.restart.enabled, b.restart.enabled), (true, false));
}

#[test]
fn an_exit_timeout_shorter_than_a_stop_is_refused() {
    let with = |time: &str| {
        let model = "[[model]]\nname = \"a\"\nrepo = \"x/y\"\nport = 1\nstop.term = \"5m\"\n";
        parse(&format!("[agent]\nexit_timeout = \"{time}\"\n{model}"))
    };
    assert!(with("5m 30s").is_err());
    assert_eq!(with("5m 31s").unwrap().agent.exit_timeout, Duration::from_secs(331));
}

/// Checks what must hold for any text.
fn keeps_its_word(text: &str) {
    let Err(problems) = parse(text) else { return };
    assert!(!problems.is_empty());
    for problem in &problems {
        if let Some(place) = &problem.place {
            assert!(text.get(place.span.clone()).is_some(), "{problem:?} is outside the file");
            assert!(place.line >= 1 && place.line <= text.matches('\n').count() + 1);
        }
        assert!(!problem.message.contains('\n'));
    }
    let _ = problems.render(true);
}

/// Pieces that a registry is made of, and what breaks them.
const PIECES: &[&str] = &[
    "[[model]]\n",
    "[paths]\n",
    "[network]\n",
    "[agent]\n",
    "[memory]\n",
    "[defaults.server]\n",
    "name",
    "port",
    "repo",
    "size",
    "server",
    "memory",
    "model",
    "host",
    "aliases",
    " = ",
    " = ",
    "\n",
    "\r\n",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'''",
    "\"\"\"",
    "\"20GB\"",
    "\"30s\"",
    "\"0.0.0.0\"",
    "\"a\"",
    "8800",
    "-1",
    "nan",
    "1e400",
    "0x7fffffffffffffff",
    "true",
    "1979-05-27",
    "é",
    "\u{feff}",
    "#",
    ".",
    "99999999999999999999",
    "\"~/x\"",
    "\u{1b}",
];

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(PIECES).prop_map(str::to_owned), 1 => "[ -~éµ]{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        keeps_its_word(&text);
    }

    #[test]
    fn no_heap_of_pieces_makes_it_panic(pieces in prop::collection::vec(piece(), 0..40)) {
        keeps_its_word(&pieces.concat());
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, piece()), 1..6)
    ) {
        let mut text: Vec<char> = SEED.chars().collect();
        for (at, length, put) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, put.chars());
        }
        keeps_its_word(&text.into_iter().collect::<String>());
    }
}
