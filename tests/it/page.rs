//! The page: who may read it, who may press its buttons, and what it forbids a browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use mlxctl::internals::gate::{Availability, keys};
use serde_json::Value;

use crate::support::door::Door;
use crate::support::upstream::{Backend, answer_of};
use crate::support::{Entry, Instance, PATIENCE, copy_program, free_port};

/// A header as if a proxy had forwarded the request: it does not count as coming from this machine.
const ELSEWHERE: &str = "X-Forwarded-For: 192.168.132.40\r\n";

/// A program of that name that does nothing.
fn program(folder: &Path, name: &str) -> Child {
    let path = folder.join(name);
    copy_program(Path::new("/bin/sleep"), &path);
    Command::new(&path).arg("120").spawn().unwrap()
}

/// A response with its head.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// The page of an instance.
struct House {
    instance: Instance,
    port: u16,
}

impl House {
    fn new(models: Vec<Entry>) -> Self {
        Self::with(models, "reserve = []")
    }

    fn with(mut models: Vec<Entry>, memory: &str) -> Self {
        let port = free_port();
        let last = models.pop().unwrap().with(&format!("[page]\naddress = \"127.0.0.1:{port}\""));
        models.push(last);
        let instance = Instance::fake(models).memory(memory).serve();
        let house = Self { instance, port };
        house.connect();
        house
    }

    fn one() -> Self {
        Self::new(vec![Entry::new("a", "manual")])
    }

    fn connect(&self) -> TcpStream {
        let began = Instant::now();
        loop {
            match TcpStream::connect(("127.0.0.1", self.port)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(_) => assert!(began.elapsed() < PATIENCE, "nothing listens"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `headers`: lines; `Host` is added unless they name one.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.connect();
        let host =
            if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.host()) };
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        // A body that is too long is not read to its end.
        let _ = stream.write_all(body.as_bytes());
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn origin(&self) -> String {
        format!("Origin: http://{}\r\n", self.host())
    }

    fn key(&self, name: &str, may: &str) -> String {
        self.instance.expect(0, &["key", "add", name, "--may", may]).trim().to_owned()
    }

    fn try_key(&self, key: &str) -> Answer {
        let headers = format!("{ELSEWHERE}{}X-Mlxctl-Token: login\r\n", self.origin());
        self.ask("POST", "/login", &headers, &format!("{{\"key\":\"{key}\"}}"))
    }

    /// The header lines that identify a session, and its token.
    fn sign_in(&self, key: &str) -> (String, String) {
        let answer = self.try_key(key);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap();
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        (format!("{ELSEWHERE}Cookie: {cookie}\r\n"), token)
    }

    fn press(&self, path: &str, session: &str, token: &str) -> Answer {
        self.ask("POST", path, &format!("{session}{}X-Mlxctl-Token: {token}\r\n", self.origin()), "{}")
    }

    /// The stream, read line by line.
    fn watch(&self, path: &str, headers: &str) -> Watch {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.host()).unwrap();
        Watch(BufReader::new(stream))
    }
}

struct Watch(BufReader<TcpStream>);

impl Watch {
    /// The document of the next event of this name that satisfies `wanted`; `None`: the stream has ended.
    fn next(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let began = Instant::now();
        let mut event = String::new();
        loop {
            assert!(began.elapsed() < PATIENCE, "no {name}");
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(found) = line.strip_prefix("event: ") {
                event = found.trim().to_owned();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                let document = serde_json::from_str(data).unwrap();
                if event == name && wanted(&document) {
                    return Some(document);
                }
            }
        }
    }
}

#[test]
fn every_answer_forbids_a_browser_what_the_page_does_not_need() {
    let house = House::one();
    for (path, status) in
        [("/", 200), ("/page.css", 200), ("/page.js", 200), ("/session", 200), ("/none", 404)]
    {
        let answer = house.ask("GET", path, "", "");
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(
            answer.header("content-security-policy"),
            Some(
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                 frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
            )
        );
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let page = house.ask("GET", "/", "", "").body;
    assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" on"), "{page}");
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.contains("<script type=\"module\" src=\"page.js\"></script>"));
    let files = ["/page.js", "/parts.js", "/chart.js", "/memory.js", "/rows.js"];
    let script: String = files.map(|file| house.ask("GET", file, "", "").body).concat();
    assert!(script.contains("textContent"));
    for word in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "localStorage",
        "https://",
    ] {
        assert!(!script.contains(word), "{word}");
    }
}

#[test]
fn from_this_machine_it_is_read_without_a_key_and_from_elsewhere_with_any() {
    let house = House::one();
    let session = house.ask("GET", "/session", "", "").json();
    assert_eq!(session, serde_json::json!({ "key": null, "control": false, "token": null }));
    for path in ["/session", "/stream", "/stream?log=a"] {
        assert_eq!(house.ask("GET", path, ELSEWHERE, "").status, 401, "{path}");
        assert_eq!(house.ask("GET", path, "Via: 1.1 proxy\r\n", "").status, 401, "{path}");
        let made_up = format!("{ELSEWHERE}Cookie: mlxctl-{}={}\r\n", house.port, "0".repeat(64));
        assert_eq!(house.ask("GET", path, &made_up, "").status, 401, "{path}");
    }
    let (session, _) = house.sign_in(&house.key("gateway", "ask"));
    let answer = house.ask("GET", "/session", &session, "").json();
    assert_eq!((&answer["key"], &answer["control"]), (&"gateway".into(), &false.into()));
    let state = house.watch("/stream", &session).next("state", |_| true).unwrap();
    assert_eq!(state["models"][0]["name"], "a");
}

#[test]
fn a_session_is_a_cookie_that_no_script_reads_and_that_ends_with_its_key() {
    let house = House::one();
    let key = house.key("phone", "control");
    let answer = house.try_key(&key);
    let cookie = answer.header("set-cookie").unwrap();
    let (value, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Max-Age=43200; Path=/; HttpOnly; SameSite=Strict");
    let secret = value.strip_prefix(&format!("mlxctl-{}=", house.port)).unwrap();
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    assert!(!answer.body.contains(secret) && !answer.body.contains(&key));
    let (session, token) = house.sign_in(&key);
    let mut watch = house.watch("/stream", &session);
    watch.next("state", |_| true).unwrap();
    house.instance.expect(0, &["key", "revoke", "phone"]);
    assert!(watch.next("state", |state| state.is_null()).is_none(), "the stream ends");
    assert_eq!(house.ask("GET", "/session", &session, "").status, 401);
    assert_eq!(house.press("/models/a/start", &session, &token).status, 401);
    // Signing out ends one as well.
    let (session, token) = house.sign_in(&house.key("other", "ask"));
    assert_eq!(house.press("/logout", &session, &token).status, 200);
    assert_eq!(house.ask("GET", "/session", &session, "").status, 401);
}

#[test]
fn buttons_need_a_key_that_may_control_and_do_what_a_person_does() {
    let house = House::one();
    let (reader, of_reader) = house.sign_in(&house.key("gateway", "ask"));
    let (session, token) = house.sign_in(&house.key("phone", "control"));
    assert_eq!(house.press("/models/a/start", &reader, &of_reader).status, 403);
    assert_eq!(house.press("/models/a/start", "", "login").status, 403, "from this machine as well");
    assert_eq!(house.press("/models/a/start", ELSEWHERE, "login").status, 401);
    assert_eq!(house.instance.model("a")["state"], "stopped");
    for path in
        ["/models/a/restart", "/models/a/trim", "/models/a/forget", "/reload", "/v1/reload", "/handover"]
    {
        assert_eq!(house.press(path, &session, &token).status, 404, "{path}");
    }
    assert_eq!(house.press("/models/none/start", &session, &token).status, 404);
    let started = house.press("/models/a/start", &session, &token);
    assert_eq!((started.status, &started.json()["changed"]), (200, &true.into()), "{}", started.body);
    house.instance.wait_state("a", "ready");
    assert!(house.press("/models/a/stop", &session, &token).status < 300);
    house.instance.wait_state("a", "stopped");
    let events = house.instance.expect(0, &["events", "--json"]);
    for verb in ["start", "stop"] {
        assert!(events.contains(&format!("\"{verb} by page, key \\\"phone\\\"\"")), "{events}");
    }
}

#[test]
fn a_key_says_what_it_may() {
    let instance = Instance::fake(vec![Entry::new("a", "manual")]);
    for (name, more) in [("desk", &[][..]), ("phone", &["--may", "control"])] {
        instance.expect(0, &[&["key", "add", name], more].concat());
    }
    instance.expect(2, &["key", "add", "x", "--may", "everything"]);
    let list = instance.expect(0, &["key", "list"]);
    let lines: Vec<&str> =
        list.lines().map(|line| line.split("  created ").next().unwrap().trim_end()).collect();
    assert_eq!(lines, ["desk   may ask", "phone  may control"]);
    let keys: Value = serde_json::from_str(&instance.expect(0, &["key", "list", "--json"])).unwrap();
    assert_eq!((&keys["keys"][0]["may"], &keys["keys"][1]["may"]), (&"ask".into(), &"control".into()));
}

#[test]
fn a_button_never_overrides_a_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let mut hog = program(folder.path(), "mlxctl-hog");
    let reserve = "reserve = [{ name = \"all\", size = \"900TB\", while_running = [\"mlxctl-hog\"] }]";
    let house = House::with(vec![Entry::new("a", "manual")], reserve);
    let (session, token) = house.sign_in(&house.key("phone", "control"));
    let headers = format!("{session}{}X-Mlxctl-Token: {token}\r\n", house.origin());
    let answer = house.ask("POST", "/models/a/start?force=true", &headers, "{\"force\":true}");
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.json()["message"].as_str().unwrap().starts_with("cannot start a"), "{}", answer.body);
    assert_eq!(house.instance.model("a")["state"], "stopped");
    hog.kill().unwrap();
    hog.wait().unwrap();
}

#[test]
fn another_site_can_neither_press_nor_read() {
    let house = House::one();
    let key = house.key("phone", "control");
    let (session, token) = house.sign_in(&key);
    let (_, other) = house.sign_in(&key);
    let own = house.origin();
    let press =
        |headers: &str| house.ask("POST", "/models/a/start", &format!("{session}{headers}"), "{}").status;
    let with_token = format!("X-Mlxctl-Token: {token}\r\n");
    for headers in [
        own.clone(),
        with_token.clone(),
        format!("{own}X-Mlxctl-Token: {other}\r\n"),
        format!("{own}X-Mlxctl-Token: login\r\n"),
        format!("Origin: http://evil.example\r\n{with_token}"),
        format!("Origin: null\r\n{with_token}"),
        format!("Origin: http://127.0.0.1:{}\r\n{with_token}", house.port - 1),
        format!("{own}{own}{with_token}"),
        format!("{own}{with_token}Sec-Fetch-Site: same-site\r\n"),
        format!("{own}{with_token}Sec-Fetch-Site: cross-site\r\n"),
    ] {
        assert_eq!(press(&headers), 403, "{headers}");
    }
    assert_eq!(house.instance.model("a")["state"], "stopped");
    // From this machine, a page of another site could read without a key if a browser allowed it.
    for path in ["/session", "/stream"] {
        assert_eq!(house.ask("GET", path, "Sec-Fetch-Site: cross-site\r\n", "").status, 403, "{path}");
    }
    let body = format!("{{\"key\":\"{key}\"}}");
    for headers in [own.clone(), "X-Mlxctl-Token: login\r\n".to_owned()] {
        assert_eq!(house.ask("POST", "/login", &headers, &body).status, 403, "{headers}");
    }
    assert_eq!(press(&format!("{own}{with_token}Sec-Fetch-Site: same-origin\r\n")), 200);
}

#[test]
fn a_foreign_host_name_gets_nothing() {
    let house = House::one();
    for host in ["evil.example", "127.0.0.1.evil.example"] {
        for (method, path) in [("GET", "/"), ("GET", "/session"), ("GET", "/stream"), ("POST", "/login")] {
            let headers = format!("Host: {host}\r\nOrigin: http://{host}\r\nX-Mlxctl-Token: login\r\n");
            assert_eq!(house.ask(method, path, &headers, "").status, 421, "{host} {path}");
        }
    }
    assert_eq!(house.ask("GET", "/session", "Host: localhost\r\n", "").status, 200);
}

#[test]
fn wrong_keys_make_their_address_wait() {
    let house = House::one();
    let key = house.key("phone", "control");
    for _ in 0..4 {
        assert_eq!(house.try_key("mlx-wrong").status, 401);
    }
    let refused = house.try_key(&key);
    assert_eq!((refused.status, refused.header("set-cookie")), (429, None), "{}", refused.body);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    std::thread::sleep(Duration::from_secs(wait));
    assert_eq!(house.try_key(&key).status, 200);
}

#[test]
fn heads_bodies_and_silent_connections_are_bounded() {
    let house = House::one();
    let long = format!("X-Long: {}\r\n", "x".repeat(64 * 1024));
    assert_eq!(house.ask("GET", "/session", &long, "").status, 431);
    let headers = format!("{}X-Mlxctl-Token: login\r\n", house.origin());
    let body = format!("{{\"key\":\"{}\"}}", "x".repeat(8 * 1024));
    assert_eq!(house.ask("POST", "/login", &headers, &body).status, 413);
    assert_eq!(house.ask("POST", "/login", &headers, "{\"key\":\"a\",\"more\":1}").status, 400);
    let _silent: Vec<_> = (0..80).map(|_| house.connect()).collect();
    assert_eq!(house.ask("GET", "/session", "", "").status, 200);
}

#[test]
fn a_watcher_receives_what_happens_and_reads_no_files_but_logs_of_models() {
    let house = House::new(vec![Entry::new("a", "always"), Entry::new("b", "manual")]);
    for log in ["none", "..%2Fr%2Frun%2Fa", "..%2f..%2fmodels", "a.access", "", "mlxctl"] {
        assert_eq!(house.ask("GET", &format!("/stream?log={log}"), "", "").status, 404, "{log}");
    }
    house.instance.wait_state("a", "ready");
    let mut watch = house.watch("/stream?log=a", "");
    let past = watch.next("events", |_| true).unwrap();
    assert!(past.as_array().unwrap().iter().any(|event| event["kind"] == "ready"), "{past}");
    let state = watch.next("state", |_| true).unwrap();
    assert_eq!(
        (&state["models"][0]["state"], &state["models"][1]["state"]),
        (&"ready".into(), &"stopped".into())
    );
    assert!(!state.to_string().contains(house.instance.root().join("run").to_str().unwrap()), "{state}");
    watch.next("log", |text| text.as_str().is_some_and(|text| !text.is_empty())).unwrap();
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":12,"stream":true}"#;
    assert_eq!(crate::support::http(house.instance.gate("a"), "POST", "/v1/chat/completions", body).0, 200);
    let hour = watch.next("hour", |hour| hour[0]["points"][0]["first_ms"].is_number()).unwrap();
    assert_eq!(hour[0]["model"], "a");
    let requests = watch.next("requests", |_| true).unwrap();
    assert_eq!((&requests[0]["model"], &requests[0]["outcome"]), (&"a".into(), &"ok".into()));
    house.instance.expect(0, &["start", "b"]);
    watch.next("event", |event| event["model"] == "b" && event["kind"] == "ready").unwrap();
    watch.next("state", |state| state["models"][1]["state"] == "ready").unwrap();
}

#[test]
fn a_reload_moves_the_page_and_ends_what_was_connected_to_it() {
    let mut house = House::one();
    let mut watch = house.watch("/stream", "");
    watch.next("state", |_| true).unwrap();
    let before = house.port;
    house.port = free_port();
    let moved = Entry::new("a", "manual").with(&format!("[page]\naddress = \"127.0.0.1:{}\"", house.port));
    house.instance.models = vec![moved];
    house.instance.write_registry();
    let said = house.instance.expect(0, &["reload"]);
    assert!(said.contains("[page]"), "{said}");
    assert_eq!(house.ask("GET", "/session", "", "").status, 200);
    assert!(watch.next("state", |state| state.is_null()).is_none());
    assert!(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], before))).is_err());
}

#[tokio::test]
async fn a_key_that_may_control_opens_no_gate() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door =
        Door::open(Availability::Ready(backend.upstream(1)), |config| config.network.require_key = true)
            .await;
    let ask = keys::add(&door.config.keys, "gateway", keys::May::Ask, 0).unwrap();
    let control = keys::add(&door.config.keys, "phone", keys::May::Control, 0).unwrap();
    for (key, status) in [(ask, 200), (control, 401)] {
        let mut client = door.client().await;
        client
            .send(&format!(
                "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer().await.status, status);
    }
}
