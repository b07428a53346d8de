//! How the file server answers.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that fails so says where, and nobody uses what is in it"
)]

use platform::server::{Response, Server};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("nar")).unwrap();
    std::fs::write(directory.path().join("nar/a b.nar"), "0123456789").unwrap();
    directory
}

/// Sends the text of requests, the last of which closes, and returns all that comes back.
fn talk(server: &Server, requests: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(requests.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
}

#[test]
fn files_are_served_on_one_connection_and_recorded() {
    let directory = directory();
    let server = Server::start(directory.path()).unwrap();
    let answer = talk(
        &server,
        &("HEAD /nar/a%20b.nar?x=1 HTTP/1.1\r\nX-Y: z\r\n\r\n\
           PUT /p HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
            .to_owned()
            + &get("/none", "")),
    );
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nAccept-Ranges: bytes\r\n\
         Content-Type: application/x-nix-nar\r\n\r\n\
         HTTP/1.1 405 Status\r\nContent-Length: 19\r\n\r\nmethod not allowed\n\
         HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nnot found\n"
    );
    let requests = server.requests();
    let paths: Vec<_> = requests.iter().map(|r| (&*r.method, &*r.path)).collect();
    assert_eq!(
        paths,
        [("HEAD", "/nar/a b.nar"), ("PUT", "/p"), ("GET", "/none")]
    );
    assert_eq!(
        (&*requests[0].query, requests[0].header("x-y")),
        ("x=1", Some("z"))
    );
    assert_eq!((server.connections(), server.peak()), (1, 1));
    assert_eq!(server.take_requests().len(), 3);
    assert!(server.requests().is_empty());
    assert!(talk(&server, &get("/../etc/passwd", "")).starts_with("HTTP/1.1 400 "));
}

#[test]
fn a_single_range_is_answered() {
    let directory = directory();
    let server = Server::start(directory.path()).unwrap();
    for (range, status, body) in [
        ("bytes=2-4", "206", "234"),
        ("bytes=7-", "206", "789"),
        ("bytes=-2", "206", "89"),
        ("bytes=8-99", "206", "89"),
        ("bytes=10-", "416", ""),
        ("bytes=0-1,3-4", "200", "0123456789"),
    ] {
        let answer = talk(
            &server,
            &get("/nar/a%20b.nar", &format!("Range: {range}\r\n")),
        );
        let (head, got) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!((&head[9..12], got), (status, body), "{range}");
        if status == "206" {
            assert!(head.contains("Content-Range: bytes "), "{head}");
        }
    }
}

#[test]
fn a_hook_answers_instead() {
    let directory = directory();
    let server = Server::with_hook(directory.path(), |request| match request.path.as_str() {
        "/busy" => Some(Response::new(503).header("Retry-After", "1").body("busy")),
        "/cut" => Some(Response::new(200).body("half").missing(4)),
        "/slow" => Some(Response::new(200).delay(Duration::from_millis(300))),
        _ => None,
    })
    .unwrap();
    assert_eq!(
        talk(&server, &get("/busy", "")),
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nRetry-After: 1\r\n\r\nbusy"
    );
    let cut = talk(&server, "GET /cut HTTP/1.1\r\n\r\n");
    assert_eq!(cut, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
    assert!(talk(&server, &get("/nar/a%20b.nar", "")).ends_with("0123456789"));

    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| talk(&server, &get("/slow", "")));
        }
    });
    assert!(
        start.elapsed() < Duration::from_millis(1200),
        "{:?}",
        start.elapsed()
    );
    assert!(server.peak() > 1);
}

#[test]
fn a_dropped_server_closes_its_connections() {
    let directory = directory();
    let server = Server::start(directory.path()).unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .write_all(b"HEAD /nar/a%20b.nar HTTP/1.1\r\n\r\n")
        .unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    drop(server);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
}
