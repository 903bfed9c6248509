//! A proposal as a registry, with comments from the registry's own table of keys. Pure.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use super::{Proposal, cache, reserve};
use crate::cli::render::wrap;
use crate::registry::{Key, TABLES};
use crate::units::Bytes;

/// The port of the first model, if it is free.
pub(crate) const FIRST_PORT: u16 = 8800;

/// What is known about a machine.
#[derive(Debug, Clone)]
pub(crate) struct Machine<'a> {
    pub chip: Option<&'a str>,
    pub memory: Bytes,
    /// Its address in a private network.
    pub lan: Option<Ipv4Addr>,
    /// Whether the gates listen there instead of on loopback.
    pub serve_lan: bool,
    /// The default of `paths.root`, written as a comment.
    pub data: &'a Path,
}

/// The registry as text. `ports`: one per model, in order. `all`: with every other key, commented out.
pub(crate) fn text(machine: &Machine<'_>, proposals: &[Proposal], ports: &[u16], all: bool) -> String {
    let mut out = Text::default();
    let chip = machine.chip.unwrap_or("a machine");
    out.comment(&format!("The models of {chip} with {}, as proposed by `mlxctl init`.", machine.memory));
    out.comment("");
    out.comment(
        "`mlxctl check` names everything that is wrong with this file; docs/registry.md lists every key, its unit and \
         its default. Keys left out have their defaults.",
    );
    out.table("[paths]", "");
    out.off("paths", "root", &quoted(&machine.data.to_string_lossy()));
    out.table("[network]", "");
    match (machine.lan, machine.serve_lan) {
        (Some(lan), true) => {
            out.key("network", "host", &quoted(&lan.to_string()));
            out.key("network", "allow_from", &format!("[\"{}\"]", neighbours(lan)));
        }
        (lan, _) => {
            out.key("network", "host", "\"127.0.0.1\"");
            if let Some(lan) = lan {
                out.comment(&format!(
                    "To serve the local network: host = \"{lan}\" and allow_from = [\"{}\"].",
                    neighbours(lan)
                ));
            }
        }
    }
    out.table("[memory]", "");
    let reserve = format!("{{ name = \"system + apps\", size = \"{}\" }}", reserve(machine.memory).exact());
    out.key("memory", "reserve", &format!("[{reserve}]"));
    for (port, proposal) in ports.iter().zip(proposals) {
        model(&mut out, machine.memory, *port, proposal);
    }
    if proposals.is_empty() {
        let why = format!(
            "No known model fits into {}. The built-in one is for trying things out.",
            machine.memory
        );
        out.table("[[model]]", &why);
        let port = ports.first().copied().unwrap_or(FIRST_PORT).to_string();
        for (key, value) in [
            ("name", "\"tiny\""),
            ("repo", "\"builtin:tiny\""),
            ("port", port.as_str()),
            ("start", "\"always\""),
            ("size", "\"500MB\""),
        ] {
            out.plain(key, value);
        }
    }
    if all {
        out.every_other_key();
    }
    out.text
}

fn model(out: &mut Text, memory: Bytes, port: u16, proposal: &Proposal) {
    let Proposal { model, always, context, memory: needs } = proposal;
    let why = if *always { "Always on." } else { "On demand: started only by hand." };
    out.table("[[model]]", &format!("{why} Needs {needs} of memory, {} to download.", model.weights()));
    out.plain("name", &quoted(model.name));
    out.plain("repo", &quoted(model.repo));
    out.plain("port", &port.to_string());
    out.plain("start", if *always { "\"always\"" } else { "\"manual\"" });
    out.key("model", "size", &quoted(&Bytes(model.weights().0.next_multiple_of(Bytes::gb(1).0)).exact()));
    if !model.aliases.is_empty() {
        let aliases: Vec<_> = model.aliases.iter().map(|alias| quoted(alias)).collect();
        out.plain("aliases", &format!("[{}]", aliases.join(", ")));
    }
    out.table("[model.memory]", "");
    out.key("model.memory", "context", &context.to_string());
    // Its default is at least 4 GB.
    let kept = model.kept(*context);
    if kept < Bytes::gb(4) {
        out.key(
            "model.memory",
            "kv_limit",
            &quoted(&Bytes(kept.0.next_multiple_of(Bytes::mb(100).0)).exact()),
        );
    }
    let cache = cache(memory);
    if cache < Bytes::gb(1) {
        out.key("model.memory", "cache_limit", &quoted(&cache.exact()));
    }
    out.table("[model.server]", "");
    out.key("model.server", "max_tokens", &model.max_tokens.to_string());
}

/// A TOML string; TOML escapes the same characters as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The /24 network that contains an address.
fn neighbours(lan: Ipv4Addr) -> String {
    let [a, b, c, _] = lan.octets();
    format!("{a}.{b}.{c}.0/24")
}

#[derive(Default)]
struct Text {
    text: String,
    written: Vec<String>,
}

impl Text {
    fn comment(&mut self, text: &str) {
        if text.is_empty() {
            self.text.push_str("#\n");
        }
        for line in wrap(text, 110) {
            let _ = writeln!(self.text, "# {line}");
        }
    }

    fn table(&mut self, head: &str, about: &str) {
        self.text.push('\n');
        if !about.is_empty() {
            self.comment(about);
        }
        self.text.push_str(head);
        self.text.push('\n');
    }

    fn plain(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.text, "{key} = {value}");
    }

    /// Writes a key below its meaning, as the registry's own table has it.
    fn key(&mut self, table: &str, key: &str, value: &str) {
        if let Some(known) = known(table, key)
            && !self.written.contains(&format!("{table}.{key}"))
        {
            self.comment(&plain_words(&known.meaning()));
        }
        self.written.push(format!("{table}.{key}"));
        self.plain(key, value);
    }

    /// As [`Self::key`], but with the key commented out.
    fn off(&mut self, table: &str, key: &str, value: &str) {
        self.key(table, key, value);
        let line = format!("{key} = {value}\n");
        if let Some(start) = self.text.len().checked_sub(line.len()) {
            self.text.insert_str(start, "# ");
        }
    }

    /// Every key of the machine and every one that models share, with its default, type and meaning.
    fn every_other_key(&mut self) {
        self.text.push('\n');
        self.comment("Every other key, with its default. Tables below [defaults] apply to all models.");
        let mut table = "";
        for keys in TABLES {
            let shared = keys.table.strip_prefix("model.");
            let head = match shared {
                Some("cluster") => continue,
                Some(shared) => format!("[defaults.{shared}]"),
                None if keys.table == "model" => continue,
                None => format!("[{}]", keys.table),
            };
            let rows = keys
                .rows
                .iter()
                .filter(|key| !self.written.contains(&format!("{}.{}", keys.table, key.name)));
            for (index, key) in rows.enumerate() {
                if index == 0 && table != keys.table {
                    table = keys.table;
                    let _ = write!(self.text, "\n# {head}\n");
                }
                let value = key.value();
                let default = (key.default)();
                let about = match &value {
                    None if default != "–" => {
                        format!("{}, default {default}: {}", (key.kind)(), key.meaning())
                    }
                    _ => format!("{}: {}", (key.kind)(), key.meaning()),
                };
                let value = value.as_deref().unwrap_or("…");
                for line in wrap(&plain_words(&about), 106) {
                    let _ = writeln!(self.text, "#   {line}");
                }
                let _ = writeln!(self.text, "# {} = {value}", key.name);
            }
        }
    }
}

fn known(table: &str, name: &str) -> Option<&'static Key> {
    let tables = TABLES.iter().filter(|keys| keys.table == table);
    tables.flat_map(|keys| keys.rows).find(|key| key.name == name)
}

/// Replaces Markdown links by their text.
fn plain_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        out.push_str(before);
        match link.split_once("](") {
            Some((words, target)) if !words.contains(['`', ']', '[']) => {
                out.push_str(words);
                rest = target.split_once(')').map_or("", |(_, after)| after);
            }
            _ => {
                out.push('[');
                rest = link;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::starter::propose;
    use crate::registry::{Registry, Start, fits};

    fn machine(memory: Bytes) -> Machine<'static> {
        Machine {
            chip: Some("Apple M4 Max"),
            memory,
            lan: Some(Ipv4Addr::new(192, 168, 1, 20)),
            serve_lan: false,
            data: Path::new("/Users/me/Library/Application Support/mlxctl"),
        }
    }

    #[test]
    fn the_text_is_a_registry_that_fits_the_machine_it_is_for() {
        for gb in [4, 8, 16, 32, 64, 96, 128] {
            for (all, serve_lan) in [(false, false), (true, true)] {
                let machine = Machine { serve_lan, ..machine(Bytes::gb(gb)) };
                let proposals = propose(machine.memory);
                let text = text(&machine, &proposals, &[8800, 8803], all);
                let registry = Registry::parse(Path::new("/etc/mlxctl/models.toml"), &text)
                    .unwrap_or_else(|problems| panic!("{gb}:\n{problems}\n{text}"));
                assert!(fits(&registry, machine.memory).is_empty(), "{gb}");
                assert_eq!(registry.models.len(), proposals.len().max(1));
                assert!(
                    registry
                        .models
                        .iter()
                        .map(|model| model.port)
                        .eq([8800, 8803].into_iter().take(registry.models.len()))
                );
                assert_eq!(registry.models[0].start, Start::Always);
                assert_eq!(registry.network.host.is_loopback(), !serve_lan);
                assert_eq!(
                    registry.network.allow_from.is_empty(),
                    !serve_lan,
                    "a LAN is served with an allow-list"
                );
                assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
            }
        }
    }

    #[test]
    fn every_key_that_is_left_out_can_be_shown_with_its_default() {
        let machine = machine(Bytes::gb(128));
        let text = text(&machine, &propose(machine.memory), &[8800, 8801], true);
        for part in ["# [agent]", "# nice = 0", "# [defaults.restart]", "# max_crashes = 5", "# [router]"] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert!(!text.contains("](") && !text.contains("# host ="), "{text}");
    }
}
