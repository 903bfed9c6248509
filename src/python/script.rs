//! Python programs of several files, given to an interpreter as arguments: none of them is written to disk.

/// A program, and the modules that it imports: name and text. Each module imports only from those before it.
pub(super) struct Script {
    pub(super) main: &'static str,
    pub(super) modules: &'static [(&'static str, &'static str)],
}

/// Makes the modules known by their names before the program begins.
const LOADER: &str = "\
import sys, types
for name, text in zip(sys.argv[2::2], sys.argv[3::2]):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, 'exec'), module.__dict__)
";

impl Script {
    /// What follows `python` and its options. The program finds `request` in `sys.argv[1]`.
    pub(super) fn arguments(&self, request: &str) -> Vec<String> {
        let modules = self.modules.iter().flat_map(|(name, text)| [(*name).to_owned(), (*text).to_owned()]);
        let program = format!("{LOADER}{}", self.main);
        ["-c".to_owned(), program, request.to_owned()].into_iter().chain(modules).collect()
    }

    /// Everything that it consists of, for a digest.
    pub(super) fn text(&self) -> String {
        let modules = self.modules.iter().flat_map(|(name, text)| [*name, *text]);
        [LOADER, self.main].into_iter().chain(modules).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::{profile, pull};

    #[test]
    fn each_module_imports_only_from_those_before_it() {
        for Script { main, modules } in [&profile::SCRIPT, &pull::SCRIPT] {
            let place = |module: &str| modules.iter().position(|(name, _)| *name == module);
            for (at, text) in modules.iter().map(|(_, text)| *text).chain([*main]).enumerate() {
                let imports = text.lines().filter_map(|line| line.trim_start().strip_prefix("from "));
                for module in imports.filter_map(|rest| rest.split_whitespace().next()) {
                    assert!(place(module).is_none_or(|found| found < at), "{module} is imported too early");
                }
            }
            assert!(modules.iter().all(|(name, _)| main.contains(&format!("from {name} import"))));
        }
    }
}
