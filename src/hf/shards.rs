//! Distributes the tensors of an export over safetensors files.

use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::{Map, Value, json};

use crate::base::DType;
use crate::hf::tensors::StoredTensor;

/// One safetensors file.
#[derive(Debug, PartialEq, Eq)]
pub struct Shard {
    /// `model.safetensors`, or `model-00001-of-00003.safetensors`.
    pub name: String,
    /// Header: the length of the JSON in 8 bytes, then the JSON.
    pub header: Vec<u8>,
    /// For each tensor, its index among the stored tensors and its byte offset in the file; in file
    /// order.
    pub tensors: Vec<(usize, u64)>,
    /// Size of the file.
    pub bytes: u64,
}

/// Cuts the tensors of a model into files of at most `shard_bytes` bytes of tensors, as transformers does: tensors
/// in forward order, a new file when the next tensor would exceed the limit. A tensor larger than
/// the limit has a file of its own.
pub fn cut(tensors: &[StoredTensor], dtype: DType, shard_bytes: u64) -> Vec<Shard> {
    let bytes = |tensor: &StoredTensor| tensor.elements() as u64 * dtype.bytes() as u64;
    let (mut files, mut filled) = (vec![Vec::new()], 0);
    for (index, tensor) in tensors.iter().enumerate() {
        if filled > 0 && filled + bytes(tensor) > shard_bytes {
            files.push(Vec::new());
            filled = 0;
        }
        files.last_mut().expect("there is one").push(index);
        filled += bytes(tensor);
    }
    let count = files.len();
    let named = files.into_iter().enumerate();
    named.map(|(number, indices)| shard(&file_name(number, count), indices, tensors, dtype)).collect()
}

/// Returns the name of a weight file of an export.
pub fn file_name(number: usize, count: usize) -> String {
    if count == 1 { super::SINGLE.to_owned() } else { shard_name(number, count) }
}

/// Returns the name of a file of a set.
pub fn shard_name(number: usize, count: usize) -> String {
    format!("model-{:05}-of-{count:05}.safetensors", number + 1)
}

/// Makes one file. Tensors are sorted by name, as the safetensors library does.
fn shard(name: &str, mut indices: Vec<usize>, tensors: &[StoredTensor], dtype: DType) -> Shard {
    indices.sort_by_key(|&index| &tensors[index].name);
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let (mut offsets, mut end) = (Vec::new(), 0);
    for index in indices {
        let (tensor, start) = (&tensors[index], end);
        end += tensor.elements() * dtype.bytes();
        let info = TensorInfo {
            dtype: match dtype {
                DType::Bf16 => Dtype::BF16,
                DType::F32 => Dtype::F32,
            },
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        let info = serde_json::to_string(&info).expect("a tensor's facts are JSON");
        json.push_str(&format!(",{}:{info}", Value::from(tensor.name.as_str())));
        offsets.push((index, start as u64));
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    let data = header.len() as u64;
    offsets.iter_mut().for_each(|(_, offset)| *offset += data);
    Shard { name: name.to_owned(), header, tensors: offsets, bytes: data + end as u64 }
}

/// Returns the contents of `model.safetensors.index.json`, which maps tensors to files.
pub fn index(tensors: &[StoredTensor], dtype: DType, shards: &[Shard]) -> Value {
    let mut map = Map::new();
    for shard in shards {
        map.extend(
            shard.tensors.iter().map(|&(index, _)| (tensors[index].name.clone(), shard.name.clone().into())),
        );
    }
    let parameters: usize = tensors.iter().map(StoredTensor::elements).sum();
    json!({
        "metadata": { "total_parameters": parameters, "total_size": parameters * dtype.bytes() },
        "weight_map": map,
    })
}
