//! The declaration of an op: named operands, each with an element type, a length and an access
//! mode, and named sizes.

use crate::base::DType;
use crate::ops::Write;

/// The element type of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// The activation dtype of the device.
    Activation,
    /// The same dtype on all devices.
    Fixed(DType),
    /// f64.
    F64,
    /// i32.
    I32,
    /// Single bytes.
    Byte,
}

impl Element {
    /// bf16.
    pub const BF16: Element = Element::Fixed(DType::Bf16);
    /// f32.
    pub const F32: Element = Element::Fixed(DType::F32);

    /// Bytes of an element on a device with this activation dtype.
    pub fn bytes(self, activation_dtype: DType) -> usize {
        match self {
            Element::Activation => activation_dtype.bytes(),
            Element::Fixed(dtype) => dtype.bytes(),
            Element::F64 => 8,
            Element::I32 => 4,
            Element::Byte => 1,
        }
    }
}

/// The access mode of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Set (`=`); previous contents are ignored.
    Set,
    /// Read and written: added to (`+=`), or replaced in place.
    Update,
}

impl From<Write> for Access {
    fn from(write: Write) -> Self {
        match write {
            Write::Set => Access::Set,
            Write::Add => Access::Update,
        }
    }
}

/// An operand of an op.
#[derive(Clone, Copy, Debug)]
pub struct Operand<P> {
    /// The field name in the op.
    pub name: &'static str,
    /// The location: a device span, or a buffer of a program.
    pub at: P,
    /// The access mode.
    pub access: Access,
    /// The element type.
    pub element: Element,
    /// The length in elements.
    pub elements: usize,
}

impl<P> Operand<P> {
    /// The length in bytes.
    pub fn bytes(&self, activation_dtype: DType) -> usize {
        self.elements * self.element.bytes(activation_dtype)
    }
}

/// FLOPs of an op. Only matmuls and attention are counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flops {
    /// Negligible compared with the memory traffic.
    None,
    /// A matmul of `[a, b]` and `[b, c]`: 2·a·b·c.
    Matmul([usize; 3]),
    /// Attention forward.
    AttentionForward(f64),
    /// Attention backward.
    AttentionBackward(f64),
}

/// The facts derived from an op's declaration.
pub trait Contract<P> {
    /// The name of the op in messages and tables.
    fn name(&self) -> &'static str;

    /// Calls `f` for every operand.
    fn each_operand(&self, f: &mut dyn FnMut(Operand<&P>));

    /// Returns true if this output may be this input, that is, the same memory.
    fn may_be(&self, _output: &str, _input: &str) -> bool {
        false
    }

    /// FLOPs of the op.
    fn flops(&self) -> Flops {
        Flops::None
    }

    /// Bytes of device memory read and written. Updated operands count twice. Matmuls count their
    /// weights only, because the rest of their traffic grows with the rows, as their FLOPs do.
    fn traffic(&self, activation_dtype: DType) -> usize {
        let mut bytes = 0;
        self.each_operand(&mut |operand| {
            let times = if operand.access == Access::Update { 2 } else { 1 };
            bytes += times * operand.bytes(activation_dtype);
        });
        bytes
    }

    /// Bytes of CUDA workspace that the op uses.
    fn scratch_bytes(&self) -> usize {
        0
    }
}

/// A field for one operand, or for an optional one.
pub trait Field<P> {
    /// The field type for operands of type `Q`.
    type Of<Q>;

    /// Calls `f` for the operand, if present.
    fn each(&self, f: impl FnMut(&P));

    /// The field with every operand replaced.
    fn map<Q>(&self, f: impl FnMut(&P) -> Q) -> Self::Of<Q>;
}

impl<P> Field<P> for P {
    type Of<Q> = Q;

    fn each(&self, mut f: impl FnMut(&P)) {
        f(self);
    }

    fn map<Q>(&self, mut f: impl FnMut(&P) -> Q) -> Q {
        f(self)
    }
}

impl<P> Field<P> for Option<P> {
    type Of<Q> = Option<Q>;

    fn each(&self, f: impl FnMut(&P)) {
        self.iter().for_each(f);
    }

    fn map<Q>(&self, f: impl FnMut(&P) -> Q) -> Option<Q> {
        self.as_ref().map(f)
    }
}

/// Declares an op: a struct of operands, each with access mode, element type and length, followed
/// by sizes. The expressions may use the sizes by name. An optional block overrides default
/// functions of [`Contract`].
macro_rules! op {
    (
        $(#[$about:meta])*
        $op:ident {
            $($(#[$about_field:meta])* $field:ident: $type:ty = $access:expr, $element:expr, $elements:expr;)*
        }
        $($(#[$about_size:meta])* $size:ident: $size_type:ty;)*
        $({ $($contract:item)* })?
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $op<P = $crate::device::DeviceSpan> {
            $($(#[$about_field])* pub $field: $type,)*
            $($(#[$about_size])* pub $size: $size_type,)*
        }

        impl<P> $crate::ops::Contract<P> for $op<P> {
            fn name(&self) -> &'static str {
                stringify!($op)
            }

            fn each_operand(&self, f: &mut dyn FnMut($crate::ops::Operand<&P>)) {
                #[allow(unused_imports)]
                use $crate::ops::{Access::*, Element};
                #[allow(unused_variables)]
                let $op { $($size,)* .. } = *self;
                $($crate::ops::Field::<P>::each(&self.$field, |at| {
                    f($crate::ops::Operand {
                        name: stringify!($field),
                        at,
                        access: $access,
                        element: $element,
                        elements: $elements,
                    });
                });)*
            }

            $($($contract)*)?
        }

        impl<P> $op<P> {
            /// The same op with each operand replaced by `f`.
            pub fn map<Q>(&self, f: &mut dyn FnMut(&P) -> Q) -> $op<Q> {
                $op {
                    $($field: $crate::ops::Field::<P>::map(&self.$field, &mut *f),)*
                    $($size: self.$size,)*
                }
            }
        }
    };
}
pub(super) use op;
