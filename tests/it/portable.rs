//! The tests run on a Mac unchanged: what only Linux has is in files that only Linux compiles.

use std::path::{Path, PathBuf};

/// `/proc` itself, and programs of util-linux, as a test would contain them.
const LINUX_ONLY: [&str; 4] = ["\"/proc", "format!(\"/proc", "new(\"prlimit", "new(\"setsid"];

/// The modules that only Linux compiles, as paths without an extension, from the `mod` lines of `file`.
fn linux_only(file: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let marked = lines.windows(2).filter(|pair| pair[0] == "#[cfg(target_os = \"linux\")]");
    let named =
        marked.filter_map(|pair| pair[1].trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    named.map(|name| file.parent().unwrap().join(name)).collect()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => files(&path, found),
            Some(end) if end == "rs" => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn no_test_that_a_mac_compiles_needs_what_only_linux_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let linux: Vec<PathBuf> = [root.join("main.rs"), root.join("support/mod.rs")]
        .iter()
        .flat_map(|file| linux_only(file))
        .collect();
    assert!(linux.contains(&root.join("chaos")), "{linux:?}");
    let mut all = Vec::new();
    files(&root, &mut all);
    let mut wrong = Vec::new();
    for file in all.iter().filter(|file| !file.ends_with("portable.rs")) {
        if linux.iter().any(|module| file.starts_with(module) || file.with_extension("") == *module) {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        for (number, line) in text.lines().enumerate() {
            if LINUX_ONLY.iter().any(|needs| line.contains(needs)) {
                wrong.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "Linux's alone, in files that are not:\n{}", wrong.join("\n"));
}
