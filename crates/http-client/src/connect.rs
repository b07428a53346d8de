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
