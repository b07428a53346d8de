//! What a server may lead the client to, and how much it may send: never another server's credentials,
//! an address of the host, or a header without end.

#![allow(clippy::unwrap_used, reason = "a test that fails so says where")]

use http_client::{Credentials, Http, HttpError, Patience, Size};
use platform::server::{Response, Server};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;
use url::Url;

/// A client that tries once.
fn http() -> Http {
    Http::with_patience(Patience {
        read: Duration::from_secs(1),
        retry: Duration::ZERO,
        ..Patience::default()
    })
}

fn get(server: &Server, name: &str) -> Result<String, HttpError> {
    let url: Url = server.url().parse().unwrap();
    let credentials = Credentials::Basic {
        user: "user".into(),
        password: "hunter2".into(),
    };
    let mut body = http().get(&url.join(name).unwrap(), Some(&credentials), Size::Large)?;
    let mut text = String::new();
    body.read_to_string(&mut text)
        .map_err(|error| HttpError::Transport(error.to_string()))?;
    Ok(text)
}

/// A server that redirects each request to `location`.
fn redirecting(location: &str) -> Server {
    let location = location.to_string();
    Server::with_hook("/", move |_| {
        Some(Response::new(302).header("Location", &location))
    })
    .unwrap()
}

#[test]
fn credentials_stay_with_the_server_that_they_are_for() {
    let other = Server::with_hook("/", |_| Some(Response::new(200).body("text"))).unwrap();
    let first = redirecting(&format!("{}/nar", other.url()));
    assert_eq!(get(&first, "nar").unwrap(), "text");
    let authorization = |server: &Server| {
        let requests = server.take_requests();
        requests[0].header("authorization").map(str::to_string)
    };
    assert!(authorization(&first).unwrap().starts_with("Basic "));
    assert_eq!(authorization(&other), None);

    // On the same server they are still right.
    let same = Server::with_hook("/", |request| {
        Some(match request.path.as_str() {
            "/nar" => Response::new(302).header("Location", "elsewhere"),
            _ => Response::new(200).body("text"),
        })
    })
    .unwrap();
    assert_eq!(get(&same, "nar").unwrap(), "text");
    let requests = same.take_requests();
    assert!(
        requests
            .iter()
            .all(|request| request.header("authorization").is_some())
    );
}

#[test]
fn no_redirect_leads_to_the_host_or_to_a_file_or_on_for_ever() {
    for (location, expected) in [
        ("http://169.254.169.254/latest/", "link-local"),
        ("http://[fe80::1]/", "link-local"),
        ("file:///etc/passwd", "no URL for HTTP"),
        ("/again", "too often"),
    ] {
        let server = redirecting(location);
        let error = get(&server, "nar").unwrap_err().to_string();
        assert!(error.contains(expected), "{location}: {error}");
        assert!(server.take_requests().len() <= 11, "{location}");
    }
}

#[test]
fn a_header_has_an_end() {
    for (name, value) in [("X-Long", "x".repeat(70_000)), ("X-Short", "x".into())] {
        let is_long = value.len() > 1;
        let server = Server::with_hook("/", move |_| {
            Some(Response::new(200).header(name, &value).body("text"))
        })
        .unwrap();
        assert_eq!(get(&server, "nar").is_err(), is_long);
    }
}

#[test]
fn a_body_that_broke_off_goes_on_with_its_own_next_byte() {
    const TEXT: &str = "the whole text";
    for has_ranges in [true, false] {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let server = Server::with_hook("/", move |request| {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Some(match request.header("range") {
                _ if number == 0 => Response::new(200).body(&TEXT[..4]).missing(TEXT.len() - 4),
                Some("bytes=4-") if has_ranges => Response::new(206).body(&TEXT[4..]),
                _ => Response::new(200).body(TEXT),
            })
        })
        .unwrap();
        assert_eq!(get(&server, "nar").unwrap(), TEXT);
        assert_eq!(server.take_requests().len(), 2);
    }
}

#[test]
fn a_body_that_trickles_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url: Url = format!("http://{}/nar", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let header = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
        connection.write_all(header).unwrap();
        // It ends when the client does.
        while connection.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let mut body = http().get(&url, None, Size::Large).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(body.read_to_end(&mut Vec::new())));
    let read = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    let error = read.unwrap_err().to_string();
    assert!(error.contains("too slowly"), "{error}");
}
