use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use super::super::Silent;
use super::*;

const ABC_SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn file() -> HubFile {
    HubFile { repo: "owner/repo".into(), file: "m.gguf".into() }
}

fn hub(dir: &Path, endpoint: String) -> Hub {
    Hub { cache: dir.join("hub"), endpoint: Some(endpoint), token: None, offline: false }
}

/// A hub that answers each request with what `answer` makes of its header lines; returns its endpoint.
fn serve(answer: fn(&[String]) -> Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            reply(stream.unwrap(), answer);
        }
    });
    endpoint
}

fn reply(mut stream: TcpStream, answer: fn(&[String]) -> Vec<u8>) {
    let lines: Vec<String> = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map(|line| line.unwrap().to_ascii_lowercase())
        .take_while(|line| !line.is_empty())
        .collect();
    stream.write_all(&answer(&lines)).unwrap();
}

fn abc(request: &[String], etag: &str) -> Vec<u8> {
    assert!(request[0].starts_with("get /owner/repo/resolve/main/m.gguf "), "{}", request[0]);
    let (range, body) = if request.iter().any(|line| line == "range: bytes=0-0") {
        ("0-0", "a")
    } else {
        ("0-2", "abc")
    };
    format!(
        "HTTP/1.1 206 Partial Content\r\nEtag: \"{etag}\"\r\nX-Repo-Commit: c0ffee\r\n\
         Content-Range: bytes {range}/3\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

fn pull_from(endpoint: String) -> (tempfile::TempDir, Result<PathBuf, PullError>) {
    let dir = tempfile::tempdir().unwrap();
    let result = hub(dir.path(), endpoint).pull(&file(), &Cancel::default(), &mut Silent);
    (dir, result)
}

#[test]
fn a_file_is_downloaded_once() {
    let (dir, path) = pull_from(serve(|request| abc(request, ABC_SHA256)));
    assert_eq!(fs::read(path.as_ref().unwrap()).unwrap(), b"abc");
    let mut cached = hub(dir.path(), "http://127.0.0.1:1".into());
    cached.offline = true;
    assert_eq!(cached.pull(&file(), &Cancel::default(), &mut Silent).unwrap(), path.unwrap());
}

#[test]
fn a_wrong_hash_is_not_kept() {
    let (dir, result) = pull_from(serve(|request| abc(request, &"0".repeat(64))));
    assert!(matches!(result, Err(PullError::WrongHash { found, .. }) if found == ABC_SHA256));
    let cache = Cache::new(dir.path().join("hub"));
    assert_eq!(cache.model("owner/repo".into()).get("m.gguf"), None);
}

#[test]
fn refusals_are_told_apart() {
    let (_dir, missing) = pull_from(serve(|_| status("404 Not Found")));
    assert!(matches!(missing, Err(PullError::HubNotFound { .. })), "{missing:?}");
    let (_dir, denied) = pull_from(serve(|_| status("401 Unauthorized")));
    assert!(matches!(denied, Err(PullError::HubDenied { status: 401, .. })), "{denied:?}");
    let (_dir, broken) = pull_from(serve(|_| status("503 Service Unavailable")));
    assert!(matches!(broken, Err(PullError::HubUnreachable { .. })), "{broken:?}");
}

#[test]
fn an_unreachable_hub_names_the_cause_and_the_file() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_dir, result) = pull_from(format!("http://{closed}"));
    let error = result.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("hf:owner/repo/m.gguf") && message.contains("refused"), "{message}");
    assert!(error.hint().unwrap().contains("FILE.gguf"));
}

#[test]
fn offline_without_the_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = hub(dir.path(), "http://127.0.0.1:1".into());
    hub.offline = true;
    let error = hub.pull(&file(), &Cancel::default(), &mut Silent).unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
}
