//! `docs/security.md`: every threat in its table names tests and scripts that exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The last cells of the table of threats, with their line numbers.
fn shown_by() -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/security.md")).unwrap();
    let lines = text.lines().enumerate().skip_while(|(_, line)| !line.starts_with("## Threats"));
    lines
        .take_while(|(_, line)| !line.starts_with("## ") || line.starts_with("## Threats"))
        .filter(|(_, line)| line.starts_with("| ") && !line.starts_with("| threat"))
        .map(|(number, line)| {
            let cells: Vec<_> = line.trim_matches('|').split('|').collect();
            assert_eq!(cells.len(), 3, "line {}: {line}", number + 1);
            (number + 1, cells[2].trim().to_owned())
        })
        .collect()
}

/// The texts in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Every test file by the name that the table uses: `gate_door`, `template::tests`. Several files with one name
/// are joined.
fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::<String, String>::new();
    let root = Path::new(ROOT);
    let mut found = Vec::new();
    files(&root.join("tests/it"), &mut found);
    files(&root.join("src"), &mut found);
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap().with_extension("");
        let name = relative.to_str().unwrap().replace('/', "::");
        let of_tests = name.strip_prefix("tests::it::").map(str::to_owned);
        let of_source = name.strip_prefix("src::").map(|name| match name.strip_suffix("_tests") {
            Some(module) => format!("{module}::tests"),
            None => format!("{name}::tests"),
        });
        let module = of_tests.or(of_source).unwrap();
        // By every shorter name as well, because the table omits folders.
        let parts: Vec<_> = module.split("::").collect();
        for first in 0..parts.len() {
            sources.entry(parts[first..].join("::")).or_default().push_str(&text);
        }
    }
    sources
}

/// Whether a source has a test of this name: a function with an attribute that makes it one.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(number, line)| {
        let declared = line.trim_start_matches("async ").strip_prefix("fn ");
        declared.is_some_and(|rest| rest.starts_with(&format!("{name}(")))
            && lines[..number]
                .iter()
                .rev()
                .take_while(|line| line.starts_with('#') || line.starts_with("//"))
                .any(|line| ["#[test]", "#[tokio::test"].iter().any(|attribute| line.starts_with(attribute)))
    })
}

/// Why a text in backticks does not name a test. `module`: the one named last in this cell.
fn fault<'c>(
    sources: &BTreeMap<String, String>,
    word: &'c str,
    module: &mut Option<&'c str>,
) -> Option<String> {
    if word.contains('/') {
        return (!Path::new(ROOT).join(word).exists()).then(|| "there is no such file".to_owned());
    }
    if let Some(text) = sources.get(word) {
        *module = Some(word);
        let tests = text.contains("#[test]") || text.contains("#[tokio::test");
        return (!tests).then(|| "there are no tests".to_owned());
    }
    let name = match word.rsplit_once("::") {
        Some((named, name)) => {
            *module = Some(named);
            name
        }
        None => word,
    };
    let Some(text) = module.and_then(|module| sources.get(module)) else {
        return Some(format!("there is no module {module:?}"));
    };
    (!has_test(text, name)).then(|| format!("{} has no such test", module.unwrap_or_default()))
}

#[test]
fn every_threat_names_tests_that_exist() {
    let (sources, rows) = (sources(), shown_by());
    assert!(rows.len() > 40, "{} rows", rows.len());
    let mut faults = Vec::new();
    // "The same" test as in the row above is followed by what it shows, in parentheses.
    for (line, cell) in rows.iter().filter(|(_, cell)| !cell.starts_with("the same (")) {
        let mut module = None;
        if quoted(cell).next().is_none() {
            faults.push(format!("line {line} names no test: {cell}"));
        }
        for word in quoted(cell) {
            faults.extend(
                fault(&sources, word, &mut module).map(|fault| format!("line {line}: `{word}`: {fault}")),
            );
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_missing_test_is_found() {
    let sources = BTreeMap::from([("door".to_owned(), "#[test]\nfn shut() {}\nfn helper() {}".to_owned())]);
    let fault = |word, mut module| fault(&sources, word, &mut module);
    assert_eq!(fault("door::shut", None), None);
    assert_eq!(fault("shut", Some("door")), None);
    for (word, module) in
        [("door::open", None), ("door::helper", None), ("shut", None), ("scripts/none", None)]
    {
        assert!(fault(word, module).is_some(), "{word}");
    }
}
