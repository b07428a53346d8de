//! A server that serves few connections at once, and lets others wait, as nix-serve's does with its few
//! workers.

use crate::server::Server;
use anyhow::{Context, Result};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a connection is kept that nobody uses: nix-serve's time.
const IDLE: Duration = Duration::from_secs(1);

/// The URL of a way to `server` for so many connections at once; others wait in the kernel's queue. It
/// lasts as long as the process.
///
/// # Errors
/// When no port can be had.
pub fn way_to(server: &Server, connections: usize) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let upstream = server.address();
    for _ in 0..connections {
        let listener = listener.try_clone().context("sharing a port")?;
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Either side may go away at any time.
                let _ = TcpStream::connect(upstream).and_then(|server| pass_on(&client, &server));
            }
        });
    }
    Ok(url)
}

/// Copies both ways until one side ends, or neither has said anything for a while.
fn pass_on(mut client: &TcpStream, mut server: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(IDLE))?;
    let answering = AtomicBool::new(false);
    let answered = &answering;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut from, mut to) = (server, client);
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                answered.store(true, Ordering::Relaxed);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        });
        let mut buffer = [0; 4096];
        loop {
            match client.read(&mut buffer) {
                Ok(count @ 1..) => server.write_all(&buffer[..count])?,
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && answering.swap(false, Ordering::Relaxed) => {}
                _ => break,
            }
        }
        server.shutdown(Shutdown::Both)
    })
}
