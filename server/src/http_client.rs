//! One request to a server of ours: what commands need of HTTP, and no more.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};
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
