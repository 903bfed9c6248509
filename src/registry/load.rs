//! From a file to a registry.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::notes::Notes;
use super::places::{Surroundings, check_paths, plain};
use super::problem::{Complaint, Finding, Problems, Written};
use super::raw::RawRegistry;
use super::reader::Section;
use super::resolve::resolve;
use super::{Registry, fits};
use crate::units::Bytes;

/// The registry of `mlxctl demo`: the built-in tiny model on loopback.
pub(crate) const DEMO: &str = include_str!("../../config/demo.toml");

/// Bytes; larger than any real registry, and guards against device files.
const LARGEST: u64 = 1 << 20;

impl Registry {
    /// Reads `file` and checks everything that can be checked without looking at the machine.
    ///
    /// # Errors
    /// All its problems, or that it cannot be read.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        let file = absolute(file);
        Self::parse(&file, &read(&file)?)
    }

    /// Like [`load`](Self::load), and checks that it suits this machine: paths can be written, and the always-on models
    /// fit into `total` bytes. Problems with the file do not hide those with the machine.
    ///
    /// # Errors
    /// All problems of both kinds, in the file's order.
    pub fn load_here(file: &Path, total: Bytes) -> Result<Self, Problems> {
        let (registry, problems) = examine_here(file, total)?;
        if problems.is_empty() { Ok(registry) } else { Err(problems) }
    }

    /// Like [`load_here`](Self::load_here), with the complaints of `more` added, which gets what is valid so far.
    ///
    /// # Errors
    /// All problems, in the file's order.
    pub fn check_here(
        file: &Path,
        total: Bytes,
        more: impl Fn(&Self) -> Vec<Complaint>,
    ) -> Result<Self, Problems> {
        let (registry, problems) = examine_here(file, total)?;
        let problems = problems.and(registry.problems(more(&registry)));
        if problems.is_empty() { Ok(registry) } else { Err(problems) }
    }

    /// Turns complaints into problems with places in the file.
    pub fn problems(&self, complaints: Vec<Complaint>) -> Problems {
        let found = complaints.into_iter().map(|complaint| Finding {
            span: self.written.find(&complaint.key),
            message: complaint.message,
            hint: complaint.hint,
        });
        Problems::new(&self.file, self.written.text.clone(), found.collect())
    }

    /// Checks `text` as the content of `file`, which is not read; relative paths are relative to it.
    ///
    /// # Errors
    /// All its problems.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Problems> {
        let file = absolute(file);
        let (registry, problems) = examine(&file, text, &Surroundings::of(&file));
        if problems.is_empty() { Ok(registry) } else { Err(problems) }
    }

    /// The demo's registry, with all paths below `root` and its model on `port`.
    pub fn demo(root: &Path, port: u16) -> Self {
        let root = absolute(root);
        let file = root.join("demo.toml");
        let around = Surroundings { data: root, ..Surroundings::of(&file) };
        // A test checks that it has no problems.
        let (mut registry, _) = examine(&file, DEMO, &around);
        for model in &mut registry.models {
            model.port = port;
        }
        registry
    }
}

/// The registry, and its problems on a machine of `total` bytes; `Err` if it cannot be read.
fn examine_here(file: &Path, total: Bytes) -> Result<(Registry, Problems), Problems> {
    let file = absolute(file);
    let text = read(&file)?;
    let (registry, problems) = examine(&file, &text, &Surroundings::of(&file));
    let problems = problems.and(check_paths(&registry)).and(fits(&registry, total));
    Ok((registry, problems))
}

/// The registry as far as it can be understood, and all its problems.
pub(super) fn examine(file: &Path, text: &str, around: &Surroundings) -> (Registry, Problems) {
    let notes = Notes::default();
    let (table, errors) = DeTable::parse_recoverable(text);
    let table = table.into_inner();
    let empty = DeTable::new();
    // After a syntax error other problems are noise: they show up once the syntax is right.
    let understood = if errors.is_empty() { &table } else { &empty };
    let raw = Section::read(&notes, understood, RawRegistry::read);
    let mut registry = resolve(file, &raw, around, &notes);
    let (findings, spans) = notes.finish();
    let text: Arc<str> = text.into();
    registry.written = Written { text: text.clone(), spans };
    let findings = if errors.is_empty() { findings } else { syntax(&text, &errors) };
    (registry, Problems::new(file, text, findings))
}

/// The parser's errors, only the first of each line: the others follow from it.
fn syntax(text: &str, errors: &[toml::de::Error]) -> Vec<Finding> {
    let mut lines = Vec::new();
    let mut findings = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let line = text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count();
        if lines.contains(&line) {
            continue;
        }
        lines.push(line);
        let message = format!("not TOML: {}", error.message().replace('\n', ", "));
        findings.push(Finding { span: Some(span), message, hint: None });
    }
    findings
}

fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| Path::new("/").join(file))
}

fn read(file: &Path) -> Result<String, Problems> {
    let unreadable = |error: &std::io::Error| {
        let (message, hint) = match error.kind() {
            std::io::ErrorKind::NotFound => (
                "there is no registry here".to_owned(),
                "`mlxctl init` writes one for this machine; name another with --config FILE or MLXCTL_CONFIG; `mlxctl demo` needs none",
            ),
            std::io::ErrorKind::IsADirectory => {
                ("this is a folder".to_owned(), "name the file in it with --config FILE")
            }
            _ => (
                format!("cannot be read: {}", plain(error)),
                "make it readable for your user, or name another file with --config FILE",
            ),
        };
        Problems::of_file(file, message, hint)
    };
    let mut bytes = Vec::new();
    fs_err::File::open(file)
        .and_then(|opened| opened.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > LARGEST {
        let message = format!("this is not a registry: it is larger than {}", Bytes(LARGEST));
        return Err(Problems::of_file(file, message, "name the right file with --config FILE"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let start = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        let finding = Finding {
            span: Some(start..start + 1),
            message: "this is not UTF-8 text".into(),
            hint: Some("save the file as UTF-8".into()),
        };
        Problems::new(file, text.into(), vec![finding])
    })
}

/// The example deployment of this project, `config/models.toml`.
#[cfg(test)]
pub(super) fn seed() -> Registry {
    Registry::parse(Path::new("/etc/mlxctl/models.toml"), include_str!("../../config/models.toml")).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_valid_and_stays_below_its_root() {
        let root = Path::new("/tmp/somewhere");
        let file = root.join("demo.toml");
        let around = Surroundings { data: root.to_owned(), ..Surroundings::of(&file) };
        assert_eq!(examine(&file, DEMO, &around).1.plain(), "");
        let demo = Registry::demo(root, 4321);
        assert_eq!(demo.paths.root, root);
        assert_eq!(demo.models.len(), 1);
        assert_eq!((demo.models[0].name.as_str(), demo.models[0].port), ("tiny", 4321));
        assert!(demo.network.host.is_loopback());
        assert_eq!(demo.models[0].source, crate::registry::Source::Tiny);
    }

    #[test]
    fn an_unreadable_file_is_reported_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Registry::load(&folder.path().join("none.toml")).unwrap_err();
        assert!(missing.plain().contains("there is no registry here (`mlxctl init` writes one"), "{missing}");
        let is_folder = Registry::load(folder.path()).unwrap_err();
        assert!(is_folder.plain().contains("this is a folder"), "{is_folder}");
        let endless = Registry::load(Path::new("/dev/zero")).unwrap_err();
        assert!(endless.plain().contains("this is not a registry"), "{endless}");
        let binary = folder.path().join("binary.toml");
        fs_err::write(&binary, b"# fine\n\xff\xfe").unwrap();
        let problems = Registry::load(&binary).unwrap_err();
        assert!(problems.plain().contains("binary.toml:2:1: this is not UTF-8 text"), "{problems}");
    }

    #[test]
    fn the_machine_is_checked_even_if_the_file_has_problems() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("models.toml");
        let text = "paths.root = \".\"\n[[model]]\nname = \"a\"\nrepo = \"x/y\"\nport = 0\nstart = \"always\"\nsize = \"9GB\"\n";
        fs_err::write(&file, text).unwrap();
        let problems = Registry::load_here(&file, Bytes::gb(8)).unwrap_err().plain();
        assert!(problems.contains("`port` = 0 is out of range"), "{problems}");
        assert!(problems.contains("1.00 GB more than"), "{problems}");
    }
}
