//! How connections are made: directly, through a proxy, and with TLS.

use crate::patience::BodyTimeout;
use crate::proxy::Route;
use std::time::Duration;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    TcpConnector, Transport,
};

/// The chain of connectors of a client whose bodies are waited for `read` at most.
pub(crate) fn connector(read: Duration) -> impl Connector {
    ().chain(ConnectProxyConnector::default())
        .chain(TcpConnector::default())
        .chain(SharedTls(RustlsConnector::default()))
        .chain(AbsoluteForm)
        .chain(BodyTimeout(read))
}

/// TLS with one configuration for all connections, and so with certificates that are parsed once and
/// sessions that are resumed. The HTTP library makes a new one for each connection of a request that
/// has settings of its own, which here are never those of TLS.
struct SharedTls(RustlsConnector);

impl std::fmt::Debug for SharedTls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SharedTls")
    }
}

impl<In: Transport> Connector<In> for SharedTls {
    type Out = <RustlsConnector as Connector<In>>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: false,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.0.connect(&details, chained)
    }
}

/// Sends requests to a proxy with the whole URL in the first line (RFC 9112, 3.2.2).
///
/// The HTTP library only writes paths, so [`Route::Plain`] has the URL as the path, and the slash
/// before it is left out here.
#[derive(Debug)]
struct AbsoluteForm;

impl<In: Transport> Connector<In> for AbsoluteForm {
    type Out = Absolute<In>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(Absolute))
    }
}

#[derive(Debug)]
struct Absolute<T>(T);

impl<T: Transport> Transport for Absolute<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let output = self.0.buffers().output();
        let start = ["GET /http://", "POST /http://"];
        let start = start
            .iter()
            .find(|start| output.starts_with(start.as_bytes()));
        let slash = start.and_then(|start| start.find('/'));
        match slash {
            Some(slash) if amount > slash => {
                output.copy_within(slash + 1..amount, slash);
                self.0.transmit_output(amount - 1, timeout)
            }
            _ => self.0.transmit_output(amount, timeout),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// Sends a request as `route` says.
pub(crate) fn routed<T>(
    route: &Route,
    request: ureq::RequestBuilder<T>,
    patience: Duration,
) -> ureq::RequestBuilder<T> {
    let request = match route {
        Route::Plain {
            host,
            authorization,
            ..
        } => {
            let request = request.header("Host", host);
            match authorization {
                Some(authorization) => request.header("Proxy-Authorization", authorization),
                None => request,
            }
        }
        Route::Direct | Route::Tunnel(_) => request,
    };
    let config = request.config().timeout_recv_response(Some(patience));
    match route {
        Route::Tunnel(proxy) => config.proxy(Some(proxy.clone())).build(),
        Route::Direct | Route::Plain { .. } => config.build(),
    }
}

#[cfg(test)]
mod tests {
    use crate::proxy::Proxies;
    use crate::{Http, Patience, Size};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{HandshakeKind, ServerConfig, ServerConnection, Stream};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use ureq::tls::{Certificate, RootCerts};

    type Handshakes = Arc<Mutex<Vec<HandshakeKind>>>;

    /// A server with TLS that answers one request on each connection. Returns its port, and its handshakes
    /// as they are made.
    fn server(config: ServerConfig) -> (u16, Handshakes) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let handshakes = Handshakes::default();
        let (made, config) = (Arc::clone(&handshakes), Arc::new(config));
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                answer(connection, Arc::clone(&config), &made);
            }
        });
        (port, handshakes)
    }

    fn answer(mut connection: TcpStream, config: Arc<ServerConfig>, made: &Handshakes) {
        let mut tls = ServerConnection::new(config).unwrap();
        let mut stream = Stream::new(&mut tls, &mut connection);
        let lines = BufReader::new(&mut stream).lines().map_while(Result::ok);
        lines.take_while(|line| !line.is_empty()).for_each(drop);
        made.lock().unwrap().extend(stream.conn.handshake_kind());
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ntext";
        stream.write_all(answer).unwrap();
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }

    #[test]
    fn connections_resume_the_session_of_the_first() {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(authority, key).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(["127.0.0.1".to_string()]).unwrap();
        let own = own.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![own.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let (port, handshakes) = server(config);

        let trusted = Certificate::from_der(authority.der()).to_owned();
        let trusted = RootCerts::new_with_certs(&[trusted]);
        let http = Http::assemble(Patience::default(), trusted, Proxies::default());
        let url = format!("https://127.0.0.1:{port}/x").parse().unwrap();
        for _ in 0..4 {
            let mut text = String::new();
            let mut body = http.get(&url, None, Size::Small).unwrap();
            body.read_to_string(&mut text).unwrap();
            assert_eq!(text, "text");
        }
        let [first, later @ ..] = &handshakes.lock().unwrap()[..] else {
            panic!("no handshake")
        };
        assert_eq!(*first, HandshakeKind::Full);
        assert_eq!(later, [HandshakeKind::Resumed; 3]);
    }
}
