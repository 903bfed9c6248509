//! Nothing that is known to kill or wedge the server gets to it, and what passes is as the client wrote it.

use serde_json::Value;

use crate::support::door::{Door, chat};
use crate::support::upstream::{Backend, answer_of, json};

/// The corpus, one document a line.
pub fn corpus(name: &str) -> Vec<Value> {
    let file = format!("{}/tests/corpus/gate/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Where a document of the corpus goes.
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
        // Whatever was changed, it is still JSON, and none of it selects anything.
        let sent: Value = serde_json::from_slice(&backend.received()[number].body).unwrap();
        assert_eq!(sent["model"], "/models/tiny", "{}", case["name"]);
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
    client.chat_with("Cookie: a\r\nOrigin: https://ui.example\r\n", "").await;
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
        ["tiny", "small", "org\\/tiny-4bit", "t\\u0069ny", "/models/tiny"].iter().enumerate()
    {
        let sent = body(&format!(r#","model" :  "{name}""#));
        assert_eq!(door.post("/v1/chat/completions", &sent).await.status, 200, "{name}");
        let expected = body(r#","model" :  "/models/tiny""#);
        assert_eq!(String::from_utf8(backend.received()[number].body.clone()).unwrap(), expected, "{name}");
    }
    door.post("/chat/completions", &body("")).await;
    let last = backend.received().pop().unwrap();
    assert_eq!(
        String::from_utf8(last.body).unwrap(),
        body("").replacen('{', "{\"model\":\"/models/tiny\",", 1)
    );
    assert!(last.head.starts_with("POST /v1/chat/completions HTTP/1.0\r\n"), "{}", last.head);
}

#[tokio::test]
async fn nothing_of_a_clients_head_gets_to_the_backend() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    let mut client = door.client().await;
    let body = chat("");
    client
        .send(&format!(
            "POST /v1/chat/completions?x=y HTTP/1.1\r\nHost: localhost\r\nX-Mlxctl-Secret: guess\r\nCookie: a=b\r\n\
             Authorization: Bearer key\r\nX-Forwarded-For: 1.2.3.4\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert_eq!(client.answer().await.status, 200);
    let head = backend.received()[0].head.clone();
    let names: Vec<_> = head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
    assert_eq!(names, ["Host", "Content-Type", "Content-Length", "x-mlxctl-secret"], "{head}");
    assert!(head.contains("x-mlxctl-secret: s3cret\r\n"));
}

#[tokio::test]
async fn remote_images_pass_where_the_registry_allows_them_and_data_always() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let with = |url: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}]}}"#
        )
    };
    let ready = || mlxctl::gate::Availability::Ready(backend.upstream(1));
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
    let door =
        Door::open(mlxctl::gate::Availability::Ready(backend.upstream(1)), |config| config.vocabulary = None)
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

#[tokio::test]
async fn a_prompt_that_cannot_fit_the_context_is_refused() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::open(mlxctl::gate::Availability::Ready(backend.upstream(1)), |config| {
        config.context = Some(1000)
    })
    .await;
    let long = "word ".repeat(900);
    let tools =
        format!(r#","tools":[{{"type":"function","function":{{"name":"f","description":"{long}"}}}}]"#);
    // Everything that a template writes counts: tools, every message, parts, the answer that is not asked for.
    for (content, more, fits) in [
        (r#""Hi""#.to_owned(), r#","max_tokens":10"#.to_owned(), true),
        (r#""Hi""#.to_owned(), format!(r#"{tools},"max_tokens":10"#), true),
        (r#""Hi""#.to_owned(), format!(r#"{tools},"max_tokens":100"#), false),
        (r#""Hi""#.to_owned(), tools, false),
        (format!(r#"[{{"type":"text","text":"{long}"}}]"#), r#","max_tokens":90"#.to_owned(), true),
        (format!(r#"[{{"type":"text","text":"{long}"}}]"#), r#","max_tokens":100"#.to_owned(), false),
        // Six bytes as it is written, three as it is meant.
        (format!("\"{}\"", "\\u4f60".repeat(1400)), r#","max_tokens":100"#.to_owned(), true),
    ] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":{content}}}]{more}}}"#);
        let answer = door.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status == 200, fits, "{} {}", &body[..body.len().min(200)], answer.text());
    }
    let many = vec![r#"{"role":"user","content":""}"#; 95].join(",");
    let body = |answer: u32| format!(r#"{{"messages":[{many}],"max_tokens":{answer}}}"#);
    assert_eq!(door.post("/v1/chat/completions", &body(700)).await.status, 200);
    assert_eq!(door.post("/v1/chat/completions", &body(750)).await.status, 400);
    for (words, answer, fits) in [(10, 100, true), (1001, 1, false), (900, 200, false), (10, 1001, false)] {
        let text = "word ".repeat(words);
        let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"max_tokens":{answer}}}"#);
        let answer = door.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status == 200, fits, "{words} {}", answer.text());
        assert!(fits || answer.error()["code"] == "context_length_exceeded");
    }
}
