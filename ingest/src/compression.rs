//! Bounded decompression: the one way by which any endpoint unpacks a body.
//!
//! No length that a body declares is believed before it was compared with a limit and with what
//! the format can reach: snappy cannot grow a body more than 22-fold, zstd can, and so zstd's
//! output is allocated in steps unless the declared size is near the compressed one. The output
//! buffer is the caller's and keeps its length between bodies, which spares clearing it.
//!
//! vmagent sends snappy under `Content-Encoding: zstd` and the reverse when it drains a queue from
//! before a restart (VictoriaMetrics issue 5301). Both formats are told apart by zstd's magic: read
//! as snappy it would start with a copy from before the beginning, so no snappy block has it.

use icecore_storage::limits::Limits;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::error::DecodeError;

/// How a body is packed. One encoding at a time; lists are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    /// One snappy block, not the framed format.
    Snappy,
    Zstd,
}

impl Encoding {
    /// From the value of `Content-Encoding`; `None` means 415.
    pub fn from_header(value: &str) -> Option<Encoding> {
        match value.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Encoding::Identity),
            "snappy" => Some(Encoding::Snappy),
            "zstd" => Some(Encoding::Zstd),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Encoding::Identity => "identity",
            Encoding::Snappy => "snappy",
            Encoding::Zstd => "zstd",
        }
    }

    /// What the bytes are, given what their sender says.
    fn detect(self, body: &[u8]) -> Encoding {
        match self {
            Encoding::Identity => Encoding::Identity,
            Encoding::Snappy | Encoding::Zstd if body.starts_with(&ZSTD_MAGIC) => Encoding::Zstd,
            Encoding::Snappy | Encoding::Zstd => Encoding::Snappy,
        }
    }
}

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A snappy element of 3 bytes gives 64 bytes at most, which is 21.3-fold.
const SNAPPY_GROWTH_MAX: usize = 22;

/// Lets the shortest snappy blocks pass the growth check.
const SNAPPY_GROWTH_SLACK: usize = 64;

/// Decoders of RFC 8878 should support windows of 8 MiB, and none of our senders uses more.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A declared size up to this multiple of the compressed one is allocated at once. Real remote
/// write shrinks 10- to 40-fold.
const ZSTD_GROWTH_BELIEVED: usize = 64;

/// First step of zstd output whose size is not believed.
const ZSTD_STEP_BYTES: usize = 64 << 10;

/// Bodies are addressed by `u32`.
const DECODED_BYTES_MAX: usize = u32::MAX as usize;

/// Unpacks `body` into `out`, whose former content is lost and whose length becomes that of the
/// unpacked body.
pub fn decompress(
    body: &[u8],
    encoding: Encoding,
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    if body.len() > limits.body_bytes {
        return Err(DecodeError::BodyTooLarge { bytes: body.len(), limit: limits.body_bytes });
    }
    let encoding = encoding.detect(body);
    let bound = Bound {
        encoding,
        compressed: body.len(),
        limit: limits.decoded_bytes.min(DECODED_BYTES_MAX),
    };
    match encoding {
        Encoding::Identity => {
            bound.check(body.len() as u64)?;
            out.clear();
            out.extend_from_slice(body);
            Ok(())
        }
        Encoding::Snappy => snappy(body, &bound, out),
        Encoding::Zstd => zstd(body, &bound, out),
    }
}

/// Bytes that `body` will take when it is unpacked, if it can be; never more than the limit, which
/// it is where the body does not say.
pub fn decoded_bytes(body: &[u8], encoding: Encoding, limits: &Limits) -> usize {
    let declared = match encoding.detect(body) {
        Encoding::Identity => Some(body.len() as u64),
        Encoding::Snappy => snap::raw::decompress_len(body).ok().map(|length| length as u64),
        Encoding::Zstd => zstd::zstd_safe::get_frame_content_size(body).ok().flatten(),
    };
    let length = declared.and_then(|length| usize::try_from(length).ok());
    length.unwrap_or(usize::MAX).min(limits.decoded_bytes)
}

/// What a body may become, and the words for when it would be more.
struct Bound {
    encoding: Encoding,
    compressed: usize,
    limit: usize,
}

impl Bound {
    fn check(&self, decoded: u64) -> Result<usize, DecodeError> {
        match usize::try_from(decoded) {
            Ok(length) if length <= self.limit => Ok(length),
            _ => Err(DecodeError::DecodedTooLarge {
                encoding: self.encoding.name(),
                compressed: self.compressed,
                decoded,
                limit: self.limit,
            }),
        }
    }

    fn broken(&self, what: impl ToString) -> DecodeError {
        DecodeError::NotDecompressible { encoding: self.encoding.name(), what: what.to_string() }
    }
}

fn snappy(body: &[u8], bound: &Bound, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let declared = snap::raw::decompress_len(body).map_err(|error| bound.broken(error))?;
    let length = bound.check(declared as u64)?;
    if length > body.len() * SNAPPY_GROWTH_MAX + SNAPPY_GROWTH_SLACK {
        let compressed = body.len();
        return Err(bound.broken(format_args!(
            "{compressed} bytes cannot hold the {length} bytes that they declare"
        )));
    }
    out.resize(length, 0);
    let written =
        snap::raw::Decoder::new().decompress(body, out).map_err(|error| bound.broken(error))?;
    out.truncate(written);
    Ok(())
}

fn zstd(body: &[u8], bound: &Bound, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let declared = zstd::zstd_safe::get_frame_content_size(body)
        .map_err(|_| bound.broken("the frame header is damaged"))?;
    let Some(declared) = declared else { return zstd_in_steps(body, bound, out) };
    let length = bound.check(declared)?;
    if length / ZSTD_GROWTH_BELIEVED > body.len() {
        return zstd_in_steps(body, bound, out);
    }
    out.resize(length, 0);
    let mut decoder = zstd::bulk::Decompressor::new().map_err(|error| bound.broken(error))?;
    match decoder.decompress_to_buffer(body, &mut out[..]) {
        Ok(written) => {
            out.truncate(written);
            Ok(())
        }
        // Several frames in a row hold more than the first one declares.
        Err(_) => zstd_in_steps(body, bound, out),
    }
}

/// Allocates only as output appears.
fn zstd_in_steps(body: &[u8], bound: &Bound, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new().map_err(|error| bound.broken(error))?;
    decoder
        .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
        .map_err(|error| bound.broken(error))?;
    let mut input = InBuffer::around(body);
    let mut written = 0;
    loop {
        if written == out.len() {
            // One byte more than allowed is room enough to notice that there is more.
            let longer = (written * 2).max(ZSTD_STEP_BYTES).min(bound.limit + 1);
            out.resize(longer.max(written + 1), 0);
        }
        let mut output = OutBuffer::around(&mut out[written..]);
        let hint = decoder.run(&mut input, &mut output).map_err(|error| bound.broken(error))?;
        let progress = output.pos();
        written += progress;
        bound.check(written as u64)?;
        let input_done = input.pos() == body.len();
        if input_done && hint == 0 {
            break;
        }
        if hint == 0 {
            decoder.reinit().map_err(|error| bound.broken(error))?;
        } else if input_done && progress == 0 {
            return Err(bound.broken("the frame ends early"));
        }
    }
    out.truncate(written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unpack(body: &[u8], encoding: Encoding, limits: &Limits) -> Result<Vec<u8>, DecodeError> {
        let mut out = Vec::new();
        decompress(body, encoding, limits, &mut out).map(|()| out)
    }

    fn pack_snappy(bytes: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(bytes).unwrap()
    }

    fn pack_zstd_without_size(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_contentsize(false).unwrap();
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn either_format_is_recognised_under_either_name() {
        let text = b"ice ice ice ice ice ice ice ice".repeat(1000);
        let two_frames = [
            zstd::bulk::compress(&text[..500], 1).unwrap(),
            zstd::bulk::compress(&text[500..], 1).unwrap(),
        ]
        .concat();
        let packed = [
            pack_snappy(&text),
            zstd::bulk::compress(&text, 1).unwrap(),
            pack_zstd_without_size(&text),
            two_frames,
        ];
        for body in &packed {
            for encoding in [Encoding::Snappy, Encoding::Zstd] {
                assert_eq!(unpack(body, encoding, &Limits::default()).unwrap(), text);
            }
        }
        assert_eq!(unpack(&text, Encoding::Identity, &Limits::default()).unwrap(), text);
    }

    #[test]
    fn a_buffer_longer_than_the_next_body_is_cut_to_it() {
        let mut out = vec![7; 1 << 20];
        let body = pack_snappy(b"short");
        decompress(&body, Encoding::Snappy, &Limits::default(), &mut out).unwrap();
        assert_eq!(out, b"short");
        let body = pack_zstd_without_size(b"short too");
        let mut out = vec![7; 1 << 20];
        decompress(&body, Encoding::Zstd, &Limits::default(), &mut out).unwrap();
        assert_eq!(out, b"short too");
    }

    /// CVE-2026-42154: a length of 4 GiB in a body of a few bytes.
    #[test]
    fn a_declared_length_is_not_believed() {
        let error = unpack(b"\xff\xff\xff\xff\x0f\x00", Encoding::Snappy, &Limits::default());
        assert!(matches!(error, Err(DecodeError::DecodedTooLarge { .. })), "{error:?}");
        let mut body = Vec::new();
        icecore_storage::encoding::varint::write(&mut body, 32 << 20);
        body.extend_from_slice(&[0; 100]);
        let error = unpack(&body, Encoding::Snappy, &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("cannot hold"), "{error}");
    }

    /// GHSA-66jq-2c23-2xh5: bombs, with and without a declared size.
    #[test]
    fn a_bomb_stops_at_the_limit() {
        let limits = Limits { decoded_bytes: 1 << 20, ..Limits::default() };
        let zeros = vec![0; (1 << 20) + 1];
        let bombs = [
            pack_snappy(&zeros),
            zstd::bulk::compress(&zeros, 1).unwrap(),
            pack_zstd_without_size(&zeros),
        ];
        for body in &bombs {
            let mut out = Vec::new();
            let error = decompress(body, Encoding::Zstd, &limits, &mut out).unwrap_err();
            assert!(matches!(error, DecodeError::DecodedTooLarge { .. }), "{error}");
            assert!(out.capacity() <= 2 << 20, "{}", out.capacity());
        }
        for body in [&zeros[1..], &[]] {
            assert_eq!(
                unpack(&pack_zstd_without_size(body), Encoding::Zstd, &limits).unwrap(),
                body
            );
        }
    }

    #[test]
    fn a_window_above_8_mib_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(25).unwrap();
        encoder.include_contentsize(false).unwrap();
        std::io::Write::write_all(&mut encoder, &vec![1; 1 << 20]).unwrap();
        let body = encoder.finish().unwrap();
        assert!(unpack(&body, Encoding::Zstd, &Limits::default()).is_err());
    }

    #[test]
    fn cut_short_at_any_byte_is_an_error() {
        let text: Vec<u8> = (0..2000u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        for body in [
            pack_snappy(&text),
            zstd::bulk::compress(&text, 1).unwrap(),
            pack_zstd_without_size(&text),
        ] {
            for end in 0..body.len() {
                assert!(unpack(&body[..end], Encoding::Zstd, &Limits::default()).is_err(), "{end}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>, magic: bool) {
            let body = if magic { [&ZSTD_MAGIC[..], &bytes].concat() } else { bytes };
            let _ = unpack(&body, Encoding::Zstd, &Limits::default());
        }
    }
}
