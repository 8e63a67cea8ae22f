//! `hz_adam_t`: AdamW on arrays of the caller; splitting and joining of f32 masters.

use crate::base::format::Size;
use crate::base::{DType, Error, Result, check_f32};
use crate::capi::argument::{Array, ArrayOut, Numbers, OutPointer};
use crate::capi::enums::Enum;
use crate::capi::guard::guard;
use crate::capi::handle::{Handle, HandleKind, Object, Table};
use crate::capi::log;
use crate::capi::options::{BETA, DTYPES, EPS, STATED_DTYPES, limits};
use crate::capi::sized::{In, Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::values::{Values, chosen_size, size, threads_or_all};
use crate::host::{Arena, HostSpan, MemoryKind, Pool};
use crate::optim::{self, AdamOptions, AdamScalars, Master, Optimizer, Rounding, Spans, Step, update};

sized_struct! {
    hz_adam_options_t, hz_adam_options_init {
        mode: u32 = MODES.number(Mode::Exact) => Values::of(&MODES),
        threads: u64 = 0,
        state_count: u64 = 0,
        host_mem: u64 = 0,
        seed: u64 = 0,
        beta1: f64 = AdamOptions::default().beta1 => BETA,
        beta2: f64 = AdamOptions::default().beta2 => BETA,
        eps: f64 = AdamOptions::default().eps => EPS,
        weight_decay: f64 = AdamOptions::default().weight_decay => Values::at_least(0.0),
    }
}

sized_struct! {
    hz_adam_arrays_t, hz_adam_arrays_init {
        gradient_dtype: u32 = DTYPES.number(None) => Values::of(&STATED_DTYPES),
        count: u64 = 0,
        first: u64 = 0,
        weights: Numbers = Numbers::NULL,
        residual: Numbers = Numbers::NULL,
        gradient: Numbers = Numbers::NULL,
        m: Numbers = Numbers::NULL,
        v: Numbers = Numbers::NULL,
        bf16_out: Numbers = Numbers::NULL,
    }
}

/// `HZ_ADAM_MODE_*`.
pub(super) static MODES: Enum<Mode> = Enum {
    name: "hz_adam_mode_t",
    constants: &[
        (c"HZ_ADAM_MODE_EXACT", 1, Mode::Exact),
        (c"HZ_ADAM_MODE_COMPACT", 2, Mode::Compact),
        (c"HZ_ADAM_MODE_F32", 3, Mode::F32),
    ],
};

/// Memory per parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Exact,
    Compact,
    F32,
}

impl Mode {
    /// The dtype of moments.
    fn moment(self) -> DType {
        match self {
            Mode::Exact | Mode::F32 => DType::F32,
            Mode::Compact => DType::Bf16,
        }
    }

    /// True if a master is a bf16 weight and a residual.
    fn splits(self) -> bool {
        self != Mode::F32
    }
}

/// An optimizer. Immutable except for the memory of its state, whose elements belong to the call
/// that names them, so threads may share it.
pub struct hz_adam_t {
    pool: Pool,
    options: AdamOptions,
    mode: Mode,
    seed: u64,
    state: Option<State>,
}

impl Object for hz_adam_t {
    fn table() -> &'static Table<Self> {
        static TABLE: Table<hz_adam_t> = Table::new(HandleKind::Optimizer);
        &TABLE
    }
}

/// Moments and residuals that the library keeps.
struct State {
    count: usize,
    arena: Arena,
    moment: DType,
}

/// Residuals and moments of the elements of one call; the library's or the caller's.
struct StateSpans {
    residual: Option<HostSpan>,
    m: HostSpan,
    v: HostSpan,
}

impl State {
    /// Bytes of one array, rounded up to cache lines.
    fn stride(count: usize, element_bytes: usize) -> Option<usize> {
        count.checked_mul(element_bytes)?.checked_next_multiple_of(64)
    }

    fn bytes(count: usize, mode: Mode) -> Option<usize> {
        let moments = State::stride(count, mode.moment().bytes())?.checked_mul(2)?;
        let residual = if mode.splits() { State::stride(count, 2)? } else { 0 };
        moments.checked_add(residual).filter(|bytes| *bytes <= isize::MAX as usize)
    }

    fn take(count: usize, mode: Mode, host_mem: Option<usize>, pool: &Pool) -> Result<State> {
        let bytes = State::bytes(count, mode)
            .ok_or_else(|| Error::argument(format!("state_count is {count}: no memory is large enough")))?;
        limits(host_mem).admit("AdamW's state", bytes)?;
        let arena = Arena::take(bytes, MemoryKind::Plain)?;
        arena.touch(pool)?;
        log::info(format!("AdamW state opened: {count} elements in {}", Size(bytes)));
        Ok(State { count, arena, moment: mode.moment() })
    }

    /// The state of elements `first .. first + count`, which were checked.
    fn slice(&self, mode: Mode, first: usize, count: usize) -> StateSpans {
        let moment = self.moment.bytes();
        let stride = State::stride(self.count, moment).expect("the state was allocated");
        let elements = |at: usize, size: usize| self.arena.whole().subspan(at + first * size, count * size);
        StateSpans {
            m: elements(0, moment),
            v: elements(stride, moment),
            residual: mode.splits().then(|| elements(2 * stride, 2)),
        }
    }

    fn check(&self, first: u64, count: u64) -> Result<()> {
        if first.checked_add(count).is_none_or(|end| end > self.count as u64) {
            return Err(Error::argument(format!(
                "first is {first} and count is {count}; the state has {} elements (state_count)",
                self.count
            )));
        }
        Ok(())
    }
}

impl hz_adam_t {
    pub(super) fn open(raw: &hz_adam_options_t) -> Result<Self> {
        let mode = MODES.value(raw.mode, "mode")?;
        let options =
            AdamOptions { beta1: raw.beta1, beta2: raw.beta2, eps: raw.eps, weight_decay: raw.weight_decay };
        options.check()?;
        let pool = Pool::new(threads_or_all(raw.threads)?)?;
        let host_mem = chosen_size(raw.host_mem, "host_mem")?;
        let state = match chosen_size(raw.state_count, "state_count")? {
            Some(count) => Some(State::take(count, mode, host_mem, &pool)?),
            None => None,
        };
        Ok(hz_adam_t { pool, options, mode, seed: raw.seed, state })
    }

    /// Residuals and moments of a call's elements.
    fn state_spans(&self, arrays: &hz_adam_arrays_t, count: usize) -> Result<StateSpans> {
        let splits = self.mode.splits();
        if !splits && !arrays.residual.is_null() {
            return Err(must_be_null("residual", "HZ_ADAM_MODE_F32 has f32 masters and no residual"));
        }
        let Some(state) = &self.state else {
            let moment = self.mode.moment().bytes();
            return Ok(StateSpans {
                residual: splits.then(|| arrays.residual.get(count, 2, "arrays->residual")).transpose()?,
                m: arrays.m.get(count, moment, "arrays->m")?,
                v: arrays.v.get(count, moment, "arrays->v")?,
            });
        };
        for (name, array) in [("residual", arrays.residual), ("m", arrays.m), ("v", arrays.v)] {
            if !array.is_null() {
                return Err(must_be_null(name, "the library keeps it for a handle opened with state_count"));
            }
        }
        state.check(arrays.first, arrays.count)?;
        Ok(state.slice(self.mode, arrays.first as usize, count))
    }

    fn step(
        &self,
        arrays: &hz_adam_arrays_t,
        lr: f64,
        step: u64,
        gradient_scale: f64,
        decay: f64,
    ) -> Result<()> {
        check_f32("lr", lr, 0.0)?;
        check_f32("decay", decay, 0.0)?;
        check_f32("gradient_scale", gradient_scale, f32::MIN.into())?;
        if step == 0 {
            return Err(Error::argument("step is 0; the first step is 1"));
        }
        let gradient_dtype = DTYPES.required(arrays.gradient_dtype, "arrays->gradient_dtype")?;
        let count = size(arrays.count, "arrays->count")?;
        if arrays.first.checked_add(arrays.count).is_none() {
            return Err(Error::argument(format!(
                "arrays->first is {} and arrays->count is {}; their sum must fit 64 bits",
                arrays.first, arrays.count
            )));
        }
        if count == 0 {
            return Ok(());
        }
        let splits = self.mode.splits();
        if splits && !arrays.bf16_out.is_null() {
            return Err(must_be_null("bf16_out", "the weights of this mode are bf16 already"));
        }
        let weights = arrays.weights.get(count, if splits { 2 } else { 4 }, "arrays->weights")?;
        let gradient = arrays.gradient.get(count, gradient_dtype.bytes(), "arrays->gradient")?;
        let copy = match arrays.bf16_out.is_null() {
            true => None,
            false => Some(arrays.bf16_out.get(count, 2, "arrays->bf16_out")?),
        };
        let StateSpans { residual, m, v } = self.state_spans(arrays, count)?;
        check_disjoint(&[
            ("weights", Some(weights)),
            ("residual", residual),
            ("gradient", Some(gradient)),
            ("m", Some(m)),
            ("v", Some(v)),
            ("bf16_out", copy),
        ])?;

        let weight_decay = self.options.weight_decay * decay;
        let master = match residual {
            Some(residual) => Master::Split { weights, residual },
            None => Master::Whole { params: weights, copy },
        };
        let optimizer = Optimizer::AdamW { moments: self.mode.moment() };
        let spans = Spans { master, gradient, gradient_dtype, optimizer, state: [m, v] };
        let scalars = AdamScalars::new(&AdamOptions { weight_decay, ..self.options }, lr, step);
        let step = Step {
            gradient_scale: gradient_scale as f32,
            decay: weight_decay > 0.0,
            rounding: Rounding { seed: self.seed, step, first: arrays.first },
            ..Step::new(scalars)
        };
        // SAFETY: horizon.h requires that the caller's arrays and the state's elements named by the call
        // are valid and used by this call alone; `check_disjoint` found no two arrays that overlap.
        unsafe { update(&self.pool, &spans, &step) };
        Ok(())
    }
}

fn must_be_null(field: &str, why: &str) -> Error {
    Error::argument(format!("arrays->{field} must be NULL: {why}"))
}

/// Checks that no two arrays share bytes.
fn check_disjoint(arrays: &[(&str, Option<HostSpan>)]) -> Result<()> {
    let ends = |span: HostSpan| (span.address() as usize, span.address() as usize + span.bytes());
    for (at, (name, span)) in arrays.iter().enumerate() {
        for (other_name, other) in &arrays[at + 1..] {
            let (Some(span), Some(other)) = (span, other) else { continue };
            let ((start, end), (other_start, other_end)) = (ends(*span), ends(*other));
            if start < other_end && other_start < end {
                return Err(Error::argument(format!(
                    "arrays->{name} and arrays->{other_name} overlap; each needs memory of its own"
                )));
            }
        }
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_adam_open(
    options: In<hz_adam_options_t>,
    out_adam: OutPointer<Handle<hz_adam_t>>,
) -> hz_status_t {
    guard(|| {
        out_adam.check("out_adam")?;
        out_adam.write(Handle::open(hz_adam_t::open(&options.or_defaults("options")?)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_adam_step(
    adam: Handle<hz_adam_t>,
    arrays: In<hz_adam_arrays_t>,
    lr: f64,
    step: u64,
    gradient_scale: f64,
    decay: f64,
) -> hz_status_t {
    guard(|| adam.get("adam")?.step(&arrays.read("arrays")?, lr, step, gradient_scale, decay))
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_adam_state(
    adam: Handle<hz_adam_t>,
    first: u64,
    count: u64,
    out_arrays: Out<hz_adam_arrays_t>,
) -> hz_status_t {
    guard(|| {
        let adam = adam.get("adam")?;
        let out = out_arrays.check("out_arrays")?;
        let Some(state) = &adam.state else {
            return Err(Error::argument(
                "this handle was opened without state_count, so the caller keeps the state",
            ));
        };
        state.check(first, count)?;
        let StateSpans { residual, m, v } = state.slice(adam.mode, first as usize, count as usize);
        out.write(hz_adam_arrays_t {
            count,
            first,
            residual: residual.map_or(Numbers::NULL, Numbers::lend),
            m: Numbers::lend(m),
            v: Numbers::lend(v),
            ..hz_adam_arrays_t::defaults()
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_adam_close(adam: Handle<hz_adam_t>) {
    if !adam.is_null() {
        guard(|| adam.close("adam"));
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_master_split(
    values: Array<f32>,
    count: usize,
    mut weights: ArrayOut<u16>,
    mut residual: ArrayOut<i16>,
) -> hz_status_t {
    guard(|| {
        let values = values.get(count, "values")?;
        optim::write_master(weights.get(count, "weights")?, residual.get(count, "residual")?, values);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_master_join(
    weights: Array<u16>,
    residual: Array<i16>,
    count: usize,
    mut values: ArrayOut,
) -> hz_status_t {
    guard(|| {
        let (weights, residual) = (weights.get(count, "weights")?, residual.get(count, "residual")?);
        optim::read_master(weights, residual, values.get(count, "values")?);
        Ok(())
    })
}
