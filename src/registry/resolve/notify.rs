//! `[notify]`

use super::Scope;
use crate::registry::Notify;
use crate::registry::keys::RawNotify;

pub(super) fn notify(scope: &Scope<'_>, raw: &RawNotify) -> Notify {
    let mut notify = raw.valid();
    let Some(written) = &raw.command else { return notify };
    for word in written.value.iter().filter(|word| word.value.contains('\0')) {
        scope.notes.wrong(word, "an argument of `command` contains a NUL character", "leave it out");
    }
    let Some(program) = written.value.first() else { return notify };
    let first = program.value.split_whitespace().next().unwrap_or_default();
    // A bare name is looked up in PATH when it is run.
    let bare = !first.is_empty() && !first.contains(['/', '~', '$']);
    if bare && first != program.value {
        scope.notes.wrong(
            program,
            "`command` is run without a shell: its first string is the program, without arguments",
            "one string per argument: command = [\"program\", \"argument\"]",
        );
    } else if !bare {
        match scope.around.expand(&program.value, &scope.around.folder) {
            Ok(path) => notify.command[0] = path.display().to_string(),
            Err((problem, hint)) => scope.notes.wrong(program, format!("`command`: {problem}"), hint),
        }
    }
    notify
}
