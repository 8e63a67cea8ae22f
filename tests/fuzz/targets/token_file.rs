//! Opens a token file of any format and reads its windows.
#![no_main]

use horizon::data::{Data, DataOptions, Loader, Packing, TokenFile, TokenFormat};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [choice, bytes @ ..] = input else { return };
    let format = [TokenFormat::Headed, TokenFormat::RawU16, TokenFormat::RawU32, TokenFormat::Headed]
        [usize::from(choice % 4)];
    let packing =
        [Packing::Auto, Packing::Stream, Packing::Documents, Packing::Auto][usize::from(choice / 4 % 4)];
    let vocabulary = [1 << 16, 1 << 17, 300, usize::MAX >> 1][usize::from(choice / 16 % 4)];
    let seq_len = [1, 3, 8, 64][usize::from(choice / 64)];
    let Ok(file) = TokenFile::from_bytes("input", format, vocabulary, bytes.to_vec()) else { return };
    let options = DataOptions { packing, ..DataOptions::new(seq_len) };
    let Ok(data) = Data::from_tokens(file, &options) else { return };
    let mut loader = Loader::new(&data, 2, Some(1));
    for _ in 0..data.windows().min(50) {
        let micro = loader.next(&data).expect("a checked file can be read");
        let check = micro.batch().check("", horizon::base::Shape { b: 2, t: seq_len }, vocabulary);
        check.expect("the engine accepts the loader's batches");
    }
    if let Ok((training, validation)) = data.hold_out(0.3) {
        assert!(training.windows() > 0 && validation.windows() > 0);
    }
});
