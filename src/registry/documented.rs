//! `docs/registry.md` and the reader know the same keys and the same defaults.

use std::collections::BTreeSet;
use std::path::Path;

use toml::de::DeTable;

use super::Registry;
use super::notes::Notes;
use super::raw::RawRegistry;
use super::reader::Section;

const DOCUMENT: &str = include_str!("../../docs/registry.md");
const TABLES: [&str; 7] = ["environment", "server", "memory", "health", "restart", "stop", "limits"];
/// What the keys of a cluster are read beside.
const CLUSTER: &str =
    "[model.cluster]\nbackend = \"mpi\"\nhosts = [{ ssh = \"127.0.0.1\" }, { ssh = \"studio\" }]\n";
const MODEL: &str = "[[model]]\nname = \"a\"\nrepo = \"x/y\"\nport = 1\n";

struct Row {
    table: String,
    key: String,
    default: String,
}

/// Every row of every table of keys.
fn rows() -> Vec<Row> {
    let mut table = String::new();
    let mut rows = Vec::new();
    for line in DOCUMENT.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            table = format!("model.{title}");
        } else if let Some(title) = line.strip_prefix("## ") {
            table = title.trim_matches(['[', ']']).to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.split(" | ").collect();
            let key = cells[0].trim_end_matches('`').to_owned();
            rows.push(Row { table: table.clone(), key, default: cells[2].to_owned() });
        }
    }
    rows
}

fn known() -> Vec<String> {
    let notes = Notes::default();
    let text = format!("memory.reserve = [{{}}]\n{MODEL}cluster.hosts = [{{}}]\n");
    let table = DeTable::parse(&text).unwrap().into_inner();
    let _ = Section::read(&notes, &table, RawRegistry::read);
    notes.known()
}

#[test]
fn every_key_that_is_read_is_documented_and_every_documented_key_is_read() {
    let documented: BTreeSet<String> =
        rows().iter().map(|row| format!("{}.{}", row.table, row.key)).collect();
    let tables =
        ["paths", "python", "network", "memory", "power", "agent", "metrics", "router", "defaults", "model"];
    let is_table = |path: &str| {
        tables.contains(&path)
            || path == "model.cluster"
            || path.rsplit_once('.').is_some_and(|(parent, key)| parent == "model" && TABLES.contains(&key))
    };
    let read: BTreeSet<String> =
        known().into_iter().filter(|path| !is_table(path) && !path.starts_with("defaults.")).collect();
    assert_eq!(read, documented);
}

#[test]
fn the_shared_defaults_take_what_a_model_takes() {
    let below = |prefix: &str| -> BTreeSet<String> {
        known().iter().filter_map(|path| path.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    let of_model: BTreeSet<String> = below("model.")
        .into_iter()
        .filter(|path| TABLES.contains(&path.split('.').next().unwrap_or_default()))
        .collect();
    assert_eq!(below("defaults."), of_model);
}

/// Written out, every default that the document gives as a value changes nothing.
#[test]
fn the_documented_defaults_are_the_real_ones() {
    let file = Path::new("/etc/mlxctl/models.toml");
    let left_out = Registry::parse(file, MODEL).unwrap();
    let clustered = Registry::parse(file, &format!("{MODEL}{CLUSTER}")).unwrap();
    let mut tried = 0;
    let is_value = |text: &str| {
        text.starts_with(['"', '[']) || text.parse::<i64>().is_ok() || text.parse::<bool>().is_ok()
    };
    for row in rows().iter().filter(|row| is_value(row.default.trim_matches('`'))) {
        let value = row.default.trim_matches('`');
        let line = format!("{} = {value}\n", row.key);
        let cluster = row.table == "model.cluster";
        let text = match row.table.strip_prefix("model.") {
            Some(_) if cluster => format!("{MODEL}{CLUSTER}{line}"),
            Some(table) => format!("{MODEL}[model.{table}]\n{line}"),
            None if row.table == "model" => format!("{MODEL}{line}"),
            None => format!("[{}]\n{line}{MODEL}", row.table),
        };
        let written = Registry::parse(file, &text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
        assert_eq!(&written, if cluster { &clustered } else { &left_out }, "{text}");
        tried += 1;
    }
    assert!(tried > 30, "only {tried} defaults were found in the document");
}
