//! Columns of 64-bit integers: patched frame of reference.
//!
//! The *order* of a column says what is stored: the numbers (plain), their differences (delta) or
//! the differences of those (delta of deltas); [`Planner::plan`] works out the bytes of all three
//! and takes the least. What is stored, the *residuals*, is cut into *mini-blocks* of 128. Each
//! has a width of its own, and either a base that is subtracted or a zigzag where both signs occur.
//! Residuals that are wider than the width are *patched*: the mini-block holds their low bits, and
//! a list after it their positions, a byte each, and their high bits, varints. One odd value so
//! costs two bytes or three, not a bit in each of its 127 neighbours. A mini-block with many zeros
//! may be *sparse*: a bitmap of the others, which alone are then stored as above.
//!
//! All arithmetic wraps, so every `i64` round-trips, and with a cast every `u64`. The rule that
//! holds: the bytes are a function of the numbers alone. Layout: docs/format.md, "Integers".

use std::ops::Range;

use crate::encoding::{bits, varint};

/// Residuals in a mini-block; a position fits in a byte, and a block in 1 KiB of stack.
pub const BLOCK: usize = 128;

/// Widths up to this share the first byte of a mini-block with its form.
const SHORT_WIDTH_MAX: u8 = 40;
const SHORT_WIDTHS: u8 = SHORT_WIDTH_MAX + 1;
/// First byte of a mini-block whose form and width follow in a byte each.
const LONG_HEADER: u8 = 255;
/// First byte of a sparse mini-block: the bitmap follows, then a mini-block of what is not zero.
const SPARSE_HEADER: u8 = 254;

/// What a column stores of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    Plain = 0,
    Delta = 1,
    DeltaOfDelta = 2,
}

impl Order {
    pub const ALL: [Order; 3] = [Order::Plain, Order::Delta, Order::DeltaOfDelta];

    pub fn from_byte(byte: u8) -> Option<Order> {
        Order::ALL.get(usize::from(byte)).copied()
    }

    /// Numbers that stand before the residuals, as varints.
    fn leading(self, count: usize) -> usize {
        (self as usize).min(count)
    }
}

/// How a mini-block's residuals become unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Form {
    /// The base of the mini-block before (0 at first) is subtracted.
    SameBase = 0,
    /// A base of its own is subtracted, written as the difference to the one before.
    NewBase = 1,
    Zigzag = 2,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    /// The rest describes the residuals that are not zero.
    sparse: bool,
    form: Form,
    width: u8,
    patched: bool,
    base: i64,
}

/// The least way to write a column, valid until the planner plans another.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub order: Order,
    /// What [`Planner::write`] will append.
    pub bytes: usize,
}

/// Scratch memory of planning; reuse it, and encoding allocates nothing.
#[derive(Debug, Default)]
pub struct Planner {
    blocks: [Vec<Block>; 3],
}

impl Planner {
    /// The least of the three orders; of equals the first.
    pub fn plan(&mut self, values: &[i64]) -> Plan {
        let mut best = Plan { order: Order::Plain, bytes: usize::MAX };
        for order in [Order::Delta, Order::Plain, Order::DeltaOfDelta] {
            let bytes = self.plan_order(values, order, best.bytes);
            if bytes < best.bytes {
                best = Plan { order, bytes };
            }
        }
        best
    }

    /// Bytes of `values` in this order, or anything not below `limit` if they are not below it.
    fn plan_order(&mut self, values: &[i64], order: Order, limit: usize) -> usize {
        let mut bytes: usize =
            leading(values, order).map(|number| varint::length(varint::zigzag(number))).sum();
        let blocks = &mut self.blocks[order as usize];
        blocks.clear();
        let mut base = 0;
        let mut buffer = [0i64; BLOCK];
        let count = values.len() - order.leading(values.len());
        for start in (0..count).step_by(BLOCK) {
            let residuals = residuals(values, order, start, &mut buffer);
            let (block, cost) = plan_block(residuals, base);
            bytes += cost;
            if bytes >= limit {
                return bytes;
            }
            base = block.base;
            blocks.push(block);
        }
        bytes
    }

    /// Appends `values` as planned last.
    pub fn write(&self, plan: Plan, values: &[i64], out: &mut Vec<u8>) {
        let start_length = out.len();
        for number in leading(values, plan.order) {
            varint::write_signed(out, number);
        }
        let mut base = 0;
        let mut buffer = [0i64; BLOCK];
        for (index, block) in self.blocks[plan.order as usize].iter().enumerate() {
            let residuals = residuals(values, plan.order, index * BLOCK, &mut buffer);
            write_block(block, base, residuals, out);
            base = block.base;
        }
        assert_eq!(out.len() - start_length, plan.bytes, "a plan states the bytes it leads to");
    }
}

/// Appends the numbers in the order that takes least, with a byte that names it.
pub fn encode(values: &[i64], planner: &mut Planner, out: &mut Vec<u8>) {
    let plan = planner.plan(values);
    out.push(plan.order as u8);
    planner.write(plan, values, out);
}

/// Reads what [`encode`] wrote, appends `count` numbers to `out` and advances `bytes`.
pub fn decode(bytes: &mut &[u8], count: usize, out: &mut Vec<i64>) -> Option<()> {
    let (&order, rest) = bytes.split_first()?;
    *bytes = rest;
    read(Order::from_byte(order)?, count, bytes, out, |number| number)
}

/// Reads what [`Planner::write`] wrote and appends to `out` what `value` makes of each number.
///
/// `None` on malformed bytes; `out` then has an unknown number of values more.
#[inline]
pub fn read<T: Clone>(
    order: Order,
    count: usize,
    bytes: &mut &[u8],
    out: &mut Vec<T>,
    value: impl Fn(i64) -> T,
) -> Option<()> {
    read_rows(order, count, 0..count, bytes, out, value)
}

/// As [`read`], but appends the values of some rows only. Where bytes are left behind the last
/// of them, they have not been looked at, nor has `bytes` been advanced over them.
#[inline]
pub fn read_rows<T: Clone>(
    order: Order,
    count: usize,
    rows: Range<usize>,
    bytes: &mut &[u8],
    out: &mut Vec<T>,
    value: impl Fn(i64) -> T,
) -> Option<()> {
    let leading = order.leading(count);
    // Every mini-block takes a byte at least.
    if (count - leading).div_ceil(BLOCK) > bytes.len() {
        return None;
    }
    out.reserve(rows.len());
    let mut sums = Sums { order, last: 0, delta: 0 };
    for index in 0..leading {
        let number = varint::read_signed(bytes)?;
        if index > 0 {
            sums.delta = number;
        }
        sums.last = sums.last.wrapping_add(number);
        if rows.contains(&index) {
            out.push(value(sums.last));
        }
    }
    let mut base = 0;
    let mut buffer = [0i64; BLOCK];
    let mut row = leading;
    while row < rows.end {
        let packed = &mut buffer[..(count - row).min(BLOCK)];
        let wanted =
            rows.start.saturating_sub(row).min(packed.len())..packed.len().min(rows.end - row);
        row += packed.len();
        match read_block(bytes, &mut base, packed)? {
            Packed::Constant(0) if order == Order::Delta => {
                out.resize(out.len() + wanted.len(), value(sums.last));
            }
            Packed::Constant(residual) => sums.append(packed, wanted, |_| residual, out, &value),
            Packed::Above(base) => {
                sums.append(packed, wanted, |above| base.wrapping_add(above), out, &value);
            }
            Packed::Zigzag => {
                let residual = |number: i64| varint::unzigzag(number as u64);
                sums.append(packed, wanted, residual, out, &value);
            }
            Packed::Residuals => sums.append(packed, wanted, |residual| residual, out, &value),
        }
    }
    Some(())
}

/// How the numbers of a column come from its residuals.
struct Sums {
    order: Order,
    /// The last number, and the last difference.
    last: i64,
    delta: i64,
}

impl Sums {
    /// Appends the values of the `wanted` ones of a mini-block's numbers, in the one walk that
    /// sums them up.
    #[inline(always)]
    fn append<T>(
        &mut self,
        packed: &[i64],
        wanted: Range<usize>,
        residual: impl Fn(i64) -> i64,
        out: &mut Vec<T>,
        value: impl Fn(i64) -> T,
    ) {
        let (before, packed) = packed.split_at(wanted.start);
        let packed = &packed[..wanted.len()];
        let (mut last, mut delta) = (self.last, self.delta);
        match self.order {
            Order::Plain => out.extend(packed.iter().map(|number| value(residual(*number)))),
            Order::Delta => {
                let add = |last: i64, number: &i64| last.wrapping_add(residual(*number));
                last = before.iter().fold(last, add);
                out.extend(packed.iter().map(|number| {
                    last = add(last, number);
                    value(last)
                }));
            }
            Order::DeltaOfDelta => {
                let mut next = |number: &i64| {
                    delta = delta.wrapping_add(residual(*number));
                    last = last.wrapping_add(delta);
                    last
                };
                before.iter().for_each(|number| _ = next(number));
                out.extend(packed.iter().map(|number| value(next(number))));
            }
        }
        (self.last, self.delta) = (last, delta);
    }
}

/// The numbers before the residuals: the first, and the first difference.
fn leading(values: &[i64], order: Order) -> impl Iterator<Item = i64> + '_ {
    (0..order.leading(values.len()))
        .map(|index| if index == 0 { values[0] } else { values[1].wrapping_sub(values[0]) })
}

/// Residuals `start..` of the column, up to a mini-block of them.
#[inline]
fn residuals<'a>(
    values: &'a [i64],
    order: Order,
    start: usize,
    buffer: &'a mut [i64; BLOCK],
) -> &'a [i64] {
    let values = &values[start..];
    let length = (values.len() - order as usize).min(BLOCK);
    match order {
        Order::Plain => return &values[..length],
        Order::Delta => {
            for (residual, pair) in buffer.iter_mut().zip(values.windows(2)) {
                *residual = pair[1].wrapping_sub(pair[0]);
            }
        }
        Order::DeltaOfDelta => {
            for (residual, three) in buffer.iter_mut().zip(values.windows(3)) {
                let before = three[1].wrapping_sub(three[0]);
                *residual = three[2].wrapping_sub(three[1]).wrapping_sub(before);
            }
        }
    }
    &buffer[..length]
}

/// The least way to write a mini-block, and its bytes.
fn plan_block(residuals: &[i64], previous_base: i64) -> (Block, usize) {
    let (dense, cost) = plan_dense(residuals, previous_base);
    let bitmap = residuals.len().div_ceil(8);
    // The bitmap, and both headers.
    if cost <= bitmap + 2 {
        return (dense, cost);
    }
    let mut buffer = [0i64; BLOCK];
    let others = without_zeros(residuals, &mut buffer);
    if others.len() > residuals.len() * 7 / 8 {
        return (dense, cost);
    }
    let (sparse, others_cost) = plan_dense(others, previous_base);
    let sparse_cost = 1 + bitmap + others_cost;
    if sparse_cost < cost { (Block { sparse: true, ..sparse }, sparse_cost) } else { (dense, cost) }
}

fn without_zeros<'a>(residuals: &[i64], buffer: &'a mut [i64; BLOCK]) -> &'a [i64] {
    let mut count = 0;
    for &residual in residuals {
        // Without a branch: what is not counted is overwritten.
        buffer[count] = residual;
        count += usize::from(residual != 0);
    }
    &buffer[..count]
}

/// The least form and width, and the bytes.
fn plan_dense(residuals: &[i64], previous_base: i64) -> (Block, usize) {
    let min = residuals.iter().copied().min().unwrap_or(0);
    let mut best: Option<(Block, usize)> = None;
    let mut consider = |form: Form, base: i64, extra: usize, map: &dyn Fn(&mut Widths)| {
        let mut widths = Widths::default();
        map(&mut widths);
        let limit = best.map_or(usize::MAX, |(_, cost)| cost);
        let (width, patched, cost) = widths.least(residuals.len(), extra, limit);
        if cost < limit {
            best = Some((Block { sparse: false, form, width, patched, base }, cost));
        }
    };
    if min >= previous_base {
        consider(Form::SameBase, previous_base, 0, &|widths| {
            widths.count(residuals, |residual| residual.wrapping_sub(previous_base) as u64);
        });
    }
    // Equal to the base before, it would be the same at no cost.
    if min != previous_base {
        let extra = varint::length(varint::zigzag(min.wrapping_sub(previous_base)));
        consider(Form::NewBase, min, extra, &|widths| {
            widths.count(residuals, |residual| residual.wrapping_sub(min) as u64);
        });
    }
    if min < 0 {
        consider(Form::Zigzag, previous_base, 0, &|widths| {
            widths.count(residuals, varint::zigzag);
        });
    }
    best.expect("the least residual is the base before or a new one")
}

/// How many residuals of a mini-block have how many bits.
struct Widths {
    /// At most [`BLOCK`] each.
    counts: [u8; 65],
    bits_max: u32,
}

impl Default for Widths {
    fn default() -> Widths {
        Widths { counts: [0; 65], bits_max: 0 }
    }
}

impl Widths {
    #[inline]
    fn count(&mut self, residuals: &[i64], unsigned: impl Fn(i64) -> u64) {
        let mut all = 0;
        for &residual in residuals {
            let value = unsigned(residual);
            all |= value;
            self.counts[(64 - value.leading_zeros()) as usize] += 1;
        }
        self.bits_max = 64 - all.leading_zeros();
    }

    /// Width, whether patched, and all bytes of the mini-block; exact if below `limit`.
    fn least(&self, count: usize, extra: usize, limit: usize) -> (u8, bool, usize) {
        let max = self.bits_max as usize;
        let unpatched = header_length(max) + extra + bits::packed_length(count, max as u32);
        let mut best = (max as u8, false, unpatched);
        // From the widest down. What is wider than the width is patched with a position and a
        // varint of the bits above, which begins another byte at every seventh.
        let mut patches = 0usize;
        for width in (0..max).rev() {
            patches += usize::from(self.counts[width + 1]);
            let begun = self.counts[width + 1..=max].iter().step_by(7);
            patches += begun.map(|count| usize::from(*count)).sum::<usize>();
            if extra + patches >= best.2.min(limit) {
                break;
            }
            let packed = bits::packed_length(count, width as u32);
            let cost = header_length(width) + extra + packed + 1 + patches;
            if cost < best.2 {
                best = (width as u8, true, cost);
            }
        }
        best
    }
}

fn header_length(width: usize) -> usize {
    if width <= usize::from(SHORT_WIDTH_MAX) { 1 } else { 3 }
}

fn write_block(block: &Block, previous_base: i64, residuals: &[i64], out: &mut Vec<u8>) {
    if !block.sparse {
        return write_dense(block, previous_base, residuals, out);
    }
    out.push(SPARSE_HEADER);
    for eight in residuals.chunks(8) {
        let bits = eight.iter().enumerate().map(|(bit, &residual)| u8::from(residual != 0) << bit);
        out.push(bits.sum());
    }
    write_dense(block, previous_base, without_zeros(residuals, &mut [0; BLOCK]), out);
}

fn write_dense(block: &Block, previous_base: i64, residuals: &[i64], out: &mut Vec<u8>) {
    let form = block.form as u8 * 2 + u8::from(block.patched);
    if block.width <= SHORT_WIDTH_MAX {
        out.push(form * SHORT_WIDTHS + block.width);
    } else {
        out.extend_from_slice(&[LONG_HEADER, form, block.width]);
    }
    let mut buffer = [0u64; BLOCK];
    let unsigned = &mut buffer[..residuals.len()];
    match block.form {
        Form::Zigzag => unsigned
            .iter_mut()
            .zip(residuals)
            .for_each(|(value, &residual)| *value = varint::zigzag(residual)),
        Form::SameBase | Form::NewBase => unsigned
            .iter_mut()
            .zip(residuals)
            .for_each(|(value, &residual)| *value = residual.wrapping_sub(block.base) as u64),
    }
    if block.form == Form::NewBase {
        varint::write_signed(out, block.base.wrapping_sub(previous_base));
    }
    let width = u32::from(block.width);
    bits::pack(unsigned, width, out);
    if block.patched {
        // A patched width is below the widest value, hence below 64.
        let wider = |value: &u64| value >> width != 0;
        let count = unsigned.iter().filter(|value| wider(value)).count();
        out.push(count as u8);
        for (position, _) in unsigned.iter().enumerate().filter(|(_, value)| wider(value)) {
            out.push(position as u8);
        }
        for value in unsigned.iter().filter(|value| wider(value)) {
            varint::write(out, value >> width);
        }
    }
}

/// What [`read_block`] leaves of a mini-block: numbers that are yet to become residuals.
enum Packed {
    /// Nothing was packed, all residuals are this one.
    Constant(i64),
    /// Distances, unsigned, from this base.
    Above(i64),
    Zigzag,
    /// The residuals themselves.
    Residuals,
}

/// Unpacks a mini-block.
#[inline]
fn read_block(bytes: &mut &[u8], base: &mut i64, numbers: &mut [i64]) -> Option<Packed> {
    let (&header, rest) = bytes.split_first()?;
    if header != SPARSE_HEADER {
        return read_dense(bytes, base, numbers);
    }
    let (bitmap, rest) = rest.split_at_checked(numbers.len().div_ceil(8))?;
    *bytes = rest;
    let count = bitmap.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
    let mut buffer = [0i64; BLOCK];
    let others = buffer.get_mut(..count)?;
    match read_dense(bytes, base, others)? {
        Packed::Constant(value) => others.fill(value),
        Packed::Above(base) => {
            others.iter_mut().for_each(|above| *above = base.wrapping_add(*above));
        }
        Packed::Zigzag => {
            others.iter_mut().for_each(|number| *number = varint::unzigzag(*number as u64));
        }
        Packed::Residuals => {}
    }
    numbers.fill(0);
    let mut others = others.iter();
    for (first, byte) in (0..).step_by(8).zip(bitmap) {
        let mut rest = *byte;
        while rest != 0 {
            *numbers.get_mut(first + rest.trailing_zeros() as usize)? = *others.next()?;
            rest &= rest - 1;
        }
    }
    Some(Packed::Residuals)
}

#[inline]
fn read_dense(bytes: &mut &[u8], base: &mut i64, numbers: &mut [i64]) -> Option<Packed> {
    let (&header, rest) = bytes.split_first()?;
    *bytes = rest;
    let (form, width) = if header == LONG_HEADER {
        let (&[form, width], rest) = bytes.split_first_chunk::<2>()?;
        *bytes = rest;
        (form, width)
    } else {
        (header / SHORT_WIDTHS, header % SHORT_WIDTHS)
    };
    let patched = form & 1 == 1;
    let form = [Form::SameBase, Form::NewBase, Form::Zigzag].get(usize::from(form / 2))?;
    if *form == Form::NewBase {
        *base = base.wrapping_add(varint::read_signed(bytes)?);
    }
    if width == 0 && !patched {
        return Some(Packed::Constant(if *form == Form::Zigzag { 0 } else { *base }));
    }
    bits::unpack(bytes, u32::from(width), numbers)?;
    if patched {
        read_patches(bytes, width, numbers)?;
    }
    Some(match form {
        Form::Zigzag => Packed::Zigzag,
        Form::SameBase | Form::NewBase => Packed::Above(*base),
    })
}

fn read_patches(bytes: &mut &[u8], width: u8, numbers: &mut [i64]) -> Option<()> {
    let (&count, rest) = bytes.split_first()?;
    let (positions, rest) = rest.split_at_checked(usize::from(count))?;
    *bytes = rest;
    for &position in positions {
        let high = varint::read(bytes)?;
        *numbers.get_mut(usize::from(position))? |= high.checked_shl(u32::from(width))? as i64;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(values: &[i64]) -> usize {
        let mut bytes = Vec::new();
        encode(values, &mut Planner::default(), &mut bytes);
        let mut rest = &bytes[..];
        let mut back = Vec::new();
        decode(&mut rest, values.len(), &mut back).expect("own bytes are well-formed");
        assert!(rest.is_empty());
        assert_eq!(back, values);
        bytes.len()
    }

    #[test]
    fn shapes_of_columns() {
        let counter: Vec<i64> = (0..480).map(|i| 1_000_000 + i * 100 + i % 7).collect();
        assert!(check(&counter) < 480 * 3 / 8 + 20);
        let line: Vec<i64> = (0..480).map(|i| 5 + i * 1000).collect();
        assert!(check(&line) < 12);
        let curve: Vec<i64> = (0..480).map(|i| i * i).collect();
        assert!(check(&curve) < 12);
        let mut spike = vec![7i64; 480];
        spike[200] = i64::MAX;
        assert!(check(&spike) < 40, "{}", check(&spike));
        for length in [0, 1, 2, 3, 127, 128, 129, 130, 131, 257] {
            check(&vec![i64::MIN; length]);
            check(&(0..length as i64).map(|i| i.wrapping_mul(i64::MAX / 3)).collect::<Vec<_>>());
        }
    }

    proptest! {
        #[test]
        fn any_numbers_round_trip(values: Vec<i64>) {
            check(&values);
        }

        #[test]
        fn rows_are_those_of_the_whole(values: Vec<i64>, start in 0usize..400, length in 0usize..400) {
            let rows = start.min(values.len())..(start + length).min(values.len());
            let mut planner = Planner::default();
            let plan = planner.plan(&values);
            let mut bytes = Vec::new();
            planner.write(plan, &values, &mut bytes);
            let (mut rest, mut found) = (&bytes[..], Vec::new());
            let of_rows = rows.clone();
            let read =
                read_rows(plan.order, values.len(), of_rows, &mut rest, &mut found, |number| number);
            prop_assert!(read.is_some());
            prop_assert_eq!(found, &values[rows]);
        }

        #[test]
        fn numbers_of_mixed_widths_round_trip(
            pairs in proptest::collection::vec((any::<i64>(), 0u32..64), 0..400),
        ) {
            let values: Vec<i64> = pairs.iter().map(|&(value, shift)| value >> shift).collect();
            check(&values);
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>, count in 0usize..2000) {
            let mut out = Vec::new();
            if decode(&mut &bytes[..], count, &mut out).is_some() {
                prop_assert_eq!(out.len(), count);
            }
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_anything_is_allocated() {
        let mut out = Vec::new();
        assert_eq!(decode(&mut &[1, 0, 0][..], usize::MAX, &mut out), None);
        assert_eq!(out.capacity(), 0);
    }
}
