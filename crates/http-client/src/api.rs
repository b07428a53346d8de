//! Calls to an API.

use crate::attempts::Attempts;
use crate::client::{header_text, retry_after};
use crate::connect::routed;
use crate::steady::Steady;
use crate::{Credentials, Http, HttpError, Size};
use std::io::Read;
use std::time::{Duration, Instant};
use ureq::RequestBuilder;
use ureq::http::header;
use url::Url;

/// An API call, besides its URL.
#[derive(Debug, Clone, Copy)]
pub enum ApiRequest<'a> {
    Get,
    /// A JSON document, and the `Referer` to send with it.
    Post {
        json: &'a str,
        referer: &'a str,
    },
    /// Names and values, as URLs have them in a query.
    Form(&'a str),
}

/// The answer of an API, whatever its status.
#[derive(Debug, Clone)]
pub struct ApiResponse {
    pub status: u16,
    /// The `Location` header as it was sent.
    pub location: Option<String>,
    /// The cookies that it sets: `name=value`, without attributes.
    pub cookies: Vec<String>,
    pub body: Vec<u8>,
    retry_after: Option<Duration>,
}

impl ApiResponse {
    /// The status as an error, if the same request may succeed later.
    fn temporary_error(&self, request: ApiRequest) -> Option<HttpError> {
        let error = HttpError::Status(self.status);
        let is_temporary = match request {
            ApiRequest::Get => error.is_temporary(),
            // Any other error is about the document that was sent.
            ApiRequest::Post { .. } | ApiRequest::Form(_) => matches!(self.status, 429 | 502..=504),
        };
        is_temporary.then_some(error)
    }
}

impl Http {
    /// Calls an API and returns its answer, of at most `limit` bytes. Redirects are not followed.
    /// Temporary failures are retried.
    pub fn call_api(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        request: ApiRequest,
        limit: u64,
    ) -> Result<ApiResponse, HttpError> {
        let mut attempts = Attempts::new(self.patience.retry);
        loop {
            let started = Instant::now();
            let result = self.call_api_once(url, credentials, request, limit);
            let pause = match &result {
                Ok(response) => response.temporary_error(request).and_then(|error| {
                    attempts.pause_after(Some(&error), started.elapsed(), response.retry_after)
                }),
                Err(error) => attempts.pause_after(Some(error), started.elapsed(), None),
            };
            let Some(pause) = pause else {
                return result;
            };
            std::thread::sleep(pause);
        }
    }

    fn call_api_once(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        request: ApiRequest,
        limit: u64,
    ) -> Result<ApiResponse, HttpError> {
        let accepted = match request {
            ApiRequest::Form(_) => "*/*",
            ApiRequest::Get | ApiRequest::Post { .. } => "application/json",
        };
        let mut headers = vec![(header::ACCEPT, accepted.to_string())];
        if let Some(credentials) = credentials {
            headers.push((header::AUTHORIZATION, credentials.authorization()));
            let cookie = credentials.cookie();
            headers.extend(cookie.map(|cookie| (header::COOKIE, cookie.to_string())));
        }
        let patience = self.patience.header(Size::Large, 0);
        let route = self.proxies.route(url);
        let target = route.url(url);
        let sent = match request {
            ApiRequest::Get => {
                let request = with_headers(self.agent.get(target), headers);
                routed(&route, request, patience).call()
            }
            ApiRequest::Post { json, referer } => {
                headers.push((header::CONTENT_TYPE, "application/json".to_string()));
                headers.push((header::REFERER, referer.to_string()));
                let request = with_headers(self.agent.post(target), headers);
                routed(&route, request, patience).send(json)
            }
            ApiRequest::Form(form) => {
                let kind = "application/x-www-form-urlencoded";
                headers.push((header::CONTENT_TYPE, kind.to_string()));
                let request = with_headers(self.agent.post(target), headers);
                routed(&route, request, patience).send(form)
            }
        };
        let response = sent.map_err(|error| HttpError::from(&error))?;
        let cookies = response.headers().get_all(header::SET_COOKIE).into_iter();
        let cookies = cookies
            .filter_map(|cookie| Some(cookie.to_str().ok()?.split(';').next()?.trim().to_string()))
            .collect();
        let mut answer = ApiResponse {
            status: response.status().as_u16(),
            location: header_text(response.headers(), &header::LOCATION),
            cookies,
            body: Vec::new(),
            retry_after: retry_after(response.headers()),
        };
        Steady::new(response, self.patience.read)
            .take(limit + 1)
            .read_to_end(&mut answer.body)
            .map_err(|error| HttpError::Transport(error.to_string()))?;
        if answer.body.len() as u64 > limit {
            let reason = format!("the answer is longer than {limit} bytes");
            return Err(HttpError::Transport(reason));
        }
        Ok(answer)
    }
}

fn with_headers<T>(
    request: RequestBuilder<T>,
    headers: Vec<(header::HeaderName, String)>,
) -> RequestBuilder<T> {
    headers.into_iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    })
}
