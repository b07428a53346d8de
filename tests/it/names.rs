//! The packaged buildpack resolves names where name servers are as they are in Kubernetes: several search
//! domains, and answers that are missing, late or wrong.
//!
//! The name server has an address of loopback, and the build's own `resolv.conf` names it alone.

use crate::common::{Deploy, strip_ansi};
use platform::dns::{Answer, NameServer, Records};
use std::fs;
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const HOST: &str = "cache.acme.test";

/// Where the binary cache listens.
fn here() -> Answer {
    Answer::Addresses(vec![Ipv4Addr::LOCALHOST])
}

/// A deploy from a binary cache that is found by the name `host`, with the name server.
fn deploy(
    host: &str,
    answers: impl Fn(&str, Records) -> Answer + Send + Sync + 'static,
) -> Option<(Deploy, NameServer)> {
    let mut deploy = Deploy::new("static")?;
    let server = match NameServer::start(answers) {
        Ok(server) => server,
        Err(error) => {
            platform::left_out(&format!("a name server needs port 53: {error}"));
            return None;
        }
    };
    let text = format!(
        "nameserver {}\nsearch a.test b.test c.test\noptions ndots:5 timeout:2\n",
        server.address()
    );
    let path = deploy.fixtures.apps["static"].store_path.clone();
    let url = deploy.cache.url().replace("127.0.0.1", host);
    deploy
        .set("NIX_STORE_PATH", &path)
        .set("NIX_EXTRA_BINARY_CACHE", &url);
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("resolv.conf");
    fs::write(&file, text).unwrap();
    deploy.in_sandbox(move |sandbox| {
        let _ = &directory;
        sandbox.bind_ro(&file, "/etc/resolv.conf")
    });
    Some((deploy, server))
}

/// Addresses of IPv4 for one name, no data of other types for it, and no other names.
fn only(name: &'static str) -> impl Fn(&str, Records) -> Answer {
    move |asked, records| match records {
        _ if asked != name => Answer::NoName,
        Records::A => here(),
        _ => Answer::NoData,
    }
}

#[test]
fn a_name_is_resolved_whatever_else_its_servers_say() {
    type Answers = Box<dyn Fn(&str, Records) -> Answer + Send + Sync>;
    let without_aaaa = |other: Answer| -> Answers {
        Box::new(move |name, records| match records {
            Records::Aaaa if name == HOST => other.clone(),
            _ => only(HOST)(name, records),
        })
    };
    let first_domain = |other: Answer| -> Answers {
        Box::new(move |name, records| match name {
            "cache.a.test" => other.clone(),
            _ => only("cache.b.test")(name, records),
        })
    };
    let hundred = |name: &str, records: Records| match (name, records) {
        (HOST, Records::A) => Answer::Addresses(vec![Ipv4Addr::LOCALHOST; 100]),
        _ => only(HOST)(name, records),
    };
    let cases: [(&str, &str, Answers); 8] = [
        ("plain", HOST, Box::new(only(HOST))),
        (
            "the second search domain",
            "cache",
            Box::new(only("cache.b.test")),
        ),
        (
            "an underscore",
            "cache_1.acme.test",
            Box::new(only("cache_1.acme.test")),
        ),
        ("100 addresses", HOST, Box::new(hundred)),
        ("AAAA says NXDOMAIN", HOST, without_aaaa(Answer::NoName)),
        ("AAAA says SERVFAIL", HOST, without_aaaa(Answer::Failure)),
        (
            "the first domain says SERVFAIL",
            "cache",
            first_domain(Answer::Failure),
        ),
        (
            "the first domain says no data",
            "cache",
            first_domain(Answer::NoData),
        ),
    ];
    for (case, host, answers) in cases {
        let Some((deploy, server)) = deploy(host, answers) else {
            return;
        };
        let outcome = deploy.build();
        let questions = server.questions();
        assert!(outcome.success(), "{case}: {questions:?}\n{}", outcome.log);
        assert!(!questions.is_empty(), "{case}");
    }
}

#[test]
fn a_name_that_cannot_be_resolved_now_is_tried_again() {
    let begun = OnceLock::new();
    let late = move |name: &str, records: Records| {
        // A request is tried for at least 1.5 s.
        if begun.get_or_init(Instant::now).elapsed() < Duration::from_millis(700) {
            return Answer::Failure;
        }
        only(HOST)(name, records)
    };
    let Some((late, _server)) = deploy(HOST, late) else {
        return;
    };
    late.built();

    let Some((never, _server)) = deploy(HOST, |_, _| Answer::Failure) else {
        return;
    };
    let outcome = never.build();
    assert!(!outcome.success());
    let log = strip_ansi(&outcome.log);
    assert!(
        log.contains("the host name cannot be resolved at the moment"),
        "{log}"
    );
}

#[test]
fn a_name_that_does_not_exist_is_not_tried_again() {
    let Some((deploy, server)) = deploy(HOST, |_, _| Answer::NoName) else {
        return;
    };
    let outcome = deploy.build();
    assert!(!outcome.success());
    let log = strip_ansi(&outcome.log);
    assert!(log.contains("there is no host of this name"), "{log}");
    let asked = server.questions();
    let asked = asked
        .iter()
        .filter(|(name, records)| name == HOST && *records == Records::A);
    // A request that is tried again is sent five times.
    assert!(asked.count() < 5, "{:?}", server.questions());
}
