//! A hub on loopback, as far as `huggingface_hub` needs one: a model's listing, its files with ranges, its refusals;
//! and everything that can go wrong between a laptop and the real one.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const REPO: &str = "org/model";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What should go wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The connection ends after this many bytes of a weights file.
    pub cut_after: Option<usize>,
    /// How many more times; after that, files are sent completely.
    pub cuts: usize,
    /// Closes connections without an answer, once all cuts have happened.
    pub away_after_cuts: bool,
    /// Pause between two blocks of 64 KiB.
    pub pause: Duration,
    /// Added to every size in the listing.
    pub claim_more: u64,
    /// Weights are sent with one byte changed.
    pub change_a_byte: bool,
    /// Sent instead of any answer: status, error code, message.
    pub refuse: Option<(u16, &'static str, &'static str)>,
    /// Serves only requests with this bearer token.
    pub token: Option<&'static str>,
    /// Ignores ranges and sends the whole file with status 200.
    pub no_ranges: bool,
    /// Answers everything with a web page, as a network's sign-in page does.
    pub portal: bool,
    /// Answers this many more requests with 429 and a second to wait.
    pub busy: usize,
    /// In the listing: the commit, and the names of the weights' blobs.
    pub commit: Option<&'static str>,
    pub blob: Option<&'static str>,
    /// In the listing: the licence.
    pub license: Option<&'static str>,
    /// Subtracted from the size of weights in the listing.
    pub claim_less: u64,
}

/// A file of the repository.
struct Entry {
    name: String,
    bytes: Vec<u8>,
    /// Large files are named by their SHA-256, small ones by git's own hash.
    large: bool,
    id: String,
}

/// A request for a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub file: String,
    /// Where its range begins.
    pub from: usize,
    /// How many bytes of it were sent.
    pub sent: usize,
}

struct State {
    files: Vec<Entry>,
    faults: Mutex<Faults>,
    asked: Mutex<Vec<Asked>>,
}

/// The hub; its threads end with the test.
pub struct Hub {
    state: Arc<State>,
    port: u16,
}

impl Hub {
    /// Serves these files as [`REPO`].
    pub fn new(files: Vec<(String, Vec<u8>)>) -> Self {
        let entries = files.into_iter().map(|(name, bytes)| {
            let large = name.ends_with(".safetensors") || name.ends_with(".bin");
            let id = if large { sha256(&bytes) } else { git_hash(&bytes) };
            Entry { name, bytes, large, id }
        });
        let state =
            Arc::new(State { files: entries.collect(), faults: Mutex::default(), asked: Mutex::default() });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                // Clients that disconnect are part of the tests.
                std::thread::spawn(move || drop(serve(&state, stream)));
            }
        });
        Self { state, port }
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, faults: Faults) {
        *self.state.faults.lock().unwrap() = faults;
    }

    /// Takes the requests for bytes of a file so far.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.asked.lock().unwrap())
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_hash(bytes: &[u8]) -> String {
    let script = "import hashlib, sys; data = sys.stdin.buffer.read(); \
                  print(hashlib.sha1(b'blob %d\\0' % len(data) + data).hexdigest())";
    let mut child = Command::new(crate::real::python())
        .args(["-I", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}

fn serve(state: &State, mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, target) =
            (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let (mut from, mut token) = (0, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim_end();
            if header.is_empty() {
                break;
            }
            let Some((name, value)) = header.split_once(": ") else { continue };
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    let start = value.trim_start_matches("bytes=").split('-').next();
                    from = start.and_then(|start| start.parse().ok()).unwrap_or(0);
                }
                "authorization" => token = Some(value.trim_start_matches("Bearer ").to_owned()),
                _ => {}
            }
        }
        let faults = state.faults.lock().unwrap().clone();
        if faults.portal {
            answer(
                &mut stream,
                200,
                "Content-Type: text/html\r\n",
                b"<html>accept our terms</html>",
                &method,
            )?;
            continue;
        }
        if faults.busy > 0 {
            state.faults.lock().unwrap().busy -= 1;
            answer(&mut stream, 429, "Retry-After: 1\r\n", b"{}", &method)?;
            continue;
        }
        if faults.away_after_cuts && faults.cuts == 0 {
            return Ok(());
        }
        let refusal = match faults.token {
            Some(wanted) if token.as_deref() != Some(wanted) => {
                Some((401, "RepoNotFound", "Repository Not Found"))
            }
            _ => faults.refuse,
        };
        if let Some((status, code, why)) = refusal {
            let head = format!("X-Error-Code: {code}\r\nX-Error-Message: {why}\r\n");
            answer(&mut stream, status, &head, json!({"error": why}).to_string().as_bytes(), &method)?;
            continue;
        }
        let path = target.split('?').next().unwrap_or_default();
        if path.starts_with(&format!("/api/models/{REPO}")) {
            let listing = listing(state, &faults).to_string();
            answer(&mut stream, 200, "Content-Type: application/json\r\n", listing.as_bytes(), &method)?;
            continue;
        }
        let file = path
            .strip_prefix(&format!("/{REPO}/resolve/"))
            .and_then(|rest| rest.split_once('/'))
            .and_then(|(_, name)| state.files.iter().find(|file| file.name == name));
        let Some(file) = file else {
            let head = "X-Error-Code: EntryNotFound\r\n";
            answer(&mut stream, 404, head, b"no such file", &method)?;
            continue;
        };
        send(state, &faults, file, from, &method, &mut stream)?;
    }
}

fn listing(state: &State, faults: &Faults) -> Value {
    let siblings = state.files.iter().map(|file| {
        let (more, less) = if file.large { (faults.claim_more, faults.claim_less) } else { (0, 0) };
        let size = (file.bytes.len() as u64 + more).saturating_sub(less);
        let id = faults.blob.unwrap_or(&file.id);
        let lfs = file.large.then(|| json!({"sha256": id, "size": size, "pointerSize": 134}));
        let git = if file.large { "0".repeat(40) } else { file.id.clone() };
        json!({"rfilename": file.name, "size": size, "blobId": git, "lfs": lfs})
    });
    json!({"_id": "1", "id": REPO, "modelId": REPO, "sha": faults.commit.unwrap_or(COMMIT), "private": false, "downloads": 0, "likes": 0,
           "tags": ["mlx", "license:apache-2.0"], "cardData": {"license": faults.license.unwrap_or("apache-2.0")},
           "siblings": siblings.collect::<Vec<_>>()})
}

fn answer(stream: &mut TcpStream, status: u16, head: &str, body: &[u8], method: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} -\r\n{head}Content-Length: {}\r\n\r\n", body.len())?;
    if method == "HEAD" { Ok(()) } else { stream.write_all(body) }
}

fn send(
    state: &State,
    faults: &Faults,
    file: &Entry,
    from: usize,
    method: &str,
    stream: &mut TcpStream,
) -> std::io::Result<()> {
    let from = if faults.no_ranges { 0 } else { from };
    let mut bytes = file.bytes.clone();
    if faults.change_a_byte && file.large {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    }
    let all = bytes.len();
    let ranged =
        if from > 0 { format!("Content-Range: bytes {from}-{}/{all}\r\n", all - 1) } else { String::new() };
    write!(
        stream,
        "HTTP/1.1 {} -\r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nAccept-Ranges: bytes\r\n{ranged}Content-Length: {}\r\n\r\n",
        if from > 0 { 206 } else { 200 },
        file.id,
        all - from
    )?;
    if method == "HEAD" {
        return Ok(());
    }
    let end = {
        let mut shared = state.faults.lock().unwrap();
        match shared.cut_after {
            Some(after) if file.large && shared.cuts > 0 => {
                shared.cuts -= 1;
                (from + after).min(all)
            }
            _ => all,
        }
    };
    let index = {
        let mut asked = state.asked.lock().unwrap();
        asked.push(Asked { file: file.name.clone(), from, sent: 0 });
        asked.len() - 1
    };
    for block in bytes[from..end].chunks(64 << 10) {
        stream.write_all(block)?;
        if let Some(asked) = state.asked.lock().unwrap().get_mut(index) {
            asked.sent += block.len();
        }
        std::thread::sleep(faults.pause);
    }
    if end < all {
        stream.shutdown(std::net::Shutdown::Both)?;
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    Ok(())
}
