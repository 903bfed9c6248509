use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

use super::*;
use crate::gate::policy::rewrite::apply;

/// Fields and values that pass in them. `null` passes in each.
const GIVEN: &[(&str, &[&str])] = &[
    ("model", &["\"tiny\"", "\"TINY\"", "\"Default_model\""]),
    ("stream", &["true", "false"]),
    ("stream_options", &["{}", "{\"include_usage\":true}", "{\"include_usage\":null}", "{\"a\":[1]}"]),
    ("max_tokens", &["1", "100", "101", "32000", "99999999999999999999999"]),
    ("max_completion_tokens", &["1", "100", "4096"]),
    ("temperature", &["0", "0.70", "1e0"]),
    ("top_k", &["5"]),
    ("stop", &["\"\\u0061\"", "[\"a\", \"b\"]", "[]"]),
    ("logit_bias", &["{\"5\":1.5}"]),
    ("tools", &["[]", "[{\"type\":\"function\"}]"]),
    ("tool_choice", &["\"auto\"", "\"none\"", "\"n\\u006fne\""]),
    ("chat_template_kwargs", &["{\"enable_thinking\":false}"]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("draft_model", &[]),
    ("adapters", &[]),
    ("n", &["1"]),
    ("documents", &["[]"]),
    ("mirostat", &["0"]),
    ("echo", &["false"]),
    ("suffix", &["\"\""]),
];

const INPUTS: &[(&str, &str)] = &[
    (
        "messages",
        "[{\"role\":\"user\",\"content\":null},{\"role\":\"a\",\"content\":\"\\ud83d\\ude00 null,\"}]",
    ),
    ("prompt", "\"a\\\"b\""),
    ("prompt", "[\"a\"]"),
    ("prompt", "[ \"a]\" ] "),
];

/// Fields that the server never reads, and which may therefore be repeated.
const OTHERS: &[(&str, &str)] = &[
    ("_", "5"),
    ("user", "\"model\\\":null\""),
    ("user", "null"),
    ("metadata", "{\"model\":null,\"tools\":[null,{}],\"max_tokens\":1e99}"),
    ("", "[[],{}]"),
];

const BLANKS: &[&str] = &["", "", " ", "\n\t", " \r\n "];

#[derive(Debug, Clone)]
struct Member {
    key: String,
    value: String,
}

fn quoted(key: &str, escaped: &[bool]) -> String {
    let escape = |at: usize| escaped.get(at).copied().unwrap_or_default();
    let text = key
        .bytes()
        .enumerate()
        .map(|(at, byte)| if escape(at) { format!("\\u{byte:04x}") } else { char::from(byte).to_string() });
    format!("\"{}\"", text.collect::<String>())
}

/// The members of a body that passes, in any order, with white space around them.
fn members() -> impl Strategy<Value = (Endpoint, Vec<Member>)> {
    let known = proptest::sample::subsequence(GIVEN, 0..=GIVEN.len()).prop_flat_map(|fields| {
        let count = fields.len();
        (Just(fields), proptest::collection::vec(any::<(bool, Index)>(), count))
    });
    let known = known.prop_map(|(fields, picks)| {
        let value = |values: &[&str], (null, pick): (bool, Index)| {
            let null = null || values.is_empty();
            if null { "null".to_owned() } else { values[pick.index(values.len())].to_owned() }
        };
        let fields = fields.into_iter().zip(picks);
        fields.map(|((name, values), pick)| (name.to_owned(), value(values, pick))).collect::<Vec<_>>()
    });
    let others = proptest::collection::vec(select(OTHERS), 0..3);
    let all = (known, select(INPUTS), others).prop_map(|(mut all, input, others)| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        all.extend(others.iter().chain([&input]).map(owned));
        (if input.0 == "prompt" { Endpoint::Completions } else { Endpoint::Chat }, all)
    });
    let shuffled = all.prop_flat_map(|(endpoint, all)| (Just(endpoint), Just(all).prop_shuffle()));
    let dressed = shuffled.prop_flat_map(|(endpoint, all)| {
        let blank = || select(BLANKS);
        let escapes = proptest::collection::vec(proptest::bool::weighted(0.1), 24);
        let dress = (escapes, blank(), blank(), blank(), blank());
        let count = all.len();
        (Just(endpoint), Just(all), proptest::collection::vec(dress, count))
    });
    dressed.prop_map(|(endpoint, all, dress)| {
        let member = |((key, value), (escapes, a, b, c, d)): ((String, String), (Vec<bool>, _, _, _, _))| {
            Member { key: format!("{a}{}{b}", quoted(&key, &escapes)), value: format!("{c}{value}{d}") }
        };
        (endpoint, all.into_iter().zip(dress).map(member).collect())
    })
}

/// What the server should read instead of `body`. Of members with the same name the last counts, as in Python.
fn meaning(body: &str, default_tokens: u64, most: u64) -> Value {
    let mut body: Value = serde_json::from_str(body).unwrap();
    let fields = body.as_object_mut().unwrap();
    fields.retain(|name, value| !(value.is_null() && FIELDS.iter().any(|(field, _)| field == name)));
    fields.remove("_");
    fields.insert("model".to_owned(), "default_model".into());
    if let Some(Value::Array(list)) = fields.get("prompt") {
        let only = list[0].clone();
        fields.insert("prompt".to_owned(), only);
    }
    if fields.get("stream_options").is_some_and(|options| options["include_usage"].is_null()) {
        fields.remove("stream_options");
    }
    if fields.get("tool_choice").is_some_and(|choice| choice == "none") {
        fields.remove("tools");
    }
    let numbers = ["max_tokens", "max_completion_tokens"];
    for name in numbers {
        if fields.get(name).is_some_and(|number| number.as_f64().unwrap() > most as f64) {
            fields.insert(name.to_owned(), most.into());
        }
    }
    if default_tokens > most && numbers.iter().all(|name| !fields.contains_key(*name)) {
        fields.insert("max_tokens".to_owned(), most.into());
    }
    body
}

proptest! {
    #[test]
    fn what_goes_to_the_server_is_json_with_the_same_meaning(
        (endpoint, members) in members(),
        default_tokens in select(&[50_u32, 200][..]),
    ) {
        let most = 100;
        let accepted = ["tiny".to_owned()];
        let variables = BTreeSet::new();
        let rules = Rules {
            accepted: &accepted,
            max_tokens: Some(most),
            messages: 10,
            context: Some(1000),
            counted: false,
            default_tokens,
            vocabulary: Some(512),
            remote_images: false,
            presets: &[],
            variables: Some(&variables),
        };
        let joined: Vec<_> = members.iter().map(|member| format!("{}:{}", member.key, member.value)).collect();
        let body = format!("{{{}}}", joined.join(","));
        let passed = validate(body.as_bytes(), endpoint, &rules);
        prop_assert!(passed.is_ok(), "{:?}: {}", passed, body);
        let written = apply(body.as_bytes(), &mut passed.unwrap().edits);
        let text = String::from_utf8(written).unwrap();
        let read: Result<Value, _> = serde_json::from_str(&text);
        prop_assert!(read.is_ok(), "{:?}: {}", read, text);
        let mut read = read.unwrap();
        // Not read by the server.
        read.as_object_mut().unwrap().remove("_");
        prop_assert_eq!(read, meaning(&body, default_tokens.into(), most.into()), "{}", body);
    }
}

/// What the server gets for `{"prompt":"a",` and `more`, if `fast` is a preset of the model.
fn with_preset(more: &str, vocabulary: Option<u32>) -> Value {
    let set = crate::registry::Sampling {
        max_tokens: Some(40),
        temperature: Some(0.6),
        top_k: Some(9999),
        ..Default::default()
    };
    let presets = [Preset { name: "fast".to_owned(), set }];
    let accepted = ["tiny", "fast"].map(str::to_owned);
    let variables = BTreeSet::new();
    let rules = Rules {
        accepted: &accepted,
        max_tokens: Some(30),
        messages: 10,
        context: Some(1000),
        counted: true,
        default_tokens: 20,
        vocabulary,
        remote_images: false,
        presets: &presets,
        variables: Some(&variables),
    };
    let body = format!("{{\"prompt\":\"a\",{more}}}");
    let mut accepted = validate(body.as_bytes(), Endpoint::Completions, &rules).unwrap();
    serde_json::from_slice(&apply(body.as_bytes(), &mut accepted.edits)).unwrap()
}

#[test]
fn a_preset_fills_in_what_the_request_leaves_out_within_the_models_bounds() {
    let sent = with_preset(r#""model":"FAST""#, Some(512));
    assert_eq!((&sent["temperature"], &sent["top_k"]), (&0.6.into(), &511.into()), "{sent}");
    assert_eq!(sent["max_tokens"], 30, "limits.max_tokens bounds it: {sent}");
    assert_eq!(with_preset(r#""model":"fast""#, None)["top_k"], TOP_K);
    let sent = with_preset(r#""model":"fast","temperature":0,"top_k":null,"max_completion_tokens":7"#, None);
    assert_eq!((&sent["temperature"], &sent["max_completion_tokens"]), (&0.into(), &7.into()), "{sent}");
    assert!(sent.get("max_tokens").is_none(), "{sent}");
    assert_eq!(sent["top_k"], TOP_K, "null counts as left out: {sent}");
}

#[test]
fn a_request_under_another_name_gets_no_preset() {
    for name in ["\"model\":\"tiny\"", "\"model\":null", "\"user\":\"fast\""] {
        let sent = with_preset(name, Some(512));
        assert!(["temperature", "top_k", "max_tokens"].iter().all(|key| sent.get(*key).is_none()), "{sent}");
    }
}
