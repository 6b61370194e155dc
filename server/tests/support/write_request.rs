//! Bodies of remote write, put together by hand so that no encoder of ours is trusted.

/// A `prometheus.WriteRequest`, written by hand.
#[derive(Default)]
pub(crate) struct WriteRequest(Vec<u8>);

impl WriteRequest {
    /// Adds a series with its samples: labels as pairs, samples as (ms, value).
    pub(crate) fn series<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        mut self,
        labels: &[(N, V)],
        samples: &[(i64, f64)],
    ) -> WriteRequest {
        let mut series = Vec::new();
        for (name, value) in labels {
            let mut label = Vec::new();
            field(&mut label, 1, name.as_ref());
            field(&mut label, 2, value.as_ref());
            field(&mut series, 1, &label);
        }
        for (timestamp, value) in samples {
            let mut sample = vec![1 << 3 | 1];
            sample.extend_from_slice(&value.to_bits().to_le_bytes());
            sample.push(2 << 3);
            varint(&mut sample, *timestamp as u64);
            field(&mut series, 2, &sample);
        }
        field(&mut self.0, 1, &series);
        self
    }

    /// An exemplar of a series of its own.
    pub(crate) fn exemplar(
        mut self,
        labels: &[(&str, &str)],
        trace: &str,
        at: i64,
    ) -> WriteRequest {
        let mut series = Vec::new();
        for (name, value) in labels {
            let mut label = Vec::new();
            field(&mut label, 1, name.as_bytes());
            field(&mut label, 2, value.as_bytes());
            field(&mut series, 1, &label);
        }
        let mut label = Vec::new();
        field(&mut label, 1, b"trace_id");
        field(&mut label, 2, trace.as_bytes());
        let mut exemplar = Vec::new();
        field(&mut exemplar, 1, &label);
        exemplar.push(2 << 3 | 1);
        exemplar.extend_from_slice(&6.5f64.to_bits().to_le_bytes());
        exemplar.push(3 << 3);
        varint(&mut exemplar, at as u64);
        field(&mut series, 3, &exemplar);
        let mut sample = vec![1 << 3 | 1];
        sample.extend_from_slice(&1f64.to_bits().to_le_bytes());
        sample.push(2 << 3);
        varint(&mut sample, at as u64);
        field(&mut series, 2, &sample);
        field(&mut self.0, 1, &series);
        self
    }

    /// Metadata of a counter.
    pub(crate) fn counter(mut self, family: &str, help: &str) -> WriteRequest {
        let mut metadata = vec![1 << 3, 1];
        field(&mut metadata, 2, family.as_bytes());
        field(&mut metadata, 4, help.as_bytes());
        field(&mut self.0, 3, &metadata);
        self
    }

    /// Adds bytes as they are, right or wrong.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> WriteRequest {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn snappy(&self) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(&self.0).unwrap()
    }

    pub(crate) fn zstd(&self) -> Vec<u8> {
        zstd::bulk::compress(&self.0, 1).unwrap()
    }
}

pub(crate) fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
