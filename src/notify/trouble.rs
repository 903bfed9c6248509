//! Problems that are conditions, not events: what has changed since the last check. Pure.

use std::time::SystemTime;

/// The last known state of the disk and of the keys.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    disk: bool,
    /// When the file of keys was written, and whose keys it held; `None`: not checked yet.
    keys: Option<(Option<SystemTime>, Vec<String>)>,
}

/// An event to note in the history.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub kind: &'static str,
    pub text: String,
    pub hint: Option<&'static str>,
}

impl Trouble {
    /// `problem`: why something cannot be written now, if it cannot. There is news when that begins and when it ends.
    pub(crate) fn disk(&mut self, problem: Option<&str>) -> Option<News> {
        let before = std::mem::replace(&mut self.disk, problem.is_some());
        match problem {
            Some(problem) if !before => Some(News {
                kind: "disk_problem",
                text: problem.to_owned(),
                hint: Some("free disk space; mlxctl status lists what is waiting to be written"),
            }),
            None if before => Some(News {
                kind: "disk_recovered",
                text: "everything that was waiting for the disk has been written".to_owned(),
                hint: None,
            }),
            _ => None,
        }
    }

    /// Stops following the keys; the next check counts as the first.
    pub(crate) fn forget_keys(&mut self) {
        self.keys = None;
    }

    /// Whether the file of keys has to be read, because it was written since the last check.
    pub(crate) fn keys_changed(&self, written: Option<SystemTime>) -> bool {
        self.keys.as_ref().is_none_or(|(seen, _)| *seen != written)
    }

    /// `names`: the owners of the current keys. Keys that are gone are news, except on the first check.
    pub(crate) fn keys(&mut self, written: Option<SystemTime>, names: Vec<String>) -> Vec<News> {
        let before = self.keys.replace((written, names.clone()));
        let gone = before.into_iter().flat_map(|(_, before)| before).filter(|name| !names.contains(name));
        gone.map(|name| News {
            kind: "key_revoked",
            text: format!("the key of {name} was revoked"),
            hint: Some("if that was not you, run mlxctl key list and check who has access to this account"),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_news_when_it_begins_and_when_it_ends() {
        let mut trouble = Trouble::default();
        assert_eq!(trouble.disk(None), None);
        assert_eq!(trouble.disk(Some("no space")).unwrap().text, "no space");
        assert_eq!(trouble.disk(Some("still none")), None);
        assert_eq!(trouble.disk(None).unwrap().kind, "disk_recovered");
        assert_eq!(trouble.disk(None), None);
    }

    #[test]
    fn a_key_that_is_gone_is_news_except_on_the_first_check() {
        let mut trouble = Trouble::default();
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(trouble.keys_changed(None));
        assert_eq!(trouble.keys(at(1), names(&["a", "b"])), []);
        assert!(!trouble.keys_changed(at(1)) && trouble.keys_changed(at(2)) && trouble.keys_changed(None));
        let news = trouble.keys(at(2), names(&["b", "c"]));
        assert_eq!(news.iter().map(|news| &*news.text).collect::<Vec<_>>(), ["the key of a was revoked"]);
        assert_eq!(trouble.keys(None, Vec::new()).len(), 2);
        trouble.forget_keys();
        assert_eq!(trouble.keys(at(3), names(&["x"])), []);
    }
}
