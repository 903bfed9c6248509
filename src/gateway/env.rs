//! Variables for a shell, or systemd's EnvironmentFile.

use std::fmt::Write as _;

use super::Facts;

pub(super) fn render(facts: &Facts) -> String {
    let mut text = String::new();
    let url =
        |name: &str| facts.backends.iter().find(|backend| backend.name == name).map(|backend| &backend.url);
    for (variable, role) in [("REASONING", &facts.reasoning), ("LARGE", &facts.large)] {
        if let Some((name, url)) = role.as_deref().and_then(|name| Some((name, url(name)?))) {
            let _ = write!(text, "MLX_{variable}_BACKEND={url}\nMLX_{variable}_MODEL={name}\n");
        }
    }
    for backend in &facts.backends {
        let name: String = backend
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        let _ = writeln!(text, "MLX_BACKEND_{name}={}", backend.url);
    }
    if facts.needs_key {
        text.push_str("# The gates require a key: mlxctl key add\nMLX_API_KEY=\n");
    }
    text
}
