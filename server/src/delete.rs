//! `icecore delete`: asks a running server to delete, or what that would delete.

use std::io::Write;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::http_client::Client;

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Series that are meant, as in a query: 'up{job="x"}'. May be given several times.
    #[arg(long = "match", value_name = "SELECTOR")]
    matches: Vec<String>,

    /// All series.
    #[arg(long, conflicts_with = "matches", required_unless_present = "matches")]
    all: bool,

    /// From here on, as RFC 3339 or in seconds since 1970; without it from the first sample.
    #[arg(long, value_name = "TIME")]
    start: Option<String>,

    /// Up to here and including it; without it to the last sample.
    #[arg(long, value_name = "TIME")]
    end: Option<String>,

    /// Say what would be deleted and delete nothing.
    #[arg(long)]
    dry_run: bool,

    /// Have the space freed as soon as possible: within minutes and not within hours.
    #[arg(long, conflicts_with = "dry_run")]
    free: bool,

    /// The server, which was started with --web.enable-admin-api.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9494")]
    url: String,
}

pub fn run(args: &DeleteArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.url)?;
    let answer = client.ask("POST", &path(args))?;
    if args.free {
        // Of a server of ours nothing but 204 comes back, which is no data.
        client.order("POST", "/api/v1/admin/tsdb/clean_tombstones")?;
    }
    writeln!(std::io::stdout(), "{}", text(args.dry_run, &answer)?)?;
    Ok(())
}

fn path(args: &DeleteArgs) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    args.matches.iter().for_each(|one| {
        query.append_pair("match[]", one);
    });
    for (name, value) in [("start", &args.start), ("end", &args.end)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    if args.all {
        query.append_pair("all", "true");
    }
    query.append_pair(if args.dry_run { "dry_run" } else { "receipt" }, "true");
    format!("/api/v1/admin/tsdb/delete_series?{}", query.finish())
}

fn text(dry_run: bool, answer: &Value) -> anyhow::Result<String> {
    let number = |name: &str| {
        answer[name].as_u64().with_context(|| format!("the server's answer has no {name}"))
    };
    let (series, samples) = (number("series")?, number("samples")?);
    let about = match answer["isExact"].as_bool() {
        Some(true) => "",
        Some(false) => "about ",
        None => bail!("the server's answer has no isExact"),
    };
    let (blocks, bytes) = (number("blocks")?, number("blockBytes")?);
    let what = format!("{about}{samples} samples of {series} series");
    let held = match blocks {
        0 => "none of them in a block".to_owned(),
        _ => format!("some of them in {blocks} blocks of {bytes} bytes"),
    };
    Ok(match (dry_run, answer["id"].as_u64()) {
        (true, _) => format!("would delete {what}, {held}"),
        (false, Some(0)) => "nothing to delete".to_owned(),
        (false, Some(id)) => format!(
            "deleted {what}, {held}; delete {id} in /api/v1/status/deletes says when these are rewritten"
        ),
        (false, None) => bail!("the server's answer has no id"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_asked_for_is_in_the_path() {
        let args = DeleteArgs {
            matches: vec![r#"up{job="a b"}"#.into(), "x".into()],
            all: false,
            start: Some("2024-01-01T00:00:00+01:00".into()),
            end: None,
            dry_run: true,
            free: false,
            url: String::new(),
        };
        assert_eq!(
            path(&args),
            "/api/v1/admin/tsdb/delete_series?match%5B%5D=up%7Bjob%3D%22a+b%22%7D&match%5B%5D=x\
             &start=2024-01-01T00%3A00%3A00%2B01%3A00&dry_run=true"
        );
    }

    #[test]
    fn answers_are_told_in_words() {
        let mut answer =
            json!({"series": 2, "samples": 7, "isExact": true, "blocks": 0, "blockBytes": 0});
        let would = "would delete 7 samples of 2 series, none of them in a block";
        assert_eq!(text(true, &answer).unwrap(), would);
        assert!(text(false, &answer).is_err(), "there is no id");
        answer["id"] = json!(0);
        assert_eq!(text(false, &answer).unwrap(), "nothing to delete");
        assert!(text(false, &json!({})).unwrap_err().to_string().contains("no series"));
    }
}
