//! One request to a server of ours: what commands need of HTTP, and no more. [`Client`] is for short
//! answers and waits long for them; [`exchange_json`] takes answers of any length.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A snapshot writes the whole head first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Bounds what an answer can make us hold; ours are a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Host and port.
    authority: String,
}

impl Client {
    /// `url` is `http://host:port`, perhaps with a slash behind it.
    pub(crate) fn new(url: &str) -> anyhow::Result<Client> {
        let rest = url.strip_prefix("http://");
        let authority = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        match authority.filter(|a| a.contains(':') && !a.contains(['/', '?', '#', '@'])) {
            Some(authority) => Ok(Client { authority: authority.to_owned() }),
            None => bail!("--url={url}: want http://host:port, for example http://127.0.0.1:9494"),
        }
    }

    /// `data` of the answer to a request without a body.
    pub(crate) fn ask(&self, method: &str, path: &str) -> anyhow::Result<Value> {
        let what = || format!("{method} http://{}{path}", self.authority);
        let (status, body) = self.exchange(method, path).with_context(what)?;
        let mut answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match (status, answer["status"].as_str()) {
            (200, Some("success")) => Ok(answer["data"].take()),
            _ => {
                let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
                let error = answer["error"].as_str().map_or(text, str::to_owned);
                bail!("{}: status {status}: {error}", what())
            }
        }
    }

    /// A request that is answered by 204 alone.
    pub(crate) fn order(&self, method: &str, path: &str) -> anyhow::Result<()> {
        match self.exchange(method, path)? {
            (204, _) => Ok(()),
            (status, body) => {
                let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
                bail!("{method} http://{}{path}: status {status}: {text}", self.authority)
            }
        }
    }

    fn exchange(&self, method: &str, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        let stream = TcpStream::connect(&self.authority).context("cannot connect")?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.authority
        );
        (&stream).write_all(head.as_bytes())?;
        let mut reader = BufReader::new(stream.take(ANSWER_BYTES_MAX));
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not an answer of HTTP: {line:?}"))?;
        let mut is_chunked = false;
        while line.trim_end() != "" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                bail!("the answer ends in its head");
            }
            let header = line.to_ascii_lowercase();
            is_chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
        }
        if is_chunked {
            bail!("the answer is longer than that of an Icecore server");
        }
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        Ok((status, body))
    }
}

/// `data` of the answer to a request, of the type that it has; an error of the server in its words.
pub(crate) fn exchange_json<T: DeserializeOwned>(
    url: &str,
    method: &str,
    path: &str,
    body: String,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(exchange(url, method, path, body));
    answer.with_context(|| format!("--url={url}"))
}

async fn exchange<T: DeserializeOwned>(
    url: &str,
    method: &str,
    path: &str,
    body: String,
) -> anyhow::Result<T> {
    let uri: Uri = url.parse().context("not a URL")?;
    let authority = uri.authority().context("want http://host:port")?;
    if uri.scheme_str() != Some("http") {
        bail!("want http://host:port");
    }
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let stream = tokio::net::TcpStream::connect(address).await.context("cannot connect")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = format!("{}{path}", uri.path().trim_end_matches('/'));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", authority.as_str())
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await.context("no answer")?;
    let status = response.status();
    let bytes = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
    let mut answer: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("answer {status} is not JSON"))?;
    match answer["error"].as_str() {
        Some(error) => bail!("{error}"),
        None if !status.is_success() => bail!("{status}"),
        None => serde_json::from_value(answer["data"].take())
            .context("the answer is not that of this version of Icecore"),
    }
}
