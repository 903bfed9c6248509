//! Nothing that is known to kill or wedge the server reaches it, and what passes is as the client wrote it.

use serde_json::Value;

use crate::support::door::{Door, chat};
use crate::support::upstream::{Backend, answer_of, json};

/// The corpus, one document per line.
pub fn corpus(name: &str) -> Vec<Value> {
    let file = format!("{}/tests/corpus/gate/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The path to which a document of the corpus is sent.
pub fn path(case: &Value) -> &'static str {
    if case["path"] == "chat" { "/v1/chat/completions" } else { "/v1/completions" }
}

#[tokio::test]
async fn every_request_of_the_corpus_is_refused_by_name_and_never_reaches_the_server() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    let mut client = door.client().await;
    for case in corpus("refused") {
        client.post(path(&case), case["body"].as_str().unwrap()).await;
        let answer = client.answer().await;
        let other_model = case["param"] == "model" && !case["name"].as_str().unwrap().contains("twice");
        let status = if other_model && case["name"] != "model is a number" { 404 } else { 400 };
        let error = answer.error();
        assert_eq!((answer.status, &error["param"]), (status, &case["param"]), "{}: {error}", case["name"]);
        assert!(backend.received().is_empty(), "{}", case["name"]);
    }
}

#[tokio::test]
async fn every_request_of_the_other_corpus_passes() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    for (number, case) in corpus("passed").iter().enumerate() {
        let answer = door.post(path(case), case["body"].as_str().unwrap()).await;
        assert_eq!(answer.status, 200, "{}: {}", case["name"], answer.text());
        // Whatever was changed, it is still JSON, and none of it selects a model.
        let sent: Value = serde_json::from_slice(&backend.received()[number].body).unwrap();
        assert_eq!(sent["model"], "default_model", "{}", case["name"]);
        for field in ["draft_model", "adapters", "role_mapping"] {
            assert!(sent.get(field).is_none(), "{}: {sent}", case["name"]);
        }
        assert!(sent.as_object().unwrap().values().all(|value| !value.is_null() || sent["_"].is_null()));
    }
}

#[tokio::test]
async fn nothing_of_a_clients_head_reaches_the_backend() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    let mut client = door.client().await;
    let body = chat("");
    client
        .send(&format!(
            "POST /v1/chat/completions?x=y HTTP/1.1\r\nHost: localhost\r\nX-Mlxctl-Secret: guess\r\nCookie: a=b\r\n\
             Origin: https://ui.example\r\nAuthorization: Bearer key\r\nX-Forwarded-For: 1.2.3.4\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert_eq!(client.answer().await.status, 200);
    let length = backend.received()[0].body.len();
    assert_eq!(
        backend.received()[0].head,
        format!(
            "POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nx-mlxctl-secret: s3cret\r\n\r\n"
        )
    );
}

#[tokio::test]
async fn the_models_name_is_the_only_thing_that_changes() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    let odd = r#" , "temperature" : 7.0e-1,"unknown":[1.0,10E+2,0.10,"\u00e9\/é",{"b":1,"a":-0.0}] ,"user":"a\"b" "#;
    let body = |model: &str| {
        format!(r#" {{ "messages":[{{"role":"user","content":"Hi \ud83d\ude00"}}] {odd}{model}}}  "#)
    };
    for (number, name) in
        ["tiny", "Small", "ORG\\/tiny-4bit", "t\\u0069ny", "default_model"].iter().enumerate()
    {
        let sent = body(&format!(r#","model" :  "{name}""#));
        assert_eq!(door.post("/v1/chat/completions", &sent).await.status, 200, "{name}");
        let expected = body(r#","model" :  "default_model""#);
        assert_eq!(String::from_utf8(backend.received()[number].body.clone()).unwrap(), expected, "{name}");
    }
    door.post("/chat/completions", &body("")).await;
    let last = backend.received().pop().unwrap();
    assert_eq!(
        String::from_utf8(last.body).unwrap(),
        body("").replacen('{', "{\"model\":\"default_model\",", 1)
    );
    assert!(last.head.starts_with("POST /v1/chat/completions HTTP/1.0\r\n"), "{}", last.head);
}

#[tokio::test]
async fn remote_images_pass_if_the_registry_allows_them_and_inline_ones_always() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let with = |url: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}]}}"#
        )
    };
    let ready = || mlxctl::internals::gate::Availability::Ready(backend.upstream(1));
    let strict = Door::open(ready(), |_| {}).await;
    let open = Door::open(ready(), |config| config.limits.remote_images = true).await;
    let status = async |door: &Door, url: &str| door.post("/v1/chat/completions", &with(url)).await.status;
    assert_eq!(status(&strict, "https://example.com/a.png").await, 400);
    assert_eq!(status(&strict, "data:image/png;base64,AAAA").await, 200);
    assert_eq!(status(&open, "https://example.com/a.png").await, 200);
    assert_eq!(status(&open, "file:///etc/passwd").await, 400);
}

#[tokio::test]
async fn without_a_known_vocabulary_what_depends_on_it_is_refused() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::open(mlxctl::internals::gate::Availability::Ready(backend.upstream(1)), |config| {
        config.vocabulary = None
    })
    .await;
    assert_eq!(door.chat(r#", "logit_bias": {"1": 1}"#).await.error()["param"], "logit_bias");
    assert_eq!(door.chat(r#", "top_k": 256"#).await.error()["param"], "top_k");
    assert_eq!(door.chat(r#", "top_k": 255"#).await.status, 200);
}

#[tokio::test]
async fn errors_of_the_server_become_openai_errors_with_the_right_status() {
    let cases = [
        (
            "404 Not Found",
            r#"{"error": "Only 'text' content type is supported."}"#,
            400,
            "invalid_request_error",
        ),
        (
            "404 Not Found",
            r#"{"error": "[metal::malloc] Resource limit (499000) exceeded."}"#,
            502,
            "server_error",
        ),
        ("400 Bad Request", r#"{"error": "stream must be of type bool"}"#, 400, "invalid_request_error"),
        ("403 Forbidden", r#"{"error": "not for you"}"#, 502, "server_error"),
        ("500 Internal", "<html>", 502, "server_error"),
    ];
    for (status, body, expected, kind) in cases {
        let backend = Backend::start(move |_, _| json(status, body, false)).await;
        let door = Door::before(&backend).await;
        for more in ["", ", \"stream\": true"] {
            let answer = door.chat(more).await;
            assert_eq!((answer.status, &answer.error()["type"]), (expected, &kind.into()), "{body}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
    }
}

/// What `max_tokens` and similar fields became on the way to the backend.
async fn tokens_sent(door: &Door, backend: &Backend, path: &str, body: &str) -> Result<Value, Value> {
    let before = backend.received().len();
    let answer = door.post(path, body).await;
    if answer.status != 200 {
        assert_eq!(backend.received().len(), before, "{body}");
        return Err(answer.error());
    }
    let sent: Value = serde_json::from_slice(&backend.received().pop().unwrap().body).unwrap();
    Ok(serde_json::json!([sent.get("max_tokens"), sent.get("max_completion_tokens")]))
}

#[tokio::test]
async fn a_requested_length_is_lowered_to_what_the_context_leaves() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::open(mlxctl::internals::gate::Availability::Ready(backend.upstream(1)), |config| {
        config.context = Some(1000);
        config.limits.max_tokens = Some(800);
    })
    .await;
    // Five bytes per token, and two tokens for the message: 4 bytes of role and 996 of text make 202.
    let (text, chat) = ("x".repeat(996), "/v1/chat/completions");
    for (more, sent) in [
        (r#","max_tokens":700"#, serde_json::json!([700, null])),
        (r#","max_tokens":798"#, serde_json::json!([798, null])),
        (r#","max_tokens" : 32000 "#, serde_json::json!([798, null])),
        (r#","max_tokens":100000000000000000000000000"#, serde_json::json!([798, null])),
        (r#","max_tokens":null,"max_completion_tokens":32000"#, serde_json::json!([null, 798])),
        (r#","max_completion_tokens":32000,"max_tokens":5"#, serde_json::json!([5, 798])),
        ("", serde_json::json!([null, null])),
    ] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]{more}}}"#);
        assert_eq!(tokens_sent(&door, &backend, chat, &body).await, Ok(sent), "{more}");
    }
    // The registry's own limit applies as well.
    let short = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":32000}"#;
    assert_eq!(tokens_sent(&door, &backend, chat, short).await, Ok(serde_json::json!([800, null])));
    // The server's default counts as requested.
    for member in ["", r#""max_tokens":null,"#] {
        let long = format!(r#"{{{member}"prompt":"{}"}}"#, "x".repeat(4000));
        let sent = tokens_sent(&door, &backend, "/v1/completions", &long).await;
        assert_eq!(sent, Ok(serde_json::json!([200, null])), "{member}");
    }
    for wrong in ["0", "-1", "1.5", "1e3", "true", "\"5\""] {
        let body = format!(r#"{{"prompt":"Hi","max_tokens":{wrong}}}"#);
        let error = tokens_sent(&door, &backend, "/v1/completions", &body).await.unwrap_err();
        assert_eq!(error["param"], "max_tokens", "{wrong}");
    }
}

#[tokio::test]
async fn a_prompt_that_cannot_fit_the_context_is_refused_by_its_name() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::open(mlxctl::internals::gate::Availability::Ready(backend.upstream(1)), |config| {
        config.context = Some(1000)
    })
    .await;
    let (chat, text) = ("/v1/chat/completions", "/v1/completions");
    let words = |count| "word ".repeat(count);
    let user = |content: &str| format!(r#"{{"messages":[{{"role":"user","content":{content}}}]"#);
    let tool = |count| {
        let described = words(count);
        format!(r#","tools":[{{"type":"function","function":{{"name":"f","description":"{described}"}}}}]"#)
    };
    let many = |count| vec![r#"{"role":"user","content":""}"#; count].join(",");
    // Everything that a template writes counts: tools, every message, parts. The requested length does not.
    for (path, body, param) in [
        (chat, user(&format!("\"{}\"", words(990))) + "}", None),
        (chat, user(&format!("\"{}\"", words(1000))) + "}", Some("messages")),
        (chat, user(&format!("\"{}\"", words(1000))) + r#","max_tokens":1}"#, Some("messages")),
        (chat, user("\"Hi\"") + &tool(970) + "}", None),
        (chat, user("\"Hi\"") + &tool(1000) + "}", Some("messages")),
        (chat, user("\"Hi\"") + &tool(1000) + r#","tool_choice":"none"}"#, None),
        (chat, user(&format!(r#"[{{"type":"text","text":"{}"}}]"#, words(1000))) + "}", Some("messages")),
        // Six bytes as written, three as meant.
        (chat, user(&format!("\"{}\"", "\\u4f60".repeat(1400))) + "}", None),
        (chat, format!(r#"{{"messages":[{}]}}"#, many(100)), None),
        (text, format!(r#"{{"prompt":"{}"}}"#, words(999)), None),
        (text, format!(r#"{{"prompt":"{}"}}"#, words(1000)), Some("prompt")),
        (text, format!(r#"{{"prompt":["{}"]}}"#, words(1000)), Some("prompt")),
    ] {
        let answer = door.post(path, &body).await;
        let shown = &body[..body.len().min(120)];
        let Some(param) = param else {
            assert_eq!(answer.status, 200, "{shown} {}", answer.text());
            continue;
        };
        let error = answer.error();
        assert_eq!(answer.status, 400, "{shown}");
        assert_eq!(
            (&error["param"], &error["code"]),
            (&param.into(), &"context_length_exceeded".into()),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn if_the_backend_counts_only_what_cannot_fit_is_refused_and_no_length_is_lowered() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::open(mlxctl::internals::gate::Availability::Ready(backend.upstream(1)), |config| {
        config.context = Some(1000);
        config.counted = true;
        config.limits.max_tokens = Some(900);
    })
    .await;
    let path = "/v1/completions";
    // Up to 128 bytes may be one token.
    for (bytes, asked, sent) in [(1000, 850, 850), (1000, 32_000, 900), (127_999, 5, 5)] {
        let body = format!(r#"{{"prompt":"{}","max_tokens":{asked}}}"#, "x".repeat(bytes));
        assert_eq!(tokens_sent(&door, &backend, path, &body).await, Ok(serde_json::json!([sent, null])));
    }
    let body = format!(r#"{{"prompt":"{}","max_tokens":5}}"#, "x".repeat(128_000));
    let error = tokens_sent(&door, &backend, path, &body).await.unwrap_err();
    assert_eq!((&error["param"], &error["code"]), (&"prompt".into(), &"context_length_exceeded".into()));
}

#[tokio::test]
async fn a_list_of_one_prompt_is_that_prompt() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    for (prompt, sent) in [(r#"["hi"]"#, r#""hi""#), (r#" [ "a\"\u00e9]" ] "#, r#" "a\"\u00e9]" "#)] {
        let body = |prompt: &str| format!(r#"{{"model":"tiny","prompt":{prompt},"logprobs":null}}"#);
        assert_eq!(door.post("/v1/completions", &body(prompt)).await.status, 200, "{prompt}");
        let expected = body(sent).replace("tiny", "default_model").replace("logprobs", "_");
        assert_eq!(String::from_utf8(backend.received().pop().unwrap().body).unwrap(), expected);
    }
    for (prompt, told) in [
        (r#"["a","b"]"#, "send one request per prompt"),
        (r#"["a",1]"#, "send one request per prompt"),
        ("[[1,2]]", "token numbers"),
        ("[1]", "token numbers"),
        (r#"[["a"]]"#, "token numbers"),
        ("[]", "must not be empty"),
        (r#"[" "]"#, "must not be empty"),
        ("[null]", "one string"),
    ] {
        let error = door.post("/v1/completions", &format!(r#"{{"prompt":{prompt}}}"#)).await.error();
        assert_eq!(error["param"], "prompt", "{prompt}");
        assert!(error["message"].as_str().unwrap().contains(told), "{prompt}: {error}");
    }
}

#[tokio::test]
async fn tools_that_must_not_be_called_are_not_offered() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    let tools = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
    for (more, offered) in [
        (format!(r#", {tools}, "tool_choice": "none""#), false),
        (format!(r#", "tool_choice": "n\u006fne", {tools}"#), false),
        (format!(r#", {tools}, "tool_choice": "auto""#), true),
        (format!(r#", {tools}, "tool_choice": null"#), true),
        (r#", "tool_choice": "none""#.to_owned(), false),
    ] {
        assert_eq!(door.chat(&more).await.status, 200, "{more}");
        let sent: Value = serde_json::from_slice(&backend.received().pop().unwrap().body).unwrap();
        assert_eq!(sent.get("tools").is_some(), offered, "{more}: {sent}");
    }
}

/// Each of them is in the table in docs/security.md and in the corpus.
#[tokio::test]
async fn what_the_server_would_ignore_is_refused_with_what_to_do_instead() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    for (more, param, advice) in [
        (r#", "response_format": {"type": "json_object"}"#, "response_format", "describe the format"),
        (r#", "tool_choice": "required""#, "tool_choice", "send only the tools"),
        (r#", "tool_choice": {"type": "function"}"#, "tool_choice", "send only the tools"),
        (r#", "n": 2"#, "n", "one request per answer"),
        (r#", "best_of": 2"#, "best_of", "one request per answer"),
        (r#", "echo": true"#, "echo", "put it in front"),
        (r#", "suffix": "x""#, "suffix", "fill-in-the-middle"),
        (r#", "functions": []"#, "functions", "'tools'"),
        (r#", "logprobs": true"#, "logprobs", "'top_logprobs' from 1 to 11"),
        (r#", "logprobs": true, "top_logprobs": 2, "stream": true"#, "logprobs", "\"stream\": false"),
        (r#", "top_logprobs": 2, "stream": true"#, "top_logprobs", "\"stream\": false"),
        (r#", "guided_json": {}"#, "guided_json", "describe the format"),
        (r#", "max_new_tokens": 5"#, "max_new_tokens", "'max_tokens'"),
        (r#", "min_tokens": 5"#, "min_tokens", "leave it out"),
        (r#", "stop_token_ids": [1]"#, "stop_token_ids", "'stop'"),
        (r#", "mirostat": 2"#, "mirostat", "leave it out"),
        (r#", "enable_thinking": false"#, "enable_thinking", "'chat_template_kwargs'"),
        (r#", "chat_template": "{{ x }}""#, "chat_template", "the model's own template"),
    ] {
        let answer = door.chat(more).await;
        assert_eq!((answer.status, &answer.error()["param"]), (400, &param.into()), "{more}");
        let message = answer.error()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(advice), "{more}: {message}");
    }
    assert!(backend.received().is_empty());
    // A value that asks for what happens anyway passes.
    let neutral = r#", "n": 1, "min_tokens": 0, "stop_token_ids": [], "typical_p": 1.0, "mirostat": 0, "top_a": 0,
        "ignore_eos": false, "skip_special_tokens": true, "documents": [], "enable_thinking": null, "format": null"#;
    assert_eq!(door.chat(neutral).await.status, 200);
}

#[tokio::test]
async fn variables_that_the_models_template_reads_pass_unless_they_are_dangerous() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let read = ["documents", "chat_template", "bos_token", "tools"].map(str::to_owned);
    // Without a profile it is not known what the template reads; the backend renders the rest as if it were not there.
    for known in [Some(read.into()), None] {
        let door = Door::open(mlxctl::internals::gate::Availability::Ready(backend.upstream(1)), |config| {
            config.variables.clone_from(&known);
        })
        .await;
        for (variable, passes) in [
            ("documents", true),
            ("enable_thinking", true),
            ("unheard_of", known.is_none()),
            ("chat_template", false),
            ("bos_token", false),
            ("tools", false),
            ("return_tensors", false),
        ] {
            let answer = door.chat(&format!(r#", "chat_template_kwargs": {{"{variable}": []}}"#)).await;
            let told = answer.text();
            assert_eq!(answer.status, if passes { 200 } else { 400 }, "{variable}: {told}");
            assert!(passes || told.contains("variables that are: add_vision_id"), "{told}");
            assert!(passes || known.is_none() || told.contains("documents"), "{told}");
        }
    }
}

#[tokio::test]
async fn arguments_of_a_call_that_were_cut_off_are_named_with_their_place() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    let ask = |arguments: &[&str]| {
        let calls: Vec<_> = arguments
            .iter()
            .map(|one| {
                format!(r#"{{"id":"c","type":"function","function":{{"name":"w","arguments":{one}}}}}"#)
            })
            .collect();
        format!(
            r#"{{"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","content":null,"tool_calls":[{}]}}]}}"#,
            calls.join(",")
        )
    };
    for whole in [r#""{\"a\": 1}""#, r#""""#, "null", r#"{"a":1}"#, r#""{}""#, r#""\u007b\u007d""#] {
        let answer = door.post("/v1/chat/completions", &ask(&[whole])).await;
        assert_eq!(answer.status, 200, "{whole} {}", answer.text());
    }
    for cut in
        [r#""{\"city\": \"Par""#, r#""{\"a\":1}}""#, r#"" ""#, r#""{'a': 1}""#, r#""{\"a\":\"\\ud800\"}""#]
    {
        let error = door.post("/v1/chat/completions", &ask(&[r#""{}""#, cut])).await.error();
        assert_eq!(error["param"], "messages[1].tool_calls[1].function.arguments", "{cut}: {error}");
    }
}
