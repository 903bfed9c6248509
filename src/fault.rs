//! Places where a test kills this process, as a crash or the system would: `MLXCTL_DIE_AT` names one. Debug builds
//! only.

/// Kills this process if `MLXCTL_DIE_AT` is `place`.
#[cfg(debug_assertions)]
pub(crate) fn point(place: &str) {
    use std::sync::OnceLock;
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("MLXCTL_DIE_AT").ok());
    if wanted.as_deref() == Some(place) {
        // Deliberately without flushing or notifying anything.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(debug_assertions))]
pub(crate) fn point(_place: &str) {}
