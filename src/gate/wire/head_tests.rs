use super::*;

fn read(text: &str) -> Result<Option<Head>, Refusal> {
    Head::parse(text.as_bytes())
}

#[test]
fn a_plain_request_is_understood() {
    let text = "POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nAuthorization:  Bearer k \r\n\r\n{}";
    let head = read(text).unwrap().unwrap();
    assert_eq!(&text[head.path.clone()], "/v1/chat/completions");
    assert_eq!(&text[head.authorization.clone().unwrap()], "Bearer k");
    assert_eq!((head.method, head.framing, head.keep_alive), (Method::Post, Framing::Length(2), true));
    assert_eq!(head.length, text.len() - 2);
}

#[test]
fn a_wait_preference_is_found_among_others_and_an_invalid_one_is_ignored() {
    let wait = |lines: &str| {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        read(&text).unwrap().unwrap().wait.map(|wait| wait.as_secs())
    };
    assert_eq!(wait("Prefer: wait=30"), Some(30));
    assert_eq!(wait("prefer: respond-async, Wait = \"7\"; x=y"), Some(7));
    assert_eq!(wait("Prefer: return=minimal\r\nPrefer: wait=5\r\nPrefer: wait=9"), Some(5));
    for none in ["Prefer: wait", "Prefer: wait=", "Prefer: wait=-1", "Prefer: wait=soon", "Prefer: waits=3"] {
        assert_eq!(wait(none), None, "{none}");
    }
}

#[test]
fn a_target_with_a_host_replaces_the_host_header() {
    for (target, host, path) in [
        ("http://b:8800/v1/models?x", "b:8800", "/v1/models"),
        ("HTTPS://[::1]/health#x", "[::1]", "/health"),
        ("http://b", "b", ""),
        ("http://b?/health", "b", ""),
        ("/v1/models/http://b", "a", "/v1/models/http://b"),
        ("//v1/models", "a", "//v1/models"),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = read(&text).unwrap().unwrap();
        assert_eq!((&text[head.host.unwrap()], &text[head.path]), (host, path), "{target}");
    }
}

#[test]
fn empty_lines_before_a_request_are_ignored() {
    let text = "\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\nrest";
    for end in 0..text.len() - 4 {
        assert_eq!(read(&text[..end]), Ok(None), "{end}");
    }
    let head = read(text).unwrap().unwrap();
    assert_eq!((&text[head.path], &text[head.length..]), ("/health", "rest"));
}

#[test]
fn an_incomplete_head_is_not_an_error_at_any_byte() {
    let text = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(read(&text[..end]), Ok(None), "{end}");
    }
    assert!(read(text).unwrap().is_some());
}

#[test]
fn request_smuggling_is_refused() {
    let cases = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999",
        "Content-Length:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "X: a\r\n Transfer-Encoding: chunked",
        "X: a\nTransfer-Encoding: chunked",
        "X: a\rTransfer-Encoding: chunked",
        "X: a\u{0}b",
        "Host: b",
        "Origin: a\r\nOrigin: b",
        "Authorization: a\r\nAuthorization: b",
        "Content-Encoding: gzip",
    ];
    for case in cases {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{case}\r\n\r\n");
        assert!(read(&text).is_err(), "{case:?}");
    }
    for text in [
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\n\r\n",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
    ] {
        assert!(read(text).is_err(), "{text:?}");
    }
}

#[test]
fn an_endless_head_is_refused_at_the_size_limit() {
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(HEAD_BYTES));
    assert_eq!(read(&text).unwrap_err().status, 431);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(HEADERS));
    assert_eq!(read(&many).unwrap_err().status, 431);
}
