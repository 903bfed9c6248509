//! Which settings are worth a try, and which won. Pure.

use serde::Serialize;

use crate::registry::ServerOptions;

/// Keys of the registry's `server` table that are tried, with the values that stand in a candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// For people: "kv_bits = 8".
    pub label: String,
    /// What differs from the registry; `None`: the key is left out.
    pub change: Vec<(&'static str, Option<Value>)>,
}

/// A value of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    Number(u32),
    Text(String),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// What to try for a model with these options: as it is first and last, between that one change at a time. `draft`: a small model of
/// the same tokenizer, where one is known. A draft model and quantised KV do not go together, and both end batching.
#[must_use]
pub fn candidates(now: &ServerOptions, draft: Option<&str>) -> Vec<Candidate> {
    let mut all = vec![Candidate { label: "as it is".into(), change: Vec::new() }];
    let mut push = |change: Vec<(&'static str, Option<Value>)>| {
        let words = change.iter().map(|(key, value)| match value {
            Some(value) => format!("{key} = {value}"),
            None => format!("no {key}"),
        });
        all.push(Candidate { label: words.collect::<Vec<_>>().join(", "), change });
    };
    let number = |value| Some(Value::Number(value));
    match (&now.draft_model, draft) {
        (Some(_), _) => push(vec![("draft_model", None), ("num_draft_tokens", None)]),
        (None, Some(draft)) if now.kv_bits.is_none() => {
            for tokens in [2, 4] {
                let draft = Some(Value::Text(draft.to_owned()));
                push(vec![("draft_model", draft), ("num_draft_tokens", number(tokens))]);
            }
        }
        _ => {}
    }
    for value in [4, 8, 16].into_iter().filter(|value| now.decode_concurrency != Some(*value)) {
        push(vec![("decode_concurrency", number(value))]);
    }
    for value in [512, 2048, 4096].into_iter().filter(|value| now.prefill_step_size != Some(*value)) {
        push(vec![("prefill_step_size", number(value))]);
    }
    match now.kv_bits {
        Some(_) => push(vec![("kv_bits", None), ("kv_group_size", None), ("quantized_kv_start", None)]),
        None if now.draft_model.is_none() => push(vec![("kv_bits", number(8))]),
        None => {}
    }
    // What the machine did meanwhile shows in how this one differs from the first.
    all.push(Candidate { label: "as it is, again".into(), change: Vec::new() });
    all
}

/// What came of one candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    pub candidate: Candidate,
    /// Tokens a second of one stream.
    pub one: Option<f64>,
    /// Of all streams, at the number of streams where they are most.
    pub many: Option<f64>,
    pub prefill: Option<f64>,
    /// The most memory it was seen to take, bytes.
    pub peak_bytes: Option<u64>,
    /// Why there are no numbers: it did not fit, or did not start.
    pub problem: Option<String>,
}

/// Less than so much better is no reason to change anything.
const WORTH: f64 = 1.05;

/// The change that is best by `value`, if it beats how things are, as often as that was measured, by five percent.
#[must_use]
pub fn winner(tried: &[Tried], value: impl Fn(&Tried) -> Option<f64>) -> Option<&Tried> {
    let (now, changed): (Vec<_>, Vec<_>) = tried
        .iter()
        .filter_map(|tried| Some((tried, value(tried)?)))
        .partition(|(tried, _)| tried.candidate.change.is_empty());
    let now = now.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let best = changed.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    (best.1 > now * WORTH).then_some(best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(now: &ServerOptions, draft: Option<&str>) -> Vec<String> {
        candidates(now, draft).into_iter().map(|candidate| candidate.label).collect()
    }

    #[test]
    fn what_the_server_would_refuse_is_not_tried_and_what_is_set_is_tried_without() {
        let plain = labels(&ServerOptions::default(), Some("x/small"));
        assert_eq!(plain[0], "as it is");
        assert!(plain.contains(&"draft_model = \"x/small\", num_draft_tokens = 2".to_owned()), "{plain:?}");
        assert!(plain.contains(&"kv_bits = 8".to_owned()), "{plain:?}");
        let drafted = ServerOptions { draft_model: Some("x/d".into()), ..ServerOptions::default() };
        let drafted = labels(&drafted, None);
        assert!(drafted.contains(&"no draft_model, no num_draft_tokens".to_owned()), "{drafted:?}");
        assert!(!drafted.iter().any(|label| label.starts_with("kv_bits")), "{drafted:?}");
        let quantised =
            ServerOptions { kv_bits: Some(4), prefill_step_size: Some(512), ..ServerOptions::default() };
        let quantised = labels(&quantised, Some("x/small"));
        assert!(!quantised.iter().any(|label| label.contains("draft_model")), "{quantised:?}");
        assert!(!quantised.contains(&"prefill_step_size = 512".to_owned()), "{quantised:?}");
    }

    #[test]
    fn a_change_wins_only_where_it_is_worth_one() {
        let tried = |label: &str, one: Option<f64>| Tried {
            candidate: Candidate {
                label: label.into(),
                change: if label == "now" { Vec::new() } else { vec![("kv_bits", None)] },
            },
            one,
            many: None,
            prefill: None,
            peak_bytes: None,
            problem: None,
        };
        let name = |all: &[Tried]| winner(all, |tried| tried.one).map(|found| found.candidate.label.clone());
        let now = tried("now", Some(25.0));
        assert_eq!(name(&[now.clone(), tried("a", Some(26.0)), tried("b", None)]), None);
        let better = [now.clone(), tried("a", Some(39.0)), tried("b", Some(30.0))];
        assert_eq!(name(&better), Some("a".into()));
        let restless = [now, tried("a", Some(39.0)), tried("now", Some(38.0))];
        assert_eq!(name(&restless), None, "how things are was nearly as good the second time");
        assert_eq!(name(&[tried("now", None), tried("a", Some(1.0))]), Some("a".into()));
        assert_eq!(name(&[]), None);
    }
}
