//! Reports of kernel panics. macOS writes one after rebooting from a panic, so a report of the last panic is newer than
//! this boot, and older ones belong to earlier boots.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::host::seam::Host;

/// How far the wall clock may have been adjusted since the boot.
const SLACK: Duration = Duration::from_secs(60);

/// File names of the reports written since this boot, oldest first.
///
/// # Errors The system's own, if the folder may not be read (on macOS only administrators may). A missing folder counts
/// as empty.
pub(crate) fn fresh(host: &dyn Host) -> io::Result<Vec<String>> {
    let Some(folder) = host.panic_reports() else { return Ok(Vec::new()) };
    let booted = SystemTime::now().checked_sub(host.now().0 + SLACK).unwrap_or(SystemTime::UNIX_EPOCH);
    since(&folder, booted)
}

fn since(folder: &Path, booted: SystemTime) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let written = entry.metadata().and_then(|file| file.modified());
        if let Ok(written) = written
            && name.ends_with(".panic")
            && written >= booted
        {
            found.push((written, name));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;
    use crate::units::Bytes;

    #[test]
    fn only_reports_of_this_boot_count() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, age: u64| {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        let host = Fake::new(Bytes::gb(128));
        assert_eq!(fresh(&*host).unwrap(), [""; 0], "a system without reports");
        host.set_panic_reports(folder.path());
        // Its boot was an hour ago.
        write("panic-full-2026-11-25-101112.0002.panic", 86_400);
        write("mlx_lm-2026-11-26-101112.ips", 5);
        assert_eq!(fresh(&*host).unwrap(), [""; 0]);
        write("panic-full-2026-11-26-101112.0002.panic", 3_500);
        assert_eq!(fresh(&*host).unwrap(), ["panic-full-2026-11-26-101112.0002.panic"]);
        host.set_panic_reports(&folder.path().join("not there"));
        assert_eq!(fresh(&*host).unwrap(), [""; 0]);
    }
}
