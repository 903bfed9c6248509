//! A fake of the supervisor's control socket that answers what a test wants and records the requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use mlxctl::internals::api::paths;

/// An instance: a folder with a registry of two models.
pub struct Instance {
    pub folder: tempfile::TempDir,
}

impl Instance {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = format!(
            r#"
[paths]
root = "{root}"
[network]
host = "127.0.0.1"
[memory]
reserve = [{{ name = "macOS + apps", size = "1GB" }}]
[[model]]
name = "32b"
repo = "mlx-community/DeepSeek-R1-Distill-Qwen-32B-4bit"
port = 8800
start = "always"
size = "20GB"
aliases = ["reasoning"]
[[model]]
name = "70b"
repo = "mlx-community/Qwen2.5-72B-Instruct-4bit"
port = 8801
start = "manual"
size = "40GB"
"#,
            root = folder.path().display()
        );
        std::fs::write(folder.path().join("models.toml"), registry).unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        Self { folder }
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("models.toml")
    }

    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// `mlxctl` on this registry, without anything from the caller's environment that changes what it prints.
    pub fn mlxctl(&self) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::cargo_bin("mlxctl").unwrap();
        self.settings(|name, value| {
            command.env(name, value);
        });
        command.timeout(std::time::Duration::from_secs(60));
        command
    }

    /// The same for a test that holds the pipes itself.
    pub fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("mlxctl"));
        self.settings(|name, value| {
            command.env(name, value);
        });
        command
    }

    fn settings(&self, mut set: impl FnMut(&str, &std::ffi::OsStr)) {
        set("MLXCTL_CONFIG", self.config().as_os_str());
        set("HOME", self.folder.path().as_os_str());
        set("XDG_CACHE_HOME", self.folder.path().join("cache").as_os_str());
        set("LC_ALL", "C.UTF-8".as_ref());
    }
}

/// A recorded request: the request line without its version, and the body.
pub type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// Answers each request with what `answer` writes for "GET /v1/status".
pub fn serve(instance: &Instance, answer: impl Fn(&str, &mut UnixStream) + Send + 'static) -> Asked {
    let listener = UnixListener::bind(paths::socket_path(&instance.run())).unwrap();
    let asked = Asked::default();
    let seen = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            reader.read_line(&mut line).unwrap();
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header).unwrap() <= 2 {
                    break;
                }
                if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let request = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
            seen.lock().unwrap().push((request.clone(), String::from_utf8(body).unwrap()));
            answer(&request, &mut stream);
        }
    });
    asked
}

/// A complete response with its length.
pub fn json(stream: &mut UnixStream, status: u16, body: &str) {
    // The client may have disconnected, as it may at any time.
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\nx-mlxctl-schema: 1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// Lines, each in a chunk of its own.
pub fn lines(stream: &mut UnixStream, lines: &[String]) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nx-mlxctl-schema: 1\r\ntransfer-encoding: chunked\r\n\r\n");
    for line in lines {
        let _ = write!(stream, "{:x}\r\n{line}\n\r\n", line.len() + 1);
    }
    let _ = write!(stream, "0\r\n\r\n");
}
