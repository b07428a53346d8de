//! Serves a store of NARs to Nix over HTTP, on loopback, and brings what it does not have yet.
//!
//! Nix asks the store that it evaluates in whether it has a source before it goes to the source's URL,
//! also where it may write nothing. So whatever the binary caches have is found, whichever fetcher asks,
//! and fetched by this project's own client. Protocol: Nix's `http-binary-cache-store.cc`.

use crate::supply::Supply;
use closure::parallel::lock;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bytes of a request's line and headers at most.
const MAX_HEAD: u64 = 64 * 1024;

/// Where a store is served.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    socket: SocketAddr,
    /// The first part of each path, which no other user of this machine knows.
    secret: String,
}

impl Address {
    pub(crate) fn url(&self) -> String {
        format!("http://{}/{}", self.socket, self.secret)
    }

    /// The address without its port, as `no_proxy` takes it.
    pub(crate) fn host(&self) -> String {
        self.socket.ip().to_string()
    }
}

/// After a connection that could not be accepted, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(1);

/// What each connection needs.
struct Served<'a> {
    supply: &'a Supply,
    address: Address,
    /// The hash parts of the paths that Nix took.
    taken: Mutex<BTreeSet<String>>,
}

#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    content_length: u64,
    expects_continue: bool,
}

enum Reply {
    Status(&'static str),
    File(File, u64),
}

/// Serves the store of `supply` while `work` runs, which is given the address. Returns its result, and the
/// hash parts of the paths that were asked for and are there.
pub(crate) fn serve<T>(
    supply: &Supply,
    work: impl FnOnce(&Address) -> T,
) -> io::Result<(T, BTreeSet<String>)> {
    // A host of its own, so that leaving it out of a proxy leaves out nothing else on loopback.
    let listener = TcpListener::bind((Ipv4Addr::new(127, 87, 78, 82), 0))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let socket = listener.local_addr()?;
    let served = Served {
        supply,
        address: Address {
            socket,
            secret: secret()?,
        },
        taken: Mutex::default(),
    };
    let open: Mutex<Vec<TcpStream>> = Mutex::default();
    let ended = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                // A connection that was given up before it was accepted says nothing of the next one.
                let Ok(stream) = stream else {
                    std::thread::sleep(PAUSE);
                    continue;
                };
                if let Ok(other) = stream.try_clone() {
                    lock(&open).push(other);
                }
                let served = &served;
                // A connection that breaks is Nix's to make again.
                scope.spawn(move || drop(served.connection(&stream)));
            }
        });
        let result = work(&served.address);
        ended.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        drop(TcpStream::connect(socket));
        for stream in lock(&open).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        result
    });
    let taken = served
        .taken
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok((result, taken))
}

fn secret() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}

impl Served<'_> {
    /// Answers the requests of one connection until it ends.
    fn connection(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader)? {
            if request.expects_continue {
                (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let mut body = (&mut reader).take(request.content_length);
            let reply = self.answer(&request, &mut body)?;
            io::copy(&mut body, &mut io::sink())?;
            reply.write(stream, request.method == "HEAD")?;
        }
        Ok(())
    }

    fn answer(&self, request: &Request, body: &mut dyn Read) -> io::Result<Reply> {
        let secret = self.address.secret.as_str();
        let name = request.path.strip_prefix('/').and_then(|path| {
            let (first, name) = path.split_once('/')?;
            (first == secret).then_some(name)
        });
        let Some((name, file)) = name.and_then(|name| Some((name, self.file(name)?))) else {
            return Ok(Reply::Status("404 Not Found"));
        };
        if request.method == "PUT" {
            return self.put(name, &file, body);
        }
        let is_there = match name.strip_suffix(".narinfo") {
            Some(hash_part) => self.supply.bring(hash_part),
            None => file.exists() || self.supply.bring_nar(name.trim_start_matches("nar/")),
        };
        if !is_there {
            return Ok(Reply::Status("404 Not Found"));
        }
        if let Some(hash_part) = name.strip_suffix(".narinfo") {
            lock(&self.taken).insert(hash_part.to_string());
        }
        let opened = File::open(&file).and_then(|file| Ok((file.metadata()?.len(), file)));
        Ok(match opened {
            Ok((size, file)) => Reply::File(file, size),
            Err(_) => Reply::Status("404 Not Found"),
        })
    }

    /// Takes what Nix adds to its store: what it has fetched by a URL.
    fn put(&self, name: &str, file: &Path, body: &mut dyn Read) -> io::Result<Reply> {
        let partial = file.with_extension("put");
        io::copy(body, &mut File::create(&partial)?)?;
        fs::rename(&partial, file)?;
        if name.starts_with("nar/") {
            // Without its listing Nix reads the whole NAR, which is slower and no error.
            let _ = self.supply.store().list_file(file);
        }
        Ok(Reply::Status("201 Created"))
    }

    /// The file of a binary cache with this name, if it is one that Nix evaluates with.
    fn file(&self, name: &str) -> Option<PathBuf> {
        let is_hash = |hash: &str| hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let known = name == "nix-cache-info"
            || name.strip_suffix(".narinfo").is_some_and(is_hash)
            || name
                .strip_prefix("nar/")
                .and_then(|name| name.strip_suffix(".nar"))
                .is_some_and(is_hash);
        known.then(|| self.supply.store().directory().join(name))
    }
}

impl Request {
    /// Reads a request up to its body. None where the connection ended.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = reader.take(MAX_HEAD);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_ascii_whitespace().map(str::to_string);
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut request = Self {
            method,
            path,
            content_length: 0,
            expects_continue: false,
        };
        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim();
            if line.is_empty() {
                return Ok(Some(request));
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                let length = value.trim().parse();
                request.content_length = length.map_err(|_| io::ErrorKind::InvalidData)?;
            }
            request.expects_continue |= name.eq_ignore_ascii_case("expect");
        }
    }
}

impl Reply {
    fn write(self, mut stream: &TcpStream, head_only: bool) -> io::Result<()> {
        match self {
            Self::Status(status) => {
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
            }
            Self::File(mut file, size) => {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
                if !head_only {
                    io::copy(&mut file, &mut stream)?;
                }
                Ok(())
            }
        }
    }
}
