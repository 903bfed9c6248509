//! What `lsof -Fpc` says (lsof(8), "output for other programs"): fields, a line each, named by their first letter.

use crate::host::PortHolder;

/// The first process of the output. `p` begins a process and is its pid, `c` is its command.
pub fn first(output: &str) -> Option<PortHolder> {
    let mut lines = output.lines().skip_while(|line| !line.starts_with('p'));
    let pid = lines.next()?.strip_prefix('p')?.parse().ok()?;
    let mut own = lines.take_while(|line| !line.starts_with('p'));
    let name = own.find_map(|line| line.strip_prefix('c')).unwrap_or("an unnamed program");
    // What is not printable is written as \x20 and the like.
    Some(PortHolder { pid, name: name.replace("\\x20", " ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Option<(i32, String)> {
        first(output).map(|holder| (holder.pid, holder.name))
    }

    #[test]
    fn the_first_process_is_who_listens() {
        let transcript = include_str!("../../../tests/transcripts/lsof/listen.txt");
        assert_eq!(read(transcript), Some((4711, "python3.12".to_owned())));
        assert_eq!(read("p71\ncCivilization\\x20VI\nf5\n"), Some((71, "Civilization VI".to_owned())));
    }

    #[test]
    fn what_is_not_said_is_not_guessed() {
        assert_eq!(read(""), None);
        assert_eq!(read("lsof: WARNING: can't stat() a volume\n"), None);
        assert_eq!(read("pmany\nccat\n"), None);
        assert_eq!(read("p5\nf3\np6\nccat\n"), Some((5, "an unnamed program".to_owned())));
    }
}
