//! Imports point one way: a folder imports only from folders above it in the table of `docs/architecture.md`, "Layers",
//! and no two files import each other, however long the cycle. The table also orders the subfolders of folders that
//! have some.
//!
//! Test modules are exempt: they may import whatever a test needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Module path (`gate::wire`) → the modules that it imports from.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn a_folder_imports_only_from_folders_below_it() {
    let (layers, imports) = (layers(), imports());
    for module in imports.keys() {
        assert!(layer(&layers, module).is_some(), "`{module}` is in no layer of the table");
    }
    let upward = upward(&layers, &imports);
    assert!(upward.is_empty(), "imports that point up:\n{}", upward.join("\n"));
}

#[test]
fn subfolders_are_ordered_and_none_imports_its_folder() {
    let layers = ["a::low", "a::high", "a", "b"].map(str::to_owned);
    let found = |from: &str, to: &str| {
        let imports = Imports::from([(from.to_owned(), BTreeSet::from([to.to_owned()]))]);
        !upward(&layers, &imports).is_empty()
    };
    for (from, to) in [("a::low::x", "a::high::y"), ("a::low", "a"), ("a::high::x", "a"), ("a::high", "b")] {
        assert!(found(from, to) && !found(to, from), "{from} {to}");
    }
    assert!(!found("a::low::x", "a::low::y") && !found("a", "a::other"));
}

#[test]
fn no_two_files_import_each_other_however_long_the_cycle() {
    let imports = imports();
    let circles: Vec<String> = circles(&imports).iter().map(|circle| circle.join(" → ")).collect();
    assert!(circles.is_empty(), "files that import each other:\n{}", circles.join("\n"));
}

#[test]
fn an_import_is_found_however_it_is_written() {
    let known = ["a", "a::b", "a::c", "d"].map(str::to_owned);
    let found = |text: &str| imported("a::b", text, &known.iter().cloned().collect());
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(found("use crate::d::X;"), set(&["d"]));
    assert_eq!(found("use super::{c::{self, X}, Y};"), set(&["a", "a::c"]));
    assert_eq!(found("fn f() { crate::d::x(super::c::Y) }"), set(&["a::c", "d"]));
    assert_eq!(
        imported("a", "mod b;\npub use b::X;\nuse c::Y;", &known.iter().cloned().collect()),
        set(&["a::c"])
    );
    assert_eq!(
        found("// crate::d\n/// [`crate::d::X`]\n#[cfg(test)]\nmod tests {\n    use crate::d;\n}\n"),
        set(&[])
    );
}

/// The rows of the table, lowest layer first: folders, and subfolders (`gate::wire`).
fn layers() -> Vec<String> {
    let page = std::fs::read_to_string("docs/architecture.md").unwrap();
    let section = page.split("\n## Layers\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(str::to_owned).collect()
}

/// The row of a module: the longest that it begins with, so that a folder's own row is that of its `mod.rs` and of
/// whatever is in none of its subfolders.
fn layer(layers: &[String], module: &str) -> Option<usize> {
    let mut name = module;
    loop {
        match (layers.iter().position(|row| row == name), name.rsplit_once("::")) {
            (Some(row), _) => return Some(row),
            (None, Some((parent, _))) => name = parent,
            (None, None) => return None,
        }
    }
}

fn upward(layers: &[String], imports: &Imports) -> Vec<String> {
    edges(imports)
        .filter(|(from, to)| layer(layers, to) > layer(layers, from))
        .map(|(from, to)| format!("{from} imports {to}"))
        .collect()
}

fn folder(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

fn edges(imports: &Imports) -> impl Iterator<Item = (&str, &str)> {
    imports.iter().flat_map(|(from, to)| to.iter().map(move |to| (from.as_str(), to.as_str())))
}

/// Every module below `src`, except the two roots and test files.
fn imports() -> Imports {
    let mut texts = BTreeMap::new();
    read(Path::new("src"), &mut texts);
    let known: BTreeSet<String> = texts.keys().cloned().collect();
    assert!(known.len() > 100, "the source files were found");
    texts.iter().map(|(module, text)| (module.clone(), imported(module, text, &known))).collect()
}

fn read(folder: &Path, texts: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, texts);
            continue;
        }
        let name = path.strip_prefix("src").unwrap().to_string_lossy().replace('/', "::");
        let Some(name) = name.strip_suffix(".rs") else { continue };
        let module = name.strip_suffix("::mod").unwrap_or(name);
        let test = module.ends_with("tests") || module.ends_with("fixtures");
        if !test && !matches!(module, "lib" | "main") {
            texts.insert(module.to_owned(), std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The modules of `known` that the text of `module` imports from.
fn imported(module: &str, text: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let (uses, rest) = items(&without_tests(text));
    let mut found = BTreeSet::new();
    for (visible, tree) in uses {
        for leaf in flatten(&tree) {
            let child = format!("{module}::{}", folder(&leaf));
            match (rooted(&leaf), known.contains(&child)) {
                (true, _) => found.extend(module_of(module, &leaf, known)),
                // Re-exports of a folder's own files are not imports.
                (false, true) if !visible => found.extend(module_of("", &format!("{module}::{leaf}"), known)),
                (false, _) => {}
            }
        }
    }
    found.extend(inline(&rest).iter().filter_map(|path| module_of(module, path, known)));
    found.remove(module);
    found
}

/// The `use` items of a text, with whether they are re-exports, and everything else.
fn items(code: &str) -> (Vec<(bool, String)>, String) {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        let Some((visibility, tree)) = trimmed
            .split_once("use ")
            .filter(|(before, _)| before.is_empty() || before.starts_with("pub") && before.ends_with(' '))
        else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            tree.push_str(lines.next().unwrap_or(";"));
        }
        uses.push((!visibility.is_empty(), tree.split(';').next().unwrap_or_default().to_owned()));
    }
    (uses, rest)
}

fn rooted(path: &str) -> bool {
    path.starts_with("crate::") || path.starts_with("super::")
}

/// Every path in code that starts at the crate or at a parent module.
fn inline(code: &str) -> Vec<String> {
    let words = code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| rooted(word)).map(str::to_owned).collect()
}

/// The text without comments and without modules that only tests see.
fn without_tests(text: &str) -> String {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut kept = Vec::new();
    let mut lines = code.into_iter();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#[")).unwrap_or_default();
        if item.ends_with('{') {
            let end = format!("{}}}", " ".repeat(indent));
            lines.by_ref().find(|line| *line == end);
        }
    }
    kept.join("\n")
}

/// Every path of a tree: `a::{b, c::{self, d}}` → `a::b`, `a::c`, `a::c::d`.
fn flatten(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or(tree).trim();
        return vec![name.trim_end_matches("::self").trim_end_matches("::").to_owned()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let mut depth = 0;
    let parts = inner.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts: Vec<&str> = parts.filter(|part| !part.trim().is_empty()).collect();
    parts
        .iter()
        .flat_map(|part| flatten(part))
        .map(|leaf| format!("{}{leaf}", head.trim()))
        .map(|leaf| leaf.trim_end_matches("::self").to_owned())
        .collect()
}

/// The longest module on a path, seen from `module`.
fn module_of(module: &str, path: &str, known: &BTreeSet<String>) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts: Vec<&str> = path.split("::").collect();
    if parts.first() == Some(&"crate") {
        base.clear();
        parts.remove(0);
    }
    while parts.first() == Some(&"super") {
        base.pop();
        parts.remove(0);
    }
    base.extend(parts);
    (1..=base.len()).rev().map(|length| base[..length].join("::")).find(|name| known.contains(name))
}

/// The groups of modules in which each reaches every other (Tarjan, 1972, would find them faster, which a few hundred
/// files do not need).
fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|module| (module.as_str(), reachable(imports, module))).collect();
    let mut groups: BTreeSet<Vec<String>> = BTreeSet::new();
    for (module, reached) in &reach {
        if reached.contains(module) {
            let group = reached.iter().filter(|other| reach[*other].contains(module));
            groups.insert(group.map(|name| (*name).to_owned()).collect());
        }
    }
    groups.into_iter().collect()
}

fn reachable<'a>(imports: &'a Imports, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = imports[from].iter().map(String::as_str).collect();
    while let Some(module) = next.pop() {
        if found.insert(module) {
            next.extend(imports[module].iter().map(String::as_str));
        }
    }
    found
}
