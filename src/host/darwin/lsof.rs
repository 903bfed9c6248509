//! Parses the output of `lsof -Fpc` (lsof(8), "output for other programs"): one field per line, named by its first
//! letter.

use crate::host::seam::PortHolder;

/// The processes in the output. A `p` line begins a process and has its pid, a `c` line has its command.
pub(crate) fn all(output: &str) -> Vec<PortHolder> {
    let mut found: Vec<PortHolder> = Vec::new();
    for line in output.lines() {
        if let Some(pid) = line.strip_prefix('p').and_then(|pid| pid.parse().ok()) {
            found.push(PortHolder { pid, name: "an unnamed program".to_owned() });
        } else if let (Some(name), Some(last)) = (line.strip_prefix('c'), found.last_mut()) {
            // lsof escapes what is not printable, such as \x20.
            last.name = name.replace("\\x20", " ");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Vec<(i32, String)> {
        all(output).into_iter().map(|holder| (holder.pid, holder.name)).collect()
    }

    #[test]
    fn every_process_that_listens_is_named() {
        let transcript = include_str!("../../../tests/transcripts/lsof/listen.txt");
        let python = "python3.12".to_owned();
        assert_eq!(read(transcript), [(4711, python.clone()), (4802, python)]);
        assert_eq!(read("p71\ncCivilization\\x20VI\nf5\n"), [(71, "Civilization VI".to_owned())]);
    }

    #[test]
    fn what_is_not_said_is_not_guessed() {
        assert_eq!(read(""), []);
        assert_eq!(read("lsof: WARNING: can't stat() a volume\n"), []);
        assert_eq!(read("pmany\nccat\n"), []);
        let (unnamed, cat) = ("an unnamed program".to_owned(), "cat".to_owned());
        assert_eq!(read("p5\nf3\np6\nccat\n"), [(5, unnamed), (6, cat)]);
    }
}
