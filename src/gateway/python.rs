//! A module for a gateway in Python: `mlx_backends.py` with this registry's backends, and an app that uses it.

use std::fmt::Write as _;

use super::{Facts, quoted};

const MODULE: &str = include_str!("mlx_backends.py");
/// A complete gateway. The backends are in the module, so it is the same for every registry.
pub(super) const APP: &str = include_str!("gateway.py");
const BEGIN: &str = "# <registry>\n";
const END: &str = "# </registry>\n";

pub(super) fn render(facts: &Facts) -> String {
    let mut data = String::from("BACKENDS = {\n");
    for backend in &facts.backends {
        let names: Vec<_> = backend.names.iter().map(|name| quoted(name)).collect();
        let _ = write!(
            data,
            "    {0}: Backend({0}, {1}, ({2},)",
            quoted(&backend.name),
            quoted(&backend.url),
            names.join(", ")
        );
        if backend.on_demand {
            data.push_str(", on_demand=True");
        }
        if let Some(context) = backend.context {
            let _ = write!(data, ", context={context}");
        }
        data.push_str("),\n");
    }
    let role = |name: &Option<String>| name.as_deref().map_or_else(|| "None".to_owned(), quoted);
    let _ = write!(data, "}}\nREASONING = {}\nLARGE = {}\n", role(&facts.reasoning), role(&facts.large));
    let (before, rest) = MODULE.split_once(BEGIN).unwrap_or((MODULE, ""));
    let after = rest.split_once(END).map_or("", |(_, after)| after);
    format!("{before}{data}{after}")
}
