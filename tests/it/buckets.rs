//! S3 buckets as binary caches, with keys of every origin; and what a bucket says where it refuses one.
//!
//! The server checks signatures by itself, after AWS's description of Signature Version 4 in a query. Its
//! statuses and words are AWS's, as versitygw has them as well: see `docs/platforms.md`.

use crate::common::fixtures;
use binary_cache::{Answer, Caches};
use closure::plan::Previous;
use http_client::Http;
use nix_hydra_buildpack::config::Config;
use platform::fixtures::Fixtures;
use platform::server::{Request, Response, Server};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

const REGION: &str = "eu-west-1";

/// The access key of a user.
const OWN: Key = Key("AKIAOWN", "s3cret", None);

/// The one that is given for a token.
const TEMPORARY: Key = Key("ASIATEMP", "sh0rt/l+ved=", Some("t0ken/+="));

const IDENTITY: &str = "eyJhbGciOi.eyJpc3MiOi.c2ln";
const ROLE: &str = "arn:aws:iam::123456789012:role/reader";

/// An access key's id and secret, and its session token.
struct Key(&'static str, &'static str, Option<&'static str>);

/// A private bucket `acme` with the fixtures' cache, and the token service for it.
struct Store {
    server: Server,
    files: TempDir,
}

impl Store {
    fn start(fixtures: &Fixtures) -> Self {
        let files = TempDir::new().unwrap();
        symlink(&fixtures.cache, files.path().join("acme")).unwrap();
        let server = Server::with_hook(files.path(), |request| match request.method.as_str() {
            "POST" => Some(token_service(request)),
            _ => refusal(request),
        });
        Self {
            server: server.unwrap(),
            files,
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let file = self.files.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    /// What the bucket answers to a build with these settings: nothing where the whole closure is found.
    fn answer(
        &self,
        fixtures: &Fixtures,
        parameters: &str,
        settings: &[(&str, &str)],
    ) -> Option<Answer> {
        self.answer_of("acme", fixtures, parameters, settings)
    }

    fn answer_of(
        &self,
        bucket: &str,
        fixtures: &Fixtures,
        parameters: &str,
        settings: &[(&str, &str)],
    ) -> Option<Answer> {
        let address = self.server.address();
        let url = format!("s3://{bucket}?endpoint={address}&scheme=http{parameters}");
        let root = &fixtures.apps["static"].store_path;
        let common = [
            ("NIX_EXTRA_BINARY_CACHE", url.as_str()),
            ("NIX_DEFAULT_BINARY_CACHE", ""),
            ("NIX_TRUSTED_PUBLIC_KEYS", &fixtures.public_key),
            ("NIX_STORE_PATH", root),
        ];
        let get = |name: &str| {
            let mut all = common.iter().chain(settings);
            let setting = all.find(|(other, _)| *other == name);
            setting.map(|(_, value)| (*value).to_string())
        };
        let config = Config::read(get, Path::new("")).unwrap();
        let http = Http::new();
        let caches = Caches::open(&config.caches, config.trust, &http, &hydra::sign_in);
        let root = nix_derivation::StorePath::from_absolute_path(root.as_bytes()).unwrap();
        let misses = crate::common::plan(&caches, &[root], &Previous::default()).err()?;
        Some(misses[0].answers[0].answer.clone())
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{message}</Message></Error>"
    );
    let response = Response::new(status).header("Content-Type", "application/xml");
    response.body(document)
}

/// Why the bucket does not answer a request; None if it does.
fn refusal(request: &Request) -> Option<Response> {
    let value = |name: &str| {
        let mut pairs = request
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(other, _)| *other == name)?;
        let decoded = percent_encoding::percent_decode_str(value)
            .decode_utf8()
            .unwrap();
        Some(decoded.into_owned())
    };
    if !request.path.starts_with("/acme/") {
        return Some(error(404, "NoSuchBucket", ""));
    }
    let Some(credential) = value("X-Amz-Credential") else {
        return Some(error(403, "AccessDenied", ""));
    };
    let (id, scope) = credential.split_once('/').unwrap();
    let keys = [OWN, TEMPORARY];
    let Some(Key(_, secret, token)) = keys.iter().find(|Key(own, ..)| *own == id) else {
        return Some(error(403, "InvalidAccessKeyId", ""));
    };
    if value("X-Amz-Security-Token").as_deref() != *token {
        return Some(error(400, "ExpiredToken", ""));
    }
    if scope.split('/').nth(1) != Some(REGION) {
        let wrong = format!("the region &#34;x&#34; is wrong; expecting &#34;{REGION}&#34;");
        return Some(error(400, "AuthorizationQueryParametersError", &wrong));
    }
    let (date, signature) = (
        value("X-Amz-Date").unwrap(),
        value("X-Amz-Signature").unwrap(),
    );
    if signature != signature_of(request, scope, &date, secret) {
        return Some(error(403, "SignatureDoesNotMatch", ""));
    }
    None
}

/// Source: "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)".
fn signature_of(request: &Request, scope: &str, date: &str, secret: &str) -> String {
    let mut query: Vec<&str> = request.query.split('&').collect();
    query.retain(|pair| !pair.starts_with("X-Amz-Signature="));
    query.sort_unstable();
    let canonical = format!(
        "GET\n{}\n{}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
        request.path,
        query.join("&"),
        request.header("host").unwrap(),
    );
    let hash = hex::encode(Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
    let start = format!("AWS4{secret}").into_bytes();
    let key = scope.split('/').fold(start, |key, part| hmac(&key, part));
    hex::encode(hmac(&key, &text))
}

/// HMAC with SHA-256 (RFC 2104), of keys of up to 64 bytes.
fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(own, key)| *own ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text);
    let outer = Sha256::new().chain_update(pad(0x5c));
    outer.chain_update(inner.finalize()).finalize().to_vec()
}

/// `AssumeRoleWithWebIdentity`, as AWS describes it.
fn token_service(request: &Request) -> Response {
    let form = String::from_utf8(request.body.clone()).unwrap();
    let role = ROLE.replace(':', "%3A").replace('/', "%2F");
    let expected = format!(
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={role}&\
         RoleSessionName=nix-hydra-buildpack&WebIdentityToken={IDENTITY}"
    );
    if form != expected {
        let document = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <Error>\n    \
                        <Type>Sender</Type>\n    <Code>InvalidIdentityToken</Code>\n    \
                        <Message>Incorrect token</Message>\n  </Error>\n</ErrorResponse>";
        return Response::new(400).body(document);
    }
    let Key(id, secret, token) = TEMPORARY;
    Response::new(200).body(format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><SessionToken>{}</SessionToken>\
         <SecretAccessKey>{secret}</SecretAccessKey><Expiration>2030-01-01T00:00:00Z</Expiration>\
         <AccessKeyId>{id}</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>",
        token.unwrap()
    ))
}

#[test]
fn a_private_bucket_is_read_with_a_key_from_anywhere() {
    let Some(fixtures) = fixtures() else { return };
    let store = Store::start(&fixtures);
    let Key(id, secret, _) = OWN;
    let file = store.file(
        "credentials",
        &format!("[ci]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"),
    );
    let token = store.file("identity", &format!("{IDENTITY}\n"));
    let own = format!(
        "s3://acme?endpoint={}&scheme=http&region={REGION}",
        store.server.address()
    );
    for (name, text) in [
        ("type", "nix-binary-cache"),
        ("url", &own),
        ("access-key-id", id),
        ("secret-access-key", secret),
    ] {
        store.file(&format!("bindings/acme/{name}"), text);
    }
    let bindings = store.files.path().join("bindings").display().to_string();
    let Key(temporary_id, temporary_secret, session) = TEMPORARY;
    let service = store.server.url();
    let region = format!("&region={REGION}");
    let profile = format!("{region}&profile=ci");
    for (name, parameters, settings) in [
        (
            "environment",
            &region,
            &[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)][..],
        ),
        (
            "session",
            &region,
            &[
                ("AWS_ACCESS_KEY_ID", temporary_id),
                ("AWS_SECRET_ACCESS_KEY", temporary_secret),
                ("AWS_SESSION_TOKEN", session.unwrap()),
            ],
        ),
        (
            "profile",
            &profile,
            &[("AWS_SHARED_CREDENTIALS_FILE", &file)],
        ),
        ("binding", &region, &[("SERVICE_BINDING_ROOT", &bindings)]),
        (
            "web identity",
            &region,
            &[
                ("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
                ("AWS_ROLE_ARN", ROLE),
                ("AWS_ENDPOINT_URL_STS", &service),
            ],
        ),
    ] {
        assert_eq!(
            store.answer(&fixtures, parameters, settings),
            None,
            "{name}"
        );
    }
}

#[test]
fn what_a_bucket_refuses_is_told_with_its_reason_and_where_the_key_is_from() {
    let Some(fixtures) = fixtures() else { return };
    let store = Store::start(&fixtures);
    let Key(id, secret, _) = OWN;
    let token = store.file("identity", "another");
    let service = store.server.url();
    let region = format!("&region={REGION}");
    let sent = "the credentials of AWS_ACCESS_KEY_ID were sent";
    let key = |id, secret| [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)];
    let expired = [
        &key(TEMPORARY.0, TEMPORARY.1)[..],
        &[("AWS_SESSION_TOKEN", "old")],
    ]
    .concat();
    let refused_token = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_ENDPOINT_URL_STS", &service),
    ];
    for (settings, reason) in [
        (
            &[][..],
            "HTTP status 403 Forbidden; no credentials for it were found".to_string(),
        ),
        (
            &key(id, "wrong"),
            format!("HTTP status 403 Forbidden (`SignatureDoesNotMatch`); {sent}"),
        ),
        (
            &key("AKIAGONE", secret),
            format!("HTTP status 403 Forbidden (`InvalidAccessKeyId`); {sent}"),
        ),
        (
            &expired,
            format!(
                "HTTP status 400 Bad Request (`ExpiredToken`: the session has ended; get a new key and token); {sent}"
            ),
        ),
        (
            &refused_token,
            format!(
                "the token service {service}/ refuses the token: HTTP status 400 Bad Request, \
                 `InvalidIdentityToken`"
            ),
        ),
    ] {
        let answer = store.answer(&fixtures, &region, settings);
        assert_eq!(answer, Some(Answer::Refused(reason)));
    }
    let own = key(id, secret);
    let elsewhere = store.answer(&fixtures, "&region=eu-north-1", &own);
    let reason = "its bucket is in the region `eu-west-1`: name it with `?region=eu-west-1`";
    assert_eq!(elsewhere, Some(Answer::Failed(reason.to_string())));
    let gone = store.answer_of("gone", &fixtures, &region, &own);
    let reason = "HTTP status 404 Not Found (`NoSuchBucket`)";
    assert_eq!(gone, Some(Answer::Failed(reason.to_string())));
}
