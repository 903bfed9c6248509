//! Checks that the tables of `docs/registry.md` are those generated from [`TABLES`], and that their defaults are real.

use std::collections::BTreeSet;
use std::path::Path;

use toml::de::DeTable;

use super::keys::table::Keys;
use super::notes::Notes;
use super::raw::RawRegistry;
use super::reader::Section;
use super::{Key, Registry, TABLES};

const PAGE: &str = "docs/registry.md";
const HEAD: &str = "| key | type | default | meaning |\n|---|---|---|---|\n";
const SHARED: [&str; 7] = ["environment", "server", "memory", "health", "restart", "stop", "limits"];
/// The keys without which a cluster is not valid.
const CLUSTER: &str =
    "[model.cluster]\nbackend = \"mpi\"\nhosts = [{ ssh = \"127.0.0.1\" }, { ssh = \"studio\" }]\n";
const MODEL: &str = "[[model]]\nname = \"a\"\nrepo = \"x/y\"\nport = 1\n";

/// The page with its tables as generated.
fn generated(page: &str) -> String {
    let mut page = page.to_owned();
    let mut tables: Vec<(&str, String)> = Vec::new();
    for keys in TABLES {
        let rows = rows(keys, "");
        match tables.iter_mut().find(|(table, _)| *table == keys.table) {
            Some((_, before)) => before.push_str(&rows),
            None => tables.push((keys.table, rows)),
        }
    }
    for (table, rows) in tables {
        let title = match table.strip_prefix("model.") {
            Some(below) => format!("\n### {below}\n"),
            None if table == "model" => "\n## [[model]]\n".to_owned(),
            None => format!("\n## [{table}]\n"),
        };
        let section =
            page.find(&title).unwrap_or_else(|| panic!("{PAGE} has no section{title}")) + title.len();
        let head = page[section..].find(HEAD).unwrap_or_else(|| panic!("no table below{title}"));
        let start = section + head + HEAD.len();
        let length: usize =
            page[start..].split_inclusive('\n').take_while(|line| line.starts_with('|')).map(str::len).sum();
        page.replace_range(start..start + length, &rows);
    }
    page
}

/// One row per key; those of a table in a list follow it, as `list.key`.
fn rows(keys: &Keys, prefix: &str) -> String {
    let row = |key: &Key| {
        let name = format!("{prefix}{}", key.name);
        let below = key.below.map_or_else(String::new, |below| rows(below, &format!("{name}.")));
        format!("| `{name}` | {} | {} | {} |\n{below}", (key.kind)(), (key.default)(), key.meaning())
    };
    keys.rows.iter().map(row).collect()
}

#[test]
fn the_page_has_the_tables_that_are_generated() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let written = fs_err::read_to_string(&page).unwrap();
    let wanted = generated(&written);
    if std::env::var_os("BLESS").is_some() {
        fs_err::write(&page, wanted).unwrap();
        return;
    }
    let differs = wanted.lines().zip(written.lines()).find(|(wanted, written)| wanted != written);
    assert!(
        written == wanted,
        "{PAGE} is out of date: {differs:?}\nBLESS=1 cargo test --lib registry  rewrites it"
    );
}

#[test]
fn the_shared_defaults_accept_what_a_model_accepts() {
    let notes = Notes::default();
    let text = format!("memory.reserve = [{{}}]\n{MODEL}cluster.hosts = [{{}}]\n");
    let table = DeTable::parse(&text).unwrap().into_inner();
    let _ = Section::read(&notes, &table, RawRegistry::read);
    let known = notes.known();
    let below = |prefix: &str| -> BTreeSet<String> {
        known.iter().filter_map(|path| path.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    let of_model: BTreeSet<String> = below("model.")
        .into_iter()
        .filter(|path| SHARED.contains(&path.split('.').next().unwrap_or_default()))
        .collect();
    assert_eq!(below("defaults."), of_model);
}

/// Writing out a default that the tables give as a value changes nothing. Most are what the code uses, but a few are
/// determined when a table is resolved.
#[test]
fn the_documented_defaults_are_the_real_ones() {
    let file = Path::new("/etc/mlxctl/models.toml");
    let left_out = Registry::parse(file, MODEL).unwrap();
    let clustered = Registry::parse(file, &format!("{MODEL}{CLUSTER}")).unwrap();
    let mut tried = 0;
    for keys in TABLES {
        for key in keys.rows {
            let Some(value) = key.value() else { continue };
            let line = format!("{} = {value}\n", key.name);
            let cluster = keys.table == "model.cluster";
            let text = match keys.table {
                "model" => format!("{MODEL}{line}"),
                "model.cluster" => format!("{MODEL}{CLUSTER}{line}"),
                table if table.starts_with("model.") => format!("{MODEL}[{table}]\n{line}"),
                table => format!("[{table}]\n{line}{MODEL}"),
            };
            let written =
                Registry::parse(file, &text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
            assert_eq!(&written, if cluster { &clustered } else { &left_out }, "{text}");
            tried += 1;
        }
    }
    assert!(tried > 30, "only {tried} defaults are values");
}
