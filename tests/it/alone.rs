//! A build where nothing but the binary cache can be reached.

use crate::common::Deploy;
use crate::launch::LIMIT;
use platform::process::Launch;
use platform::sandbox::Sandbox;
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

const PORT: &str = "5000";

/// Serves the files of a directory on loopback, and a name server that knows no name and writes down
/// that it was asked, in the network namespace in which it starts the rest of its words.
const SERVE: &str = r#"
import ctypes, fcntl, http.server, os, socket, struct, sys, threading
directory, asked, port = sys.argv[1:4]
up = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(up, 0x8914, struct.pack("16sh14x", b"lo", 1))
class Files(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *words):
        super().__init__(*words, directory=directory)
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Files)
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
def answer():
    while True:
        question, sender = names.recvfrom(512)
        with open(asked, "ab") as file:
            file.write(question[12:] + b"\n")
        names.sendto(question[:2] + b"\x81\x83" + question[4:], sender)
if os.fork() == 0:
    ctypes.CDLL(None).prctl(1, 9)
    threading.Thread(target=answer, daemon=True).start()
    server.serve_forever()
os.execvp(sys.argv[4], sys.argv[4:])
"#;

#[test]
fn a_build_needs_no_host_but_its_binary_cache() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        platform::left_out("a network namespace with a server in it needs root");
        return;
    }
    let directory = TempDir::new().unwrap();
    let (served, asked) = (
        directory.path().join("served"),
        directory.path().join("asked"),
    );
    fs::create_dir(&served).unwrap();
    symlink(&deploy.fixtures.cache, served.join("cache")).unwrap();
    symlink(&deploy.fixtures.nix_archive, served.join("nix.tar.xz")).unwrap();
    fs::write(&asked, "").unwrap();
    let resolv = directory.path().join("resolv.conf");
    fs::write(&resolv, "nameserver 127.0.0.1\n").unwrap();
    let words = ["unshare", "--net", "--", "python3", "-c", SERVE];
    let mut words: Vec<String> = words.map(String::from).into();
    words.extend([&served, &asked].map(|path| path.display().to_string()));
    words.push(PORT.to_string());
    deploy
        .set(
            "NIX_EXTRA_BINARY_CACHE",
            &format!("http://127.0.0.1:{PORT}/cache"),
        )
        .set(
            "NIX_ARCHIVE_URL",
            &format!("http://127.0.0.1:{PORT}/nix.tar.xz"),
        )
        .in_sandbox(move |sandbox| {
            let sandbox = sandbox.started_by(words.clone());
            sandbox.bind_ro(&resolv, "/etc/resolv.conf")
        });
    let image = deploy.built();
    assert_eq!(
        fs::read_to_string(&asked).unwrap(),
        "",
        "names were asked for"
    );

    let launch = Launch::new(&image, &deploy.fixtures.rootfs)
        .env("PORT", "0")
        .sandbox(Sandbox::without_network);
    let mut app = launch.start().unwrap();
    app.wait_for("listening", LIMIT).unwrap();
}
