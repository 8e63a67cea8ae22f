//! Structs with `struct_size`, for programs and libraries of different versions.
//!
//! The first field, `struct_size`, is the `sizeof` of the header the caller was compiled with.
//! Later versions only append fields: a size that ends after one of the known fields is an older
//! struct, a larger size a newer one.

use std::fmt::Arguments;
use std::{ptr, slice};

use serde_json::Value;

use crate::base::{Error, Result};
use crate::capi::argument::check_length;
use crate::capi::values::Values;

/// Larger than any struct: a greater `struct_size` was not initialized.
const SIZE_MAX: usize = 4096;

/// A field of a struct.
#[derive(Clone, Copy)]
pub struct Field {
    /// The name in C.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
    /// The type in C; `pointer` for all pointers.
    pub kind: &'static str,
    /// The values that it may have.
    pub values: Values,
}

impl Field {
    const fn end(&self) -> usize {
        self.offset + self.bytes
    }
}

/// A struct of the header whose first field is `struct_size`. Only `sized_struct!` implements it.
///
/// # Safety
/// The type is `repr(C)`, its first field is the `u32` `struct_size`, every bit pattern of every
/// field is valid, and the [`FIELDS`](SizedStruct::FIELDS) cover it without padding.
pub unsafe trait SizedStruct: Copy {
    /// The name in C.
    const NAME: &'static str;
    /// The fields in order, `struct_size` first.
    const FIELDS: &'static [Field];

    /// The value of the header's `_INIT` macro.
    fn defaults() -> Self;

    /// The values of the fields after `struct_size`, as JSON.
    fn json(&self) -> Vec<Value>;

    /// The same with the fields' names.
    fn named(&self) -> impl Iterator<Item = (String, Value)> {
        Self::FIELDS[1..].iter().map(|field| field.name.to_owned()).zip(self.json())
    }

    /// Texts `field = value`, with the names of constants; without pointers and reserved fields.
    fn assignments(&self) -> Vec<String> {
        let fields = Self::FIELDS[1..].iter().zip(self.json());
        let stated = fields.filter(|(field, value)| !value.is_null() && field.name != "reserved");
        stated.map(|(field, value)| format!("{} = {}", field.name, field.values.text(&value))).collect()
    }
}

/// True if the fields cover the struct without padding, so that copies and comparisons never read
/// padding.
pub const fn without_padding(fields: &[Field], bytes: usize) -> bool {
    let mut end = 0;
    let mut index = 0;
    while index < fields.len() {
        if fields[index].offset != end {
            return false;
        }
        end = fields[index].end();
        index += 1;
    }
    end == bytes
}

/// Declares a struct of the header with its defaults and, after `=>`, the values that a field may
/// have, unless that is any; and the function that sets the defaults.
macro_rules! sized_struct {
    (
        $(#[$doc:meta])*
        $name:ident, $init:ident { $($field:ident: $kind:ty = $default:expr $(=> $values:expr)?,)* }
    ) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name {
            pub struct_size: u32,
            $(pub $field: $kind,)*
        }

        // SAFETY: `repr(C)` with `struct_size` first; the fields are integers, floats, raw pointers and arrays of
        // them; the assertion below excludes padding.
        unsafe impl $crate::capi::sized::SizedStruct for $name {
            const NAME: &'static str = stringify!($name);
            const FIELDS: &'static [$crate::capi::sized::Field] = &[
                $crate::capi::sized::Field {
                    name: "struct_size",
                    offset: 0,
                    bytes: 4,
                    kind: "uint32_t",
                    values: $crate::capi::values::Values::ANY,
                },
                $($crate::capi::sized::Field {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                    bytes: std::mem::size_of::<$kind>(),
                    kind: <$kind as $crate::capi::values::FieldType>::NAME,
                    values: [$($values,)? $crate::capi::values::Values::ANY][0],
                },)*
            ];

            fn defaults() -> Self {
                $name { struct_size: std::mem::size_of::<$name>() as u32, $($field: $default,)* }
            }

            fn json(&self) -> Vec<serde_json::Value> {
                vec![$($crate::capi::values::FieldType::json(&self.$field),)*]
            }
        }

        const _: () = assert!(
            $crate::capi::sized::without_padding(
                <$name as $crate::capi::sized::SizedStruct>::FIELDS,
                std::mem::size_of::<$name>(),
            ),
            concat!(stringify!($name), " has padding")
        );

        #[unsafe(no_mangle)]
        pub extern "C" fn $init(
            value: $crate::capi::sized::Out<$name>,
            struct_size: usize,
        ) -> $crate::capi::status::hz_status_t {
            $crate::capi::guard::guard(|| value.initialize(struct_size))
        }
    };
}
pub(super) use sized_struct;

/// The text before the names of a struct's fields: `what` is a pointer, or an element of an array.
fn fields_of(what: &str) -> String {
    format!("{what}{}", if what.ends_with(']') { "." } else { "->" })
}

/// Checks that `pointer`, the parameter `what`, is neither NULL nor misaligned.
fn check<T: SizedStruct>(pointer: *const T, what: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::argument(format!("{what} is NULL; it must point to an {}", T::NAME)));
    }
    if !pointer.is_aligned() {
        return Err(Error::argument(format!("{what} is not aligned for an {}", T::NAME)));
    }
    Ok(())
}

/// Checks that a version of the struct may have the size `size`, which `what` states.
fn check_size<T: SizedStruct>(size: usize, what: Arguments) -> Result<()> {
    let known = size_of::<T>();
    if (known..=SIZE_MAX).contains(&size) || T::FIELDS.iter().any(|field| field.end() == size) {
        return Ok(());
    }
    Err(Error::argument(format!(
        "{what} is {size}; a {} of this library has {known}: initialize the struct with its HZ_..._INIT macro, or \
         pass its sizeof to hz_..._init",
        T::NAME
    )))
}

/// Reads and checks the `struct_size` of a caller's struct. `what` is the parameter's name.
fn stated_size<T: SizedStruct>(pointer: *const T, what: &str) -> Result<usize> {
    check(pointer, what)?;
    // SAFETY: not NULL and aligned; horizon.h requires a struct whose first field is `struct_size`.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    check_size::<T>(size, format_args!("{}struct_size", fields_of(what)))?;
    Ok(size)
}

/// An input struct. As in [`argument`](super::argument), only a C caller makes one: it is NULL or
/// has `struct_size` bytes.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct In<T>(*const T);

impl<T> In<T> {
    /// No struct.
    pub const NULL: Self = In(ptr::null());
}

impl<T: SizedStruct> In<T> {
    /// The struct. Fields that an older struct does not have are set to their defaults; unknown
    /// fields of a newer one must be zero.
    pub fn read(&self, what: &str) -> Result<T> {
        let size = stated_size(self.0, what)?;
        let known = size_of::<T>();
        if size > known {
            // SAFETY: horizon.h requires that the struct has `size` bytes; these follow the first `known` of
            // them.
            let tail = unsafe { slice::from_raw_parts(self.0.cast::<u8>().add(known), size - known) };
            if let Some(at) = tail.iter().position(|&byte| byte != 0) {
                return Err(Error::argument(format!(
                    "{what} comes from a newer horizon.h and sets a field (byte {}) that library version {} does \
                     not know: update the library, or leave the field at its default",
                    known + at,
                    env!("CARGO_PKG_VERSION")
                )));
            }
        }
        let mut value = T::defaults();
        // SAFETY: both objects have at least the smaller of the two sizes and do not overlap; any bytes are
        // valid for a `T`, as its trait requires.
        unsafe {
            ptr::copy_nonoverlapping(self.0.cast::<u8>(), (&raw mut value).cast::<u8>(), size.min(known));
        }
        Ok(value)
    }

    /// The struct; the defaults for NULL.
    pub fn or_defaults(&self, what: &str) -> Result<T> {
        if self.0.is_null() { Ok(T::defaults()) } else { self.read(what) }
    }

    /// An array of `count` structs. All have the `struct_size` of the first, which is the stride.
    pub fn read_all(&self, count: usize, what: &str) -> Result<Vec<T>> {
        let stride = stated_size(self.0, what)?;
        check_length(count, stride, what)?;
        (0..count)
            .map(|index| {
                // SAFETY: horizon.h requires `count` structs of `stride` bytes; the total was checked.
                let element = In(unsafe { self.0.byte_add(index * stride) });
                let what = format!("{what}[{index}]");
                let size = stated_size(element.0, &what)?;
                if size != stride {
                    return Err(Error::argument(format!(
                        "{what}.struct_size is {size}, that of the first element is {stride}: they must be equal"
                    )));
                }
                element.read(&what)
            })
            .collect()
    }
}

/// An output struct; only a C caller makes one, as for [`In`].
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T: SizedStruct> Out<T> {
    /// Checks, before the work, that the result can be written.
    pub fn check(self, what: &str) -> Result<Output<T>> {
        let size = stated_size(self.0, what)?;
        Ok(Output { pointer: self.0, size })
    }

    /// Sets `struct_size` to `size`, known fields to their defaults and unknown ones to zero.
    pub fn initialize(self, size: usize) -> Result<()> {
        check(self.0, "value")?;
        check_size::<T>(size, format_args!("struct_size"))?;
        // SAFETY: not NULL and aligned; horizon.h requires `size` bytes, which are at least the first field.
        unsafe { self.0.cast::<u32>().write(size as u32) };
        Output { pointer: self.0, size }.write(T::defaults());
        Ok(())
    }
}

/// A checked output struct.
pub struct Output<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: SizedStruct> Output<T> {
    /// Fills in the fields of the caller's struct except `struct_size`. Unknown fields become zero.
    pub fn write(self, value: T) {
        let head = size_of::<u32>();
        let known = self.size.min(size_of::<T>());
        // SAFETY: horizon.h requires that the struct has `size` bytes used by this call alone; `known` is
        // at most `size` and the size of `T`, and `value` is a local, so the two do not overlap.
        unsafe {
            let to = self.pointer.cast::<u8>();
            ptr::copy_nonoverlapping((&raw const value).cast::<u8>().add(head), to.add(head), known - head);
            ptr::write_bytes(to.add(known), 0, self.size - known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    sized_struct! {
        /// A struct of this version.
        now_t, now_init { mode: u32 = 1, rate: f64 = 0.5, clip: f64 = 1.0, }
    }

    /// The struct as a newer header declares it.
    #[repr(C)]
    struct Newer {
        now: now_t,
        appended: u64,
    }

    fn newer(appended: u64) -> Newer {
        let mut now = now_t::defaults();
        now.struct_size = size_of::<Newer>() as u32;
        now.clip = 3.0;
        Newer { now, appended }
    }

    /// The newer struct, passed to this version.
    fn start(value: &Newer) -> In<now_t> {
        In(ptr::from_ref(value).cast())
    }

    #[test]
    fn missing_fields_of_an_older_struct_have_their_defaults() {
        let old = now_t { struct_size: 16, mode: 7, rate: 0.25, clip: f64::NAN };
        let value = In(&raw const old).read("value").unwrap();
        assert_eq!((value.mode, value.rate, value.clip), (7, 0.25, 1.0));
    }

    #[test]
    fn unknown_fields_of_a_newer_struct_must_be_zero() {
        let (zero, set) = (newer(0), newer(1 << 40));
        assert_eq!(start(&zero).read("value").unwrap().clip, 3.0);
        let message = start(&set).read("value").unwrap_err().message().to_owned();
        assert!(message.contains("byte 29") && message.contains("newer"), "{message}");
    }

    #[test]
    fn the_stride_of_an_array_is_the_struct_size() {
        let mut array = [newer(0), newer(0), newer(0)];
        array[2].now.clip = 8.0;
        let clips: Vec<f64> =
            start(&array[0]).read_all(1, "value").unwrap().iter().map(|value| value.clip).collect();
        assert_eq!(clips, [3.0]);
        let all = In(array.as_ptr().cast::<now_t>());
        let clips: Vec<f64> = all.read_all(3, "value").unwrap().iter().map(|value| value.clip).collect();
        assert_eq!(clips, [3.0, 3.0, 8.0]);
        array[1].now.struct_size = 24;
        let message = In(array.as_ptr().cast::<now_t>()).read_all(3, "value").unwrap_err().to_string();
        assert!(message.contains("value[1].struct_size is 24"), "{message}");
    }

    #[test]
    fn impossible_struct_sizes_are_errors() {
        for size in [0, 3, 5, 12, 23, 4097, u32::MAX] {
            let value = now_t { struct_size: size, ..now_t::defaults() };
            let message = In(&raw const value).read("value").unwrap_err().message().to_owned();
            assert!(message.contains(&size.to_string()) && message.contains("INIT"), "{message}");
        }
        let null = In(ptr::null::<now_t>());
        assert!(null.read("value").unwrap_err().message().contains("value is NULL"));
        assert_eq!(null.or_defaults("value").unwrap(), now_t::defaults());
    }

    #[test]
    fn an_output_is_written_up_to_its_struct_size() {
        let filled = now_t { mode: 2, rate: 0.125, clip: 4.0, ..now_t::defaults() };

        let mut old = now_t { struct_size: 16, mode: 9, rate: 9.0, clip: 9.0 };
        Out(&raw mut old).check("value").unwrap().write(filled);
        assert_eq!(old, now_t { struct_size: 16, mode: 2, rate: 0.125, clip: 9.0 });

        let mut new = newer(77);
        Out((&raw mut new).cast::<now_t>()).check("value").unwrap().write(filled);
        assert_eq!((new.now.struct_size, new.now.clip, new.appended), (32, 4.0, 0));
    }

    #[test]
    fn padding_is_found() {
        let at = |offset, bytes| Field { name: "", offset, bytes, kind: "", values: Values::ANY };
        assert!(without_padding(&[at(0, 4), at(4, 4)], 8));
        assert!(!without_padding(&[at(0, 4), at(8, 8)], 16));
        assert!(!without_padding(&[at(0, 4)], 8));
    }
}
