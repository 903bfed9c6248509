//! Who is let in: by network, by name, by origin, by key.

use mlxctl::internals::gate::{Availability, GateConfig, keys};

use crate::support::door::{Answer, Door, chat};
use crate::support::upstream::{Backend, answer_of, stream};

async fn ask(door: &Door, headers: &str) -> Answer {
    let mut client = door.client().await;
    let body = chat("");
    client
        .send(&format!(
            "POST /v1/chat/completions HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    client.answer().await
}

#[tokio::test]
async fn a_page_whose_domain_was_pointed_here_gets_nothing() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example"] {
        let answer = ask(&door, &format!("Host: {host}\r\n")).await;
        assert_eq!((answer.status, &answer.error()["code"]), (421, &"host_not_allowed".into()), "{host}");
    }
    assert!(backend.received().is_empty());
    for host in ["127.0.0.1", "localhost:1", "tpm-macbook.local:8800"] {
        assert_eq!(ask(&door, &format!("Host: {host}\r\n")).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn only_pages_of_named_origins_get_in_and_only_they_get_cors_headers() {
    let backend = Backend::start(|number, _| if number == 0 { answer_of(1) } else { stream(&["a"]) }).await;
    let door = Door::before(&backend).await;
    for origin in ["https://evil.example", "null", "https://ui.example.evil"] {
        let answer = ask(&door, &format!("Host: localhost\r\nOrigin: {origin}\r\n")).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None), "{origin}");
    }
    assert!(backend.received().is_empty());
    for _ in 0..2 {
        let answer = ask(&door, "Host: localhost\r\nOrigin: https://ui.example\r\n").await;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (200, Some("https://ui.example"))
        );
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    assert_eq!(ask(&door, "Host: localhost\r\n").await.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_browsers_preflight_request_is_answered() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door = Door::before(&backend).await;
    let preflight = async |origin: &str| {
        let mut client = door.client().await;
        let headers = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, x-stainless-os\r\n";
        client.send(&format!("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{headers}\r\n")).await;
        client.answer().await
    };
    let answer = preflight("https://ui.example").await;
    assert_eq!((answer.status, answer.header("access-control-allow-methods")), (204, Some("GET, POST")));
    assert_eq!(answer.header("access-control-allow-headers"), Some("authorization, x-stainless-os"));
    assert_eq!(preflight("https://evil.example").await.status, 403);
}

#[tokio::test]
async fn clients_outside_the_allowed_networks_get_nothing_but_loopback_always_does() {
    let networks = ["192.168.132.0/24".parse().unwrap()];
    let admits = |client: &str| GateConfig::admits(&networks, client.parse().unwrap());
    assert!(admits("192.168.132.7") && admits("127.0.0.1") && admits("::1"));
    assert!(!admits("192.168.133.7") && !admits("10.0.0.1") && !admits("fe80::1"));
    // A second loopback address is as close to another network as a test gets.
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let ready = Availability::Ready(backend.upstream(1));
    let door = Door::open(ready, |config| config.network.allow_from = networks.to_vec()).await;
    assert_eq!(ask(&door, "Host: localhost\r\n").await.status, 200);
}

#[tokio::test]
async fn a_key_opens_until_it_is_revoked_and_is_named_in_the_log() {
    let backend = Backend::start(|_, _| answer_of(1)).await;
    let door =
        Door::open(Availability::Ready(backend.upstream(1)), |config| config.network.require_key = true)
            .await;
    let with =
        async |key: &str| ask(&door, &format!("Host: localhost\r\nAuthorization: Bearer {key}\r\n")).await;
    let none = ask(&door, "Host: localhost\r\n").await;
    assert_eq!((none.status, &none.error()["code"]), (401, &"invalid_api_key".into()));
    assert_eq!(none.header("www-authenticate"), Some("Bearer"));
    let alice = keys::add(&door.config.keys, "alice", keys::May::Ask, 0).unwrap();
    let bob = keys::add(&door.config.keys, "bob", keys::May::Ask, 0).unwrap();
    assert_eq!(
        (with(&alice).await.status, with(&bob).await.status, with("mlx-guess").await.status),
        (200, 200, 401)
    );
    keys::revoke(&door.config.keys, "alice").unwrap();
    assert_eq!((with(&alice).await.status, with(&bob).await.status), (401, 200));
    assert_eq!(door.get("/v1/models").await.status, 401);
    assert_eq!(door.get("/health").await.status, 200, "a balancer has no key");
    let log = door.log(8).await;
    assert_eq!(log.lines().filter(|line| line.contains(" alice ")).count(), 1, "{log}");
    assert_eq!(log.lines().filter(|line| line.contains(" bob ")).count(), 2, "{log}");
    assert!(!log.contains(&alice) && !log.contains(&bob));
}

#[test]
fn keys_are_managed_from_the_command_line_and_shown_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("models.toml");
    std::fs::write(
        &config,
        format!("[paths]\nroot = {:?}\n[network]\nhost = \"127.0.0.1\"\n[[model]]\nname = \"tiny\"\nrepo = \"builtin:tiny\"\nport = 1\n", folder.path()),
    )
    .unwrap();
    let run = |arguments: &[&str]| {
        let output = assert_cmd::Command::cargo_bin("mlxctl")
            .unwrap()
            .arg("--config")
            .arg(&config)
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, key, said) = run(&["key", "add", "alice"]);
    assert_eq!(code, 0, "{said}");
    let key = key.trim();
    assert!(key.starts_with("mlx-") && key.len() == 68, "stdout is the key and nothing else: {key:?}");
    assert!(said.contains("cannot be shown again"), "{said}");
    let (code, list, _) = run(&["key", "list"]);
    assert!(code == 0 && list.contains("alice") && !list.contains(key), "{list}");
    let (code, list, _) = run(&["key", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!((code, &list["keys"][0]["name"]), (0, &"alice".into()));
    assert_eq!(run(&["key", "add", "alice"]).0, 1);
    assert_eq!(run(&["key", "add", "a b"]).0, 2);
    assert_eq!(run(&["key", "revoke", "alice"]).0, 0);
    assert_eq!(run(&["key", "revoke", "alice"]).0, 1);
    assert!(run(&["key", "list"]).1.is_empty());
}
